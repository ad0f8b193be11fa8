"""Raw text to predictions: the tagger, batch scoring, sources and sinks."""

"""What a model is: text, segments, windows, encoder, heads, saving and loading."""

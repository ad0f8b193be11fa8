"""spaCy with a transformer: one encoder under spaCy's own entity recogniser and text classifier.

spacy-transformers does not run with transformers 5, so the encoder stands in spaCy's place for one, `tok2vec`, which
gives it the same single pass. Its heads are untrained: only speed can be measured. Knows nothing of timing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import spacy
import torch
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry
from thinc.api import Model

from khabar.inference.tagger import Tagger
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import encode_articles

LISTENER = {"@architectures": "spacy.Tok2VecListener.v1", "upstream": "*"}
# The parser that spaCy's own transformer pipelines use.
RECOGNISER = {
    "@architectures": "spacy.TransitionBasedParser.v2",
    "state_type": "ner",
    "extra_state_tokens": False,
    "hidden_width": 64,
    "maxout_pieces": 2,
    "use_upper": False,
}
CLASSIFIER = {
    "@architectures": "spacy.TextCatReduce.v1",
    "exclusive_classes": False,
    "use_reduce_first": False,
    "use_reduce_last": False,
    "use_reduce_max": False,
    "use_reduce_mean": True,
}


def spacy_pipeline(tagger: Tagger) -> Language:
    """Build an Arabic pipeline over a tagger's encoder, with its labels."""
    config = tagger.model.config
    width = tagger.model.encoder.config.hidden_size
    registry.architectures("khabar_encoder", func=lambda: _encoder_layer(tagger, width))
    listener = {**LISTENER, "width": width}
    nlp = spacy.blank("ar")
    nlp.add_pipe("tok2vec", config={"model": {"@architectures": "khabar_encoder"}})
    recogniser: Any = nlp.add_pipe("ner", config={"model": {**RECOGNISER, "tok2vec": listener}})
    classifier: Any = nlp.add_pipe("textcat_multilabel", config={"model": {**CLASSIFIER, "tok2vec": listener}})
    for label in config.entity_labels:
        recogniser.add_label(label)
    for topic in config.topics:
        classifier.add_label(topic)
    given = {"cats": dict.fromkeys(config.topics, 0.0), "entities": []}
    nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("خبر"), given)])
    return nlp


def _encoder_layer(tagger: Tagger, width: int) -> Model[list[Doc], list[Any]]:
    windows = WindowSettings.from_tokenizer(
        tagger.tokenizer, window=tagger.model.config.window, stride=tagger.model.config.stride
    )

    @torch.no_grad()  # and not inference mode, in which layers take the weights that khabar prepared
    def forward(
        layer: Model[list[Doc], list[Any]],  # noqa: ARG001  (thinc calls it so)
        docs: list[Doc],
        is_train: bool,  # noqa: ARG001
    ) -> tuple[list[Any], Callable[[Any], Any]]:
        texts = [doc.text for doc in docs]
        encoded = encode_articles(texts, tagger.tokenizer, max_segment_words=tagger.model.config.max_segment_words)
        batch = collate(encoded, windows).tensors()
        device = tagger.model.device
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"):
            states = tagger.model.encoder(
                input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
            ).last_hidden_state
        pieces = states.flatten(0, 1)[batch["piece_states"].to(device)].float().cpu().numpy()
        vectors, first = [], 0
        for doc, one in zip(docs, encoded, strict=True):
            vectors.append(_by_token(doc, one.words, pieces[first + one.word_pieces], width))
            first += one.n_pieces
        return vectors, lambda gradient: gradient

    return Model("khabar_encoder", forward, dims={"nO": width})


def _by_token(doc: Doc, words: NDArray[np.int32], states: Any, width: int) -> Any:
    """Give each spaCy token the state of the word it lies in: (tokens, width)."""
    if not len(words):
        return np.zeros((len(doc), width), dtype=np.float32)
    places = np.searchsorted(words[:, 0], [token.idx for token in doc], side="right") - 1
    return states[np.clip(places, 0, None)]

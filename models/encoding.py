"""Turns raw article texts into pieces, words and segments that all know their place in the raw text.

Works on text and a tokenizer; knows nothing of windows, tensors or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from khabar.models.errors import KhabarError
from khabar.models.segments import split_segments
from khabar.models.text import Cutter
from khabar.models.words import split_words

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EncodedArticle:
    """One article as the model reads it. Spans are half-open code-point offsets of the raw text.

    A word that the tokenizer gives no piece (a lone diacritic, the tail of a link) is not among `words`.
    """

    n_characters: int
    input_ids: NDArray[np.int64]  # (n_pieces,) without special pieces
    piece_segments: NDArray[np.int64]  # (n_pieces,) index into segments, rising
    segments: tuple[Span, ...]
    words: NDArray[np.int32]  # (n_words, 2) spans; an array, since processes send it to one another
    word_pieces: NDArray[np.int64]  # (n_words,) index of each word's first piece
    word_segments: NDArray[np.int64]  # (n_words,) index into segments, rising

    @property
    def n_pieces(self) -> int:
        """Length in pieces, special pieces excluded."""
        return len(self.input_ids)


def encode_articles(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_segment_words: int,
    segments: Sequence[Sequence[Span] | None] | None = None,
) -> list[EncodedArticle]:
    """Encode articles together, in the fast tokenizer's threads.

    Args:
        texts: Raw texts of any length; nothing is cut.
        tokenizer: A fast tokenizer whose offsets are offsets of the raw text.
        max_segment_words: Longest segment, in words, where segments are not given.
        segments: Each article's segments where they are known, in rising order; None splits the text.

    Raises:
        KhabarError: If a text is not valid Unicode (holds a lone surrogate).
    """
    for text in texts:
        _check_unicode(text)
    given = segments if segments is not None else [None] * len(texts)
    encodings = Cutter.of(tokenizer).cut(texts)
    return [
        _encode(text, encoding.ids, encoding.offsets, spans or split_segments(text, max_words=max_segment_words))
        for text, encoding, spans in zip(texts, encodings, given, strict=True)
    ]


def _encode(text: str, ids: list[int], offsets: list[Span], segments: Sequence[Span]) -> EncodedArticle:
    piece_starts = _starts(offsets)
    words = np.array(split_words(text), dtype=np.int32).reshape(-1, 2)
    piece_words = _containing(piece_starts, words[:, 0])
    kept, word_pieces = np.unique(piece_words, return_index=True)
    piece_segments = _containing(piece_starts, _starts(segments))
    return EncodedArticle(
        n_characters=len(text),
        input_ids=np.array(ids, dtype=np.int64),
        piece_segments=piece_segments,
        segments=tuple(segments),
        words=words[kept],
        word_pieces=word_pieces,
        word_segments=piece_segments[word_pieces],
    )


def _containing(positions: NDArray[np.int64], starts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Index of the span each position lies in; between spans, the one before; before all, the first."""
    return np.clip(np.searchsorted(starts, positions, side="right") - 1, 0, None)


def _starts(spans: Sequence[Span]) -> NDArray[np.int64]:
    return np.array(next(zip(*spans, strict=True), ()), dtype=np.int64)


def _check_unicode(text: str) -> None:
    """Refuse half surrogate pairs, which no tokenizer can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise KhabarError(
            f"the text has half a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start}; "
            "allowed: whole Unicode characters"
        ) from error

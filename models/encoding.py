"""Turns raw article texts into pieces, words and segments that all know their place in the raw text.

Works on text and a tokenizer; knows nothing of windows, tensors or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from khabar.models.cutting import Cut, Cutter, span_indices
from khabar.models.errors import KhabarError
from khabar.models.segments import split_segments

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EncodedArticle:
    """One article as the model reads it. Spans are half-open code-point offsets of the raw text.

    A word that the tokenizer gives no piece (a lone diacritic, the tail of a link) is not among `words`.
    """

    n_characters: int
    input_ids: NDArray[np.integer]  # (n_pieces,) without special pieces
    piece_segments: NDArray[np.integer]  # (n_pieces,) index into segments, rising
    segments: tuple[Span, ...]
    words: NDArray[np.int32]  # (n_words, 2) spans
    word_pieces: NDArray[np.integer]  # (n_words,) index of each word's first piece
    word_segments: NDArray[np.integer]  # (n_words,) index into segments, rising

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
    return [
        _encode(text, cut, spans or split_segments(text, max_words=max_segment_words))
        for text, cut, spans in zip(texts, Cutter.of(tokenizer).cut(texts), given, strict=True)
    ]


def to_arrays(articles: Sequence[EncodedArticle]) -> list[NDArray[np.int32]]:
    """Put encoded articles end to end into a few arrays, to be sent somewhere or kept.

    Returns:
        (n_articles, 4) numbers of characters, pieces, segments and words; (n_pieces,) ids; (n_segments, 3) spans and
        numbers of pieces; (n_words, 3) spans and first pieces.
    """
    numbers = [(one.n_characters, one.n_pieces, len(one.segments), len(one.words)) for one in articles]
    empty = np.zeros(0, dtype=np.int32)
    of_segments = [np.bincount(one.piece_segments, minlength=len(one.segments)) for one in articles]
    spans = [span for one in articles for span in one.segments]
    words = [np.column_stack([one.words, one.word_pieces]) for one in articles]
    return [
        np.array(numbers, dtype=np.int32).reshape(-1, 4),
        np.concatenate([empty, *(one.input_ids for one in articles)], dtype=np.int32),
        np.column_stack([np.array(spans).reshape(-1, 2), np.concatenate([empty, *of_segments])]).astype(np.int32),
        np.concatenate([empty.reshape(0, 3), *words], dtype=np.int32),
    ]


def from_arrays(arrays: Sequence[NDArray[np.int32]]) -> list[EncodedArticle]:
    """Take encoded articles out of what `to_arrays` gave."""
    numbers, ids, segments, words = arrays
    stops = numbers[:, 1:].cumsum(axis=0).tolist()
    articles = []
    piece = segment = word = 0
    for n_characters, (piece_stop, segment_stop, word_stop) in zip(numbers[:, 0].tolist(), stops, strict=True):
        own_segments, own_words = segments[segment:segment_stop], words[word:word_stop]
        piece_segments = np.repeat(np.arange(len(own_segments), dtype=np.int32), own_segments[:, 2])
        word_pieces = own_words[:, 2]
        articles.append(
            EncodedArticle(
                n_characters=n_characters,
                input_ids=ids[piece:piece_stop],
                piece_segments=piece_segments,
                segments=tuple((start, end) for start, end, _ in own_segments.tolist()),
                words=own_words[:, :2],
                word_pieces=word_pieces,
                word_segments=piece_segments[word_pieces],
            )
        )
        piece, segment, word = piece_stop, segment_stop, word_stop
    return articles


def _encode(text: str, cut: Cut, segments: Sequence[Span]) -> EncodedArticle:
    segment_starts = np.array([start for start, _ in segments], dtype=np.int32)
    piece_segments = span_indices(cut.starts, segment_starts)
    return EncodedArticle(
        n_characters=len(text),
        input_ids=cut.ids,
        piece_segments=piece_segments,
        segments=tuple(segments),
        words=cut.words,
        word_pieces=cut.word_pieces,
        word_segments=piece_segments[cut.word_pieces],
    )


def _check_unicode(text: str) -> None:
    """Refuse half surrogate pairs, which no tokenizer can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise KhabarError(
            f"the text has half a surrogate pair (\\u{ord(text[error.start]):04x}) at character {error.start}; "
            "allowed: whole Unicode characters"
        ) from error

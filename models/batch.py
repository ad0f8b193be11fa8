"""Turns encoded articles into the tensors of one forward pass, and says which row belongs to which article.

Articles are laid end to end: a batch has windows, pieces, segments and words, each numbered over the whole
batch, and index tensors between them. Knows nothing of labels or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from khabar.models.encoding import EncodedArticle
from khabar.models.windows import best_windows, lay_windows


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How articles are laid into windows. Lengths in pieces, the two special pieces of a window included."""

    window: int
    stride: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast, *, window: int, stride: int) -> WindowSettings:
        """Take the special pieces from a tokenizer.

        Raises:
            ValueError: If the tokenizer lacks one of them, or the window leaves no room for the stride.
        """
        names = ("cls_token_id", "sep_token_id", "pad_token_id")
        special = {name: getattr(tokenizer, name) for name in names}
        missing = [name for name, value in special.items() if value is None]
        if missing:
            raise ValueError(f"the tokenizer has no {', '.join(missing)}")
        if not 0 < stride <= window - 2:
            raise ValueError(f"stride must be in [1, window - 2 = {window - 2}], got {stride}")
        return cls(window=window, stride=stride, **special)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tensors of one forward pass. Padded places of `segment_words` point at piece 0 and are masked."""

    input_ids: Tensor  # (n_windows, longest window)
    attention_mask: Tensor  # (n_windows, longest window)
    piece_states: Tensor  # (n_pieces,) flat index into (n_windows * longest window)
    piece_segments: Tensor  # (n_pieces,) rows of the batch's segments, rising
    segment_articles: Tensor  # (n_segments,) rows of the batch's articles, rising
    segment_words: Tensor  # (n_segments, most words) index of each word's first piece
    word_mask: Tensor  # (n_segments, most words) bool
    article_rows: Tensor  # (n_articles,) 0, 1, 2, …: carries the number of articles, also where one has no segment

    def tensors(self) -> dict[str, Tensor]:
        """Give the tensors by name, as the model's forward takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def collate(articles: Sequence[EncodedArticle], settings: WindowSettings) -> Batch:
    """Lay articles end to end into one batch.

    Raises:
        ValueError: If there is no article.
    """
    if not articles:
        raise ValueError("a batch needs at least one article, got none")
    content = settings.window - 2
    window_ids: list[np.ndarray] = []
    windows: list[np.ndarray] = []  # each piece's window row
    columns: list[np.ndarray] = []  # each piece's column in that window, after [CLS]
    for article in articles:
        starts, width = lay_windows(article.n_pieces, content, settings.stride)
        owner = best_windows(article.n_pieces, width, starts)
        windows.append(owner + len(window_ids))
        columns.append(np.arange(article.n_pieces) - np.asarray(starts)[owner] + 1)
        window_ids.extend(article.input_ids[start : start + width] for start in starts)

    longest = max(len(ids) for ids in window_ids) + 2
    input_ids = np.full((len(window_ids), longest), settings.pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(window_ids), longest), dtype=np.int64)
    for row, ids in enumerate(window_ids):
        input_ids[row, 0] = settings.cls_token_id
        input_ids[row, 1 : len(ids) + 1] = ids
        input_ids[row, len(ids) + 1] = settings.sep_token_id
        attention_mask[row, : len(ids) + 2] = 1

    n_segments = [len(article.segments) for article in articles]
    first_segment = np.cumsum([0, *n_segments[:-1]])
    first_piece = np.cumsum([0, *(article.n_pieces for article in articles[:-1])])
    segment_words, word_mask = _words_by_segment(articles, first_segment, first_piece, sum(n_segments))
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        piece_states=torch.from_numpy(np.concatenate(windows) * longest + np.concatenate(columns)),
        piece_segments=torch.from_numpy(
            np.concatenate([a.piece_segments + first for a, first in zip(articles, first_segment, strict=True)])
        ),
        segment_articles=torch.from_numpy(np.repeat(np.arange(len(articles)), n_segments)),
        segment_words=torch.from_numpy(segment_words),
        word_mask=torch.from_numpy(word_mask),
        article_rows=torch.arange(len(articles)),
    )


def word_places(article: EncodedArticle) -> tuple[np.ndarray, np.ndarray]:
    """Place an article's words in its rows of `segment_words`.

    Returns:
        (n_words,) row relative to the article's first segment, and (n_words,) column.
    """
    rows = article.word_segments
    return rows, np.arange(len(rows)) - np.searchsorted(rows, rows)


def _words_by_segment(
    articles: Sequence[EncodedArticle], first_segment: np.ndarray, first_piece: np.ndarray, n_segments: int
) -> tuple[np.ndarray, np.ndarray]:
    """Arrange every article's words in one row a segment: first pieces and mask."""
    places = [word_places(article) for article in articles]
    most_words = max((int(columns.max()) + 1 for _, columns in places if len(columns)), default=0)
    # At least one column, so that the CRF always has a first word (masked) to start from.
    segment_words = np.zeros((n_segments, max(most_words, 1)), dtype=np.int64)
    word_mask = np.zeros(segment_words.shape, dtype=bool)
    for article, (rows, columns), segment, piece in zip(articles, places, first_segment, first_piece, strict=True):
        segment_words[rows + segment, columns] = article.word_pieces + piece
        word_mask[rows + segment, columns] = True
    return segment_words, word_mask

"""Lays overlapping windows over an article's pieces and says from which window each piece is read.

Works on counts and positions alone; knows nothing of text, pieces or models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def window_starts(n_pieces: int, window: int, stride: int) -> list[int]:
    """Choose window starts that together cover every piece.

    Args:
        n_pieces: Article length in word pieces, special pieces excluded.
        window: Window length in pieces.
        stride: Step in pieces; smaller means more overlap.

    Raises:
        ValueError: If n_pieces is negative or stride is outside [1, window].
    """
    if n_pieces < 0:
        raise ValueError(f"n_pieces must not be negative, got {n_pieces}")
    if not 0 < stride <= window:
        raise ValueError(f"stride must be in [1, window={window}], got {stride}")
    last = max(n_pieces - window, 0)
    return [*range(0, last, stride), last]


def best_windows(n_pieces: int, window: int, starts: list[int]) -> NDArray[np.int64]:
    """Choose, for each piece, the window in which it has the most context.

    A piece's context is its distance to the nearer cut; the article's own beginning and end are no cuts.
    Ties go to the earlier window.

    Args:
        n_pieces: Article length in pieces.
        window: Window length in pieces.
        starts: Rising window starts that cover every piece, as `window_starts` gives.

    Returns:
        (n_pieces,) index into `starts`.
    """
    if len(starts) == 1:
        return np.zeros(n_pieces, dtype=np.int64)
    begin = np.asarray(starts)[:, None]  # (n_windows, 1)
    end = begin + window
    piece = np.arange(n_pieces)[None, :]
    left = np.where(begin > 0, piece - begin, n_pieces)
    right = np.where(end < n_pieces, end - 1 - piece, n_pieces)
    context = np.where((begin <= piece) & (piece < end), np.minimum(left, right), -1)
    return np.asarray(context.argmax(axis=0), dtype=np.int64)

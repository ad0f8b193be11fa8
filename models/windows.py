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
    # The context is half a window less the distance to the window's centre: the nearest centre has the most.
    begin = np.asarray(starts, dtype=np.float64)
    midway = (begin[:-1] + begin[1:] + window - 1) / 2  # between the centres of neighbouring windows
    return np.searchsorted(midway, np.arange(n_pieces), side="left").astype(np.int64)

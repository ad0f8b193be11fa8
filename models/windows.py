"""Lays overlapping windows over an article's pieces and says from which window each piece is read.

Works on counts and positions alone; knows nothing of text, pieces or models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def lay_windows(n_pieces: int, window: int, stride: int) -> tuple[list[int], int]:
    """Choose windows of one width that together cover every piece: few, and then as narrow as their overlap allows.

    No more windows than full ones a stride apart would be, and none shares less with the next than those would,
    `window - stride` pieces. What full ones would read twice is mostly saved.

    Args:
        n_pieces: Article length in word pieces, special pieces excluded.
        window: Widest window in pieces.
        stride: Widest step in pieces; smaller means more overlap.

    Returns:
        Rising starts, and the width in pieces; of an article that fits one window, its length.

    Raises:
        ValueError: If n_pieces is negative or stride is outside [1, window].
    """
    if n_pieces < 0:
        raise ValueError(f"n_pieces must not be negative, got {n_pieces}")
    if not 0 < stride <= window:
        raise ValueError(f"stride must be in [1, window={window}], got {stride}")
    if n_pieces <= window:
        return [0], n_pieces
    n_steps = -(-(n_pieces - window) // stride)
    width = -(-(n_pieces + n_steps * (window - stride)) // (n_steps + 1))
    last = n_pieces - width
    return [index * last // n_steps for index in range(n_steps + 1)], width


def best_windows(n_pieces: int, window: int, starts: list[int]) -> NDArray[np.int64]:
    """Choose, for each piece, the window in which it has the most context.

    A piece's context is its distance to the nearer cut; the article's own beginning and end are no cuts.
    Ties go to the earlier window.

    Args:
        n_pieces: Article length in pieces.
        window: Window width in pieces.
        starts: Rising window starts that cover every piece; both as `lay_windows` gives them.

    Returns:
        (n_pieces,) index into `starts`.
    """
    # The context is half a window less the distance to the window's centre: the nearest centre has the most.
    begin = np.asarray(starts, dtype=np.float64)
    midway = (begin[:-1] + begin[1:] + window - 1) / 2  # between the centres of neighbouring windows
    return np.searchsorted(midway, np.arange(n_pieces), side="left").astype(np.int64)

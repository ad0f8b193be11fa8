"""Cuts a stream into chunks, and a chunk into batches of like length, so that little of a forward pass is padding.

Works on lengths alone; knows nothing of articles or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from khabar.models.windows import lay_windows

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LookAhead:
    """What is read of a stream before it is cut into batches: so many articles, or, if that is less, characters."""

    articles: int
    characters: int


# A CPU's batches are small, and people see its results come. A GPU takes milliseconds to be told of a batch, however
# few articles are in it: of 512, those of like length do not fill one.
LOOK_AHEAD = {
    "cpu": LookAhead(articles=512, characters=2_000_000),
    "cuda": LookAhead(articles=4096, characters=16_000_000),
}
MAX_PADDING = 0.05  # of a batch, unless it is small
SMALL = 16  # a batch below this part of its most pieces is small: many tiny batches cost more than padding


def plan_batches(
    lengths: Sequence[int], *, window: int, stride: int, batch_pieces: int, at_once: int = 1
) -> list[list[int]]:
    """Group articles whose windows are of like width so that each batch stays within its pieces, padding included.

    Args:
        lengths: Pieces of each article.
        window: Widest window in pieces, its two special pieces included; a longer article takes several.
        stride: Widest step from window to window in pieces.
        batch_pieces: Most pieces in a batch; an article that is longer makes one of its own.
        at_once: Batches that will be run at the same time: a few articles are shared out among as many.

    Returns:
        Batches of article indices; together each index once.
    """
    layouts = [lay_windows(length, window - 2, stride) for length in lengths]
    if at_once > 1:
        in_all = sum(len(starts) * (width + 2) for starts, width in layouts)
        batch_pieces = min(batch_pieces, math.ceil(in_all / at_once))
    batches: list[list[int]] = []
    rows = filled = 0  # of the last batch: windows, pieces without padding
    for index in sorted(range(len(lengths)), key=lambda index: layouts[index][1]):
        starts, width = layouts[index]
        n_windows, width = len(starts), width + 2
        n_pieces = n_windows * width
        together = (rows + n_windows) * width
        padding = together - filled - n_pieces
        if (
            batches
            and together <= batch_pieces
            and (padding <= MAX_PADDING * together or together <= batch_pieces // SMALL)
        ):
            batches[-1].append(index)
            rows, filled = rows + n_windows, filled + n_pieces
        else:
            batches.append([index])
            rows, filled = n_windows, n_pieces
    return batches


def in_chunks(items: Iterable[T], n_characters: Callable[[T], int], look_ahead: LookAhead) -> Iterator[list[T]]:
    """Cut a stream into chunks to plan batches over; where they end depends on the items alone.

    Args:
        items: Any iterable; a chunk is given as soon as its last item is read.
        n_characters: How long an item is.
        look_ahead: Most items of a chunk, and the characters at which it ends before.
    """
    chunk: list[T] = []
    length = 0
    for item in items:
        chunk.append(item)
        length += n_characters(item)
        if len(chunk) == look_ahead.articles or length >= look_ahead.characters:
            yield chunk
            chunk, length = [], 0
    if chunk:
        yield chunk

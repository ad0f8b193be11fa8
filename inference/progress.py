"""Says how a long run is getting on: articles so far, how fast, the share of the input that is read, time left.

Turns what is read and written into a line of text now and then. Knows nothing of terminals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from khabar.inference.sources import PlacedRow, Source
from khabar.inference.text_rows import folder_size


@dataclass(frozen=True, kw_only=True)
class _Mark:
    seconds: float
    n_articles: int
    share: float


class Progress:
    """Counts, and writes a line at most once in so many seconds.

    Args:
        sources: The inputs; where the size of one cannot be known, no share is told.
        write: Takes a line.
        seconds: Time between two lines.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        sources: Sequence[Source] = (),
        *,
        write: Callable[[str], object] = lambda _: None,
        seconds: float = float("inf"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sizes = [_size(source) for source in sources]
        self._n_rows = {source.name: n for source in sources if (n := _n_parquet_rows(source))}
        self._write = write
        self._seconds = seconds
        self._clock = clock
        self._n_articles = 0
        self._first: _Mark | None = None
        self._last = clock()
        self._before = 0  # bytes of the files that are done with
        self._file = ""  # that is being read
        self._file_size = 0
        self._row_share = 1.0
        self._stream: BinaryIO | None = None
        self._opened: BinaryIO | None = None

    def opened(self, stream: BinaryIO) -> None:
        """Take the file that rows come from next: what it holds may be longer than itself, its position tells."""
        self._opened = stream

    def read(self, placed: PlacedRow) -> PlacedRow:
        """Take note of where a row stands, and give it back."""
        if placed.file != self._file:
            self._before += self._file_size
            path = Path(placed.file)
            self._file, self._file_size = placed.file, path.stat().st_size if path.is_file() else 0
            self._stream, self._opened = self._opened, None
        if n_rows := self._n_rows.get(placed.file):
            self._row_share = (placed.line or 0) / n_rows
        return placed

    def scored(self, n_articles: int) -> None:
        """Count articles, and write a line if it is time."""
        self._n_articles += n_articles
        now = self._clock()
        if self._first is None:
            # Rates count from here: before, a model warmed up, and what an earlier run had done went by.
            self._first = _Mark(seconds=now, n_articles=self._n_articles, share=self.share or 0.0)
        if now - self._last >= self._seconds:
            self._last = now
            self._write(self.line())

    @property
    def share(self) -> float | None:
        """Share of the inputs' bytes that is read; None where it cannot be known."""
        sizes = [size for size in self._sizes if size is not None]
        if len(sizes) < len(self._sizes) or not sum(sizes):
            return None
        return min(1.0, (self._before + self._position()) / sum(sizes))

    def line(self) -> str:
        """Say it in words."""
        parts = [f"{self._n_articles:,} articles"]
        first, now, share = self._first, self._clock(), self.share
        if first is not None and self._n_articles > first.n_articles:
            rate = (self._n_articles - first.n_articles) / max(now - first.seconds, 1e-9)
            parts.append(f"{rate:,.1f} a second")
        if share is not None:
            parts.append(f"{share:.0%} of the input read")
            if first is not None and share > first.share:
                left = (now - first.seconds) * (1 - share) / (share - first.share)
                parts.append(f"about {timedelta(seconds=round(left))} left")
        return ", ".join(parts)

    def _position(self) -> float:
        if self._stream is not None and not self._stream.closed:
            return self._stream.tell()
        return self._file_size * (self._row_share if self._file in self._n_rows else 1.0)


def _size(source: Source) -> int | None:
    path = Path(source.name)
    if source.is_folder:
        return folder_size(path)
    return path.stat().st_size if not source.is_standard_input and path.is_file() else None


def _n_parquet_rows(source: Source) -> int:
    if source.format != "parquet":
        return 0
    import pyarrow.parquet as pq

    n_rows: int = pq.read_metadata(source.name).num_rows
    return n_rows

"""Times contestants over the same articles, in units that compare: pieces, padding, memory, share of the peak.

Knows clocks, memory and how much arithmetic an encoder does; knows nothing of who competes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from torch import nn

from khabar.inference.positions import Positions
from khabar.inference.prepared import prepare
from khabar.inference.tagger import Tagger
from khabar.models.cutting import Cutter

MB = 2**20
WATCH_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one contestant reached. Pieces are the articles' own: without padding, overlap or special pieces.

    Attributes:
        padding: Share of the positions computed by the encoder that held no piece.
        peak_memory: Megabytes, of the whole process on a CPU, of torch's tensors on a GPU.
        share_of_peak: The encoder's arithmetic on the articles' own pieces, once, over the seconds and the
            measured peak of a matrix product.
    """

    name: str
    articles_per_second: float
    pieces_per_second: float
    padding: float
    peak_memory: float
    share_of_peak: float


class PeakMemory:
    """Watches the process's resident memory from a thread; of a GPU, torch keeps the peak itself."""

    def __init__(self, device: torch.device) -> None:
        self.peak = 0.0
        self._device = device
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device) / MB

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss / MB)
            if self._ended.wait(WATCH_SECONDS):
                return


class Contest:
    """One encoder and one list of articles; contestants come one after the other.

    Attributes:
        peaks: Operations a second of the fastest matrix products, torch's own and prepared, measured when the contest
            opens; the share of the peak is that of the larger one.
        flops: Operations that one piece costs, at the articles' lengths.
        rows: What each contestant reached.
    """

    def __init__(self, tagger: Tagger, texts: Sequence[str]) -> None:
        model = tagger.model
        self.texts, self.device = texts, model.device
        lengths = [len(cut.ids) for cut in Cutter.of(tagger.tokenizer).cut(texts)]
        self.n_pieces = sum(lengths)
        self._lengths = lengths
        attended = sum(min(n, model.config.window) * n for n in lengths) / self.n_pieces
        self.flops = flops_per_piece(model.encoder, attended)
        self.peaks = matrix_peaks(self.device)
        self.rows: list[Row] = []

    def run(
        self,
        name: str,
        encoder: nn.Module,
        work: Callable[[Sequence[str]], object],
        *,
        n: int | None = None,
        warm: int = 8,
    ) -> None:
        """Time one contestant, after some articles to warm up.

        Args:
            name: For the table.
            encoder: What it calls, to count positions.
            work: Tags the texts it is given, all of them.
            n: Time it over the first so many articles; None for all.
            warm: Articles to warm up with.
        """
        work(self.texts[:warm])
        texts, n_pieces = self.texts[:n], sum(self._lengths[:n])
        positions = Positions(encoder)
        try:
            with PeakMemory(self.device) as memory:
                seconds = seconds_of(lambda: work(texts), self.device)
        finally:
            positions.stop()
        rate = n_pieces / seconds
        row = Row(
            name=name,
            articles_per_second=len(texts) / seconds,
            pieces_per_second=rate,
            padding=1 - positions.pieces / positions.total,
            peak_memory=memory.peak,
            share_of_peak=rate * self.flops / max(self.peaks),
        )
        self.rows.append(row)
        print(f"  {name}: {row.articles_per_second:,.1f} articles/s", file=sys.stderr)

    def table(self) -> str:
        """Lay the rows out, each beside the first one's speed."""
        header = ["", "articles/s", "times (a)", "pieces/s", "padding %", "memory MB", "of peak %"]
        cells = [
            [
                row.name,
                f"{row.articles_per_second:,.1f}",
                f"{row.articles_per_second / self.rows[0].articles_per_second:.2f}",
                f"{row.pieces_per_second:,.0f}",
                f"{100 * row.padding:.1f}",
                f"{row.peak_memory:,.0f}",
                f"{100 * row.share_of_peak:.1f}",
            ]
            for row in self.rows
        ]
        widths = [max(len(line[k]) for line in [header, *cells]) for k in range(len(header))]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in [header, *cells]
        )


def flops_per_piece(encoder: nn.Module, attended: float) -> float:
    """Operations a piece costs: two for each weight of a matrix, and attention's two products.

    Args:
        encoder: Any encoder; its embedding tables cost nothing.
        attended: Pieces that a piece attends to, on average.
    """
    tables = {id(module.weight) for module in encoder.modules() if isinstance(module, nn.Embedding)}
    n_weights = sum(p.numel() for p in encoder.parameters() if p.ndim == 2 and id(p) not in tables)
    config: Any = encoder.config
    n_layers, width = getattr(config, "num_hidden_layers", 0), config.hidden_size
    return float(2 * n_weights + 4 * n_layers * width * attended)


def matrix_peaks(device: torch.device) -> tuple[float, float]:
    """Measure the most operations a second that a matrix product reaches: float32 on a CPU, bfloat16 on a GPU.

    Returns:
        That of torch as it comes, and that with weights prepared as khabar does; either can be the larger.
    """
    on_cpu = device.type == "cpu"
    fastest = [0.0, 0.0]
    for size in (1024, 2048) if on_cpu else (4096, 8192):
        linear = nn.Linear(size, size, bias=False, device=device, dtype=torch.float32 if on_cpu else torch.bfloat16)
        states = torch.randn_like(linear.weight)
        for prepared in (False, True):
            if prepared:
                prepare(linear)
            with torch.inference_mode():
                seconds = min(seconds_of(partial(linear, states), device) for _ in range(6))
            fastest[prepared] = max(fastest[prepared], 2.0 * float(size) ** 3 / seconds)
    return fastest[0], fastest[1]


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time some work until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

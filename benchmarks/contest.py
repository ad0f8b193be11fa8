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
from statistics import median
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


Work = Callable[[Sequence[str]], object]  # tags the texts it is given, all of them


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contestant.

    Attributes:
        name: For the table.
        encoder: What it calls, to count positions.
        work: What is timed.
        n: Over the first so many articles; None for all.
        warm: Articles to warm up with.
    """

    name: str
    encoder: nn.Module
    work: Work
    n: int | None
    warm: int


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one contestant took in one round. Pieces are the articles' own: without padding, overlap or special pieces.

    Attributes:
        articles: A second.
        pieces: A second.
        padding: Share of the positions computed by the encoder that held no piece.
        memory: Megabytes at most above those before it: of torch's tensors on a GPU; of the process on a CPU, where
            what contestants before it have left is taken up first.
    """

    articles: float
    pieces: float
    padding: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one contestant reached: the median of all rounds, but where said.

    Attributes:
        times_first: Articles a second over those of the first contestant in the same round; lowest, median, highest.
        memory: As a `Measure`'s, in the round that took most.
        share_of_peak: The encoder's arithmetic on the articles' own pieces, once, over the seconds and the peak of a
            matrix product that was measured in the same round.
    """

    name: str
    articles_per_second: float
    times_first: tuple[float, float, float]
    pieces_per_second: float
    padding: float
    memory: float
    share_of_peak: float


class PeakMemory:
    """Watches the process's resident memory from a thread; of a GPU, torch keeps the peak itself. In megabytes."""

    def __init__(self, device: torch.device) -> None:
        self.before = self.peak = 0.0
        self._device = device
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self.before = torch.cuda.memory_allocated(self._device) / MB
        else:
            self.before = psutil.Process().memory_info().rss / MB
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
    """One encoder and one list of articles, over which contestants take turns: a machine is not the same all the time.

    Attributes:
        peaks: Operations a second of the fastest matrix products, torch's own and prepared, in each round; the share
            of the peak is that of the larger one.
        flops: Operations that one piece costs, at the articles' lengths.
    """

    def __init__(self, tagger: Tagger, texts: Sequence[str]) -> None:
        model = tagger.model
        self.texts, self.device = texts, model.device
        self._lengths = [len(cut.ids) for cut in Cutter.of(tagger.tokenizer).cut(texts)]
        self.n_pieces = sum(self._lengths)
        self.flops = flops_per_piece(model.encoder, self._lengths, model.config.window)
        self.peaks: list[tuple[float, float]] = []
        self._entries: list[Entry] = []
        self._measures: dict[str, list[Measure]] = {}

    def enter(self, name: str, encoder: nn.Module, work: Work, *, n: int | None = None, warm: int = 8) -> None:
        """Let a contestant take part; arguments as `Entry` describes them."""
        self._entries.append(Entry(name=name, encoder=encoder, work=work, n=n, warm=warm))

    def race(self, rounds: int) -> None:
        """Time all contestants, each once a round, after some articles to warm up."""
        for entry in self._entries:
            entry.work(self.texts[: entry.warm])
        for _ in range(rounds):
            self.peaks.append(matrix_peaks(self.device))
            for entry in self._entries:
                measure = self._measure(entry)
                self._measures.setdefault(entry.name, []).append(measure)
                print(f"  {entry.name}: {measure.articles:,.1f} articles/s", file=sys.stderr)

    def _measure(self, entry: Entry) -> Measure:
        texts, n_pieces = self.texts[: entry.n], sum(self._lengths[: entry.n])
        positions = Positions(entry.encoder)
        try:
            with PeakMemory(self.device) as memory:
                seconds = seconds_of(lambda: entry.work(texts), self.device)
        finally:
            positions.stop()
        return Measure(
            articles=len(texts) / seconds,
            pieces=n_pieces / seconds,
            padding=1 - positions.pieces / positions.total,
            memory=memory.peak - memory.before,
        )

    @property
    def rows(self) -> list[Row]:
        """What each contestant reached, in the order they entered."""
        first = self._measures[self._entries[0].name]
        rows = []
        for name, measures in self._measures.items():
            times = [measure.articles / other.articles for measure, other in zip(measures, first, strict=True)]
            shares = [
                measure.pieces * self.flops / max(peaks) for measure, peaks in zip(measures, self.peaks, strict=True)
            ]
            row = Row(
                name=name,
                articles_per_second=median(measure.articles for measure in measures),
                times_first=(min(times), median(times), max(times)),
                pieces_per_second=median(measure.pieces for measure in measures),
                padding=median(measure.padding for measure in measures),
                memory=max(measure.memory for measure in measures),
                share_of_peak=median(shares),
            )
            rows.append(row)
        return rows

    def table(self) -> str:
        """Lay the rows out, each beside the first one's speed."""
        header = ["", "articles/s", "times (a)", "from-to", "pieces/s", "padding %", "added MB", "of peak %"]
        cells = []
        for row in self.rows:
            lowest, middle, highest = row.times_first
            cells.append(
                [
                    row.name,
                    f"{row.articles_per_second:,.1f}",
                    f"{middle:.2f}",
                    f"{lowest:.2f}-{highest:.2f}",
                    f"{row.pieces_per_second:,.0f}",
                    f"{100 * row.padding:.1f}",
                    f"{row.memory:,.0f}",
                    f"{100 * row.share_of_peak:.1f}",
                ]
            )
        widths = [max(len(line[k]) for line in [header, *cells]) for k in range(len(header))]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in [header, *cells]
        )


def flops_per_piece(encoder: nn.Module, lengths: Sequence[int], window: int) -> float:
    """Operations a piece costs at most, on average: two for each weight of a matrix, and attention's two products.

    Args:
        encoder: Any encoder; its embedding tables cost nothing.
        lengths: The articles' pieces.
        window: Pieces that a piece sees at most; in layers with local attention it is as many as these say.
    """
    tables = {id(module.weight) for module in encoder.modules() if isinstance(module, nn.Embedding)}
    n_weights = sum(p.numel() for p in encoder.parameters() if p.ndim == 2 and id(p) not in tables)
    config: Any = encoder.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * getattr(config, "num_hidden_layers", 0)
    seen = [config.local_attention + 1 if kind == "sliding_attention" else window for kind in kinds]
    attended = sum(min(n, most) * n for most in seen for n in lengths) / sum(lengths)
    return float(2 * n_weights + 4 * config.hidden_size * attended)


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

"""Shows what a forward pass of the engine is made of: its operations, and what share of its time each takes.

    python benchmarks/forward_pass.py [--shapes mini base] [--model FOLDER] [--device cpu] [--precision bf16]
                                      [--articles FILE.jsonl] [--batch-pieces N] [--passes N]

Runs the fullest batch of 64 articles. Operations are those that torch is asked for, without views, which compute
nothing. Shares are of the time that the device computes, by torch's profiler; on a GPU what it waits for shows beside
them, as the time that a pass takes.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contest import seconds_of
from speed import EXAMPLES, SHAPES, base_shaped, machine, planned, varied
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from khabar.inference.tagger import Tagger, load
from khabar.models.article_reader import read_articles
from khabar.models.products import multiply_by_onednn

ARTICLES = 64
SHOWN = 8  # operations in the table


class Operations(TorchDispatchMode):
    """Counts the operations that torch is asked for, but for views."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count one, and do it."""
        del types
        if not func.is_view:
            self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def show(shape: str, tagger: Tagger, texts: Sequence[str], passes: int, batch_pieces: int | None) -> None:
    """Measure one model, and print its table."""
    forward = tagger.passes(batch_pieces=batch_pieces)
    work = max(planned(tagger, forward, texts), key=lambda one: one.n_pieces)
    run: Callable[[], object] = lambda: list(forward.run(work))  # noqa: E731
    device = tagger.model.device
    run()
    with Operations() as operations:
        run()
    seconds = seconds_of(lambda: [run() for _ in range(passes)], device) / passes
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        seconds_of(lambda: [run() for _ in range(passes)], device)
    of_device = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = Counter({row.key: getattr(row, of_device) for row in profiled.key_averages()})
    calls = {row.key: row.count / passes for row in profiled.key_averages()}

    print(
        f"\n{shape}: {len(work.indices)} articles, {work.n_pieces:,} pieces in "
        f"{'bfloat16' if tagger.bf16 else 'float32'}; {machine(device)}"
    )
    print(
        f"{operations.counts.total():,} operations a pass, {seconds * 1e3:,.1f} ms, "
        f"computing {times.total() / passes / 1e3:,.1f} ms\n"
    )
    print("| | of the computing % | calls a pass |\n|---|---|---|")
    for name, microseconds in times.most_common(SHOWN):
        print(f"| {name[:60]} | {100 * microseconds / times.total():.1f} | {calls[name]:,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", default=str(EXAMPLES), help="texts to lay articles out of")
    parser.add_argument("--words", type=int, default=250, help="mean length of an article")
    parser.add_argument("--model", default="embedded", help="the model of the shape `mini`")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch-pieces", type=int, help="most pieces in a batch")
    parser.add_argument("--passes", type=int, default=5)
    options = parser.parse_args()
    multiply_by_onednn()

    texts = list(varied([article.text for article in read_articles(options.articles)], ARTICLES, options.words))
    tagger = load(options.model, device=options.device, precision=options.precision)
    for shape in options.shapes:
        if shape == "base":
            tagger = base_shaped(tagger)
        show(shape, tagger, texts, options.passes, options.batch_pieces)


if __name__ == "__main__":
    main()

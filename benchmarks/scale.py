"""Measures how many articles a second one processor or one GPU tags, and works out what many would cost.

On a CPU the rate is by processor time, so that other work on the machine hardly matters. Prints two tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
MANY = (10_000_000, 1_000_000_000)


def made_articles(n: int, n_words: int) -> list[str]:
    """Make articles of so many words out of the texts of the examples."""
    files = [ROOT / "examples" / "articles.jsonl", *sorted((ROOT / "examples" / "corpus").glob("*.jsonl"))]
    texts = [json.loads(line)["text"] for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    words = itertools.cycle(" ".join(texts).split(" "))
    return [" ".join(itertools.islice(words, n_words)) for _ in range(n)]


def tagging_rate(model: str, device: str, workers: int, articles: list[str]) -> float:
    """Articles a second: of processor time on a CPU, of the clock on a GPU."""
    import khabar

    with khabar.load(model, device=device, workers=workers) as tagger:
        list(tagger.tag_many(articles[: 32 if device == "cpu" else None]))  # what is done once is not counted
        clock = time.process_time if device == "cpu" else time.perf_counter
        started = clock()
        list(tagger.tag_many(articles))
        return len(articles) / (clock() - started)


def reading_rate(articles: list[str]) -> float:
    """Rows of JSON Lines a second of processor time."""
    from khabar.inference.sources import open_sources, read_placed_rows

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "articles.jsonl"
        lines = [json.dumps({"id": str(i), "text": text}, ensure_ascii=False) for i, text in enumerate(articles)]
        path.write_text("\n".join(lines * 10), encoding="utf-8")
        sources = open_sources([path])
        started = time.process_time()
        n_rows = sum(1 for _ in read_placed_rows(sources))
        return n_rows / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="model folder or hub id")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--workers", type=int, default=0, help="processes that encode and decode for a GPU")
    parser.add_argument("--articles", type=int, default=512, help="how many are tagged")
    parser.add_argument("--words", type=int, default=250, help="words of each")
    parser.add_argument("--units", type=int, default=64, help="processors or GPUs of the cluster")
    parser.add_argument("--price", type=float, default=0.05, help="of one processor or GPU for an hour")
    options = parser.parse_args()
    if options.workers and options.device == "cpu":
        parser.error("--workers goes with --device cuda: on a CPU the rate is by the processor time of one process")

    articles = made_articles(options.articles, options.words)
    unit = "processor" if options.device == "cpu" else "GPU"
    rate = tagging_rate(options.model, options.device, options.workers, articles)
    print(f"| measured on {options.articles:,} articles of {options.words} words | a second |")
    print("|---|---|")
    print(f"| articles tagged by one {unit} | {rate:,.1f} |")
    print(f"| rows of JSON Lines read by one processor | {reading_rate(articles):,.0f} |\n")
    print(f"| articles | {unit} hours | days on {options.units} | at {options.price} an hour |")
    print("|---|---|---|---|")
    for n in MANY:
        hours = n / rate / 3600
        print(f"| {n:,} | {hours:,.1f} | {hours / options.units / 24:,.2f} | {hours * options.price:,.2f} |")


if __name__ == "__main__":
    main()

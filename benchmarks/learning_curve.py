"""Measures how many labelled articles buy how much F1, on gold train and dev.

    python benchmarks/learning_curve.py --encoder FOLDER_OR_ID [--config FILE] [--sizes 100 250 …] --output FILE.json
    python benchmarks/learning_curve.py --plot FILE.json [FILE.json …] --picture FILE.png

Trains on the first n of a fixed random order of gold train's articles, a smaller set inside each larger one, and
prints F1 on gold dev in percent, with khabar's defaults where FILE does not say otherwise. The last epoch is taken:
nothing is chosen on dev. Give an encoder that has been pretrained only.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from khabar.inference.tagger import load
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.evaluate import evaluate
from khabar.training.settings import read_settings
from khabar.training.train import train

GOLD = Path(__file__).resolve().parents[2] / "shared" / "data" / "gold"
SIZES = (100, 250, 500, 1000, 2483)
MEASURES = {"entities": "entities, micro", "article": "article topics, macro", "segment": "segment topics, micro"}

Point = dict[str, float]  # {"articles", "seed", "epochs", and a measure each, 0 to 1}


def point(options: argparse.Namespace, n: int, seed: int) -> Point:
    """Train on n articles and measure."""
    articles = read_articles(options.data / "train.jsonl")
    if n > len(articles):
        raise KhabarError(f"--sizes has {n:,}, gold train has {len(articles):,} articles")
    chosen = np.random.default_rng(0).permutation(len(articles))[:n].tolist()
    with tempfile.TemporaryDirectory(prefix="khabar-curve-") as scratch:
        corpus = Path(scratch) / "train.jsonl"
        lines = [json.dumps(articles[index].to_json(), ensure_ascii=False) + "\n" for index in chosen]
        corpus.write_text("".join(lines), encoding="utf-8")
        given = {
            "corpora": (str(corpus),),
            "output": str(Path(scratch) / "model"),
            "encoder": options.encoder,
            "seed": seed,
            "device": options.device,
        }
        trained = train(read_settings(options.config, given), progress_bar=sys.stderr.isatty())
        report = evaluate(load(given["output"], device=options.device), read_articles(options.data / "dev.jsonl"))
    return {
        "articles": n,
        "seed": seed,
        "epochs": len(trained.metrics["history"]),
        "entities": report["entities"]["micro"]["f1"],
        "article": report["topics"]["article"]["macro"]["f1"],
        "segment": report["topics"]["segment"]["micro"]["f1"],
    }


def table(points: Sequence[Point]) -> str:
    """Lay points out as a Markdown table: means over seeds."""
    lines = [f"| articles | epochs | runs | {' | '.join(MEASURES.values())} |", "|---" * (3 + len(MEASURES)) + "|"]
    for n, runs in _by_size(points).items():
        cells = [f"{100 * statistics.mean(run[key] for run in runs):.1f}" for key in MEASURES]
        lines.append(f"| {n:,} | {runs[0]['epochs']} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(points: Sequence[Point], picture: Path) -> None:
    """Draw a line for each measure over the number of articles, a dot for each run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    by_size = _by_size(points)
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for key, title in MEASURES.items():
        means = [100 * statistics.mean(run[key] for run in runs) for runs in by_size.values()]
        (line,) = axes.plot(list(by_size), means, label=title)
        sizes, values = [run["articles"] for run in points], [100 * run[key] for run in points]
        axes.scatter(sizes, values, color=line.get_color(), s=12)
    axes.set_xscale("log")
    axes.set_xticks(list(by_size), [f"{n:,}" for n in by_size])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="labelled articles", ylabel="F1 on gold dev, percent")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(picture, dpi=130, bbox_inches="tight")


def save(points: Sequence[Point], file: Path) -> None:
    """Write points as JSON."""
    file.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")


def _by_size(points: Sequence[Point]) -> dict[int, list[Point]]:
    sizes: dict[int, list[Point]] = defaultdict(list)
    for one in sorted(points, key=lambda one: (one["articles"], one["seed"])):
        sizes[int(one["articles"])].append(one)
    return sizes


def main() -> None:
    """Train every point, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", help="folder or hub id of a pretrained encoder")
    parser.add_argument("--config", help="settings of the runs (YAML)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of articles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", type=Path, default=GOLD, help="folder of train.jsonl and dev.jsonl")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="file for the points (JSON)")
    parser.add_argument("--plot", type=Path, nargs="+", default=[], help="files of points to put together")
    parser.add_argument("--picture", type=Path, help="file for the picture (PNG)")
    options = parser.parse_args()
    points = [one for file in options.plot for one in json.loads(file.read_text(encoding="utf-8"))]
    if options.encoder:
        for n in options.sizes:
            for seed in options.seeds:
                began = time.monotonic()
                points.append(point(options, n, seed))
                print(f"{n:,} articles, seed {seed}: {time.monotonic() - began:,.0f} s", file=sys.stderr, flush=True)
                if options.output:  # a long run that breaks off keeps what it has
                    save(points, options.output)
    if not points:
        parser.error("nothing to do: give --encoder, or --plot with files of points")
    if options.output:
        save(points, options.output)
    if options.picture:
        plot(points, options.picture)
    print(table(points))


if __name__ == "__main__":
    try:
        main()
    except KhabarError as error:
        sys.exit(f"error: {error}")

"""Measures what it is worth to mask labels that a corpus never annotates, and to learn from a coarser corpus.

    python benchmarks/partial_labels.py --encoder FOLDER_OR_ID [--config FILE] [--seeds 0 1 2] [--output FILE.json]

First, gold train is cut into two corpora that annotate half of the labels each. A model trained on them with the
other labels masked is set against one that takes unannotated words for outside, and against full labels. Second, a
small part of gold train is trained on alone, with ANERcorp beside it (its ORG standing for several labels, what it
never marks masked), and with ANERcorp taken at its word. Prints exact-span F1 on gold dev, in percent; of several
seeds the mean. Every run trains to its last epoch: nothing is chosen on dev.

Give an encoder that has been pretrained only: the embedded model's has seen all of gold train.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from khabar.inference.tagger import load
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.evaluate import evaluate
from khabar.training.settings import read_settings
from khabar.training.train import train

ROOT = Path(__file__).resolve().parents[1]
FIRST = ["PERSON", "LOCATION", "DATE"]
# What ANERcorp's labels stand for among gold's, and the label of its that stands for none.
COARSE = {"PERS": ["PERSON"], "LOC": ["LOCATION"], "ORG": ["ORGANIZATION", "MILITARY", "ARMED_GROUP"]}
IGNORED = ["MISC"]

Sources = list[dict[str, Any]]


class Material:
    """The articles, with entities alone, and corpora made from them in a scratch folder."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.scratch, self.anercorp = scratch, options.data / "ner" / "anercorp" / "train.bio"
        train_set = [_entities_only(article) for article in read_articles(options.data / "gold" / "train.jsonl")]
        self.dev = [_entities_only(article) for article in read_articles(options.data / "gold" / "dev.jsonl")]
        order = np.random.default_rng(0).permutation(len(train_set)).tolist()
        self.train = [train_set[place] for place in order[: options.articles]]
        self.few = self.train[: options.few]
        self.labels = sorted({entity.label for article in train_set for entity in article.entities or ()})
        unknown = set(options.first) - set(self.labels)
        if unknown or set(options.first) == set(self.labels):
            raise KhabarError(f"--first is {' '.join(options.first)}; allowed: some of {', '.join(self.labels)}")
        self.first = options.first
        self.second = [label for label in self.labels if label not in options.first]

    def full(self) -> Sources:
        """All labels on all articles."""
        return [{"path": self._file("full", self.train, self.labels)}]

    def halves(self, *, masked: bool) -> Sources:
        """Half of the labels on one half of the articles, the others on the other."""
        return [
            {"path": self._file(name, articles, labels), **({"unannotated": absent} if masked else {})}
            for name, articles, labels, absent in (
                ("first", self.train[::2], self.first, self.second),
                ("second", self.train[1::2], self.second, self.first),
            )
        ]

    def small(self) -> Sources:
        """All labels on a few articles."""
        return [{"path": self._file("few", self.few, self.labels)}]

    def with_anercorp(self, *, masked: bool) -> Sources:
        """Those few and ANERcorp, as what it is; or with ORG for the first label that it may stand for, and no mask."""
        marked = {label for labels in COARSE.values() for label in labels}
        source: dict[str, Any] = {"path": str(self.anercorp), "ignore": IGNORED}
        if masked:
            source |= {"entities": COARSE, "unannotated": [label for label in self.labels if label not in marked]}
        else:
            source |= {"entities": {label: labels[0] for label, labels in COARSE.items()}}
        return [*self.small(), source]

    def _file(self, name: str, articles: Sequence[Article], labels: Sequence[str]) -> str:
        path = self.scratch / f"{name}.jsonl"
        lines = []
        for article in articles:
            kept = tuple(entity for entity in article.entities or () if entity.label in labels)
            lines.append(json.dumps(replace(article, entities=kept).to_json(), ensure_ascii=False))
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)


def _entities_only(article: Article) -> Article:
    return replace(article, topics=None, segments=None)


def run(options: argparse.Namespace, material: Material, sources: Sources, seed: int) -> dict[str, Any]:
    """Train on sources and measure entities on gold dev."""
    with tempfile.TemporaryDirectory(dir=material.scratch) as folder:
        corpora = Path(folder) / "corpora.yaml"
        corpora.write_text(json.dumps({"sources": sources}), encoding="utf-8")  # JSON is YAML
        given: dict[str, Any] = {
            "corpora": (str(corpora),),
            "dev": None,
            "output": str(Path(folder) / "model"),
            "encoder": options.encoder,
            "seed": seed,
            "device": options.device,
        }
        if options.epochs is not None:
            given["epochs"] = options.epochs
        train(read_settings(options.config, given), progress_bar=sys.stderr.isatty())
        report = evaluate(load(given["output"], device=options.device), material.dev)
    entities: dict[str, Any] = report["entities"]
    return entities


def main() -> None:
    """Train all rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder or hub id of a pretrained encoder")
    parser.add_argument("--config", help="settings of the runs (YAML)")
    parser.add_argument("--epochs", type=int, help="passes over the articles; without it, the settings'")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the corpora")
    parser.add_argument("--articles", type=int, default=800, help="of gold train, for the first experiment")
    parser.add_argument("--few", type=int, default=100, help="of gold train, for the second")
    parser.add_argument("--first", nargs="+", default=FIRST, help="labels that the first half annotates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=["halves", "coarse"], help="one of the two experiments")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="file for all measures (JSON)")
    options = parser.parse_args()
    try:
        _measure_all(options)
    except KhabarError as error:
        sys.exit(f"error: {error}")


def _measure_all(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="khabar-partial-") as scratch:
        material = Material(options, Path(scratch))
        n, few = len(material.train), len(material.few)
        experiments: dict[str, dict[str, Callable[[], Sources]]] = {
            "halves": {
                f"{n} articles, all labels": material.full,
                "half the labels on each half, the others masked": lambda: material.halves(masked=True),
                "the same, the others taken for outside": lambda: material.halves(masked=False),
            },
            "coarse": {
                f"{few} articles, all labels": material.small,
                "and ANERcorp, tag sets and mask": lambda: material.with_anercorp(masked=True),
                "and ANERcorp, first of the labels, no mask": lambda: material.with_anercorp(masked=False),
            },
        }
        rows: dict[str, list[dict[str, Any]]] = {}
        chosen = [options.only] if options.only else list(experiments)
        for name, sources in ((name, make) for key in chosen for name, make in experiments[key].items()):
            rows[name] = []
            for seed in options.seeds:
                began = time.monotonic()
                rows[name].append(run(options, material, sources(), seed))
                print(f"{name}, seed {seed}: {time.monotonic() - began:,.0f} s", file=sys.stderr, flush=True)
        print(_table(rows, material.labels, len(material.dev)))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def _table(rows: dict[str, list[dict[str, Any]]], labels: Sequence[str], n_dev: int) -> str:
    def cell(values: Sequence[float]) -> str:
        return f"{100 * statistics.mean(values):.1f}"

    header = ["", "P", "R", "F1", "±", *labels]
    lines = [header]
    for name, runs in rows.items():
        f1 = [one["micro"]["f1"] for one in runs]
        lines.append(
            [
                name,
                cell([one["micro"]["precision"] for one in runs]),
                cell([one["micro"]["recall"] for one in runs]),
                cell(f1),
                f"{100 * statistics.stdev(f1):.1f}" if len(f1) > 1 else "",
                *(cell([one["labels"][label]["f1"] for one in runs]) for label in labels),
            ]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([f"entities on {n_dev} articles of gold dev, exact spans, percent", *text])


if __name__ == "__main__":
    main()

"""Measures what masking unannotated labels is worth, and a coarser corpus, and texts without labels.

    python benchmarks/partial_labels.py --encoder FOLDER_OR_ID [--config FILE] [--seeds 0 1 2] [--output FILE.json]

First, gold train is cut into two corpora that annotate half of the labels each. A model trained on them with the
other labels masked is set against one that takes unannotated words for outside, and against full labels. Second, a
small part of gold train is trained on alone, with ANERcorp beside it (its ORG standing for several labels, what it
never marks masked; or both said by the model trained on the small part alone), and with ANERcorp taken at its word.
Third, the model trained on that small part alone teaches another, on the same part and the texts of the other
articles. In the second and third, every run sees the small part equally often: it stands --repeat times beside what
it is mixed with, and alone it is trained on for so many more epochs. Prints exact-span F1 on gold dev, in percent; of
several seeds the mean. Every run trains to its last epoch: nothing is chosen on dev.

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
from khabar.training.figures import text_table
from khabar.training.settings import read_settings
from khabar.training.train import train

ROOT = Path(__file__).resolve().parents[1]
FIRST = ["PERSON", "LOCATION", "DATE"]
# What ANERcorp's labels stand for among gold's, and the label of its that stands for none.
COARSE = {"PERS": ["PERSON"], "LOC": ["LOCATION"], "ORG": ["ORGANIZATION", "MILITARY", "ARMED_GROUP"]}
IGNORED = ["MISC"]
EPOCHS = 10

Sources = list[dict[str, Any]]


class Material:
    """The articles, with entities alone, and corpora made from them in a scratch folder."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.scratch, self.anercorp = scratch, options.data / "ner" / "anercorp" / "train.bio"
        train_set = [_entities_only(article) for article in read_articles(options.data / "gold" / "train.jsonl")]
        self.dev = [_entities_only(article) for article in read_articles(options.data / "gold" / "dev.jsonl")]
        order = np.random.default_rng(0).permutation(len(train_set)).tolist()
        self.train = [train_set[place] for place in order[: options.articles]]
        self.few, self.rest = self.train[: options.few], self.train[options.few :]
        self.repeat, self.weight = options.repeat, options.weight
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

    def with_anercorp(self, *, masked: bool, teacher: Path | None = None) -> Sources:
        """Those few and ANERcorp, as what it is; or with ORG for the first label that it may stand for, and no mask."""
        marked = {label for labels in COARSE.values() for label in labels}
        source: dict[str, Any] = {"path": str(self.anercorp), "ignore": IGNORED, "weight": self.weight}
        if teacher is not None:
            source |= {"teacher": str(teacher)}
        if masked:
            source |= {"entities": COARSE, "unannotated": [label for label in self.labels if label not in marked]}
        else:
            source |= {"entities": {label: labels[0] for label, labels in COARSE.items()}}
        return [*self.small() * self.repeat, source]

    def with_texts(self, teacher: Path) -> Sources:
        """Those few, and the texts of the others with a model's word for their labels."""
        texts = [replace(article, entities=None) for article in self.rest]
        return [*self.small() * self.repeat, {"path": self._file("texts", texts, ()), "teacher": str(teacher)}]

    def _file(self, name: str, articles: Sequence[Article], labels: Sequence[str]) -> str:
        path = self.scratch / f"{name}.jsonl"
        lines = []
        for article in articles:
            if article.entities is not None:
                kept = tuple(entity for entity in article.entities if entity.label in labels)
                article = replace(article, entities=kept)
            lines.append(json.dumps(article.to_json(), ensure_ascii=False))
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)


def _entities_only(article: Article) -> Article:
    return replace(article, topics=None, segments=None)


def run(
    options: argparse.Namespace, material: Material, sources: Sources, seed: int, output: Path, *, times: int = 1
) -> dict[str, Any]:
    """Train on sources for so many times the epochs, and measure entities on gold dev."""
    corpora = material.scratch / "corpora.yaml"
    corpora.write_text(json.dumps({"sources": sources}), encoding="utf-8")  # JSON is YAML
    given: dict[str, Any] = {
        "corpora": (str(corpora),),
        "dev": None,
        "output": str(output),
        "encoder": options.encoder,
        "seed": seed,
        "device": options.device,
    }
    settings = read_settings(options.config, given)
    settings = replace(settings, epochs=times * (options.epochs or settings.epochs or EPOCHS))
    train(settings, progress_bar=sys.stderr.isatty())
    entities: dict[str, Any] = evaluate(load(output, device=options.device), material.dev)["entities"]
    return entities


def main() -> None:
    """Train all rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder or hub id of a pretrained encoder")
    parser.add_argument("--config", help="settings of the runs (YAML)")
    parser.add_argument("--epochs", type=int, help=f"passes over the articles; without it, the settings', or {EPOCHS}")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the corpora")
    parser.add_argument("--articles", type=int, default=800, help="of gold train, for the first experiment")
    parser.add_argument("--few", type=int, default=100, help="of them, for the second and third")
    parser.add_argument(
        "--repeat", type=int, default=4, help="how often those few stand beside what they are mixed with"
    )
    parser.add_argument("--weight", type=float, default=1.0, help="of ANERcorp's losses")
    parser.add_argument("--first", nargs="+", default=FIRST, help="labels that the first half annotates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=["halves", "coarse", "taught"], help="one of the three experiments")
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
        n, few, models = len(material.train), len(material.few), Path(scratch) / "models"
        # What a row is trained on, for a seed: a taught model's teacher is the one that was trained alone.
        alone = f"{few} articles, all labels"

        def folder(name: str, seed: int) -> Path:
            return models / f"{name}-{seed}"

        few_alone: dict[str, Callable[[int], Sources]] = {alone: lambda _seed: material.small()}
        experiments: dict[str, dict[str, Callable[[int], Sources]]] = {
            "halves": {
                f"{n} articles, all labels": lambda _seed: material.full(),
                "half the labels on each half, the others masked": lambda _seed: material.halves(masked=True),
                "the same, the others taken for outside": lambda _seed: material.halves(masked=False),
            },
            "coarse": few_alone
            | {
                "and ANERcorp, tag sets and mask": lambda _seed: material.with_anercorp(masked=True),
                "and ANERcorp, tag sets and mask filled in by that model": lambda seed: material.with_anercorp(
                    masked=True, teacher=folder(alone, seed)
                ),
                "and ANERcorp, first of the labels, no mask": lambda _seed: material.with_anercorp(masked=False),
            },
            "taught": few_alone
            | {
                f"and the texts of {len(material.rest)} others, taught by that model": lambda seed: material.with_texts(
                    folder(alone, seed)
                ),
            },
        }
        rows: dict[str, list[dict[str, Any]]] = {}
        for key in [options.only] if options.only else experiments:
            for name, sources in experiments[key].items():
                if name in rows:
                    continue
                rows[name] = []
                for seed in options.seeds:
                    began = time.monotonic()
                    times = options.repeat if name == alone else 1
                    rows[name].append(run(options, material, sources(seed), seed, folder(name, seed), times=times))
                    print(f"{name}, seed {seed}: {time.monotonic() - began:,.0f} s", file=sys.stderr, flush=True)
        print(_table(rows, material.labels, len(material.dev)))
    if options.output is not None:
        options.output.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")


def _table(rows: dict[str, list[dict[str, Any]]], labels: Sequence[str], n_dev: int) -> str:
    def cell(values: Sequence[float]) -> str:
        return f"{100 * statistics.mean(values):.1f}"

    lines = [["", "P", "R", "F1", "±", *labels]]
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
    return "\n".join([f"entities on {n_dev} articles of gold dev, exact spans, percent", *text_table(lines)])


if __name__ == "__main__":
    main()

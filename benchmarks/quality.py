"""Trains and measures an encoder on ANERcorp and on gold, beside feature baselines and published figures.

    python benchmarks/quality.py --encoder FOLDER_OR_ID … [--config FILE] [--seeds 0 1 2] [--output FILE.json]
                                 [--join WORDS] [--taught TEXTS.jsonl [--taught-config FILE]]
    python benchmarks/quality.py --model FOLDER          # measures a finished model on the gold corpus
    python benchmarks/quality.py --only baselines

Prints a table of F1 in percent. Knows corpora and settings; knows nothing of a model's inside.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anercorp import Anercorp

from khabar.inference.results import spans_of
from khabar.inference.tagger import Tagger, load
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.conll import iter_conll
from khabar.training.evaluate import evaluate, render
from khabar.training.metrics import Report, entity_metrics, topic_report
from khabar.training.settings import read_settings
from khabar.training.train import train

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("anercorp", "gold", "baselines")
COLUMNS = {
    "anercorp_micro": "ANERcorp micro",
    "anercorp_macro": "macro",
    "anercorp_micro_without_misc": "micro, no MISC",
    "gold_entities_micro": "gold entities micro",
    "gold_topics_article_macro": "topics article macro",
    "gold_topics_segment_micro": "segment micro",
}
# Published fine-tunings of AraBERTv0.2-base (135M parameters) on ANERcorp's usual split, in percent.
PUBLISHED = (
    ("AraBERTv0.2-base, as published", {"anercorp_macro": 83.7}, "README of github.com/aub-mind/arabert"),
    (
        "AraBERTv0.2-base, as published",
        {"anercorp_micro": 81.3},
        "huggingface.co/Komail262/arabert-ner-anercorp",
    ),
)
THRESHOLD = 0.5  # of the topic baseline
REPEATS = 3  # of the labelled sentences in a taught model's epoch, beside many more texts without labels

Row = dict[str, Any]  # {"name", "source", column: [one value a seed]}


def _gold_figures(report: Report) -> dict[str, float | None]:
    return {
        "gold_entities_micro": report["entities"]["micro"]["f1"],
        "gold_topics_article_macro": report["topics"]["article"]["macro"]["f1"],
        "gold_topics_segment_micro": report["topics"]["segment"]["micro"]["f1"],
    }


def encoder_rows(options: argparse.Namespace, data: Path) -> list[Row]:
    """Train each encoder on each corpus with each seed, and measure on its held-out part; then what all these teach."""
    joined = f", sentences joined to {options.join} words" if options.join else ""
    rows: list[Row] = [{"name": encoder + joined, "source": "this run"} for encoder in options.encoder]
    taught: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="khabar-quality-") as name:
        scratch = Path(name)
        if "anercorp" in options.only:
            corpus = Anercorp(data / "ner" / "anercorp", options.join)
            train_file = corpus.training_file(scratch)
            models: list[Path] = []
            for encoder, row in zip(options.encoder, rows, strict=True):
                for seed in options.seeds:
                    models.append(scratch / f"anercorp-{len(models)}")
                    tagger = _trained(options, encoder, options.config, train_file, None, seed, models[-1])
                    _add(row, corpus.measure(corpus.tag(tagger)))
            if options.taught:
                first = options.encoder[0]
                taught = [{"name": f"{first}{joined}, taught by all these on {options.taught}", "source": "this run"}]
                both = _taught_corpus(scratch / "taught.yaml", train_file, options.taught, models)
                config = options.taught_config or options.config
                for seed in options.seeds:
                    tagger = _trained(options, first, config, both, None, seed, scratch / f"taught-{seed}")
                    _add(taught[0], corpus.measure(corpus.tag(tagger)))
        if "gold" in options.only:
            train_file, dev_file = (data / "gold" / f"{split}.jsonl" for split in ("train", "dev"))
            dev = read_articles(dev_file)
            for number, (encoder, row) in enumerate(zip(options.encoder, rows, strict=True)):
                for seed in options.gold_seeds:
                    output = scratch / f"gold-{number}-{seed}"
                    tagger = _trained(options, encoder, options.config, train_file, dev_file, seed, output)
                    report = evaluate(tagger, dev)
                    _say(f"gold dev, {encoder}, seed {seed}\n{render(report)}")
                    _add(row, _gold_figures(report))
    return rows + taught


def _taught_corpus(path: Path, labelled: Path, texts: Path, teachers: Sequence[Path]) -> Path:
    """Describe a corpus of labelled sentences, and of texts of which teachers say the labels."""
    sources: list[dict[str, Any]] = [{"path": str(labelled.resolve())}] * REPEATS
    sources += [{"path": str(texts.resolve()), "teacher": list(map(str, teachers))}]
    path.write_text(json.dumps({"sources": sources}), encoding="utf-8")
    return path


def _trained(
    options: argparse.Namespace,
    encoder: str,
    config: str | None,
    corpus: Path,
    dev: Path | None,
    seed: int,
    output: Path,
) -> Tagger:
    given: dict[str, Any] = {
        "corpora": (str(corpus),),
        "output": str(output),
        "encoder": encoder,
        "seed": seed,
        "device": options.device,
    }
    if dev is not None:
        given["dev"] = str(dev)
    began = time.monotonic()
    train(read_settings(config, given), progress_bar=sys.stderr.isatty())
    _say(f"{encoder} trained on {corpus.name}, seed {seed}: {time.monotonic() - began:,.0f} s")
    return load(output, device=options.device)


def model_row(name: str, device: str, data: Path) -> Row:
    """Measure a finished model on gold dev."""
    tagger = load(name, device=device)
    report = evaluate(tagger, read_articles(data / "gold" / "dev.jsonl"))
    _say(f"gold dev, {name}\n{render(report)}")
    row: Row = {"name": f"{name}, as it is", "source": "this run"}
    _add(row, _gold_figures(report))
    return row


def baseline_row(data: Path) -> Row:
    """Train and measure the feature baselines."""
    from baselines import CrfEntities, TfidfTopics

    row: Row = {"name": "CRF with features; TF-IDF + logistic regression", "source": "this run"}
    corpus = Anercorp(data / "ner" / "anercorp")
    crf = CrfEntities().fit(list(iter_conll(corpus.train_file)))
    _add(row, corpus.measure([crf.predict(article) for article in corpus.test]))

    train_set = read_articles(data / "gold" / "train.jsonl")
    dev = read_articles(data / "gold" / "dev.jsonl")
    crf = CrfEntities().fit(train_set)
    gold = [spans_of(article.entities or ()) for article in dev]
    entities = entity_metrics(gold, [crf.predict(article) for article in dev])

    topics = sorted({topic for article in train_set for topic in article.topics or ()})
    baseline = TfidfTopics(topics).fit(train_set)
    scores = [baseline.segment_scores(article) for article in dev]  # each (n_segments, n_topics)
    segments = [segment.topics or () for article in dev for segment in article.segments or ()]
    by_segment = [dict(zip(topics, values, strict=True)) for values in np.concatenate(scores).tolist()]
    by_article = [dict(zip(topics, values.max(axis=0).tolist(), strict=True)) for values in scores]
    report = {
        "entities": entities,
        "topics": {
            "segment": _topic_report(segments, by_segment, topics),
            "article": _topic_report([article.topics or () for article in dev], by_article, topics),
        },
    }
    _add(row, _gold_figures(report))
    return row


def _topic_report(
    gold: Sequence[Collection[str]], scores: Sequence[Mapping[str, float]], topics: Sequence[str]
) -> Report:
    predicted = [{topic for topic, score in item.items() if score >= THRESHOLD} for item in scores]
    return topic_report(gold, predicted, scores, topics)


def _add(row: Row, figures: dict[str, float | None]) -> None:
    for name, value in figures.items():
        if value is None:  # a label without gold
            continue
        row.setdefault(name, []).append(round(100 * value, 2))


def table(rows: Sequence[Row]) -> str:
    """Lay rows out as a Markdown table: means, with standard deviations where there are several seeds."""
    lines = [["", *COLUMNS.values(), "source"]]
    lines += [[row["name"], *(_cell(row.get(name)) for name in COLUMNS), row["source"]] for row in rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    laid = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    laid.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(laid)


def _cell(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure quality; every figure is an F1 in percent.")
    parser.add_argument(
        "--encoder", action="append", default=[], help="encoder to train on, hub id or folder; may be given repeatedly"
    )
    parser.add_argument("--model", action="append", default=[], help="finished model: folder, hub id or embedded")
    parser.add_argument("--config", help="training settings, YAML or JSON")
    parser.add_argument(
        "--join", type=int, default=0, help="words up to which ANERcorp's consecutive sentences are read as one article"
    )
    parser.add_argument(
        "--taught",
        type=Path,
        help="articles (.jsonl) without labels, on which ANERcorp's models teach",
    )
    parser.add_argument("--taught-config", help="training settings of those taught (--config)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the ANERcorp runs")
    parser.add_argument("--gold-seeds", type=int, nargs="+", default=[0], help="of the gold runs")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the corpora")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="also write the rows as JSON")
    options = parser.parse_args()
    if options.join < 0:
        parser.error(f"--join is {options.join}, must be at least 0")
    if options.taught and not (options.encoder and "anercorp" in options.only):
        parser.error("--taught needs --encoder, and anercorp among --only: its models are the teachers")
    return options


def main() -> None:
    """Run what is asked for and print the table."""
    options = _options()
    rows: list[Row] = []
    if options.encoder and {"anercorp", "gold"} & set(options.only):
        rows += encoder_rows(options, options.data)
    rows += [model_row(name, options.device, options.data) for name in options.model]
    if "baselines" in options.only:
        rows.append(baseline_row(options.data))
    for name, figures, source in PUBLISHED:
        rows.append({"name": name, "source": source, **{column: [value] for column, value in figures.items()}})
    if options.output:
        options.output.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except KhabarError as error:
        sys.exit(f"error: {error}")

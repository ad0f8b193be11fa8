"""Evaluates a tagger on annotated articles: topics per article and per segment, entities by exact span.

Turns gold articles and what a tagger says of them into measures, a dict fit for JSON, and the measures
into a table. Knows of the tagger only that it tags articles.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from khabar.inference.results import spans_of
from khabar.models.article import Article
from khabar.training.bootstrap import (
    COVERAGE,
    FEWEST_ARTICLES,
    MEASURES,
    count_all,
    intervals,
    n_articles_with,
    resample,
)
from khabar.training.figures import f1_interval, percent, text_table
from khabar.training.metrics import Report, entity_metrics, topic_report
from khabar.training.predictions import LEVELS, ArticleTagger, Prediction, predict, topic_items, topic_labels

_NAMES = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "AP"}
_COUNTS = ("support", "predicted")


def evaluate(
    tagger: ArticleTagger, articles: Iterable[Article], *, resamples: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Tag articles and measure the results, as `measure` does, against what is annotated.

    Raises:
        KhabarError: If no article is annotated at all.
        ValueError: If the tagger returns fewer or more results, or other segments, than it was given.
    """
    return measure(predict(tagger, articles), resamples=resamples, seed=seed)


def measure(predictions: Sequence[Prediction], *, resamples: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure predictions against gold.

    Each of an article's `topics`, `segments` and `entities` is measured where it is given.

    Args:
        predictions: Annotated articles and what a tagger says of them.
        resamples: Bootstrap resamples for 95 % intervals; None for no intervals.
        seed: Seed of the resamples.

    Returns:
        `{"articles", "characters", "characters_read", "topics": {"article": …, "segment": …},
        "entities": …}`, each part as `khabar.training.metrics` describes it and absent where no article
        is annotated for it. With resamples, `"bootstrap"` says how, and each row has `"intervals"`:
        `{"precision": [low, high], "recall": …, "f1": …}`, or None where fewer than FEWEST_ARTICLES
        articles have the label.

    Raises:
        KhabarError: If resamples or seed is out of its range.
    """
    report: dict[str, Any] = {
        "articles": len(predictions),
        "characters": sum(prediction.result.characters for prediction in predictions),
        "characters_read": sum(prediction.result.characters_read for prediction in predictions),
    }
    topics = {}
    for level in LEVELS:
        items = [item for prediction in predictions for item in topic_items(prediction, level)]
        if items:
            topics[level] = topic_report(
                [item.gold for item in items],
                [item.predicted for item in items],
                [item.scores for item in items],
                topic_labels(items),
            )
    if topics:
        report["topics"] = topics
    with_entities = [prediction for prediction in predictions if prediction.gold.entities is not None]
    if with_entities:
        report["entities"] = entity_metrics(
            [spans_of(prediction.gold.entities or ()) for prediction in with_entities],
            [spans_of(prediction.result.entities) for prediction in with_entities],
        )
    if resamples is not None:
        _add_intervals(report, predictions, resamples, seed)
    return report


def parts_of(report: Mapping[str, Any]) -> dict[str, Report]:
    """Give what a report measures by name: "article" and "segment" (topics), "entities"; those it has."""
    parts = dict(report.get("topics", {}))
    if "entities" in report:
        parts["entities"] = report["entities"]
    return parts


def selection_score(report: Mapping[str, Any]) -> dict[str, float]:
    """Sum a report up for choosing between models.

    Returns:
        The headline measures that the report has, `article_macro_f1`, `segment_micro_f1` (topics) and
        `entity_micro_f1`, and `score`: the mean of topics and entities, where topics are the mean of
        their two. 0 where nothing of the gold could be measured.
    """
    topics, entities = report.get("topics", {}), report.get("entities")
    headline = {
        "article_macro_f1": topics["article"]["macro"]["f1"] if "article" in topics else None,
        "segment_micro_f1": topics["segment"]["micro"]["f1"] if "segment" in topics else None,
        "entity_micro_f1": entities["micro"]["f1"] if entities is not None else None,
    }
    known: dict[str, float] = {name: value for name, value in headline.items() if value is not None}
    tasks = [
        sum(values) / len(values)
        for names in (("article_macro_f1", "segment_micro_f1"), ("entity_micro_f1",))
        if (values := [known[name] for name in names if name in known])
    ]
    return {"score": sum(tasks) / len(tasks) if tasks else 0.0, **known}


def render(report: Mapping[str, Any]) -> str:
    """Lay a report of `evaluate` out as plain text, in percent."""
    parts = []
    for level in ("article", "segment"):
        part = report.get("topics", {}).get(level)
        if part:
            parts.append(_table(f"topics, per {level} ({_counted(part['n'], level)})", part))
    entities = report.get("entities")
    if entities:
        parts.append(_table(f"entities, exact span and label ({_counted(entities['n'], 'article')})", entities))
    if report["characters_read"] < report["characters"]:
        unread = report["characters"] - report["characters_read"]
        parts.append(f"{unread:,} of {report['characters']:,} characters were not read")
    return "\n\n".join(parts)


def _add_intervals(report: dict[str, Any], predictions: Sequence[Prediction], resamples: int, seed: int) -> None:
    parts = parts_of(report)
    counts = count_all(predictions, {name: list(part["labels"]) for name, part in parts.items()})
    totals = resample(counts, resamples=resamples, seed=seed)
    for name, part in parts.items():
        rows = [*part["labels"].values(), part["micro"], part["macro"]]
        for row, n_articles, ends in zip(
            rows, n_articles_with(counts[name]).tolist(), intervals(totals[name]).tolist(), strict=True
        ):
            row["intervals"] = dict(zip(MEASURES, ends, strict=True)) if n_articles >= FEWEST_ARTICLES else None
    report["bootstrap"] = {"resamples": resamples, "seed": seed, "coverage": COVERAGE}


def _table(title: str, part: Report) -> str:
    names = [key for key in _NAMES if key in part["micro"]]
    with_intervals = "intervals" in part["micro"]
    header = ["", *(_NAMES[key] for key in names), *_COUNTS]
    rows = [(label, part["labels"][label]) for label in part["labels"]]
    rows += [(average, part[average]) for average in ("micro", "macro")]
    cells = [
        [label, *(percent(row[key]) for key in names), *(f"{row[key]:,}" for key in _COUNTS)] for label, row in rows
    ]
    if with_intervals:
        place = header.index(_NAMES["f1"]) + 1
        header.insert(place, "95 % of F1")
        for line, (_, row) in zip(cells, rows, strict=True):
            line.insert(place, f1_interval(row["intervals"]))
    lines = text_table([header, *cells])
    lines.insert(-2, "")
    if part["without_gold"]:
        lines.append(f"no gold, so not in macro: {', '.join(part['without_gold'])}")
    return "\n".join([title, *lines])


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"

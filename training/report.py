"""Puts an evaluation's report together: measures, charts' numbers, groups of articles, errors, comparison.

Turns predictions into one dict fit for JSON. Knows nothing of how it is shown (see page).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import khabar
from khabar.inference.results import spans_of
from khabar.training.alignment import confusion
from khabar.training.bootstrap import (
    FEWEST_ARTICLES,
    MEASURES,
    RESAMPLES,
    Counts,
    Totals,
    count_all,
    intervals,
    measures,
    resample,
)
from khabar.training.comparison import compare
from khabar.training.curves import precision_recall, reliability
from khabar.training.evaluate import measure, parts_of
from khabar.training.predictions import LEVELS, Prediction, UnknownLabels, topic_items
from khabar.training.slices import slice_articles
from khabar.training.worst import worst_errors

MOST_CHARTED = 24  # labels of a part, those with most gold
_DIGITS = 4  # of what only a chart shows
_F1 = MEASURES.index("f1")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A model that has tagged a corpus.

    Attributes:
        name: The model's name and version, and what tells it from another of that name.
        predictions: Annotated articles and what it says of them.
        unknown: Gold labels that it does not know.
    """

    name: str
    predictions: Sequence[Prediction]
    unknown: UnknownLabels


def build_report(
    model: Evaluated, against: Evaluated | None = None, *, corpus: str, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Measure a model in every way that the page shows.

    Args:
        model: The model.
        against: Another one, which has tagged the same articles.
        corpus: The corpus, as the user named it.
        resamples: Bootstrap resamples.
        seed: Their seed.

    Returns:
        What `measure` gives, and `model`, `corpus`, `khabar` (its version), `notes`, `curves`, `confusion` (where
        there are entities), `slices`, `errors`, and `against` (None, or the other model's name, measures and tests).

    Raises:
        KhabarError: If resamples or seed is out of its range.
        ValueError: If the two have not tagged the same articles.
    """
    found = measure(model.predictions, resamples=resamples, seed=seed)
    report = {
        "model": model.name,
        "corpus": corpus,
        "khabar": khabar.__version__,
        "notes": _notes(found, model, against),
        **found,
        "curves": _curves(model.predictions, parts_of(found)),
        "slices": _slices(model.predictions, parts_of(found), resamples, seed),
        "errors": [asdict(error) for error in worst_errors(model.predictions)],
        "against": None,
    }
    if "entities" in found:
        report["confusion"] = _confusion(model.predictions)
    if against is not None:
        other = measure(against.predictions, resamples=resamples, seed=seed)
        report["against"] = {
            "model": against.name,
            "measures": other,
            "tests": compare(found, model.predictions, other, against.predictions, resamples=resamples, seed=seed),
        }
    return report


def _notes(found: Mapping[str, Any], *models: Evaluated | None) -> list[str]:
    """What a reader must know of the numbers: labels that can only be missed, text that was not read."""
    lines = [f"{model.name}: {line}" for model in models if model is not None for line in model.unknown.lines()]
    unread = found["characters"] - found["characters_read"]
    if unread:
        lines.append(f"{unread:,} of {found['characters']:,} characters were not read")
    return lines


def _curves(predictions: Sequence[Prediction], parts: Mapping[str, Any]) -> dict[str, Any]:
    """`{part: {"all": chart, "labels": {label: chart}, "left_out": n}}`; a chart holds a curve and a reliability."""
    curves: dict[str, Any] = {}
    for name, part in parts.items():
        decisions = _topic_decisions(predictions, name) if name in LEVELS else _entity_decisions(predictions)
        supported = {label: row["support"] for label, row in part["labels"].items() if row["support"]}
        drawn = [label for label in sorted(supported, key=lambda label: -supported[label]) if decisions.get(label)]
        everything = [decision for found in decisions.values() for decision in found]
        if not everything or not part["micro"]["support"]:
            continue
        curves[name] = {
            "all": _chart(everything, part["micro"]["support"]),
            "labels": {label: _chart(decisions[label], supported[label]) for label in drawn[:MOST_CHARTED]},
            "left_out": len(drawn[MOST_CHARTED:]),
        }
    return curves


def _topic_decisions(predictions: Sequence[Prediction], level: str) -> dict[str, list[tuple[bool, float]]]:
    decisions: dict[str, list[tuple[bool, float]]] = {}
    for prediction in predictions:
        for item in topic_items(prediction, level):
            for label, score in item.scores.items():
                decisions.setdefault(label, []).append((label in item.gold, score))
    return decisions


def _entity_decisions(predictions: Sequence[Prediction]) -> dict[str, list[tuple[bool, float]]]:
    decisions: dict[str, list[tuple[bool, float]]] = {}
    for prediction in predictions:
        if prediction.gold.entities is not None:
            gold, found = set(spans_of(prediction.gold.entities)), prediction.result.entities
            for entity, span in zip(found, spans_of(found), strict=True):
                decisions.setdefault(entity.label, []).append((span in gold, entity.score))
    return decisions


def _chart(decisions: Sequence[tuple[bool, float]], n_gold: int) -> dict[str, Any]:
    came_true = np.array([right for right, _ in decisions], dtype=np.bool_)
    scores = np.array([score for _, score in decisions], dtype=np.float64)
    curve = precision_recall(came_true, scores, n_gold)
    found = reliability(came_true, scores)
    return {
        "curve": {key: [round(value, _DIGITS) for value in values] for key, values in asdict(curve).items()},
        "reliability": {
            "error": found.error,
            "bins": [{key: round(value, _DIGITS) for key, value in asdict(one).items()} for one in found.bins],
        },
    }


def _confusion(predictions: Sequence[Prediction]) -> dict[str, Any]:
    found = confusion(
        (spans_of(prediction.gold.entities), spans_of(prediction.result.entities))
        for prediction in predictions
        if prediction.gold.entities is not None
    )
    return {
        "labels": list(found.labels),
        "same_span": [[found.same_span[gold, label] for label in found.labels] for gold in found.labels],
        "overlap": [[found.overlap[gold, label] for label in found.labels] for gold in found.labels],
        "missed": [found.missed[label] for label in found.labels],
        "spurious": [found.spurious[label] for label in found.labels],
    }


def _slices(
    predictions: Sequence[Prediction], parts: Mapping[str, Any], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Micro F1 of every part in every group of articles."""
    totals = {
        name: counts.sum(axis=1, keepdims=True)
        for name, counts in count_all(predictions, {name: list(part["labels"]) for name, part in parts.items()}).items()
    }
    slicings = slice_articles([prediction.gold for prediction in predictions])
    counts: dict[tuple[str, str, str], Counts] = {}
    for slicing in slicings:
        for group, indices in slicing.groups:
            inside = np.zeros((len(predictions), 1, 1), dtype=np.int64)
            inside[list(indices)] = 1
            counts.update({(slicing.by, group, name): total * inside for name, total in totals.items()})
    drawn = resample(counts, resamples=resamples, seed=seed)
    rows = {key: _slice_row(counts[key], drawn[key]) for key in counts}
    return [
        {
            "by": slicing.by,
            "note": slicing.note,
            "groups": [
                {
                    "name": group,
                    "articles": len(indices),
                    "micro_f1": {name: rows[slicing.by, group, name] for name in totals},
                }
                for group, indices in slicing.groups
            ],
        }
        for slicing in slicings
    ]


def _slice_row(counts: Counts, drawn: Totals) -> dict[str, Any]:
    f1 = float(measures(counts.sum(axis=0).astype(np.float64))[0, _F1])
    enough = int((counts[..., 2] > 0).sum()) >= FEWEST_ARTICLES
    return {
        "f1": None if np.isnan(f1) else f1,
        "interval": intervals(drawn)[0, _F1].tolist() if enough else None,
        "support": int(counts[..., 2].sum()),
    }

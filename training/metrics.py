"""Measures of predictions against gold: topics by label sets and scores, entities by exact spans.

Turns aligned lists into nested dicts of plain numbers, fit for JSON. Knows nothing of articles or models.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

Span = tuple[int, int, str]  # start, end, label

# A report: {"n", "labels": {label: row}, "micro": row, "macro": row, "without_gold": [label]}. A row has
# precision, recall and f1 in [0, 1] (topics: average_precision too), and the counts support and predicted.
Report = dict[str, Any]


def topic_report(
    gold: Sequence[Collection[str]],
    predicted: Sequence[Collection[str]],
    scores: Sequence[Mapping[str, float]],
    labels: Sequence[str],
) -> Report:
    """Measure predicted topics, and the ranking by scores, per label, micro and macro.

    A label without gold positives gets null measures and is left out of macro; what is wrongly predicted
    of it still counts in micro.

    Raises:
        ValueError: If gold, predicted and scores differ in length.
    """
    if not len(gold) == len(predicted) == len(scores):
        raise ValueError(f"gold, predicted and scores must align, got {len(gold)}, {len(predicted)} and {len(scores)}")
    truth = _indicator(gold, labels)
    guess = _indicator(predicted, labels)
    ranking = np.array([[item.get(label, 0.0) for label in labels] for item in scores], dtype=np.float64)
    ranking = ranking.reshape(len(gold), len(labels))
    rows = {
        label: _topic_row(truth[:, k], guess[:, k], ranking[:, k]) for k, label in enumerate(labels)
    }  # a column at a time: scikit-learn takes a matrix of one column for a single-label problem
    return _report(len(gold), rows, _topic_row(truth.ravel(), guess.ravel(), ranking.ravel()))


def entity_metrics(gold: Sequence[Iterable[Span]], predicted: Sequence[Iterable[Span]]) -> Report:
    """Measure entities strictly: one is right when start, end and label all are.

    Labels without gold are treated as in `topic_report`.

    Args:
        gold: Each article's entities.
        predicted: Each article's predicted entities, in the same order of articles.

    Raises:
        ValueError: If the two differ in length.

    Source: the measure of CoNLL-2003 (conlleval), which seqeval implements.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"gold and predicted must align, got {len(gold)} and {len(predicted)}")
    right: dict[str, int] = {}
    support: dict[str, int] = {}
    n_predicted: dict[str, int] = {}
    for gold_spans, predicted_spans in zip(map(set, gold), map(set, predicted), strict=True):
        for spans, counts in (
            (gold_spans, support),
            (predicted_spans, n_predicted),
            (gold_spans & predicted_spans, right),
        ):
            for _, _, label in spans:
                counts[label] = counts.get(label, 0) + 1
    rows = {
        label: _count_row(right.get(label, 0), n_predicted.get(label, 0), support.get(label, 0))
        for label in sorted({*support, *n_predicted})
    }
    total = _count_row(sum(right.values()), sum(n_predicted.values()), sum(support.values()))
    return _report(len(gold), rows, total)


def _indicator(items: Sequence[Collection[str]], labels: Sequence[str]) -> NDArray[np.bool_]:
    matrix = np.array([[label in item for label in labels] for item in items], dtype=np.bool_)
    return matrix.reshape(len(items), len(labels))  # (n_items, n_labels), also when either is 0


def _topic_row(
    truth: NDArray[np.bool_], guess: NDArray[np.bool_], ranking: NDArray[np.float64]
) -> dict[str, float | int | None]:
    """Measure one column of decisions, or all columns laid end to end, which is the micro average."""
    counts: dict[str, float | int | None] = {"support": int(truth.sum()), "predicted": int(guess.sum())}
    if not truth.any():
        return {"precision": None, "recall": None, "f1": None, "average_precision": None, **counts}
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, guess, average="binary", pos_label=True, zero_division=0.0
    )
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "average_precision": float(average_precision_score(truth, ranking)),
        **counts,
    }


def _count_row(n_right: int, n_predicted: int, support: int) -> dict[str, float | int | None]:
    counts: dict[str, float | int | None] = {"support": support, "predicted": n_predicted}
    if not support:
        return {"precision": None, "recall": None, "f1": None, **counts}
    return {
        "precision": n_right / n_predicted if n_predicted else 0.0,
        "recall": n_right / support,
        "f1": 2 * n_right / (n_predicted + support),
        **counts,
    }


def _report(
    n_items: int,
    rows: Mapping[str, Mapping[str, float | int | None]],
    micro: Mapping[str, float | int | None],
) -> Report:
    measured = [row for row in rows.values() if row["support"]]
    macro: dict[str, float | int | None] = {}
    for measure, value in micro.items():
        values = [number for row in measured if (number := row[measure]) is not None]
        if measure in ("support", "predicted"):
            macro[measure] = value
        else:
            macro[measure] = sum(values) / len(values) if values else None
    return {
        "n": n_items,
        "labels": {label: dict(row) for label, row in rows.items()},
        "micro": dict(micro),
        "macro": macro,
        "without_gold": [label for label, row in rows.items() if not row["support"]],
    }

"""Compares two models on the same articles: a paired bootstrap test of every F1.

Turns two evaluations into differences with intervals and p-values, and those into a table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from khabar.training.bootstrap import (
    FEWEST_ARTICLES,
    MEASURES,
    count_all,
    measures,
    n_articles_with,
    paired_test,
    resample,
)
from khabar.training.evaluate import parts_of
from khabar.training.figures import text_table
from khabar.training.predictions import Prediction

# The measures that a model is chosen by: part and average.
HEADLINES = (("article", "macro"), ("segment", "micro"), ("entities", "micro"))
PART_NAMES = {"article": "topics, per article", "segment": "topics, per segment", "entities": "entities"}
_F1 = MEASURES.index("f1")


def compare(
    report: Mapping[str, Any],
    predictions: Sequence[Prediction],
    other_report: Mapping[str, Any],
    other_predictions: Sequence[Prediction],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Test every F1 of a model against another model's.

    Args:
        report: What `measure` gives for the one model.
        predictions: What it was given: all articles, in order.
        other_report: The same for the other model.
        other_predictions: Of the same articles in the same order.
        resamples: Bootstrap resamples.
        seed: Their seed.

    Returns:
        `{part: {"labels": {label: row}, "micro": row, "macro": row}}` with the parts of `parts_of`; a row is
        `{"f1", "other_f1", "difference", "interval": [low, high], "p_value"}`, all of it None without gold, and
        the last two None where fewer than FEWEST_ARTICLES articles have the label.

    Raises:
        ValueError: If the two were not measured on the same articles.
        KhabarError: If resamples or seed is out of its range.
    """
    if [one.gold for one in predictions] != [one.gold for one in other_predictions]:
        raise ValueError("two models are compared on the same articles, in the same order")
    parts, other_parts = parts_of(report), parts_of(other_report)
    labels = {
        name: list(dict.fromkeys([*part["labels"], *other_parts[name]["labels"]])) for name, part in parts.items()
    }
    counts = count_all(predictions, labels)
    other_counts = count_all(other_predictions, labels)
    totals = resample(counts, resamples=resamples, seed=seed)
    other_totals = resample(other_counts, resamples=resamples, seed=seed)  # the same articles, draw by draw
    tests: dict[str, Any] = {}
    for name, names in labels.items():
        one = measures(counts[name].sum(axis=0).astype(np.float64))[:, _F1]
        other = measures(other_counts[name].sum(axis=0).astype(np.float64))[:, _F1]
        drawn = measures(totals[name])[..., _F1] - measures(other_totals[name])[..., _F1]
        rows = []
        for k, n_articles in enumerate(n_articles_with(counts[name]).tolist()):
            row: dict[str, Any] = dict.fromkeys(("f1", "other_f1", "difference", "interval", "p_value"))
            if n_articles:
                row |= {"f1": float(one[k]), "other_f1": float(other[k]), "difference": float(one[k] - other[k])}
            if n_articles >= FEWEST_ARTICLES:
                test = paired_test(float(one[k] - other[k]), drawn[:, k])
                row |= {"interval": [test.low, test.high], "p_value": test.p_value}
            rows.append(row)
        tests[name] = {"labels": dict(zip(names, rows, strict=False)), "micro": rows[-2], "macro": rows[-1]}
    return tests


def render_comparison(report: Mapping[str, Any]) -> str:
    """Lay the headline measures' tests of a report with `against` out as plain text, in percent."""
    tests = report["against"]["tests"]
    title = f"{report['model']} against {report['against']['model']}: F1, difference, 95 % interval, p"
    rows = []
    for part, average in HEADLINES:
        row = tests.get(part, {}).get(average)
        if row is not None and row["f1"] is not None:
            rows.append(
                [
                    f"{PART_NAMES[part]}, {average}",
                    f"{100 * row['f1']:.1f}",
                    f"{100 * row['other_f1']:.1f}",
                    f"{100 * row['difference']:+.1f}",
                    "-" if row["interval"] is None else " to ".join(f"{100 * end:+.1f}" for end in row["interval"]),
                    "-" if row["p_value"] is None else f"{row['p_value']:.3f}",
                ]
            )
    return "\n".join([title, *text_table(rows)])

"""Bootstrap over articles: intervals of precision, recall and F1, and a paired test of two models.

Turns per-article counts into intervals and p-values. Knows labels only as columns, and nothing of texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from khabar.inference.results import spans_of
from khabar.models.errors import KhabarError
from khabar.training.predictions import LEVELS, Prediction, topic_items

K = TypeVar("K")

MEASURES = ("precision", "recall", "f1")
RESAMPLES = 1000
FEWEST_RESAMPLES = 100  # fewer leave less than three resamples in each tail of a 95 % interval
COVERAGE = 0.95
# Resampling cannot show what so few articles leave open: two articles that are both right give [1, 1].
FEWEST_ARTICLES = 5
_BLOCK = 1 << 22  # draws held at a time

Counts = NDArray[np.int64]  # (n_articles, n_labels, 3): right, predicted, support
Totals = NDArray[np.float64]  # (…, n_labels, 3): counts summed over articles
Measures = NDArray[np.float64]  # (…, n_labels + 2, 3): labels, micro, macro; precision, recall, F1; NaN without gold


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """How far a model is ahead of another on the same articles.

    Attributes:
        difference: The one's measure minus the other's.
        low: Lower end of the difference's 95 % interval.
        high: Upper end.
        p_value: Two-sided: how often a difference at least as large comes up if there is none in truth.
    """

    difference: float
    low: float
    high: float
    p_value: float


def count_topics(predictions: Sequence[Prediction], level: str, labels: Sequence[str]) -> Counts:
    """Count each article's right, predicted and gold topics, on itself or over its segments.

    Args:
        predictions: Articles; one that is not annotated counts nothing.
        level: "article" or "segment".
        labels: Columns of the counts.
    """
    column = {label: k for k, label in enumerate(labels)}
    counts = np.zeros((len(predictions), len(labels), 3), dtype=np.int64)
    for row, prediction in enumerate(predictions):
        for item in topic_items(prediction, level):
            gold, predicted = set(item.gold), set(item.predicted)
            for which, found in enumerate((gold & predicted, predicted, gold)):
                for label in found & column.keys():
                    counts[row, column[label], which] += 1
    return counts


def count_entities(predictions: Sequence[Prediction], labels: Sequence[str]) -> Counts:
    """Count each article's right, predicted and gold entities; right means the exact span and label."""
    column = {label: k for k, label in enumerate(labels)}
    counts = np.zeros((len(predictions), len(labels), 3), dtype=np.int64)
    for row, prediction in enumerate(predictions):
        if prediction.gold.entities is None:
            continue
        gold, predicted = set(spans_of(prediction.gold.entities)), set(spans_of(prediction.result.entities))
        for which, found in enumerate((gold & predicted, predicted, gold)):
            for _, _, label in found:
                if label in column:
                    counts[row, column[label], which] += 1
    return counts


def count_all(predictions: Sequence[Prediction], labels: Mapping[str, Sequence[str]]) -> dict[str, Counts]:
    """Count every part of an evaluation.

    Args:
        predictions: Articles.
        labels: The labels of each part: "article" and "segment" (topics), "entities"; parts left out are not counted.
    """
    return {
        part: count_topics(predictions, part, names) if part in LEVELS else count_entities(predictions, names)
        for part, names in labels.items()
    }


def measures(totals: Totals) -> Measures:
    """Turn counts summed over articles into precision, recall and F1 of each label, micro and macro.

    Args:
        totals: Shape (…, n_labels, 3): right, predicted, support.

    Returns:
        Shape (…, n_labels + 2, 3). A label without gold is NaN and left out of macro; what is predicted of it
        still counts in micro.
    """
    with_micro = np.concatenate([totals, totals.sum(axis=-2, keepdims=True)], axis=-2)
    right, predicted, support = with_micro[..., 0], with_micro[..., 1], with_micro[..., 2]
    found = np.where(
        (support > 0)[..., None],
        np.stack(
            [
                right / np.maximum(predicted, 1),
                right / np.maximum(support, 1),
                2 * right / np.maximum(predicted + support, 1),
            ],
            axis=-1,
        ),
        np.nan,
    )
    by_label = found[..., :-1, :]
    known = ~np.isnan(by_label)
    n_known = known.sum(axis=-2, keepdims=True)
    macro = np.where(
        n_known > 0, np.where(known, by_label, 0).sum(axis=-2, keepdims=True) / np.maximum(n_known, 1), np.nan
    )
    return np.concatenate([found, macro], axis=-2)


def check_resampling(resamples: int, seed: int) -> None:
    """See, before long work, that resamples can be drawn.

    Raises:
        KhabarError: If there are too few resamples for an interval, or the seed is negative.
    """
    if resamples < FEWEST_RESAMPLES:
        raise KhabarError(f"resamples is {resamples}; allowed: {FEWEST_RESAMPLES} or more")
    if seed < 0:
        raise KhabarError(f"seed is {seed}; allowed: 0 or more")


def resample(counts: Mapping[K, Counts], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[K, Totals]:
    """Draw articles with replacement, as many as there are, and sum their counts; again and again.

    Every part is summed over the same draws, so that parts, slices and models can be compared pairwise.

    Args:
        counts: Counts of any number of parts over the same articles.
        resamples: How often to draw.
        seed: Equal seeds draw equal articles.

    Returns:
        For each part the totals, shape (resamples, n_labels, 3).

    Raises:
        KhabarError: If there are too few resamples for an interval, or the seed is negative.

    Source: Efron (1979), "Bootstrap methods: another look at the jackknife".
    """
    check_resampling(resamples, seed)
    n_articles = len(next(iter(counts.values())))
    flat = np.concatenate([part.reshape(n_articles, -1) for part in counts.values()], axis=1).astype(np.float64)
    generator = np.random.default_rng(seed)
    totals = np.empty((resamples, flat.shape[1]))
    rows = max(1, _BLOCK // n_articles)
    for first in range(0, resamples, rows):
        block = min(rows, resamples - first)
        drawn = generator.integers(n_articles, size=(block, n_articles))
        drawn += np.arange(block)[:, None] * n_articles
        times = np.bincount(drawn.ravel(), minlength=block * n_articles).reshape(block, n_articles)
        totals[first : first + block] = times.astype(np.float64) @ flat
    ends = np.cumsum([part.shape[1] * 3 for part in counts.values()])
    return {
        name: totals[:, end - part.shape[1] * 3 : end].reshape(resamples, part.shape[1], 3)
        for (name, part), end in zip(counts.items(), ends, strict=True)
    }


def intervals(totals: Totals) -> NDArray[np.float64]:
    """Give the percentile intervals of every measure.

    Args:
        totals: Resampled totals, shape (resamples, n_labels, 3).

    Returns:
        Shape (n_labels + 2, 3, 2): low and high; NaN where no resample has gold.
    """
    found = measures(totals)
    return _percentiles(found)


def n_articles_with(counts: Counts) -> NDArray[np.int64]:
    """Count the articles that have each label in their gold, then those that have any, twice: for micro and macro."""
    holds = counts[..., 2] > 0
    any_label = holds.any(axis=1).sum()
    return np.concatenate([holds.sum(axis=0), [any_label, any_label]])


def paired_test(observed: float, resampled: NDArray[np.float64]) -> PairedTest:
    """Test whether one model is ahead of another in truth.

    Under the null hypothesis differences spread as the resampled ones do, but round 0: the p-value is the
    share of resamples whose difference lies at least as far from the observed one as that lies from 0,
    the observed one counted in.

    Args:
        observed: The difference on the articles themselves.
        resampled: The difference in each resample; NaN where it has no gold.

    Source: Koehn (2004), "Statistical significance tests for machine translation evaluation", for the paired
        resampling; Berg-Kirkpatrick et al. (2012), "An empirical investigation of statistical significance in
        NLP", section 2, for the centring; both sides are counted here.
    """
    known = resampled[~np.isnan(resampled)]
    # Equal counts may differ in the last bit once they are divided.
    n_as_far = int((np.abs(known - observed) >= abs(observed) - 1e-12).sum())
    low, high = _percentiles(known[:, None])[0] if known.size else (np.nan, np.nan)
    return PairedTest(
        difference=float(observed), low=float(low), high=float(high), p_value=(n_as_far + 1) / (known.size + 1)
    )


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape (resamples, …) to (…, 2)."""
    found = np.full((2, *values.shape[1:]), np.nan)
    some = ~np.isnan(values).all(axis=0)
    tail = (1 - COVERAGE) / 2
    if some.any():
        found[:, some] = np.nanquantile(values[:, some], [tail, 1 - tail], axis=0)
    return np.moveaxis(found, 0, -1)

"""Precision/recall curves and reliability diagrams, as the numbers that a chart draws.

Turns probabilities and whether each came true into lists of points. Knows nothing of labels or charts.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 10
MOST_POINTS = 200  # of a curve: more than a chart can show


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Precision against recall as the threshold falls from above the highest score.

    Attributes:
        thresholds: Falling; the points below hold for everything at or above each.
        precision: Share of those that are right.
        recall: Share of what there is to find that is among them; never falls.
    """

    thresholds: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Probabilities in [low, high), and 1 in the last bin.

    Attributes:
        n: How many there are.
        mean: Their mean.
        share: Share of them that came true.
    """

    low: float
    high: float
    n: int
    mean: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far probabilities are what they say.

    Attributes:
        bins: Those that hold anything.
        error: Expected calibration error: the mean distance of `mean` and `share`, weighted by `n`.
    """

    bins: tuple[Bin, ...]
    error: float


def precision_recall(came_true: NDArray[np.bool_], scores: NDArray[np.float64], n_gold: int) -> Curve:
    """Draw the curve of decisions by their scores.

    Args:
        came_true: Whether each is right.
        scores: Their probabilities.
        n_gold: How many there are to find, those that have no score counted in; at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    right = came_true[order].cumsum()
    # Equal scores pass a threshold together.
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if falling.size else np.zeros(0, dtype=np.int64)
    if last.size > MOST_POINTS:
        last = last[np.unique(np.linspace(0, last.size - 1, MOST_POINTS).round().astype(np.int64))]
    return Curve(
        thresholds=tuple(falling[last].tolist()),
        precision=tuple((right[last] / (last + 1)).tolist()),
        recall=tuple((right[last] / n_gold).tolist()),
    )


def reliability(came_true: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> Reliability:
    """Compare probabilities with what came true, in ten bins of equal width.

    Args:
        came_true: Whether each came true.
        probabilities: In [0, 1], at least one.

    Source: Guo et al. (2017), "On calibration of modern neural networks", section 2, for one label's
        probability in place of a classifier's confidence.
    """
    which = np.minimum((probabilities * N_BINS).astype(np.int64), N_BINS - 1)
    bins = []
    for k in np.unique(which).tolist():
        inside = which == k
        bins.append(
            Bin(
                low=k / N_BINS,
                high=(k + 1) / N_BINS,
                n=int(inside.sum()),
                mean=float(probabilities[inside].mean()),
                share=float(came_true[inside].mean()),
            )
        )
    error = sum(one.n * abs(one.mean - one.share) for one in bins) / len(probabilities)
    return Reliability(bins=tuple(bins), error=error)

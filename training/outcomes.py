"""What comes of topic decisions under some fits, and measures of it: before a calibration, after it, held out.

Arrays of (n, n_topics) in, numbers out. Knows nothing of topics' names or of how the fits came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from khabar.training.curves import reliability
from khabar.training.thresholds import Bools, Fitted, Floats, sigmoid

_TINY = 1e-12  # the least probability that the log loss believes in


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What comes of logits under some fits: (n, n_topics) each."""

    probabilities: Floats
    decided: Bools
    uncertain: Bools

    @classmethod
    def of(cls, logits: Floats, fitted: Sequence[Fitted]) -> Outcome:
        """Apply one fit a topic."""
        return cls.by_fold(logits, [fitted], np.zeros(len(logits), dtype=np.int64))

    @classmethod
    def by_fold(cls, logits: Floats, fitted: Sequence[Sequence[Fitted]], folds: NDArray[np.int64]) -> Outcome:
        """Apply to each row the fits of its fold."""
        settings = np.array(
            [[(one.temperature, one.threshold, *(one.band or (0.0, 0.0))) for one in topics] for topics in fitted]
        )  # (n_folds, n_topics, 4)
        temperature, threshold, low, high = np.moveaxis(settings[folds], -1, 0)
        probabilities = sigmoid(logits / temperature)
        return cls(
            probabilities=probabilities,
            decided=probabilities >= threshold,
            uncertain=(low <= probabilities) & (probabilities < high),
        )


Measure = Callable[[Bools, Outcome], float | None]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One measure before calibration, after it, and on held-out articles; None where there is nothing to measure.

    Attributes:
        before: At temperature 1 and threshold 0.5.
        after: On the articles that the calibration was fitted to, which flatters it.
        held_out: Each article by a fit to the other folds: what to expect on new articles.
    """

    before: float | None
    after: float | None
    held_out: float | None


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Gold of one level, (n, n_topics), and the three outcomes to hold against it."""

    gold: Bools
    before: Outcome
    after: Outcome
    held_out: Outcome

    def measure(self, measure: Measure) -> Measures:
        """Take one measure of each outcome."""
        return Measures(
            before=measure(self.gold, self.before),
            after=measure(self.gold, self.after),
            held_out=measure(self.gold, self.held_out),
        )

    def topic(self, k: int) -> Compared:
        """Keep one topic, as the only column."""

        def column(outcome: Outcome) -> Outcome:
            return Outcome(**{name: array[:, [k]] for name, array in vars(outcome).items()})

        return Compared(
            gold=self.gold[:, [k]],
            before=column(self.before),
            after=column(self.after),
            held_out=column(self.held_out),
        )


def share(of: Bools, among: Bools) -> float | None:
    """Share of what holds among what is selected; None where nothing is."""
    return float(of[among].mean()) if among.any() else None


def precision(gold: Bools, outcome: Outcome) -> float | None:
    """Share of the topics reported that the gold has."""
    return share(gold, outcome.decided)


def recall(gold: Bools, outcome: Outcome) -> float | None:
    """Share of the gold's topics that are reported."""
    return share(outcome.decided, gold)


def uncertain(_gold: Bools, outcome: Outcome) -> float | None:
    """Share of decisions inside a band."""
    return float(outcome.uncertain.mean())


def micro_f1(gold: Bools, outcome: Outcome) -> float | None:
    """F1 of all decisions together; None without gold."""
    if not gold.any():
        return None
    return float(2 * (gold & outcome.decided).sum() / (gold.sum() + outcome.decided.sum()))


def macro_f1(gold: Bools, outcome: Outcome) -> float | None:
    """Mean F1 of the topics that have gold; None where none has."""
    n_gold, n_decided = gold.sum(axis=0), outcome.decided.sum(axis=0)
    known = n_gold > 0
    if not known.any():
        return None
    right = (gold & outcome.decided).sum(axis=0)
    return float(np.mean(2 * right[known] / (n_gold + n_decided)[known]))


def log_loss(gold: Bools, outcome: Outcome) -> float | None:
    """Mean negative log-likelihood of the gold, in nats."""
    said = np.where(gold, outcome.probabilities, 1.0 - outcome.probabilities)
    return float(-np.log(np.maximum(said, _TINY)).mean())


def calibration_error(gold: Bools, outcome: Outcome) -> float | None:
    """Expected calibration error of all probabilities together."""
    return reliability(gold.ravel(), outcome.probabilities.ravel()).error

"""Calibrates a tagger on annotated articles: a temperature, a threshold and a band of uncertainty for each topic.

Turns gold articles and the tagger's scores of them into settings of the model's config, and a report of what they
are worth on those articles and on held-out ones. What is done for one topic is in thresholds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from khabar.inference.tagger import Tagger
from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.models.ranges import check_range
from khabar.training.calibration_report import CalibrationReport, build_report
from khabar.training.outcomes import Compared, Outcome
from khabar.training.thresholds import Bools, Fitted, Floats, fit_band, fit_temperature, fit_threshold
from khabar.training.topic_scores import Level, TopicScores, collect_scores, has_topic_gold

DEFAULT_CERTAINTY = 0.95
# With fewer examples of a topic (or of its absence), the 95 % interval of a share of them reaches more than 20
# points to either side: a threshold of their own would follow chance.
MIN_EXAMPLES = 20
N_FOLDS = 10
_FEWEST_ARTICLES = 2
_FOLD_SEED = 0


class TooFewExamplesError(KhabarError):
    """The articles say too little of topics for anything to be fitted to them."""


def calibrate(
    tagger: Tagger,
    articles: Iterable[Article],
    *,
    wanted_precision: float | None = None,
    certainty: float = DEFAULT_CERTAINTY,
    progress: Callable[[], object] = lambda: None,
) -> CalibrationReport:
    """Fit temperatures, thresholds and bands to annotated articles, and set them on the tagger's model.

    Thresholds and bands are fitted to articles' topics, and to segments' where an article has none of its own
    annotated; temperatures to all of both. A topic that fewer than MIN_EXAMPLES of these have, or lack, takes the
    temperature and the threshold of all topics together, and no band. What was set before does not matter.

    Args:
        tagger: The tagger; its model's config is changed.
        articles: Annotated articles that the model was not trained on.
        wanted_precision: Choose each topic's lowest threshold with this precision; None chooses by the best F1.
        certainty: Share of decisions that should be right above a band, and below it.
        progress: Called after each article that is tagged.

    Raises:
        KhabarError: If no article has annotated topics, the model has no topics, or a share is out of range.
        TooFewExamplesError: If all topics together have fewer than MIN_EXAMPLES, or are lacked by fewer.
    """
    check_shares(wanted_precision=wanted_precision, certainty=certainty)
    topics = tagger.topics
    if not topics:
        raise KhabarError("nothing to calibrate: the model has no topics")
    annotated = [article for article in articles if has_topic_gold(article)]
    if not annotated:
        raise KhabarError("nothing to calibrate on: no article has topics or segments with topics")
    scores = collect_scores(tagger, annotated, progress=progress)
    if not _enough(scores.decisions.gold):
        n_topics, n = int(scores.decisions.gold.sum()), scores.decisions.gold.size
        raise TooFewExamplesError(
            f"too few examples to calibrate on: of {n:,} decisions {n_topics:,} are for a topic; allowed: at least "
            f"{MIN_EXAMPLES} for, and as many against"
        )
    if scores.n_articles < _FEWEST_ARTICLES:
        raise TooFewExamplesError(
            f"too few articles to calibrate on: {scores.n_articles} with topics; allowed: at least {_FEWEST_ARTICLES}, "
            "so that some can be held out"
        )
    fitter = _Fitter(
        own=tuple(_enough(column) for column in scores.decisions.gold.T),
        wanted_precision=wanted_precision,
        certainty=certainty,
    )
    fitted = fitter.fit(scores)

    n_folds = min(N_FOLDS, scores.n_articles)
    fold_of = np.random.default_rng(_FOLD_SEED).permutation(scores.n_articles) % n_folds
    without = [fitter.fit(scores.of(fold_of != fold)) for fold in range(n_folds)]

    def compare(level: Level) -> Compared:
        return Compared(
            gold=level.gold,
            before=Outcome.of(level.logits, [Fitted()] * len(topics)),
            after=Outcome.of(level.logits, fitted),
            held_out=Outcome.by_fold(level.logits, without, fold_of[level.owner]),
        )

    config = tagger.model.config
    config.topic_temperatures = {topic: one.temperature for topic, one in zip(topics, fitted, strict=True)}
    config.topic_thresholds = {topic: one.threshold for topic, one in zip(topics, fitted, strict=True)}
    config.topic_bands = {topic: list(one.band) for topic, one in zip(topics, fitted, strict=True) if one.band}
    return build_report(
        dict(zip(topics, fitted, strict=True)),
        shared=[topic for topic, alone in zip(topics, fitter.own, strict=True) if not alone],
        decisions=compare(scores.decisions),
        segments=compare(scores.segment),
        n_articles=scores.n_articles,
        n_segments=len(scores.decisions.gold) - len(scores.article.gold),
        n_folds=n_folds,
        wanted_precision=wanted_precision,
        certainty=certainty,
    )


def check_shares(*, wanted_precision: float | None, certainty: float) -> None:
    """Refuse shares that cannot be aimed at.

    Raises:
        KhabarError: If wanted_precision is not in (0, 1) or certainty not in (0.5, 1).
    """
    check_range("wanted precision", wanted_precision, above=0, below=1)
    check_range("certainty", certainty, above=0.5, below=1)


@dataclass(frozen=True, kw_only=True)
class _Fitter:
    """Fits all topics; which of them are fitted by themselves is settled once, also for parts of the articles."""

    own: tuple[bool, ...]  # topics with enough examples
    wanted_precision: float | None
    certainty: float

    def fit(self, scores: TopicScores) -> list[Fitted]:
        """Give one fit a topic."""
        shared = self._fit(scores, slice(None), with_band=False)
        return [
            self._fit(scores, slice(k, k + 1), with_band=True) if alone else shared for k, alone in enumerate(self.own)
        ]

    def _fit(self, scores: TopicScores, columns: slice, *, with_band: bool) -> Fitted:
        def pooled(*levels: Level) -> tuple[Floats, Bools]:
            return (
                np.concatenate([level.logits[:, columns].ravel() for level in levels]),
                np.concatenate([level.gold[:, columns].ravel() for level in levels]),
            )

        temperature = fit_temperature(*pooled(scores.article, scores.segment))
        logits, gold = pooled(scores.decisions)
        logits /= temperature
        threshold, reached = fit_threshold(logits, gold, self.wanted_precision)
        band = fit_band(logits, gold, threshold, self.certainty) if with_band else None
        return Fitted(temperature=temperature, threshold=threshold, band=band, reached=reached)


def _enough(gold: Bools) -> bool:
    positives = int(gold.sum())
    return min(positives, gold.size - positives) >= MIN_EXAMPLES

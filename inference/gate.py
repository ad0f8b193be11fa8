"""The gate of a faster model: measures it beside the model it stands for, on a sample of the user's articles.

Turns two taggers and articles into the drops of F1 and the largest shift of a probability, and into yes or no.
Knows of the taggers only that they tag articles.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from khabar.inference.results import TaggedArticle, spans_of
from khabar.models.article import Article
from khabar.models.errors import KhabarError

MAX_F1_DROP = 0.005  # half a point
MAX_SHIFT = 0.05
MIN_ARTICLES = 20  # below, one decision more or less would settle it

Found = Sequence[AbstractSet[Hashable]]  # what each article reports


class ArticleTagger(Protocol):
    """Whatever tags articles as a stream, in their order."""

    def tag_many(self, articles: Iterable[Article], /) -> Iterator[TaggedArticle]:
        """Give one result an article."""
        ...


@dataclass(frozen=True, kw_only=True)
class F1Pair:
    """Micro-F1 of both models against one gold.

    Attributes:
        gold: `labels` where the sample is labelled; `reference` where it is not, and the reference's own
            decisions are the gold.
        reference: F1 of the model that stands, in [0, 1].
        candidate: F1 of the faster one.
    """

    gold: Literal["labels", "reference"]
    reference: float
    candidate: float

    @property
    def drop(self) -> float:
        """How much the candidate loses; negative where it gains."""
        return self.reference - self.candidate


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What the gate measured.

    Attributes:
        n_articles: Articles of the sample.
        topics: Of the articles' topics.
        entities: Of entities, by exact span and label.
        largest_shift: Largest difference of one topic's probability in one article.
        reference_rate: Articles a second of the model that stands, on this machine.
        candidate_rate: The same of the faster one.
    """

    n_articles: int
    topics: F1Pair
    entities: F1Pair
    largest_shift: float
    reference_rate: float
    candidate_rate: float

    @property
    def accepted(self) -> bool:
        """Whether every measure is within its bound."""
        within = self.topics.drop < MAX_F1_DROP and self.entities.drop < MAX_F1_DROP
        return within and self.largest_shift < MAX_SHIFT

    def lines(self) -> list[str]:
        """Say each measure and its bound, for people."""
        pairs = (("topic F1", self.topics), ("entity F1", self.entities))
        return [
            *(
                f"{name} {100 * pair.reference:.2f} -> {100 * pair.candidate:.2f} against the "
                f"{'sample' if pair.gold == 'labels' else 'torch model'}'s labels: drop {100 * pair.drop:.2f} points, "
                f"allowed: under {100 * MAX_F1_DROP:.1f}"
                for name, pair in pairs
            ),
            f"largest shift of a topic's probability {self.largest_shift:.4f}, allowed: under {MAX_SHIFT}",
            f"{self.reference_rate:,.1f} -> {self.candidate_rate:,.1f} articles/s on this machine",
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the report as plain data."""
        return {**asdict(self), "accepted": self.accepted, "max_f1_drop": MAX_F1_DROP, "max_shift": MAX_SHIFT}


def check_sample(articles: Sequence[Article]) -> None:
    """See, before long work, that a sample can settle anything.

    Raises:
        KhabarError: If it is too small.
    """
    if len(articles) < MIN_ARTICLES:
        raise KhabarError(f"the sample has {len(articles)} articles, must have at least {MIN_ARTICLES}")


def compare(reference: ArticleTagger, candidate: ArticleTagger, articles: Sequence[Article]) -> GateReport:
    """Tag a sample with both models and measure one beside the other.

    Args:
        reference: The model that stands.
        candidate: The faster one, with the same labels and thresholds.
        articles: The sample, at least one; the labels of those that have some are the gold.
    """
    standing, reference_rate = _timed(reference, articles)
    faster, candidate_rate = _timed(candidate, articles)
    return GateReport(
        n_articles=len(articles),
        topics=_pair(
            [None if article.topics is None else set(article.topics) for article in articles],
            [{topic.label for topic in result.topics} for result in standing],
            [{topic.label for topic in result.topics} for result in faster],
        ),
        entities=_pair(
            [None if article.entities is None else set(spans_of(article.entities)) for article in articles],
            [set(spans_of(result.entities)) for result in standing],
            [set(spans_of(result.entities)) for result in faster],
        ),
        largest_shift=max(
            (
                abs(score - after.topic_scores[label])
                for before, after in zip(standing, faster, strict=True)
                for label, score in before.topic_scores.items()
            ),
            default=0.0,
        ),
        reference_rate=reference_rate,
        candidate_rate=candidate_rate,
    )


def _timed(tagger: ArticleTagger, articles: Sequence[Article]) -> tuple[list[TaggedArticle], float]:
    list(tagger.tag_many(articles[:MIN_ARTICLES]))  # what a first pass prepares is not a cost of the next
    started = time.perf_counter()
    results = list(tagger.tag_many(articles))
    return results, len(articles) / (time.perf_counter() - started)


def _pair(labels: Sequence[AbstractSet[Hashable] | None], reference: Found, candidate: Found) -> F1Pair:
    labelled = [index for index, gold in enumerate(labels) if gold is not None]
    gold = [labels[index] or set() for index in labelled]
    if not any(gold):  # nothing labelled, or nothing to be found: F1 would say nothing
        return F1Pair(gold="reference", reference=1.0, candidate=micro_f1(reference, candidate))
    return F1Pair(
        gold="labels",
        reference=micro_f1(gold, [reference[index] for index in labelled]),
        candidate=micro_f1(gold, [candidate[index] for index in labelled]),
    )


def micro_f1(gold: Found, predicted: Found) -> float:
    """F1 over all articles together, in [0, 1]; 1 where neither has anything."""
    n_right = sum(len(right & found) for right, found in zip(gold, predicted, strict=True))
    total = sum(map(len, gold)) + sum(map(len, predicted))
    return 2 * n_right / total if total else 1.0

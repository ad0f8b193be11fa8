"""Measures how far two annotators of the same articles agree: kappa per topic, span F1 per entity label.

Turns pairs of articles into counts, measures and the places where they differ. Neither is taken for gold.
"""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sklearn.metrics import cohen_kappa_score

from khabar.inference.results import spans_of
from khabar.models.messages import show
from khabar.training.agreement_pairs import Matched, Pair
from khabar.training.alignment import align


@dataclass(frozen=True, kw_only=True)
class TopicRow:
    """One topic on articles, or on segments, that both annotators have looked at.

    Attributes:
        n: How many those are.
        first: To how many of them the first annotator gave the topic.
        second: To how many the second did.
        both: To how many both did.
        kappa: Cohen's kappa; None where both gave it to all or both to none, for then it is not defined.
    """

    n: int
    first: int
    second: int
    both: int
    kappa: float | None

    @property
    def observed(self) -> float:
        """The share of them on which they say the same."""
        return (self.n - self.first - self.second + 2 * self.both) / self.n


@dataclass(frozen=True, kw_only=True)
class EntityRow:
    """One entity label in articles whose names both annotators have marked.

    Attributes:
        first: Entities of the first annotator.
        second: Entities of the second.
        exact: Pairs with the same span and label.
        overlapping: Pairs with that label whose spans at least overlap, the exact ones included.
    """

    first: int
    second: int
    exact: int
    overlapping: int

    @property
    def exact_f1(self) -> float:
        """F1 of one annotator against the other, which is the same either way."""
        return 2 * self.exact / (self.first + self.second)

    @property
    def overlapping_f1(self) -> float:
        """The same with overlaps taken for right."""
        return 2 * self.overlapping / (self.first + self.second)


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One thing on which the two differ.

    Attributes:
        article: Its id, or how its text begins.
        start: Where it is about, in characters of the text; None for the article as a whole.
        end: One past the last character.
        first: What the first annotator says; None for nothing.
        second: What the second says.
        text: The text it is about.
    """

    article: str
    start: int | None = None
    end: int | None = None
    first: str | None
    second: str | None
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """All measures.

    Attributes:
        matched: The articles.
        n_with_topics: Articles whose topics both have given, and article_topics by topic.
        n_segments: Segments that both have with one span and topics, and segment_topics by topic.
        segments_apart: Segments with topics that the other annotator does not have so.
        n_with_entities: Articles whose names both have marked, and entities by label.
        disagreements: In the order of the articles; segments after the article, entities last.
    """

    matched: Matched
    n_with_topics: int
    article_topics: dict[str, TopicRow]
    n_segments: int
    segment_topics: dict[str, TopicRow]
    segments_apart: int
    n_with_entities: int
    entities: dict[str, EntityRow]
    disagreements: Sequence[Disagreement]

    @property
    def all_entities(self) -> EntityRow:
        """The counts of all labels together."""
        rows = self.entities.values()
        return EntityRow(
            first=sum(row.first for row in rows),
            second=sum(row.second for row in rows),
            exact=sum(row.exact for row in rows),
            overlapping=sum(row.overlapping for row in rows),
        )


def measure_agreement(matched: Matched) -> Agreement:
    """Compare what both annotators were asked for; where one has no labels at all (None), nothing is counted."""
    articles: list[_Item] = []
    segments: list[_Item] = []
    entities: dict[str, Counter[str]] = {}
    disagreements: list[Disagreement] = []
    segments_apart = n_with_entities = 0
    for pair in matched.pairs:
        found, apart = _segments(pair)
        of_article = _article(pair)
        articles += of_article
        segments += found
        segments_apart += apart
        for item in (*of_article, *found):
            disagreements += item.disagreements()
        if pair.first.entities is not None and pair.second.entities is not None:
            n_with_entities += 1
            disagreements += _compare_entities(pair, entities)
    return Agreement(
        matched=matched,
        n_with_topics=len(articles),
        article_topics=_topic_rows(articles),
        n_segments=len(segments),
        segment_topics=_topic_rows(segments),
        segments_apart=segments_apart,
        n_with_entities=n_with_entities,
        entities={label: _entity_row(entities[label]) for label in sorted(entities)},
        disagreements=disagreements,
    )


@dataclass(frozen=True, kw_only=True)
class _Item:
    """An article or a segment that both have given topics, be it none."""

    article: str
    first: Collection[str]
    second: Collection[str]
    start: int | None = None
    end: int | None = None
    text: str = ""

    def disagreements(self) -> list[Disagreement]:
        """One for each topic that only one of them gave."""
        return [
            Disagreement(
                article=self.article,
                start=self.start,
                end=self.end,
                first=topic if topic in self.first else None,
                second=topic if topic in self.second else None,
                text=self.text,
            )
            for topic in sorted({*self.first} ^ {*self.second})
        ]


def _article(pair: Pair) -> list[_Item]:
    if pair.first.topics is None or pair.second.topics is None:
        return []
    return [_Item(article=pair.name, first=pair.first.topics, second=pair.second.topics)]


def _segments(pair: Pair) -> tuple[list[_Item], int]:
    """Give the segments that both have with one span and topics, and the number of others with topics."""
    first, second = (
        {(part.start, part.end): part.topics for part in article.segments or () if part.topics is not None}
        for article in (pair.first, pair.second)
    )
    if not first or not second:
        return [], 0
    items = [
        _Item(
            article=pair.name,
            first=first[span],
            second=second[span],
            start=span[0],
            end=span[1],
            text=pair.first.text[slice(*span)],
        )
        for span in first
        if span in second
    ]
    return items, len(first) + len(second) - 2 * len(items)


def _topic_rows(items: Sequence[_Item]) -> dict[str, TopicRow]:
    topics = {topic for item in items for topic in (*item.first, *item.second)}
    return {
        topic: _topic_row([topic in item.first for item in items], [topic in item.second for item in items])
        for topic in sorted(topics)
    }


def _topic_row(first: Sequence[bool], second: Sequence[bool]) -> TopicRow:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a kappa that is not defined, which is said as None
        kappa = float(cohen_kappa_score(first, second))
    return TopicRow(
        n=len(first),
        first=sum(first),
        second=sum(second),
        both=sum(a and b for a, b in zip(first, second, strict=True)),
        kappa=None if math.isnan(kappa) else kappa,
    )


def _compare_entities(pair: Pair, counts: dict[str, Counter[str]]) -> list[Disagreement]:
    """Add an article's entities to the counts by label, and give those on which the two differ."""
    first, second = (spans_of(article.entities or ()) for article in (pair.first, pair.second))
    for side, spans in (("first", first), ("second", second)):
        for _, _, label in spans:
            counts.setdefault(label, Counter())[side] += 1
    for label in {span[2] for span in (*first, *second)}:
        for outcome in align(*([span for span in spans if span[2] == label] for spans in (first, second))):
            counts[label]["overlapping"] += outcome.kind in ("right", "boundary")
            counts[label]["exact"] += outcome.kind == "right"
    found: list[Disagreement] = []
    for outcome in align(first, second):
        one = None if outcome.gold is None else first[outcome.gold]
        two = None if outcome.predicted is None else second[outcome.predicted]
        if outcome.kind != "right":
            spans = [span for span in (one, two) if span is not None]
            start, end = min(span[0] for span in spans), max(span[1] for span in spans)
            found.append(
                Disagreement(
                    article=pair.name,
                    start=start,
                    end=end,
                    first=_marked(pair, one),
                    second=_marked(pair, two),
                    text=pair.first.text[start:end],
                )
            )
    return found


def _marked(pair: Pair, span: tuple[int, int, str] | None) -> str | None:
    return None if span is None else f"{span[2]} {show(pair.first.text[span[0] : span[1]])}"


def _entity_row(counts: Counter[str]) -> EntityRow:
    return EntityRow(
        first=counts["first"], second=counts["second"], exact=counts["exact"], overlapping=counts["overlapping"]
    )

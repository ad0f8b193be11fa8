"""Tags annotated articles once, and keeps each gold article beside what the tagger says of it.

Knows of the tagger only that it tags articles; knows nothing of measures.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from khabar.inference.results import TaggedArticle
from khabar.models.article import Article
from khabar.models.errors import KhabarError

LEVELS = ("article", "segment")  # at which topics are decided


class ArticleTagger(Protocol):
    """Whatever tags articles, in order; khabar's Tagger is one."""

    def tag_many(self, articles: Iterable[Article], /) -> Iterable[TaggedArticle]:
        """Give one result an article, with the article's own segments where it has any."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An annotated article and what a tagger says of it.

    Attributes:
        gold: The article as annotated; where it has segments, `result` has the same ones.
        result: The tagger's answer.
    """

    gold: Article
    result: TaggedArticle


@dataclass(frozen=True, kw_only=True)
class TopicItem:
    """One article or segment whose topics are annotated.

    Attributes:
        gold: Its topics.
        predicted: The topics that the tagger reports of it.
        scores: The tagger's probability of each topic it knows.
    """

    gold: Collection[str]
    predicted: Collection[str]
    scores: Mapping[str, float]


def predict(
    tagger: ArticleTagger, articles: Iterable[Article], *, progress: Callable[[], object] = lambda: None
) -> list[Prediction]:
    """Tag the annotated ones among articles, with their gold segments, so that segments compare one to one.

    Args:
        tagger: The tagger to measure.
        articles: Articles; those without any annotation are left out.
        progress: Called after each article.

    Raises:
        KhabarError: If no article is annotated at all.
        ValueError: If the tagger returns fewer or more results, or other segments, than it was given.
    """
    annotated = [article for article in articles if is_annotated(article)]
    if not annotated:
        raise KhabarError("nothing to evaluate: no article has topics, segments with topics, or entities")
    predictions = []
    for article, result in zip(annotated, tagger.tag_many(annotated), strict=True):
        _check_segments(article, result)
        predictions.append(Prediction(gold=article, result=result))
        progress()
    return predictions


def topic_items(prediction: Prediction, level: str) -> Iterator[TopicItem]:
    """Give the article, or those of its segments, whose topics are annotated.

    Args:
        prediction: An article.
        level: One of LEVELS.
    """
    gold, result = prediction.gold, prediction.result
    if level == "segment":
        # Gold may hold no segments at all, and the tagger's own are then no one's to compare with.
        for segment, tagged in zip(gold.segments or (), result.segments, strict=False):
            if segment.topics is not None:
                yield TopicItem(gold=segment.topics, predicted=tagged.topics, scores=tagged.scores)
    elif gold.topics is not None:
        predicted = tuple(topic.label for topic in result.topics)
        yield TopicItem(gold=gold.topics, predicted=predicted, scores=result.topic_scores)


def topic_labels(items: Sequence[TopicItem]) -> list[str]:
    """Every topic that the tagger scores, in its order, and then what else the gold has, sorted."""
    labels = dict.fromkeys(label for item in items for label in item.scores)
    labels.update(dict.fromkeys(sorted({label for item in items for label in item.gold})))
    return list(labels)


@dataclass(frozen=True, kw_only=True)
class UnknownLabels:
    """Labels that the gold has and a model does not know, with how often they occur.

    Attributes:
        topics: Topics; those of segments count where the article itself has none.
        entity_labels: Entity labels.
    """

    topics: Mapping[str, int]
    entity_labels: Mapping[str, int]

    def lines(self) -> list[str]:
        """Say, a line for each kind, which labels can only be missed; no line where there are none."""
        return [
            f"gold has {what} that the model does not know, all counted as missed: "
            + ", ".join(f"{label} ({n:,})" for label, n in labels.items())
            for what, labels in (("topics", self.topics), ("entity labels", self.entity_labels))
            if labels
        ]


def unknown_labels(
    articles: Iterable[Article], *, topics: Collection[str], entity_labels: Collection[str]
) -> UnknownLabels:
    """Count the gold labels that a model can only miss.

    Args:
        articles: Gold.
        topics: The model's topics.
        entity_labels: The model's entity labels.

    Raises:
        KhabarError: If the gold has labels and the model knows none of them.
    """
    gold_topics: Counter[str] = Counter()
    gold_entities: Counter[str] = Counter()
    for article in articles:
        lists = [article.topics] if article.topics is not None else [part.topics for part in article.segments or ()]
        gold_topics.update(topic for labels in lists for topic in labels or ())
        gold_entities.update(entity.label for entity in article.entities or ())
    found = gold_topics.keys() | gold_entities.keys()
    if found and not (gold_topics.keys() & set(topics) or gold_entities.keys() & set(entity_labels)):
        raise KhabarError(
            f"the model knows none of the corpus's labels ({', '.join(sorted(found))}); "
            f"allowed: a corpus with some of its own ({', '.join([*topics, *entity_labels])})"
        )
    return UnknownLabels(
        topics=_but(gold_topics, topics),
        entity_labels=_but(gold_entities, entity_labels),
    )


def _but(counts: Counter[str], known: Collection[str]) -> dict[str, int]:
    return {label: n for label, n in counts.most_common() if label not in known}


def is_annotated(article: Article) -> bool:
    """Tell whether anything of an article is annotated."""
    if article.topics is not None or article.entities is not None:
        return True
    return any(segment.topics is not None for segment in article.segments or ())


def _check_segments(article: Article, result: TaggedArticle) -> None:
    """Segments that carry topics must come back as they were given."""
    if not any(segment.topics is not None for segment in article.segments or ()):
        return
    spans = [(segment.start, segment.end) for segment in article.segments or ()]
    found = [(segment.start, segment.end) for segment in result.segments]
    if spans != found:
        raise ValueError(f"article {article.id}: the tagger was given segments {spans} and returned {found}")

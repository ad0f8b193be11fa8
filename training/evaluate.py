"""Evaluates a tagger on annotated articles: topics per article and per segment, entities by exact span.

Turns gold articles and what a tagger says of them into one report, a dict fit for JSON, and the report
into a table. Knows of the tagger only that it tags articles.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from khabar.inference.results import TaggedArticle
from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.training.metrics import Report, Span, entity_metrics, topic_report

_MEASURES = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "AP"}
_COUNTS = ("support", "predicted")


class ArticleTagger(Protocol):
    """Whatever tags articles, in order; khabar's Tagger is one."""

    def tag_many(self, articles: Iterable[Article], /) -> Iterable[TaggedArticle]:
        """Give one result an article, with the article's own segments where it has any."""
        ...


class _Items:
    """Gold, predicted and scored topics of a list of articles or segments."""

    def __init__(self) -> None:
        self.gold: list[Sequence[str]] = []
        self.predicted: list[Sequence[str]] = []
        self.scores: list[Mapping[str, float]] = []

    def add(self, gold: Sequence[str], predicted: Sequence[str], scores: Mapping[str, float]) -> None:
        self.gold.append(gold)
        self.predicted.append(predicted)
        self.scores.append(scores)

    def report(self) -> Report:
        """Report every topic that the tagger scores or the gold has, in the tagger's order."""
        labels = dict.fromkeys(label for item in self.scores for label in item)
        labels.update(dict.fromkeys(sorted({label for item in self.gold for label in item})))
        return topic_report(self.gold, self.predicted, self.scores, list(labels))


def evaluate(tagger: ArticleTagger, articles: Iterable[Article]) -> dict[str, Any]:
    """Tag articles and measure the results against what is annotated.

    Each of an article's `topics`, `segments` and `entities` is measured where it is given. The tagger gets
    the articles with their gold segments, so that segments are compared one to one.

    Returns:
        `{"articles", "characters", "characters_read", "topics": {"article": …, "segment": …},
        "entities": …}`, each part as `khabar.training.metrics` describes it and absent where no article
        is annotated for it.

    Raises:
        KhabarError: If no article is annotated at all.
        ValueError: If the tagger returns fewer or more results, or other segments, than it was given.
    """
    annotated = [article for article in articles if _is_annotated(article)]
    if not annotated:
        raise KhabarError("nothing to evaluate: no article has topics, segments with topics, or entities")
    by_article, by_segment = _Items(), _Items()
    gold_entities: list[list[Span]] = []
    predicted_entities: list[list[Span]] = []
    n_characters = n_read = 0
    for article, result in zip(annotated, tagger.tag_many(annotated), strict=True):
        n_characters += result.characters
        n_read += result.characters_read
        if article.topics is not None:
            predicted = [topic.label for topic in result.topics]
            by_article.add(article.topics, predicted, result.topic_scores)
        if any(segment.topics is not None for segment in article.segments or ()):
            _add_segments(by_segment, article, result)
        if article.entities is not None:
            gold_entities.append([(entity.start, entity.end, entity.label) for entity in article.entities])
            predicted_entities.append([(entity.start, entity.end, entity.label) for entity in result.entities])
    topics = {
        level: items.report() for level, items in (("article", by_article), ("segment", by_segment)) if items.gold
    }
    report: dict[str, Any] = {
        "articles": len(annotated),
        "characters": n_characters,
        "characters_read": n_read,
    }
    if topics:
        report["topics"] = topics
    if gold_entities:
        report["entities"] = entity_metrics(gold_entities, predicted_entities)
    return report


def selection_score(report: Mapping[str, Any]) -> dict[str, float]:
    """Sum a report up for choosing between models.

    Returns:
        The headline measures that the report has, `article_macro_f1`, `segment_micro_f1` (topics) and
        `entity_micro_f1`, and `score`: the mean of topics and entities, where topics are the mean of
        their two. 0 where nothing of the gold could be measured.
    """
    topics, entities = report.get("topics", {}), report.get("entities")
    headline = {
        "article_macro_f1": topics["article"]["macro"]["f1"] if "article" in topics else None,
        "segment_micro_f1": topics["segment"]["micro"]["f1"] if "segment" in topics else None,
        "entity_micro_f1": entities["micro"]["f1"] if entities is not None else None,
    }
    known: dict[str, float] = {name: value for name, value in headline.items() if value is not None}
    tasks = [
        sum(values) / len(values)
        for names in (("article_macro_f1", "segment_micro_f1"), ("entity_micro_f1",))
        if (values := [known[name] for name in names if name in known])
    ]
    return {"score": sum(tasks) / len(tasks) if tasks else 0.0, **known}


def render(report: Mapping[str, Any]) -> str:
    """Lay a report of `evaluate` out as plain text, in percent."""
    parts = []
    for level in ("article", "segment"):
        part = report.get("topics", {}).get(level)
        if part:
            parts.append(_table(f"topics, per {level} ({_counted(part['n'], level)})", part))
    entities = report.get("entities")
    if entities:
        parts.append(_table(f"entities, exact span and label ({_counted(entities['n'], 'article')})", entities))
    if report["characters_read"] < report["characters"]:
        unread = report["characters"] - report["characters_read"]
        parts.append(f"{unread:,} of {report['characters']:,} characters were not read")
    return "\n\n".join(parts)


def _is_annotated(article: Article) -> bool:
    if article.topics is not None or article.entities is not None:
        return True
    return any(segment.topics is not None for segment in article.segments or ())


def _add_segments(items: _Items, article: Article, result: TaggedArticle) -> None:
    gold = article.segments or ()
    spans = [(segment.start, segment.end) for segment in gold]
    found = [(segment.start, segment.end) for segment in result.segments]
    if spans != found:
        raise ValueError(f"article {article.id}: the tagger was given segments {spans} and returned {found}")
    for segment, tagged in zip(gold, result.segments, strict=True):
        if segment.topics is not None:
            items.add(segment.topics, tagged.topics, tagged.scores)


def _table(title: str, part: Report) -> str:
    measures = [key for key in _MEASURES if key in part["micro"]]
    header = ["", *(_MEASURES[key] for key in measures), *_COUNTS]
    rows = [(label, part["labels"][label]) for label in part["labels"]]
    rows += [(average, part[average]) for average in ("micro", "macro")]
    cells = [
        [label, *(_percent(row[key]) for key in measures), *(f"{row[key]:,}" for key in _COUNTS)] for label, row in rows
    ]
    widths = [max(len(line[k]) for line in [header, *cells]) for k in range(len(header))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in [header, *cells]
    ]
    lines.insert(-2, "")
    if part["without_gold"]:
        lines.append(f"no gold, so not in macro: {', '.join(part['without_gold'])}")
    return "\n".join([title, *lines])


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"

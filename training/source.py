"""Reads one source of a corpus as a stream, as often as asked, and counts what it holds.

Turns a SourceSpec into articles with the model's topics and the source's own entity labels. Holds no article.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from khabar.models.article import Article
from khabar.models.article_reader import iter_articles, open_plain
from khabar.models.errors import KhabarError
from khabar.training.conll import iter_conll
from khabar.training.source_spec import SourceSpec


@dataclass(kw_only=True)
class SourceCounts:
    """What a source holds.

    Attributes:
        articles: All articles.
        with_topics: Articles with topics of their own; with_segment_topics and with_entities likewise.
        topics: The model's topic to the articles that have it, or a segment with it.
        entities: The source's label to its entities.
        source_topics: The source's own topic to its articles, as the file has them.
    """

    articles: int = 0
    with_topics: int = 0
    with_segment_topics: int = 0
    with_entities: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    entities: Counter[str] = field(default_factory=Counter)
    source_topics: Counter[str] = field(default_factory=Counter)

    def add(self, article: Article, spec: SourceSpec) -> None:
        """Count an article as its file has it."""
        parts = [part.topics for part in article.segments or () if part.topics is not None]
        topics = list(dict.fromkeys([*(article.topics or ()), *(topic for part in parts for topic in part)]))
        self.articles += 1
        self.with_topics += article.topics is not None
        self.with_segment_topics += bool(parts)
        self.with_entities += article.entities is not None
        self.source_topics.update(topics)
        self.topics.update(spec.map_topics(topics))
        self.entities.update(entity.label for entity in article.entities or ())

    def to_json(self) -> dict[str, Any]:
        """Give the counts as metrics.json holds them, the commonest labels first."""
        names = ("articles", "with_topics", "with_segment_topics", "with_entities")
        return {name: getattr(self, name) for name in names} | {
            "topics": dict(self.topics.most_common()),
            "entities": dict(self.entities.most_common()),
        }


@dataclass(frozen=True, kw_only=True)
class SourceArticles:
    """A source's articles, read from the file anew at each iteration.

    Attributes:
        spec: The source.
        version: Size (bytes) and time of last change (nanoseconds) of the file that was counted.
    """

    spec: SourceSpec
    version: tuple[int, int]

    def __iter__(self) -> Iterator[Article]:
        """Read the articles, with the model's topics and the source's entity labels.

        Raises:
            KhabarError: If the file is not the one that was counted, or is gone.
        """
        if _version(self.spec) != self.version:
            raise KhabarError(f"{self.spec.path} has changed since it was first read; start again")
        for article in _read(self.spec):
            yield _with_model_topics(article, self.spec)


def count_source(spec: SourceSpec) -> tuple[SourceArticles, SourceCounts]:
    """Read a source once to check all of it and count what it holds.

    Args:
        spec: The source.

    Raises:
        CorpusError: Listing everything that is wrong with the file.
        KhabarError: If it cannot be read or has no articles.
    """
    articles = SourceArticles(spec=spec, version=_version(spec))
    counts = SourceCounts()
    for article in _read(spec):
        counts.add(article, spec)
    if not counts.articles:
        raise KhabarError(f"{spec.path} has no articles")
    return articles, counts


def _version(spec: SourceSpec) -> tuple[int, int]:
    with open_plain(spec.path) as stream:
        status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


def _read(spec: SourceSpec) -> Iterator[Article]:
    if spec.format == "conll":
        return iter_conll(spec.path, ignore=spec.ignore)
    return iter_articles(spec.path)


def _with_model_topics(article: Article, spec: SourceSpec) -> Article:
    if spec.topics is None and not spec.ignore_topics:
        return article
    segments = article.segments
    if segments is not None:
        segments = tuple(
            part if part.topics is None else replace(part, topics=spec.map_topics(part.topics)) for part in segments
        )
    topics = None if article.topics is None else spec.map_topics(article.topics)
    return replace(article, topics=topics, segments=segments)

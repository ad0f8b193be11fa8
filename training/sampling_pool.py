"""Scores a pool of articles and samples from it: of each article the uncertainty is kept in memory, the rest on disk.

Turns what a model says of many articles into the few that are to be labelled, with its labels to start from. Knows
nothing of the formats that labelling tools read.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from khabar.inference.chunks import MAX_CHARACTERS, score_chunks
from khabar.inference.lines import json_line
from khabar.inference.part import Done
from khabar.inference.progress import Progress
from khabar.inference.results import TaggedArticle, unchanged
from khabar.inference.sources import BadRow, PlacedRow
from khabar.inference.tagger import Tagger
from khabar.models.article import Article, Entity, Segment, parse_article
from khabar.models.article_reader import parse_json
from khabar.models.errors import KhabarError
from khabar.training.sampling import (
    Reason,
    SampleSettings,
    entity_uncertainty,
    joint_uncertainty,
    pick_articles,
    topic_uncertainty,
)


@dataclass(frozen=True, kw_only=True)
class SampledArticle:
    """An article to label.

    Attributes:
        article: With the labels that the model gives it; what the model has no labels for is not annotated.
        reason: Why it was picked.
        uncertainty: Its rank in the pool as `joint_uncertainty` gives it, in (0, 1].
    """

    article: Article
    reason: Reason
    uncertainty: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was sampled from a pool.

    Attributes:
        articles: In the order in which to label them.
        n_pool: Articles of the pool that could be scored.
        bad_rows: Rows that could not.
    """

    articles: Sequence[SampledArticle]
    n_pool: int
    bad_rows: Sequence[BadRow] = field(default=())


def sample_articles(
    tagger: Tagger,
    rows: Iterable[PlacedRow],
    settings: SampleSettings,
    *,
    labelled: Iterable[str] = (),
    max_characters: int = MAX_CHARACTERS,
    progress: Progress | None = None,
) -> Sample:
    """Score a pool and pick articles from it, as `pick_articles` does.

    Args:
        tagger: The model whose uncertainty counts.
        rows: The pool, read once; memory takes 16 bytes an article.
        settings: How many of which.
        labelled: Texts that need no labels any more.
        max_characters: Longest text; a longer one is a bad row.
        progress: Is told what is scored.

    Raises:
        KhabarError: If the pool has no article, or none but those labelled.
        MissingExtraError: If a package is not installed.
    """
    config = tagger.model.config
    by_topics, by_entities = array("d"), array("d")
    bad_rows: list[BadRow] = []
    with _Shelf() as shelf:
        with closing(score_chunks(tagger, unchanged, rows, done=Done(), max_characters=max_characters)) as chunks:
            for chunk in chunks:
                bad_rows += chunk.bad_rows
                for result in chunk.results:
                    by_topics.append(topic_uncertainty(result.topic_scores, config.topic_thresholds))
                    by_entities.append(
                        entity_uncertainty([entity.score for entity in result.entities], result.characters)
                    )
                    shelf.add(_with_model_labels(result, tagger))
                if progress is not None:
                    progress.scored(len(chunk.results))
        if not len(shelf):
            raise KhabarError(f"the pool has no article that can be scored{_first_reason(bad_rows)}")
        kinds = [
            values for values, labels in ((by_topics, tagger.topics), (by_entities, tagger.entity_labels)) if labels
        ]
        uncertainty = joint_uncertainty(*kinds)
        picks = pick_articles(uncertainty, lambda number: shelf[number].text, settings, labelled)
        if not picks:
            raise KhabarError(
                f"all {len(shelf):,} articles of the pool are near-duplicates of labelled ones; give another pool"
            )
        articles = [
            SampledArticle(article=shelf[pick.number], reason=pick.reason, uncertainty=float(uncertainty[pick.number]))
            for pick in picks
        ]
        return Sample(articles=articles, n_pool=len(shelf), bad_rows=bad_rows)


class _Shelf:
    """A growing list of articles in a temporary file, which is gone when it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, article: Article) -> None:
        line = json_line(article.to_json())
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __getitem__(self, number: int) -> Article:
        start, end = self._ends[number : number + 2]
        self._file.seek(start)
        article, problems = parse_article(parse_json(self._file.read(end - start)))
        if article is None:
            raise KhabarError(f"what the model says of an article of the pool is none itself: {'; '.join(problems)}")
        return article

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _with_model_labels(result: TaggedArticle, tagger: Tagger) -> Article:
    """Take a model's answer as an annotation; labels it does not know of are missing, not none."""
    topics = tuple(topic.label for topic in result.topics)
    entities = tuple(Entity(start=found.start, end=found.end, label=found.label) for found in result.entities)
    return Article(
        id=result.id,
        text=result.text,
        segments=tuple(
            Segment(start=part.start, end=part.end, topics=part.topics if tagger.topics else None)
            for part in result.segments
        ),
        topics=topics if tagger.topics else None,
        entities=entities if tagger.entity_labels else None,
    )


def _first_reason(bad_rows: Sequence[BadRow]) -> str:
    return f"; the first reason of {len(bad_rows):,}: {bad_rows[0]}" if bad_rows else ""

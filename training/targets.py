"""Turns a labelled article into the targets of its segments and words, masking what its corpus never annotates.

Knows articles, annotations and encoded articles; knows nothing of tensors' batches or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from khabar.models import tags
from khabar.models.article import Article
from khabar.models.encoding import EncodedArticle
from khabar.models.model import NOT_ANNOTATED
from khabar.models.words import proclitic_length
from khabar.training.corpora import Annotation

MOST_NAMED = 100


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The labels a model is trained on, in the order of its logits."""

    topics: tuple[str, ...]
    entity_labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the model should say of one article."""

    segment_topics: NDArray[np.float32]  # (n_segments, n_topics) probabilities: 1, 0, a teacher's, or NaN
    article_topics: NDArray[np.float32]  # (n_topics,) likewise
    allowed_tags: NDArray[np.bool_]  # (n_words, n_tags)
    proclitics: NDArray[np.int64]  # (n_words,) letters, or NOT_ANNOTATED
    weight: float


@dataclass
class LostEntities:
    """Gold entities that the words cannot express exactly, for the report of a training run.

    Of each kind the first MOST_NAMED places are kept.
    """

    n_entities: int = 0
    n_without_pieces: int = 0
    n_inside_words: int = 0
    n_across_segments: int = 0
    without_pieces: list[str] = field(default_factory=list)
    inside_words: list[str] = field(default_factory=list)
    across_segments: list[str] = field(default_factory=list)

    def add_without_pieces(self, place: str) -> None:
        """Count an entity that is left out."""
        self.n_without_pieces += 1
        if len(self.without_pieces) < MOST_NAMED:
            self.without_pieces.append(place)

    def add_inside_word(self, place: str) -> None:
        """Count an entity that is widened."""
        self.n_inside_words += 1
        if len(self.inside_words) < MOST_NAMED:
            self.inside_words.append(place)

    def add_across_segments(self, place: str) -> None:
        """Count an entity that is cut where a segment ends."""
        self.n_across_segments += 1
        if len(self.across_segments) < MOST_NAMED:
            self.across_segments.append(place)

    def __str__(self) -> str:
        return (
            f"{self.n_entities:,} gold entities; {self.n_without_pieces:,} have no piece and are left out, "
            f"{self.n_inside_words:,} start or end inside a word and are widened to it, "
            f"{self.n_across_segments:,} reach beyond a segment's end and are cut there"
        )


def make_targets(
    article: Article, encoded: EncodedArticle, annotation: Annotation, labels: LabelSet, lost: LostEntities
) -> Targets:
    """Work out one article's targets; entities that words cannot express are counted in `lost`."""
    allowed, proclitics = _entity_targets(article, encoded, annotation, labels, lost)
    return Targets(
        segment_topics=_mask_topics(_segment_topics(article, encoded, labels.topics), annotation, labels),
        article_topics=_mask_topics(_topic_row(article.topics, labels.topics), annotation, labels),
        allowed_tags=allowed,
        proclitics=proclitics,
        weight=annotation.weight,
    )


def _topic_row(topics: Sequence[str] | None, names: Sequence[str]) -> NDArray[np.float32]:
    if topics is None:
        return np.full(len(names), np.nan, dtype=np.float32)
    return np.array([name in topics for name in names], dtype=np.float32)


def _mask_topics(rows: NDArray[np.float32], annotation: Annotation, labels: LabelSet) -> NDArray[np.float32]:
    """Say nothing, in (…, n_topics), of topics that the source never gives."""
    masked = np.array([name in annotation.unannotated_topics for name in labels.topics], dtype=np.bool_)
    return np.where(masked, np.float32(np.nan), rows)


def _segment_topics(article: Article, encoded: EncodedArticle, names: Sequence[str]) -> NDArray[np.float32]:
    if article.segments:
        rows = [_topic_row(segment.topics, names) for segment in article.segments]
    elif article.topics is not None and not article.topics:
        rows = [_topic_row((), names)] * len(encoded.segments)  # an article without topics has no segment with any
    else:
        rows = [_topic_row(None, names)] * len(encoded.segments)
    return np.stack(rows) if rows else np.zeros((0, len(names)), dtype=np.float32)


def _entity_targets(
    article: Article, encoded: EncodedArticle, annotation: Annotation, labels: LabelSet, lost: LostEntities
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    n_words, n_tags = len(encoded.words), tags.n_tags(len(labels.entity_labels))
    proclitics = np.full(n_words, NOT_ANNOTATED, dtype=np.int64)
    if article.entities is None:
        return np.ones((n_words, n_tags), dtype=bool), proclitics
    index = {label: position for position, label in enumerate(labels.entity_labels)}
    background = np.zeros(n_tags, dtype=bool)
    background[tags.OUTSIDE] = True
    for label in annotation.unannotated & index.keys():
        background[[tags.begin_tag(index[label]), tags.inside_tag(index[label])]] = True
    allowed = np.tile(background, (n_words, 1))
    starts, ends = encoded.words.T
    for entity in article.entities:
        if entity.label in annotation.ignore:
            continue
        lost.n_entities += 1
        first = int(np.searchsorted(ends, entity.start, side="right"))
        stop = int(np.searchsorted(starts, entity.end, side="left"))
        place = f"{article.id}: {article.text[entity.start : entity.end]!r} at {entity.start}"
        if first >= stop:
            lost.add_without_pieces(place)
            continue
        mapped = [index[label] for label in annotation.labels_of(entity.label)]
        allowed[first:stop] = False
        begins = np.diff(encoded.word_segments[first:stop], prepend=-1) > 0  # no path goes from segment to segment
        for one in mapped:
            allowed[first:stop, tags.begin_tag(one)] = begins
            allowed[first:stop, tags.inside_tag(one)] = ~begins
        if begins[1:].any():
            lost.add_across_segments(place)
        n_letters = proclitic_length(article.text, int(starts[first]), entity.start)
        if n_letters is None or entity.end < ends[stop - 1]:
            lost.add_inside_word(place)
        if annotation.proclitics and n_letters is not None:
            proclitics[first] = n_letters
    return allowed, proclitics

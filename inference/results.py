"""What khabar says of one article, as plain frozen data, and its JSON form.

Knows nothing of models: anything that tags articles can give these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from khabar.models import article

SCORE_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic an article reports.

    Attributes:
        label: The topic.
        score: Probability that the article reports it.
        segments: Indices of the segments that show it, rising; at least one.
    """

    label: str
    score: float
    segments: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A named entity; start and end are half-open code-point offsets of the raw text.

    Attributes:
        score: Probability that exactly these words are exactly this label.
    """

    label: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of the article (half-open code-point offsets) and what it reports by itself.

    Attributes:
        topics: Topics it reports, most probable first.
        scores: Probability of every topic of the model.
    """

    start: int
    end: int
    topics: tuple[str, ...]
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class TaggedArticle:
    """An article with its topics and entities.

    Attributes:
        id: The article's id, if it had one.
        text: The raw text, as given.
        topics: What it reports, most probable first.
        uncertain: Topics, reported or not, of which the model is too little certain to be right as often as it was
            calibrated to be; most probable first.
        topic_scores: Probability of every topic of the model.
        segments: Its parts in order; topics refer to them by index.
        entities: In order, not overlapping.
        characters_read: How many characters of the text the model has read.
        model: Name and version of the model.
    """

    id: str | None
    text: str
    topics: tuple[Topic, ...]
    topic_scores: Mapping[str, float]
    segments: tuple[Segment, ...]
    entities: tuple[Entity, ...]
    characters_read: int
    model: str
    uncertain: tuple[str, ...] = ()

    @property
    def characters(self) -> int:
        """Length of the text in code points."""
        return len(self.text)

    def to_json(self) -> dict[str, Any]:
        """Give the object that `khabar score` writes; the text itself is left out."""
        return {
            "id": self.id,
            "topics": [
                {"label": topic.label, "score": _rounded(topic.score), "segments": list(topic.segments)}
                for topic in self.topics
            ],
            "uncertain": list(self.uncertain),
            "topic_scores": {label: _rounded(score) for label, score in self.topic_scores.items()},
            "segments": [
                {"start": segment.start, "end": segment.end, "topics": list(segment.topics)}
                for segment in self.segments
            ],
            "entities": [
                {
                    "label": entity.label,
                    "start": entity.start,
                    "end": entity.end,
                    "text": entity.text,
                    "score": _rounded(entity.score),
                }
                for entity in self.entities
            ],
            "characters": self.characters,
            "characters_read": self.characters_read,
            "model": self.model,
        }


def spans_of(entities: Iterable[Entity | article.Entity]) -> list[tuple[int, int, str]]:
    """Give what two sides must agree on for entities, found or annotated, to be the same: start, end and label."""
    return [(entity.start, entity.end, entity.label) for entity in entities]


def unchanged(result: TaggedArticle) -> TaggedArticle:
    """Give a result as it is, where a function of results is asked for."""
    return result


def _rounded(score: float) -> float:
    return round(score, SCORE_DIGITS)

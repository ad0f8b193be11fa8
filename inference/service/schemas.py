"""The bodies of requests and answers as the OpenAPI description shows them, with examples.

Turns the limits of a service into the schema of a request. Describes only: bodies.py reads, to_json writes.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from khabar import __version__
from khabar.inference.service.bodies import MAX_ID_CHARACTERS
from khabar.inference.service.settings import ServiceSettings

_TEXT = "قال المتحدث باسم الحكومة إن الوزير وصل إلى بغداد اليوم."


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TopicBody(_Body):
    """A topic the article reports, and the segments that show it."""

    label: str = Field(examples=["statement"])
    score: float = Field(ge=0, le=1, examples=[0.97])
    segments: list[int] = Field(description="Indices in `segments`.", examples=[[0]])


class SegmentBody(_Body):
    """A stretch of the article; half-open offsets in code points of the text as given."""

    start: int = Field(ge=0, examples=[0])
    end: int = Field(ge=0, examples=[len(_TEXT)])
    topics: list[str] = Field(examples=[["statement"]])


class EntityBody(_Body):
    """A named entity; half-open offsets in code points of the text as given."""

    label: str = Field(examples=["LOCATION"])
    start: int = Field(ge=0, examples=[_TEXT.index("بغداد")])
    end: int = Field(ge=0, examples=[_TEXT.index("بغداد") + len("بغداد")])
    text: str = Field(examples=["بغداد"])
    score: float = Field(ge=0, le=1, examples=[0.99])


class ArticleBody(_Body):
    """What is said of an article: the object that `khabar score` writes."""

    id: str | None = Field(examples=["a1"])
    topics: list[TopicBody] = Field(description="Topics at or above their thresholds, most probable first.")
    uncertain: list[str] = Field(description="Topics for a person to look at.", examples=[[]])
    topic_scores: dict[str, float] = Field(
        description="Probability of every topic.", examples=[{"statement": 0.97, "attack": 0.02}]
    )
    segments: list[SegmentBody]
    entities: list[EntityBody]
    characters: int = Field(ge=0, examples=[len(_TEXT)])
    characters_read: int = Field(ge=0, examples=[len(_TEXT)])
    model: str = Field(examples=["khabar-mini 2.1"])


class TagAnswer(_Body):
    """One object an article, in the order of the request."""

    articles: list[ArticleBody]


class LimitsBody(_Body):
    """What a request may hold."""

    max_body_bytes: int
    max_articles: int
    max_characters: int = Field(description="Of an article's text.")


class ModelAnswer(_Body):
    """The model that answers, and the limits of a request."""

    model: str = Field(description="Name and version, as results carry them.", examples=["khabar-mini 2.1"])
    khabar: str = Field(description="Version of khabar.", examples=[__version__])
    device: str = Field(examples=["cpu"])
    topics: list[str] = Field(examples=[["attack", "statement"]])
    thresholds: dict[str, float] = Field(
        description="The probability from which a topic is reported.", examples=[{"attack": 0.5, "statement": 0.4}]
    )
    bands: dict[str, list[float]] = Field(
        description="Where a topic's probability is called uncertain: from, to.", examples=[{"attack": [0.3, 0.7]}]
    )
    entity_labels: list[str] = Field(examples=[["LOCATION", "PERSON"]])
    limits: LimitsBody


class HealthAnswer(_Body):
    """How the service is."""

    status: str = Field(examples=["ok"])


class ErrorBody(_Body):
    """Why a request is not served."""

    code: str = Field(description="What happened, for programs.", examples=["text_too_long"])
    message: str = Field(
        description="What was seen and what is allowed, for people.",
        examples=["text has 70,000 characters; allowed: at most 50,000"],
    )
    place: str | None = Field(description="The part of the request that is meant.", examples=["articles[3].text"])


class ErrorAnswer(_Body):
    """The body of every answer that is not 2xx."""

    error: ErrorBody


_ERRORS = {
    400: "The body is not JSON in UTF-8.",
    401: "No known token.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as plain JSON.",
    422: "The body is not articles within the limits.",
    500: "The model failed on an article.",
    503: "Too much waits, or the service is stopping: come again after Retry-After seconds.",
}
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}},
}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route."""
    return {
        status: {"model": ErrorAnswer, "description": _ERRORS[status]}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }


def request_body(settings: ServiceSettings) -> dict[str, Any]:
    """Describe the body of a request for tags, with the limits of this service."""
    article = {
        "type": "object",
        "title": "Article",
        "required": ["text"],
        "additionalProperties": False,
        "properties": {
            "id": {
                "type": ["string", "null"],
                "maxLength": MAX_ID_CHARACTERS,
                "description": "Comes back with the result.",
            },
            "text": {
                "type": "string",
                "maxLength": settings.max_characters,
                "description": "The raw text; results' offsets count its code points.",
            },
        },
    }
    schema = {
        "type": "object",
        "title": "TagRequest",
        "required": ["articles"],
        "additionalProperties": False,
        "properties": {
            "articles": {"type": "array", "minItems": 1, "maxItems": settings.max_articles, "items": article}
        },
    }
    examples = {"One article": {"value": {"articles": [{"id": "a1", "text": _TEXT}]}}}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}

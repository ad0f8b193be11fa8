"""Reads a result back: the object that `TaggedArticle.to_json` gives, with the text it is of, into a TaggedArticle.

Knows nothing of models or of where the object comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.models.errors import KhabarError
from khabar.models.messages import show

T = TypeVar("T")


def read_result(row: object, text: str, *, place: str = "") -> TaggedArticle:
    """Build the result of an article from its JSON form.

    Probabilities have the digits that were written, and segments no `scores`: those are not written. Keys that are
    not known, of a later khabar, are left out.

    Args:
        row: A value as `json.loads` gives it.
        text: The raw text of the article, which a result does not hold.
        place: Where the object stands, for messages: `articles[3].`.

    Raises:
        KhabarError: If it is not such an object, or not one of this text.
    """
    result = Fields(row, place)
    n_characters = result.get("characters", int)
    if n_characters != len(text):
        raise KhabarError(f"{place}characters is {n_characters}; the text has {len(text)}")
    segments = result.list("segments", lambda item: _segment(item, len(text)))
    return TaggedArticle(
        id=result.get("id", str, type(None)),
        text=text,
        topics=result.list("topics", lambda item: _topic(item, len(segments))),
        uncertain=result.strings("uncertain"),
        topic_scores=result.probabilities("topic_scores"),
        segments=segments,
        entities=result.list("entities", lambda item: _entity(item, text)),
        characters_read=result.get("characters_read", int),
        model=result.get("model", str),
    )


class Fields:
    """The values of an object by key, each of the type that is meant; anything else is a KhabarError.

    Args:
        row: The object.
        place: Where it stands, for messages: `topics[3].`.
    """

    def __init__(self, row: object, place: str = "") -> None:
        self.place = place
        if not isinstance(row, dict):
            raise KhabarError(f"{place.removesuffix('.') or 'a result'} is {show(row)}; allowed: an object")
        self._row: dict[str, Any] = row

    def get(self, key: str, *kinds: type) -> Any:
        """Give the value of a key that is there and of one of these types; a bool is no number."""
        value = self._row.get(key)
        if key not in self._row or not isinstance(value, kinds) or isinstance(value, bool):
            seen = show(value) if key in self._row else "missing"
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise KhabarError(f"{self.place}{key} is {seen}; allowed: {names}")
        return value

    def list(self, key: str, read: Callable[[Fields], T]) -> tuple[T, ...]:
        """Read each object of a list."""
        items = self.get(key, list)
        return tuple(read(Fields(item, f"{self.place}{key}[{i}].")) for i, item in enumerate(items))

    def strings(self, key: str) -> tuple[str, ...]:
        """Give a list of strings."""
        return tuple(Fields({key: item}, self.place).get(key, str) for item in self.get(key, list))

    def probabilities(self, key: str) -> dict[str, float]:
        """Give an object of probabilities by label."""
        row = Fields(self.get(key, dict), f"{self.place}{key}.")
        return {label: row.probability(label) for label in row._row}

    def probability(self, key: str) -> float:
        """Give a number in [0, 1]."""
        value = float(self.get(key, int, float))
        if not 0.0 <= value <= 1.0:
            raise KhabarError(f"{self.place}{key} is {value}; allowed: a probability")
        return value

    def span(self, n_characters: int) -> tuple[int, int]:
        """Give the start and end of a stretch of a text of so many characters."""
        start, end = self.get("start", int), self.get("end", int)
        if not 0 <= start <= end <= n_characters:
            raise KhabarError(f"{self.place}start and end are {start}, {end}; allowed: rising, in [0, {n_characters}]")
        return start, end


def _topic(item: Fields, n_segments: int) -> Topic:
    segments = item.get("segments", list)
    for index in segments:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < n_segments:
            raise KhabarError(f"{item.place}segments has {show(index)}; allowed: whole numbers below {n_segments}")
    return Topic(label=item.get("label", str), score=item.probability("score"), segments=tuple(segments))


def _segment(item: Fields, n_characters: int) -> Segment:
    start, end = item.span(n_characters)
    return Segment(start=start, end=end, topics=item.strings("topics"), scores={})


def _entity(item: Fields, text: str) -> Entity:
    start, end = item.span(len(text))
    name = item.get("text", str)
    if name != text[start:end]:
        raise KhabarError(f"{item.place}text is {show(name)}; the text has {show(text[start:end])} there")
    return Entity(label=item.get("label", str), start=start, end=end, text=name, score=item.probability("score"))

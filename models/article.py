"""The article: one dataclass in training, evaluation and inference, and its JSON form.

Turns a JSON object into an Article or into the list of all that is wrong with it. Knows labels only as
strings, and nothing of files (see article_reader), tokens or models.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from khabar.models.errors import KhabarError
from khabar.models.messages import nearest, show

_HALF_PAIR = re.compile("[\ud800-\udfff]")

ARTICLE_KEYS = ("id", "text", "date", "source", "lang", "segments", "topics", "entities")
SEGMENT_KEYS = ("start", "end", "topics")
ENTITY_KEYS = ("start", "end", "label")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of an article that carries topics by itself.

    Attributes:
        start: First character, in code points of the article's text as given.
        end: One past the last character.
        topics: What the segment itself reports; None when nobody has said, () when it reports none.
    """

    start: int
    end: int
    topics: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Entity:
    """A name in an article: half-open character span and label."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, kw_only=True)
class Article:
    """One news item and what is known of it.

    Of `segments`, `topics` and `entities`, None means "not annotated" and an empty tuple means "none".

    Attributes:
        text: The raw text. All offsets count its Unicode code points; it is never cleaned.
        segments: In order, not overlapping.
        entities: Sorted by start, not overlapping.
    """

    text: str
    id: str | None = None
    date: str | None = None
    source: str | None = None
    lang: str | None = None
    segments: tuple[Segment, ...] | None = None
    topics: tuple[str, ...] | None = None
    entities: tuple[Entity, ...] | None = None

    @property
    def segment_spans(self) -> list[tuple[int, int]] | None:
        """The article's own segments as spans; None where it has none and the text is to be split."""
        return [(segment.start, segment.end) for segment in self.segments] if self.segments else None

    def to_json(self) -> dict[str, object]:
        """Give the JSON object that `parse_article` reads back as an equal article."""
        row: dict[str, object] = {
            key: value for key in ("id", "text", "date", "source", "lang") if (value := getattr(self, key)) is not None
        }
        if self.segments is not None:
            row["segments"] = [
                {"start": segment.start, "end": segment.end}
                | ({} if segment.topics is None else {"topics": list(segment.topics)})
                for segment in self.segments
            ]
        if self.topics is not None:
            row["topics"] = list(self.topics)
        if self.entities is not None:
            row["entities"] = [
                {"start": entity.start, "end": entity.end, "label": entity.label} for entity in self.entities
            ]
        return row


def parse_article(row: object) -> tuple[Article | None, list[str]]:
    """Read one JSON value as an article.

    Args:
        row: A value as `json.loads` gives it.

    Returns:
        The article and an empty list, or None and every problem found, each a line such as
        "entities[3].end is 412, past the end of the text (398)".
    """
    problems: list[str] = []
    if not isinstance(row, dict):
        return None, [f"an article is a JSON object, got {show(row)}"]
    _check_keys(row, "", ARTICLE_KEYS, problems)
    if "text" not in row:
        problems.append("text is missing; allowed: a string")
    text = _string(row, "text", problems)
    plain = {key: _string(row, key, problems) for key in ("id", "date", "source", "lang")}
    # Without a text the offsets can still be checked against each other, only not against its length.
    n_characters = None if text is None else len(text)
    segments = _segments(row, n_characters, problems)
    article_topics = _labels(row, "topics", problems)
    entities = _entities(row, n_characters, problems)
    if segments is not None and article_topics is not None:
        problems += _missing_topics(segments, article_topics)
    if problems or text is None:
        return None, problems
    return Article(text=text, segments=segments, topics=article_topics, entities=entities, **plain), []


def refuse_one_text(articles: object) -> None:
    """Refuse a text where many are to come: it would be taken for as many as it has letters.

    Raises:
        KhabarError: If it is one.
    """
    if isinstance(articles, str):
        raise KhabarError("articles is a str; allowed: a list or another iterable of texts, or tag() for one text")


def _check_keys(row: dict[str, object], place: str, allowed: Sequence[str], problems: list[str]) -> None:
    problems += [
        f"{place}{'.' if place else ''}{_key(key)} is not a known key{nearest(str(key), allowed)}"
        for key in row
        if key not in allowed
    ]


def _key(key: object) -> str:
    return key if isinstance(key, str) and key.isidentifier() else show(key)


def _string(row: dict[str, object], key: str, problems: list[str]) -> str | None:
    value = row.get(key)
    if isinstance(value, str):
        return value if _printable(value, key, problems) else None
    # Writers of tables give null where a column is empty, which can only mean that it is not known.
    if key in row and (value is not None or key == "text"):
        problems.append(f"{key} is {show(value)}; allowed: a string")
    return None


def _printable(value: str, place: str, problems: list[str]) -> bool:
    """Refuse half surrogate pairs: JSON can spell them, but no UTF-8 file and no tokenizer can hold them."""
    wrong = _HALF_PAIR.search(value)
    if wrong is not None:
        problems.append(
            f"{place} has half a surrogate pair (\\u{ord(wrong[0]):04x}) at character {wrong.start()}; "
            "allowed: whole Unicode characters"
        )
    return wrong is None


def _list(row: dict[str, object], key: str, place: str, problems: list[str]) -> list[object] | None:
    if key not in row:
        return None
    value = row[key]
    if isinstance(value, list):
        return value
    problems.append(
        f"{place} is {show(value)}; allowed: a list ([] for none; leave the key out when it is not annotated)"
    )
    return None


def _labels(row: dict[str, object], place: str, problems: list[str]) -> tuple[str, ...] | None:
    values = _list(row, "topics", place, problems)
    if values is None:
        return None
    labels: list[str] = []
    for i, value in enumerate(values):
        label = _label(value, f"{place}[{i}]", "a topic", problems)
        if label is not None and label in labels:
            problems.append(f"{place}[{i}] is {show(label)} again; allowed: each topic once")
        elif label is not None:
            labels.append(label)
    return tuple(labels)


def _label(value: object, place: str, what: str, problems: list[str]) -> str | None:
    if not isinstance(value, str) or not value.strip():
        problems.append(f"{place} is {show(value)}; allowed: {what}, a string that is not blank")
    elif _printable(value, place, problems):
        return value
    return None


def _span(
    item: object, place: str, keys: Sequence[str], n_characters: int | None, problems: list[str]
) -> tuple[int, int] | None:
    """Check one segment's or entity's object, keys and offsets; None when its offsets are of no use."""
    if not isinstance(item, dict):
        problems.append(f"{place} is {show(item)}; allowed: an object with {', '.join(keys)}")
        return None
    _check_keys(item, place, keys, problems)
    offsets: list[int] = []
    for key in ("start", "end"):
        value = item.get(key)
        if key not in item:
            problems.append(f"{place}.{key} is missing; allowed: a whole number")
        elif not isinstance(value, int) or isinstance(value, bool):
            problems.append(f"{place}.{key} is {show(value)}; allowed: a whole number")
        elif value < 0:
            problems.append(f"{place}.{key} is {value}; allowed: 0 or more")
        elif n_characters is not None and value > n_characters:
            problems.append(f"{place}.{key} is {value}, past the end of the text ({n_characters})")
        else:
            offsets.append(value)
    if len(offsets) < 2:
        return None
    start, end = offsets
    if start >= end:
        problems.append(f"{place}.end is {end}; allowed: more than its start ({start})")
        return None
    return start, end


def _segments(row: dict[str, object], n_characters: int | None, problems: list[str]) -> tuple[Segment, ...] | None:
    items = _list(row, "segments", "segments", problems)
    if items is None:
        return None
    segments: list[Segment] = []
    previous = -1, 0  # index and end of the last segment whose offsets are usable
    for i, item in enumerate(items):
        place = f"segments[{i}]"
        span = _span(item, place, SEGMENT_KEYS, n_characters, problems)
        labels = _labels(item, f"{place}.topics", problems) if isinstance(item, dict) else None
        if span is None:
            continue
        if span[0] < previous[1]:
            problems.append(
                f"{place}.start is {span[0]}, before the end of segments[{previous[0]}] ({previous[1]}); "
                "allowed: segments in order that do not overlap"
            )
        previous = i, span[1]
        segments.append(Segment(start=span[0], end=span[1], topics=labels))
    return tuple(segments)


def _entities(row: dict[str, object], n_characters: int | None, problems: list[str]) -> tuple[Entity, ...] | None:
    items = _list(row, "entities", "entities", problems)
    if items is None:
        return None
    found: list[tuple[int, int, int, str]] = []  # start, end, index, label
    for i, item in enumerate(items):
        span = _span(item, f"entities[{i}]", ENTITY_KEYS, n_characters, problems)
        if not isinstance(item, dict):
            continue
        label: str | None = None
        if "label" not in item:
            problems.append(f"entities[{i}].label is missing; allowed: an entity label")
        else:
            label = _label(item["label"], f"entities[{i}].label", "an entity label", problems)
        if span is not None:
            found.append((*span, i, label or ""))
    found.sort()
    widest = 0  # the entity that reaches furthest so far: an overlap may lie several entities back
    for k in range(1, len(found)):
        start, end, i, _ = found[k]
        other_start, other_end, other, _ = found[widest]
        if start < other_end:
            problems.append(
                f"entities[{i}] ({start} to {end}) overlaps entities[{other}] "
                f"({other_start} to {other_end}); allowed: entities that do not overlap"
            )
        if end > other_end:
            widest = k
    return tuple(Entity(start=start, end=end, label=label) for start, end, _, label in found)


def _missing_topics(segments: Sequence[Segment], topics: Collection[str]) -> list[str]:
    """An article reports at least what its segments report; it may report more than any one of them."""
    return [
        f'topics lacks "{topic}", which segments[{i}].topics has; allowed: topics that include every segment\'s topics'
        for i, segment in enumerate(segments)
        for topic in segment.topics or ()
        if topic not in topics
    ]

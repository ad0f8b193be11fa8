"""Articles as doccano's JSON Lines, and back: entities as [start, end, label], topics as `cats`.

Reads what doccano exports of sequence labelling, text classification, and intent detection with slot filling; writes
the last of these, which holds both. Its offsets count UTF-16 units (doccano/doccano issues 2290 and 2484), unless a
project counts grapheme clusters: nothing in an export shows that, and it cannot be read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from khabar.models.article import Article
from khabar.models.messages import show
from khabar.training.convert.gathering import ORIGIN_KEYS, Gatherer, Losses, json_lines, origin, write_json_lines
from khabar.training.convert.utf16 import Utf16Offsets

# One list for entities or for topics, whichever the project is about; `labels` in older exports.
_LABEL_KEYS = ("label", "labels")
_KNOWN_KEYS = ("text", *ORIGIN_KEYS, "segments", "entities", "cats", *_LABEL_KEYS)
_ENTITY_FORMS = "[start, end, label], or an object with start_offset, end_offset and label"


def write(articles: Sequence[Article], path: Path, _losses: Losses) -> None:
    """Write articles; what is not annotated has no key. doccano carries segments and origin along as they are."""
    write_json_lines(map(_to_row, articles), path)


def read(path: Path, losses: Losses) -> list[Article]:
    """Read an export. A missing key means that nobody was asked, an empty list that there is none.

    Raises:
        CorpusError: Listing everything that is wrong in the file.
        KhabarError: If it cannot be read.
    """
    gatherer = Gatherer(path, losses)
    rows = list(json_lines(path, gatherer))
    kind = _kind_of_labels([row.get(key) for _, row in rows for key in _LABEL_KEYS])
    for line, given in rows:
        gatherer.leave_out_keys(given, _KNOWN_KEYS)
        row = {key: given[key] for key in ("text", "segments") if key in given} | origin(given)
        labels = {"entities": given.get("entities"), "topics": given.get("cats")}
        named = {key: given[key] for key in _LABEL_KEYS if key in given}
        if key := next((key for key, value in named.items() if not isinstance(value, list | None)), None):
            gatherer.wrong(line, f"{key} is {show(named[key])}; allowed: a list of topics, or of entities")
            continue
        for value in named.values():
            if kind:
                labels[kind] = value
            else:
                losses["empty label lists that do not show what they are of, taken as not annotated"] += 1
        if labels["topics"] is not None:
            row["topics"] = labels["topics"]
        if labels["entities"] is not None:
            row["entities"], messages = _entities(labels["entities"], given.get("text"))
            if messages:
                for message in messages:
                    gatherer.wrong(line, message)
                continue
        gatherer.add(line, row)
    return gatherer.articles()


def _to_row(article: Article) -> dict[str, object]:
    row = article.to_json()
    if article.topics is not None:
        row["cats"] = row.pop("topics")
    if article.entities is not None:
        offsets = Utf16Offsets(article.text)
        row["entities"] = [
            [offsets.to_units(entity.start), offsets.to_units(entity.end), entity.label] for entity in article.entities
        ]
    return row


def _kind_of_labels(lists: list[object]) -> str | None:
    """Tell by the first list that is not empty what the file's label lists hold."""
    first = next((items[0] for items in lists if isinstance(items, list) and items), None)
    return None if first is None else "topics" if isinstance(first, str) else "entities"


def _entities(items: object, text: object) -> tuple[list[dict[str, Any]], list[str]]:
    if not isinstance(items, list):
        return [], [f"the entities are {show(items)}; allowed: a list of {_ENTITY_FORMS}"]
    offsets = Utf16Offsets(text if isinstance(text, str) else "")
    entities: list[dict[str, Any]] = []
    messages: list[str] = []
    for i, item in enumerate(items):
        if isinstance(item, dict):
            item = [item.get("start_offset"), item.get("end_offset"), item.get("label")]
        if not isinstance(item, list) or [type(part) for part in item] != [int, int, str]:
            messages.append(f"entities[{i}] is {show(item)}; allowed: {_ENTITY_FORMS}")
            continue
        start, end = offsets.to_code_points(item[0]), offsets.to_code_points(item[1])
        if start is None or end is None:
            allowed = "offsets in UTF-16 units, in the text and not in a character's midst"
            messages.append(f"entities[{i}] is from {item[0]} to {item[1]}; allowed: {allowed}")
        else:
            entities.append({"start": start, "end": end, "label": item[2]})
    return entities, messages

"""Gathers articles from the rows of another tool's file, with every problem's line and a count of what is left out.

Turns rows in the article's JSON form, whose entities may overlap, into articles. Knows nothing of any format.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from khabar.models.article import Article, parse_article
from khabar.models.article_reader import parse_json, read_bytes, read_int, read_lines
from khabar.models.errors import MOST_KEPT, CorpusError, Problem
from khabar.models.messages import not_utf8, show

Losses = Counter[str]  # what is left out, in words, to how often

ORIGIN_KEYS = ("id", "date", "source", "lang")
OVERLAPPING = "entities that lie in or overlap another one, which is kept"

# Tools write line breaks inside a name as spaces, as backslash and n, or as they are.
_BETWEEN = re.compile(r"\s|\\n")
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


class Gatherer:
    """Takes rows as they are read, and gives the articles when all have been.

    Args:
        file: The path as the user wrote it, for messages.
        losses: Counts what rows hold that an article cannot.
    """

    def __init__(self, file: str | Path, losses: Losses) -> None:
        self._file = str(file)
        self._articles: list[Article] = []
        self._line_of_id: dict[str, int | None] = {}
        self._problems: list[Problem] = []
        self._n_more = 0
        self.losses = losses

    def wrong(self, line: int | None, message: str) -> None:
        """Note a problem; the row at that line is not to be added."""
        if len(self._problems) < MOST_KEPT:
            self._problems.append(Problem(file=self._file, line=line, message=message))
        else:
            self._n_more += 1

    def add(self, line: int | None, row: Mapping[str, object], *, names: Iterable[object] = ()) -> None:
        """Take a row: an article's JSON object, only that its entities may overlap.

        Of entities that overlap, the one that starts first is kept, and of those the longest: the outermost.

        Args:
            line: Where the row stands; None for a file without lines.
            row: The object.
            names: What the file says each entity's text is, in the order of `entities`; None where it does not say.
        """
        text, entities = row.get("text"), row.get("entities")
        messages: list[str] = []
        if isinstance(text, str) and isinstance(entities, list) and _usable(entities, len(text)):
            messages += _wrong_names(text, entities, names)
            kept = _outermost(entities)
            self.losses[OVERLAPPING] += len(entities) - len(kept)
            row = {**row, "entities": kept}
        article, found = parse_article(row)
        messages += found
        if article is not None and article.id is not None:
            if article.id in self._line_of_id:
                where = "" if line is None else f" of line {self._line_of_id[article.id]}"
                messages.append(f"id is {show(article.id)}, the id{where} too; allowed: each id once")
            self._line_of_id.setdefault(article.id, line)
        for message in messages:
            self.wrong(line, message)
        if article is not None:
            self._articles.append(article)

    def leave_out_keys(self, row: Mapping[str, object], known: Collection[str], place: str = "") -> None:
        """Count what a row holds under keys for which an article has no place; null and empty lists hold nothing."""
        self.losses.update(
            f"values of the key {show(place + key)}"
            for key, value in row.items()
            if key not in known and value not in (None, [], {}, "")
        )

    def articles(self) -> list[Article]:
        """Give the articles, in the order in which they came.

        Raises:
            CorpusError: If any row was wrong; lists every problem.
        """
        if self._problems:
            in_order = sorted(self._problems, key=lambda problem: problem.line or 0)
            raise CorpusError(in_order, n_more=self._n_more)
        return self._articles


def origin(row: Mapping[str, object]) -> dict[str, object]:
    """Pick what a row says of where its text is from; ids that are numbers become strings."""
    known = {key: row[key] for key in ORIGIN_KEYS if row.get(key) is not None}
    if type(known.get("id")) is int:
        known["id"] = str(known["id"])
    return known


def json_lines(path: str | Path, gatherer: Gatherer) -> Iterator[tuple[int, dict[str, object]]]:
    """Read the objects of a JSON Lines file with their lines; what is none is noted as wrong.

    Raises:
        KhabarError: If the file cannot be read at all.
    """
    for number, line in read_lines(path):
        try:
            row = parse_json(line)
        except ValueError as error:
            gatherer.wrong(number, str(error))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            gatherer.wrong(number, f"a line is a JSON object, got {show(row)}")


def write_json_lines(rows: Iterable[Mapping[str, object]], path: Path) -> None:
    """Write objects, one a line, in UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def json_list(path: str | Path, gatherer: Gatherer) -> Iterator[tuple[int, dict[str, object]]]:
    """Read the objects of a file that is one JSON list, with the lines on which they start, likewise.

    Raises:
        KhabarError: If the file cannot be read at all.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        gatherer.wrong(None, not_utf8(error))
        return
    decoder = json.JSONDecoder(parse_int=read_int)
    place = _skip_space(text, 0)
    if not text.startswith("[", place):
        gatherer.wrong(1, f"the file begins with {show(text[place : place + 20])}; allowed: a JSON list")
        return
    place, line, counted = _skip_space(text, place + 1), 1, 0
    while not text.startswith("]", place):
        line, counted = line + text.count("\n", counted, place), place
        try:
            item, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            gatherer.wrong(error.lineno, f"not JSON: {error.msg} at column {error.colno}")
            return
        except RecursionError:
            gatherer.wrong(line, "not JSON that can be used: nested too deep")
            return
        except ValueError as error:  # of `read_int`
            gatherer.wrong(line, str(error))
            return
        if isinstance(item, dict):
            yield line, item
        else:
            gatherer.wrong(line, f"an item of the list is an object, got {show(item)}")
        place = _skip_space(text, place)
        if text.startswith(",", place):
            place = _skip_space(text, place + 1)
        elif not text.startswith("]", place):
            line += text.count("\n", counted, place)
            gatherer.wrong(line, f"not JSON: {show(text[place : place + 20])} after an item; allowed: a comma, or ]")
            return


def _skip_space(text: str, place: int) -> int:
    match = _JSON_SPACE.match(text, place)
    return match.end() if match else place


def _usable(entities: list[Any], length: int) -> bool:
    """Whether all can be compared; if not, parse_article says what is wrong with each."""
    return all(
        isinstance(entity, dict)
        and type(entity.get("start")) is int
        and type(entity.get("end")) is int
        and 0 <= entity["start"] < entity["end"] <= length
        for entity in entities
    )


def _wrong_names(text: str, entities: list[dict[str, Any]], names: Iterable[object]) -> Iterator[str]:
    for i, (entity, name) in enumerate(zip(entities, names, strict=False)):
        there = text[entity["start"] : entity["end"]]
        if name is not None and not same_name(there, name):
            place = f"entities[{i}] ({entity['start']} to {entity['end']})"
            yield f"{place} is {show(there)} in the text; allowed: what the file says it is, {show(name)}"


def _outermost(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: (entity["start"], -entity["end"])):
        if not kept or entity["start"] >= kept[-1]["end"]:
            kept.append(entity)
    return kept


def same_name(text: str, name: object) -> bool:
    """Whether a stretch of a text is what a file says it is, whatever the file made of spaces and line breaks."""
    return isinstance(name, str) and _BETWEEN.sub("", text) == _BETWEEN.sub("", name)

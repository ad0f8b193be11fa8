"""Reads a file of articles, JSON Lines in UTF-8, strictly: all articles, or an error listing every problem.

Knows the file's lines and their JSON; what an article may hold is article.py's matter.
"""

import json
from collections.abc import Collection
from pathlib import Path

from khabar.models.article import Article, parse_article
from khabar.models.errors import CorpusError, KhabarError, Problem
from khabar.models.messages import show

_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


def read_articles(
    path: str | Path,
    *,
    topics: Collection[str] | None = None,
    entity_labels: Collection[str] | None = None,
) -> list[Article]:
    """Read every article of a JSON Lines file.

    Blank lines are skipped, and so is a byte order mark before the first line.

    Args:
        path: The file.
        topics: The topics that may occur; None accepts any.
        entity_labels: The entity labels that may occur; None accepts any.

    Raises:
        CorpusError: If any line is not an article: its `problems` hold all that is wrong in the file.
        KhabarError: If the file cannot be read at all.
    """
    raw = read_bytes(path)
    if raw.startswith(_UTF16_BOMS):
        raise KhabarError(f"{path} is in UTF-16; allowed: UTF-8")
    articles: list[Article] = []
    problems: list[Problem] = []
    first_line: dict[str, int] = {}  # where each id was first seen
    for number, line in enumerate(raw.removeprefix(_UTF8_BOM).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            problems.append(Problem(file=str(path), line=number, message=str(error)))
            continue
        article, messages = parse_article(row, topics=topics, entity_labels=entity_labels)
        # An id is compared even when its article is wrong elsewhere: one reading shows all.
        name = row.get("id") if isinstance(row, dict) else None
        if isinstance(name, str) and (first := first_line.setdefault(name, number)) != number:
            messages.append(f"id is {show(name)}, the id of line {first} too; allowed: each id once")
        problems += [Problem(file=str(path), line=number, message=message) for message in messages]
        if article is not None:
            articles.append(article)
    if problems:
        raise CorpusError(problems)
    return articles


def read_bytes(path: str | Path) -> bytes:
    """Read a corpus file whole.

    Raises:
        KhabarError: If there is no such file, or it cannot be read; the message names it.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise KhabarError(f"{path}: no such file") from None
    except OSError as error:
        raise KhabarError(f"{path} cannot be read: {error.strerror}") from None


def parse_json(line: bytes) -> object:
    """Read one line as strict JSON.

    Stricter than the standard library, which takes NaN and lets the last of two equal keys win.

    Raises:
        ValueError: With a one-line reason, if the line is not UTF-8 or not JSON.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.object[error.start]
        raise ValueError(f"not UTF-8: byte 0x{bad:02x} at byte {error.start + 1} of the line") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        seen = show(text[error.pos : error.pos + 20]) if error.pos < len(text.rstrip()) else "the line's end"
        raise ValueError(f"not JSON: {error.msg} at column {error.pos + 1}, at {seen}") from None
    except RecursionError:
        raise ValueError("not an article: JSON nested too deep") from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"not JSON: {name}; allowed: JSON's own numbers, true, false, null")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"key {', '.join(map(show, twice))} stands twice in one object; allowed: once")
    return row

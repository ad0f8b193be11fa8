"""Articles as a folder of brat's standoff files, and back: NAME.txt is the text, NAME.ann its entities.

Turns an article's id into NAME. Knows nothing of relations, events and notes, for which an article has no place, nor
has brat one for topics and segments. Offsets count code points. Source: https://brat.nlplab.org/standoff.html
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from khabar.models.article import Article, Entity
from khabar.models.article_reader import read_bytes
from khabar.models.errors import CorpusError, KhabarError
from khabar.models.messages import show
from khabar.training.convert.gathering import Gatherer, Losses, same_name

_NAME = re.compile(r"\w[\w.-]{0,99}")
_LONGEST_NAME = 240  # bytes: file systems take 255, with the ending
_LABEL = re.compile("[a-zA-Z0-9_-]+")  # brat takes no other as a type
_SPANS = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")
# No line of an .ann file can hold these, so that a name around one is written in fragments.
_BREAKS = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")


def write(articles: Sequence[Article], path: Path, losses: Losses) -> None:
    """Write a text file for every article, an .ann file where entities are annotated, and brat's annotation.conf.

    Raises:
        KhabarError: If brat cannot take a label.
    """
    labels = sorted({entity.label for article in articles for entity in article.entities or ()})
    if wrong := next((label for label in labels if not _LABEL.fullmatch(label)), None):
        raise KhabarError(f"the label {show(wrong)} is none for brat; allowed: letters a to z, digits, _ and -")
    path.mkdir(exist_ok=True)
    types = "".join(f"{label}\n" for label in labels)
    conf = f"[entities]\n{types}\n[relations]\n\n[events]\n\n[attributes]\n"
    (path / "annotation.conf").write_text(conf, encoding="utf-8")
    for name, article in zip(_names(articles, losses), articles, strict=True):
        (path / f"{name}.txt").write_text(article.text, encoding="utf-8", newline="")
        if article.entities is not None:
            lines = _lines(article.text, article.entities, losses)
            (path / f"{name}.ann").write_text("".join(lines), encoding="utf-8", newline="")


def read(path: Path, losses: Losses) -> list[Article]:
    """Read a folder and the folders in it, in the order of their names; a text without an .ann file is not annotated.

    Raises:
        CorpusError: Listing everything that is wrong in the files.
        KhabarError: If the folder has no .txt files.
    """
    if not path.is_dir():
        raise KhabarError(f"{path} is no folder; allowed: a folder of .txt and .ann files")
    texts = sorted(path.rglob("*.txt"))
    problems = []
    articles: list[Article] = []
    for file in texts:
        try:
            articles += _read_pair(path, file, losses)
        except CorpusError as error:
            problems += error.problems
    for alone in sorted(path.rglob("*.ann")):
        if not alone.with_suffix(".txt").exists():
            losses["files with annotations and no text"] += 1
    if problems:
        raise CorpusError(problems)
    return articles


def _names(articles: Sequence[Article], losses: Losses) -> list[str]:
    """Give every article a file name: its id where that can be one, else its number."""
    taken = {article.id.casefold() for article in articles if article.id}
    names: list[str] = []
    used: set[str] = set()
    number = 0
    for article in articles:
        name = article.id or ""
        if not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME or name.casefold() in used:
            losses["ids that cannot be file names"] += article.id is not None
            number += 1
            while (name := f"article-{number}") in taken:
                number += 1
        used.add(name.casefold())
        names.append(name)
    return names


def _lines(text: str, entities: Sequence[Entity], losses: Losses) -> list[str]:
    lines: list[str] = []
    for entity in entities:
        fragments = _fragments(text, entity)
        if not fragments:
            losses["entities of line breaks alone"] += 1
            continue
        if (fragments[0][0], fragments[-1][1]) != (entity.start, entity.end):
            losses["line breaks at the edges of entities"] += 1
        spans = ";".join(f"{start} {end}" for start, end in fragments)
        name = " ".join(text[start:end] for start, end in fragments)
        lines.append(f"T{len(lines) + 1}\t{entity.label} {spans}\t{name}\n")
    return lines


def _fragments(text: str, entity: Entity) -> list[tuple[int, int]]:
    fragments = []
    start = entity.start
    for match in _BREAKS.finditer(text, entity.start, entity.end):
        fragments.append((start, match.start()))
        start = match.end()
    fragments.append((start, entity.end))
    return [(start, end) for start, end in fragments if start < end]


def _read_pair(folder: Path, file: Path, losses: Losses) -> list[Article]:
    ann = file.with_suffix(".ann")
    gatherer = Gatherer(ann if ann.exists() else file, losses)
    try:
        text = read_bytes(file).decode("utf-8")
        lines = read_bytes(ann).decode("utf-8").split("\n") if ann.exists() else None
    except UnicodeDecodeError as error:
        gatherer.wrong(None, f"text or annotations are not UTF-8: byte 0x{error.object[error.start]:02x}")
        return gatherer.articles()
    row: dict[str, Any] = {"id": file.relative_to(folder).with_suffix("").as_posix(), "text": text}
    if lines is not None:
        row["entities"] = []
        for number, line in enumerate(lines, start=1):
            if not line.startswith("T"):
                losses["annotations that are no entities: relations, events, attributes, notes"] += bool(line.strip())
                continue
            entity = _entity(line, text)
            if isinstance(entity, str):
                gatherer.wrong(number, entity)
            elif entity is None:
                losses["entities in several places (discontinuous)"] += 1
            else:
                row["entities"].append(entity)
    gatherer.add(None, row)
    return gatherer.articles()


def _entity(line: str, text: str) -> dict[str, Any] | str | None:
    """Read a line of an entity: the entity, what is wrong with the line, or None for one in several places."""
    parts = line.rstrip("\r").split("\t", 2)
    match = _SPANS.fullmatch(parts[1]) if len(parts) == 3 else None
    if match is None:
        return f"the line is {show(line)}; allowed: T1, tab, a label and offsets, tab, the text there"
    spans = [(int(start), int(end)) for start, end in (span.split() for span in match[2].split(";"))]
    start, end = spans[0][0], spans[-1][1]
    if any(not first < last <= len(text) for first, last in spans) or spans != sorted(spans):
        return f"the offsets are {match[2]}; allowed: in order and within the text ({len(text)} characters)"
    there = " ".join(text[first:last] for first, last in spans)
    if not same_name(there, parts[2]):
        return f"{match[2]} is {show(there)} in the text; allowed: what the line says it is, {show(parts[2])}"
    between = [text[last:first] for (_, last), (first, _) in pairwise(spans)]
    return None if "".join(between).strip() else {"start": start, "end": end, "label": match[1]}

"""Reads column files of tagged tokens (CoNLL, BIO) as articles, one sentence an article.

Turns a token a line into text and character spans with the source's own labels. Knows nothing of the
model's labels; what the labels mean is a corpus's Annotation.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from khabar.models.article import Article, Entity
from khabar.models.article_reader import read_bytes
from khabar.models.errors import CorpusError, Problem
from khabar.models.messages import show

_TAG = re.compile(r"O|[BI]-\S+")
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    columns: list[str]


def read_conll(path: str | Path, *, ignore: Collection[str] = ()) -> list[Article]:
    """Read a file of one token a line: token first, BIO tag last, blank line between sentences.

    Columns are separated by a tab or, on lines without a tab, by spaces. A sentence's text is its tokens
    joined by single spaces, and its id is "file:line" of its first token. `I-X` that continues no X begins
    an entity, as in seqeval and conlleval.

    A file whose columns after the token are all tags, or whose lines have more or fewer of them, is
    nested: columns from the outermost entity inwards. A token then counts for the outermost entity whose
    label is not in `ignore`, so that a name inside an ignored phrase is not lost.

    Args:
        path: The file, UTF-8.
        ignore: Labels that yield to an entity nested in them.

    Raises:
        CorpusError: If a line has no tag, or a tag is not O, B-X or I-X; all such lines are listed.
        KhabarError: If the file cannot be read.
    """
    rows, problems = _read_rows(path)
    nested = _is_nested(rows)
    articles: list[Article] = []
    for sentence in _sentences(rows):
        tags: list[str] = []
        for row in sentence:
            candidates = row.columns[1:] if nested else row.columns[-1:]
            problems += [
                Problem(
                    file=str(path),
                    line=row.line,
                    message=f"the tag of {show(row.columns[0])} is {show(tag)}; allowed: O, B-LABEL, I-LABEL",
                )
                for tag in candidates
                if not _TAG.fullmatch(tag)
            ]
            tags.append(_outermost(candidates, ignore))
        articles.append(
            _to_article([row.columns[0] for row in sentence], tags, f"{Path(path).name}:{sentence[0].line}")
        )
    if problems:
        raise CorpusError(sorted(problems, key=lambda problem: problem.line or 0))
    return articles


def bio_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Find the entities of a BIO sequence as half-open token spans with labels.

    `I-X` that continues no X begins an entity.

    Source: seqeval's default mode, which follows conlleval.
    """
    spans: list[tuple[int, int, str]] = []
    start, label = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        if label and tag != f"I-{label}":
            spans.append((start, i, label))
            label = ""
        if not label and tag != "O":
            start, label = i, tag[2:]
    return spans


def _read_rows(path: str | Path) -> tuple[list[_Row], list[Problem]]:
    """Split a file into rows; a row without columns is a blank line."""
    rows: list[_Row] = []
    problems: list[Problem] = []
    for number, raw in enumerate(read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").strip(" \t\r")
        except UnicodeDecodeError as error:
            bad = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
            problems.append(Problem(file=str(path), line=number, message=f"not UTF-8: {bad}"))
            continue
        columns = [column.strip(" ") for column in line.split("\t")] if "\t" in line else _BLANKS.split(line)
        if line and len(columns) < 2:
            message = f"{show(line)} has no tag; allowed: a token and its tag, separated by a tab or spaces"
            problems.append(Problem(file=str(path), line=number, message=message))
        elif columns[0] != "-DOCSTART-":
            rows.append(_Row(line=number, columns=columns if line else []))
    return rows, problems


def _is_nested(rows: Sequence[_Row]) -> bool:
    widths = {len(row.columns) for row in rows if row.columns}
    if len(widths) > 1:
        return True
    return max(widths, default=0) > 2 and all(_TAG.fullmatch(tag) for row in rows for tag in row.columns[1:])


def _sentences(rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    sentence: list[_Row] = []
    for row in rows:
        if row.columns:
            sentence.append(row)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _outermost(tags: Sequence[str], ignore: Collection[str]) -> str:
    entities = [tag for tag in tags if tag != "O"]
    kept = [tag for tag in entities if tag[2:] not in ignore]
    return next(iter(kept or entities), "O")


def _to_article(tokens: Sequence[str], tags: Sequence[str], name: str) -> Article:
    starts: list[int] = []
    position = 0
    for token in tokens:
        starts.append(position)
        position += len(token) + 1
    entities = tuple(
        Entity(start=starts[first], end=starts[last - 1] + len(tokens[last - 1]), label=label)
        for first, last, label in bio_spans(tags)
    )
    return Article(text=" ".join(tokens), id=name, entities=entities)

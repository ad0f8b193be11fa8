"""Reads column files of tagged tokens (CoNLL, BIO) as articles, one sentence an article.

Turns a token a line into text and character spans with the source's own labels. Knows nothing of the
model's labels; what the labels mean is a corpus's Annotation.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from khabar.models.article import Article, Entity
from khabar.models.article_reader import open_plain
from khabar.models.errors import MOST_KEPT, CorpusError, Problem
from khabar.models.messages import show

_UTF8_BOM = b"\xef\xbb\xbf"
_TAG = re.compile(r"O|[BI]-\S+")
_BLANKS = re.compile(r"[ \t]+")


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    columns: list[str]


def read_conll(path: str | Path, *, ignore: Collection[str] = ()) -> list[Article]:
    """Read a file of one token a line, as `iter_conll` does, into a list."""
    return list(iter_conll(path, ignore=ignore))


def iter_conll(path: str | Path, *, ignore: Collection[str] = ()) -> Iterator[Article]:
    """Read a file of one token a line: token first, BIO tag last, blank line between sentences.

    Columns are separated by a tab or, on lines without a tab, by spaces. A sentence's text is its tokens
    joined by single spaces, and its id is "file:line" of its first token. `I-X` that continues no X begins
    an entity, as in seqeval and conlleval.

    A file whose columns after the token are all tags, or whose lines have more or fewer of them, is
    nested: columns from the outermost entity inwards. A token then counts for the outermost entity whose
    label is not in `ignore`, so that a name inside an ignored phrase is not lost.

    The file is read twice: which of the two it is, is known at its end.

    Args:
        path: The file, UTF-8.
        ignore: Labels that yield to an entity nested in them.

    Yields:
        A sentence at a time. Those around a wrong line are no use.

    Raises:
        CorpusError: After the last sentence, if a line has no tag, or a tag is not O, B-X or I-X: its `problems`
            list all such lines (see MOST_KEPT).
        KhabarError: If the file cannot be read.
    """
    nested = _is_nested(_rows(path, _Problems(path)))
    problems = _Problems(path)
    for sentence in _sentences(_rows(path, problems)):
        tags: list[str] = []
        for row in sentence:
            candidates = row.columns[1:] if nested else row.columns[-1:]
            for tag in candidates:
                if not _TAG.fullmatch(tag):
                    message = f"the tag of {show(row.columns[0])} is {show(tag)}; allowed: O, B-LABEL, I-LABEL"
                    problems.add(row.line, message)
            tags.append(_outermost(candidates, ignore))
        yield _to_article([row.columns[0] for row in sentence], tags, f"{Path(path).name}:{sentence[0].line}")
    problems.raise_any()


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


class _Problems:
    """What is wrong with a file; beyond MOST_KEPT lines, how many more."""

    def __init__(self, path: str | Path) -> None:
        self._file = str(path)
        self._found: list[Problem] = []
        self._n_more = 0

    def add(self, line: int, message: str) -> None:
        if len(self._found) < MOST_KEPT:
            self._found.append(Problem(file=self._file, line=line, message=message))
        else:
            self._n_more += 1

    def raise_any(self) -> None:
        if self._found:
            # A line without a tag is seen before the sentence around it is.
            raise CorpusError(sorted(self._found, key=lambda problem: problem.line or 0), n_more=self._n_more)


def _rows(path: str | Path, problems: _Problems) -> Iterator[_Row]:
    """Split a file into rows; a row without columns is a blank line."""
    with open_plain(path) as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                raw = raw.removeprefix(_UTF8_BOM)
            try:
                line = raw.decode("utf-8").strip(" \t\r\n")
            except UnicodeDecodeError as error:
                bad = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
                problems.add(number, f"not UTF-8: {bad}")
                continue
            columns = [column.strip(" ") for column in line.split("\t")] if "\t" in line else _BLANKS.split(line)
            if line and len(columns) < 2:
                problems.add(
                    number, f"{show(line)} has no tag; allowed: a token and its tag, separated by a tab or spaces"
                )
            elif columns[0] != "-DOCSTART-":
                yield _Row(line=number, columns=columns if line else [])


def _is_nested(rows: Iterable[_Row]) -> bool:
    widths: set[int] = set()
    all_tags = True
    for row in rows:
        if row.columns:
            widths.add(len(row.columns))
            all_tags = all_tags and all(map(_TAG.fullmatch, row.columns[1:]))
    return len(widths) > 1 or (max(widths, default=0) > 2 and all_tags)


def _sentences(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
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

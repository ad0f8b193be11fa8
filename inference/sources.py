"""Reads what a user gives to score, as a stream: articles, and the rows that are none with their reasons.

Turns JSON Lines, CSV, .txt files, folders of them and standard input into Article and BadRow objects,
one at a time. Knows nothing of models and writes nothing.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from khabar.inference.csv_rows import csv_header, csv_rows
from khabar.models.article import Article, parse_article
from khabar.models.article_reader import parse_json
from khabar.models.errors import KhabarError
from khabar.models.messages import show

InputFormat = Literal["auto", "jsonl", "csv", "txt"]
INPUT_FORMATS: tuple[InputFormat, ...] = ("auto", "jsonl", "csv", "txt")
STANDARD_INPUT = "-"

_FORMAT_OF_ENDING: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "txt",
}
_ALLOWED = ".jsonl, .ndjson or .json (JSON Lines), .csv, .txt, a folder of .txt files, - (standard input)"
_UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be scored.

    Attributes:
        file: Path as the user gave it, or the path of a folder's file; `-` for standard input.
        line: Line where the row starts, from 1; None when the whole file is meant.
        reason: What was seen and what is allowed.
    """

    file: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.reason}"

    def to_json(self) -> dict[str, object]:
        """Give the object that stands for this row in `OUT.errors.jsonl`."""
        return {"file": self.file, "line": self.line, "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One input that has been looked at and can be read.

    Attributes:
        name: As the user wrote it.
        format: How its bytes are read; `auto` only for standard input, which decides when it comes.
        is_folder: Whether it is a folder, each of whose .txt files is an article.
    """

    name: str
    format: InputFormat
    is_folder: bool = False

    @property
    def is_standard_input(self) -> bool:
        """Whether this is standard input rather than a path."""
        return self.name == STANDARD_INPUT


def open_sources(inputs: Sequence[str | Path], *, input_format: InputFormat = "auto") -> list[Source]:
    """Look at every input before any is scored: that it exists and is of a known format.

    Args:
        inputs: Paths of files and folders, and `-` for standard input.
        input_format: How to read files and standard input; `auto` goes by a file's ending, and takes
            standard input for JSON Lines if its first character that is no space is `{`, else for the
            plain text of one article.

    Raises:
        KhabarError: Naming every input that cannot be used, and what is allowed.
    """
    if input_format not in INPUT_FORMATS:
        raise KhabarError(f"input format is {input_format!r}, must be one of {', '.join(INPUT_FORMATS)}")
    sources: list[Source] = []
    problems: list[str] = []
    for name in map(str, inputs):
        try:
            sources.append(_open_source(name, input_format))
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror}")
        except KhabarError as error:
            problems.append(str(error))
    if sum(source.is_standard_input for source in sources) > 1:
        problems.append("- (standard input) is given more than once; allowed: once")
    if problems:
        raise KhabarError("\n".join(problems))
    return sources


def read_rows(sources: Iterable[Source], *, stdin: BinaryIO | None = None) -> Iterator[Article | BadRow]:
    """Read the sources one after the other, holding one row at a time.

    A row without an id gets its number among all rows read, from 1, as a string; rows that cannot be
    scored count, so that a number says which row it was.

    Args:
        sources: What `open_sources` gave.
        stdin: Standard input as bytes; needed where a source stands for it.

    Yields:
        An Article with id and text, and with segments where a row has them; everything else a row holds
        is left out. Or a BadRow.

    Raises:
        OSError: If reading fails midway.
    """
    rows = chain.from_iterable(_rows(source, stdin) for source in sources)
    for number, (file, line, row) in enumerate(rows, start=1):
        needed = _needed(row, str(number))
        if isinstance(needed, ValueError):
            yield BadRow(file=file, line=line, reason=str(needed))
            continue
        article, problems = parse_article(needed)
        if article is None:
            yield BadRow(file=file, line=line, reason="; ".join(problems))
        else:
            yield article


# File, line, and what the row holds: a JSON value, or the error that says why it holds none.
_Row = tuple[str, int | None, object]


def _open_source(name: str, input_format: InputFormat) -> Source:
    if name == STANDARD_INPUT:
        return Source(name=name, format=input_format)
    path = Path(name)
    if not path.exists():
        raise KhabarError(f"{name}: no such file or folder")
    if path.is_dir():
        if next(_text_files(path), None) is None:
            raise KhabarError(f"{name}: a folder without .txt files; allowed: {_ALLOWED}")
        return Source(name=name, format="txt", is_folder=True)
    found = _FORMAT_OF_ENDING.get(path.suffix.lower()) if input_format == "auto" else input_format
    if found is None:
        raise KhabarError(
            f"{name}: ending {path.suffix or '(none)'} is not known; allowed: {_ALLOWED}; "
            "or say what it is with --input-format"
        )
    # A pipe can be read once only: what is wrong in it shows when it is scored.
    if path.is_file():
        with path.open("rb") as stream:
            _check_beginning(name, found, stream)
    return Source(name=name, format=found)


def _check_beginning(name: str, input_format: InputFormat, stream: BinaryIO) -> None:
    """Refuse a file that is as a whole of another kind: each of its rows would be an error of its own."""
    head = stream.read(4096)
    if head.startswith(_UTF16_BOMS):
        raise KhabarError(f"{name} is in UTF-16; allowed: UTF-8")
    if input_format == "jsonl" and head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        raise KhabarError(f"{name} is one JSON list; allowed: JSON Lines, one article as an object a line")
    if input_format == "csv":
        stream.seek(0)
        csv_header(name, stream)


def _rows(source: Source, stdin: BinaryIO | None) -> Iterator[_Row]:
    if source.is_standard_input:
        if stdin is None:
            raise KhabarError("- (standard input) cannot be read here; allowed: files and folders")
        yield from _standard_input_rows(source, stdin)
    elif source.is_folder:
        folder = Path(source.name)
        for path in _text_files(folder):
            yield _text_row(path, path.relative_to(folder).with_suffix("").as_posix())
    elif source.format == "txt":
        yield _text_row(Path(source.name), Path(source.name).stem)
    else:
        with Path(source.name).open("rb") as stream:
            yield from _stream_rows(source.name, source.format, stream)


def _standard_input_rows(source: Source, stdin: BinaryIO) -> Iterator[_Row]:
    if source.format == "auto":
        head: list[bytes] = []
        for line in stdin:
            head.append(line)
            start = line.removeprefix(codecs.BOM_UTF8).lstrip()
            if start.startswith(b"{"):
                yield from _json_rows(source.name, chain(head, stdin))
                return
            if start:
                yield source.name, None, _text_of(b"".join(head) + stdin.read())
                return
        return  # nothing but space: no article
    if source.format == "txt":
        yield source.name, None, _text_of(stdin.read())
    else:
        yield from _stream_rows(source.name, source.format, stdin)


def _stream_rows(name: str, input_format: InputFormat, stream: BinaryIO) -> Iterator[_Row]:
    if input_format == "csv":
        yield from ((name, line, row) for line, row in csv_rows(name, stream))
    else:
        yield from _json_rows(name, stream)


def _json_rows(name: str, lines: Iterable[bytes]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield name, number, parse_json(line)
        except ValueError as error:
            yield name, number, error


def _text_row(path: Path, article_id: str) -> _Row:
    # Names of files may hold bytes that are no UTF-8; those are shown as escapes.
    file, article_id = (name.encode("utf-8", "backslashreplace").decode() for name in (str(path), article_id))
    try:
        row = _text_of(path.read_bytes())
    except OSError as error:
        return file, None, ValueError(f"cannot be read: {error.strerror}")
    return file, None, row if isinstance(row, ValueError) else {"id": article_id, **row}


def _text_of(raw: bytes) -> dict[str, object] | ValueError:
    """Decode one whole article. Line ends stay as they are: offsets count the text as given."""
    if raw.startswith(_UTF16_BOMS):
        return ValueError("in UTF-16; allowed: UTF-8")
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return {"text": raw.decode("utf-8")}
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1}")


def _text_files(folder: Path) -> Iterator[Path]:
    """Walk a folder and the folders in it by name; hidden ones and links to folders are left out."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _text_files(Path(entry.path))
        elif entry.name.lower().endswith(".txt") and not entry.is_dir():
            yield Path(entry.path)


def _needed(row: object, number: str) -> object:
    """Keep what scoring reads of a row: users' rows carry much else, in any form."""
    if not isinstance(row, dict):
        return row
    if "text" not in row:
        return ValueError(f"text is missing; the row has {', '.join(map(show, row)) or 'no keys'}")
    kept: dict[str, object] = {"text": row["text"]}
    article_id = row.get("id")
    if isinstance(article_id, int) and not isinstance(article_id, bool):
        article_id = str(article_id)  # database keys
    kept["id"] = number if article_id in (None, "") else article_id
    segments = row.get("segments")
    if isinstance(segments, list):
        segments = [
            {key: item[key] for key in ("start", "end") if key in item} if isinstance(item, dict) else item
            for item in segments
        ]
    if segments is not None:
        kept["segments"] = segments
    return kept

"""Reads what a user gives to score, as a stream: articles, and the rows that are none with their reasons.

Turns JSON Lines, CSV, Parquet and .txt files, folders of them and standard input into Article and BadRow
objects, one at a time. Knows nothing of models and writes nothing.
"""

from __future__ import annotations

import codecs
import glob
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from khabar.inference.compressed import COMPRESSION_OF_ENDING, capped_lines, decompressed, open_bytes, put_back
from khabar.inference.csv_rows import check_csv, csv_rows
from khabar.inference.fields import FieldNames, needed
from khabar.inference.parquet_rows import check_parquet, parquet_rows
from khabar.inference.text_rows import file_row, printable, stream_row, text_files
from khabar.models.article import Article, parse_article
from khabar.models.article_reader import HEAD_BYTES, parse_json, refuse_encoding, refuse_list
from khabar.models.errors import KhabarError, MissingExtraError

InputFormat = Literal["auto", "jsonl", "csv", "parquet", "txt"]
INPUT_FORMATS: tuple[InputFormat, ...] = ("auto", "jsonl", "csv", "parquet", "txt")
STANDARD_INPUT = "-"

_FORMAT_OF_ENDING: dict[str, InputFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "txt",
}
_ALLOWED = (
    ".jsonl, .ndjson or .json (JSON Lines), .csv, .txt, each also with .gz or .zst behind; .parquet, "
    "a folder of .txt files, a pattern such as 'news/*.jsonl', - (standard input)"
)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be scored.

    Attributes:
        file: Path as the user gave it, or the path of a folder's file; `-` for standard input.
        line: Line where the row starts, from 1 (of Parquet, the row); None when the whole file is meant.
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
        name: As the user wrote it; where that was a pattern, one path that it matched.
        format: How its bytes are read; `auto` only for standard input, which decides when it comes.
        fields: Where its rows hold what is needed.
        is_folder: Whether it is a folder, each of whose .txt files is an article.
    """

    name: str
    format: InputFormat
    fields: FieldNames = field(default_factory=FieldNames)
    is_folder: bool = False

    @property
    def is_standard_input(self) -> bool:
        """Whether this is standard input rather than a path."""
        return self.name == STANDARD_INPUT


def open_sources(
    inputs: Sequence[str | Path],
    *,
    input_format: InputFormat = "auto",
    fields: FieldNames | None = None,
    left_out: Collection[Path] = (),
) -> list[Source]:
    """Look at every input before any is scored: that it exists and is of a known format.

    Args:
        inputs: Paths of files and folders, patterns such as `news/*.jsonl.gz` (`**` stands for any folders),
            whose matches are read by name, and `-` for standard input.
        input_format: How to read files and standard input; `auto` goes by a file's ending, and takes
            standard input for JSON Lines if its first character that is no space is `{`, else for the
            plain text of one article.
        fields: Where rows hold text and id; None means `text` and `id`.
        left_out: Files that a pattern does not stand for, such as those that a run keeps beside its output.

    Raises:
        KhabarError: Naming every input that cannot be used, and what is allowed.
        MissingExtraError: If an input needs a package that is not installed.
    """
    if input_format not in INPUT_FORMATS:
        raise KhabarError(f"input format is {input_format!r}, must be one of {', '.join(INPUT_FORMATS)}")
    sources: list[Source] = []
    problems: list[str] = []
    hidden = {path.resolve() for path in left_out}
    for given in map(str, inputs):
        names = _matches(given, hidden)
        if not names:
            problems.append(f"{given}: no file matches this pattern")
        for name in names:
            try:
                sources.append(_open_source(name, input_format, fields or FieldNames()))
            except MissingExtraError:
                raise
            except OSError as error:
                problems.append(f"{name} cannot be read: {error.strerror}")
            except KhabarError as error:
                problems.append(str(error))
    if sum(source.is_standard_input for source in sources) > 1:
        problems.append("- (standard input) is given more than once; allowed: once")
    if problems:
        raise KhabarError("\n".join(problems))
    return sources


class PlacedRow(NamedTuple):
    """A row and where it stands: file and line as in a BadRow."""

    file: str
    line: int | None
    row: Article | BadRow


def read_placed_rows(
    sources: Iterable[Source],
    *,
    stdin: BinaryIO | None = None,
    opened: Callable[[BinaryIO], object] = lambda _: None,
    n_before: int = 0,
) -> Iterator[PlacedRow]:
    """Read the sources one after the other, holding one row at a time (of Parquet, some more).

    A row without an id gets its number among all rows read, from 1, as a string; rows that cannot be
    scored count, so that a number says which row it was.

    Args:
        sources: What `open_sources` gave.
        stdin: Standard input as bytes; needed where a source stands for it.
        opened: Gets each file of lines when it is opened, to see how far it is read; not to read from.
        n_before: Rows of sources that are read elsewhere and come before these; they count in rows' numbers.

    Yields:
        Where a row stands, and an Article with id and text, and with segments where a row has them; everything
        else a row holds is left out. Or a BadRow.

    Raises:
        KhabarError: Naming the input that cannot be read any further: it is damaged or cut off, say. The rows
            before stay good.
        OSError: If an input cannot be opened any more.
    """
    rows = ((source, row) for source in sources for row in _rows(source, stdin, opened))
    for number, (source, (file, line, row)) in enumerate(rows, start=n_before + 1):
        file, row = printable(file), needed(row, source.fields, number)
        article, problems = (None, [str(row)]) if isinstance(row, ValueError) else parse_article(row)
        yield PlacedRow(file, line, article or BadRow(file=file, line=line, reason="; ".join(problems)))


# File, line, and what the row holds: a JSON value, or the error that says why it holds none.
_Row = tuple[str, int | None, object]


def _matches(given: str, left_out: Collection[Path]) -> list[str]:
    """What an input stands for: itself, or the paths a pattern matches. A file may be called `[1].txt`."""
    if not glob.has_magic(given) or Path(given).exists():
        return [given]
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute patterns)
    return [name for name in found if not left_out or Path(name).resolve() not in left_out]


def _open_source(name: str, input_format: InputFormat, fields: FieldNames) -> Source:
    if name == STANDARD_INPUT:
        if input_format == "parquet":
            raise KhabarError("- (standard input) cannot be read as Parquet, which is not read in order; give a file")
        return Source(name=name, format=input_format, fields=fields)
    path = Path(name)
    if not name:
        raise KhabarError(f"the name of an input is empty; allowed: {_ALLOWED}")
    if not path.exists():
        raise KhabarError(f"{name}: no such file or folder")
    if path.is_dir():
        if next(text_files(path), None) is None:
            raise KhabarError(
                f"{name}: a folder without .txt files; for other files give a pattern in quotes, such as "
                f"'{path / '*.jsonl'}'"
            )
        return Source(name=name, format="txt", is_folder=True)
    found = _format_of(path) if input_format == "auto" else input_format
    if found is None:
        ending = "".join(path.suffixes[-2:]) or "(none)"
        raise KhabarError(f"{name}: ending {ending} is not known; allowed: {_ALLOWED}; or give --input-format")
    source = Source(name=name, format=found, fields=fields)
    # A pipe can be read once only: what is wrong in it shows when it is scored.
    if found == "parquet":
        if not path.is_file():
            raise KhabarError(f"{name} is a pipe; Parquet, which is not read in order, must be a file")
        check_parquet(name, fields)
    elif path.is_file():
        try:
            with open_bytes(path) as stream:
                _check_beginning(source, stream)
        except MissingExtraError:
            raise
        except (KhabarError, OSError):
            if found != "txt":  # which is one row, as in a folder, and a bad one
                raise
    return source


def _format_of(path: Path) -> InputFormat | None:
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in COMPRESSION_OF_ENDING:
        endings.pop()
        if endings and endings[-1] == ".parquet":
            return None  # compressed inside, and not read in order
    return _FORMAT_OF_ENDING.get(endings[-1]) if endings else None


def _check_beginning(source: Source, stream: BinaryIO) -> None:
    """Refuse a file that is as a whole of another kind: each of its rows would be an error of its own."""
    head = stream.read(HEAD_BYTES)
    refuse_encoding(source.name, head)
    if source.format == "jsonl":
        refuse_list(source.name, head)
    if source.format == "csv":
        check_csv(source.name, put_back(head, stream), source.fields)


def _rows(source: Source, stdin: BinaryIO | None, opened: Callable[[BinaryIO], object]) -> Iterator[_Row]:
    path = Path(source.name)
    if source.is_standard_input:
        if stdin is None:
            raise KhabarError("- (standard input) cannot be read here; allowed: files and folders")
        yield from _standard_input_rows(source, decompressed("standard input", stdin))
    elif source.is_folder:
        for file in text_files(path):
            yield str(file), None, file_row(file, file.relative_to(path))
    elif source.format == "txt":
        yield source.name, None, file_row(path, Path(path.name))
    elif source.format == "parquet":
        yield from ((source.name, number, row) for number, row in parquet_rows(path, source.fields))
    else:
        with open_bytes(path, opened=opened) as stream:
            yield from _stream_rows(source, stream)


def _standard_input_rows(source: Source, stream: BinaryIO) -> Iterator[_Row]:
    if source.format == "auto":
        head: list[bytes] = []
        for piece in iter(lambda: stream.readline(4096), b""):
            head.append(piece)
            if start := piece.removeprefix(codecs.BOM_UTF8).lstrip():
                break
        else:
            return  # nothing but space: no article
        found: InputFormat = "jsonl" if start.startswith(b"{") else "txt"
        if start.startswith(b"PAR1"):
            raise KhabarError("- (standard input) is Parquet, which is not read in order; give a file")
        source = replace(source, format=found)
        stream = put_back(b"".join(head), stream)
    if source.format == "txt":
        yield source.name, None, stream_row(stream)
    else:
        yield from _stream_rows(source, stream)


def _stream_rows(source: Source, stream: BinaryIO) -> Iterator[_Row]:
    if source.format == "csv":
        yield from ((source.name, line, row) for line, row in csv_rows(source.name, stream, source.fields))
    else:
        yield from _json_rows(source.name, stream)


def _json_rows(name: str, stream: BinaryIO) -> Iterator[_Row]:
    for number, line in enumerate(capped_lines(stream), start=1):
        if isinstance(line, ValueError):
            yield name, number, line
            continue
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        try:
            yield name, number, parse_json(line)
        except ValueError as error:
            yield name, number, error

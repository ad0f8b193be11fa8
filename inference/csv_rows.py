"""Reads CSV as a stream of rows: each a dict by the header's names, or the error that says what is wrong.

Knows the form of CSV and which columns a table of articles must have; what a row means is fields.py's matter.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from khabar.inference.fields import FieldNames
from khabar.models.errors import KhabarError
from khabar.models.messages import show

# The csv module holds four bytes a character. A quote that is never closed takes in all that follows, up to this.
MAX_FIELD = 64 * 2**20
_OTHER_SEPARATORS = {";": '";"', "\t": "tabs"}
# Bytes that are no UTF-8 come out of the decoder as these, so that only the rows that hold them are lost.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def check_csv(name: str, stream: BinaryIO, fields: FieldNames) -> None:
    """See that a table has the columns it needs.

    Args:
        name: The file, for messages.
        stream: The file's bytes from its start.
        fields: The columns to read.

    Raises:
        KhabarError: If a column is not there, or one that is read stands there twice.
    """
    with _lines(stream) as lines:
        _header(name, csv.reader(lines, strict=True), fields)


def csv_rows(
    name: str, stream: BinaryIO, fields: FieldNames, *, all_columns: bool = False
) -> Iterator[tuple[int, dict[str, str] | ValueError]]:
    """Read a table's rows below its header; blank lines are skipped.

    Args:
        name: The file, for messages.
        stream: The file's bytes from its start.
        fields: The columns to read.
        all_columns: Whether to read every other column as well.

    Yields:
        The line where the row starts, from 1, and the row or why it cannot be used. A row with too many
        or too few fields cannot: a comma outside quotes would cut its text in silence.

    Raises:
        KhabarError: As `check_csv`.
    """
    with _lines(stream) as lines:
        reader = csv.reader(lines, strict=True)
        header = _header(name, reader, fields, all_columns=all_columns)
        wanted = header if all_columns else (fields.text, fields.id)
        while True:
            line = lines.number + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason = _reason(error)
                if lines.number > line:
                    reason += f"; lines {line} to {lines.number} were taken for one row"
                yield line, ValueError(reason)
                continue
            if row:
                yield line, _row(header, row, wanted)


class _Lines:
    """A text's lines, none of which is held when it is too long for a row; goes on after the error."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.number = 0  # of the last line read

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_FIELD)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) < MAX_FIELD or line.endswith(("\n", "\r")):
            return line
        while line and not line.endswith(("\n", "\r")):
            line = self._text.readline(2**20)
        raise csv.Error(f"the line is longer than {MAX_FIELD:,} characters, the most that is read at once")


@contextmanager
def _lines(stream: BinaryIO) -> Iterator[_Lines]:
    csv.field_size_limit(MAX_FIELD)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield _Lines(text)
    finally:
        text.detach()  # else it would close the caller's stream


def _header(name: str, reader: Iterator[list[str]], fields: FieldNames, *, all_columns: bool = False) -> list[str]:
    try:
        header = [column.strip() for column in next(reader, [])]
    except csv.Error as error:
        raise KhabarError(f"{name}:1: {_reason(error)}") from None
    if len(header) == 1 and fields.missing(header):
        for separator, seen in _OTHER_SEPARATORS.items():
            if separator in header[0]:
                columns = f"the columns are {show(header[0])}"
                raise KhabarError(f"{name}:1: {columns}: fields seem to be separated by {seen}; allowed: commas")
    fields.check_columns(f"{name}:1", header, *(header if all_columns else ()))
    return header


def _row(header: list[str], values: list[str], wanted: Collection[str]) -> dict[str, str] | ValueError:
    if len(values) != len(header):
        return ValueError(
            f"{len(values)} fields; allowed: {len(header)}, as the header has (a text with commas, quotes or "
            "line ends stands in double quotes)"
        )
    row = {column: value for column, value in zip(header, values, strict=True) if column in wanted}
    for column, value in row.items():
        if found := _ESCAPED_BYTE.search(value):
            byte = ord(found[0]) - 0xDC00
            return ValueError(f"not UTF-8: byte 0x{byte:02x} in column {column} at character {found.start() + 1}")
    return row


def _reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "not CSV: a double quote opened in this row is never closed"
    if "field larger than field limit" in str(error):
        return f"a field has more than {MAX_FIELD:,} characters: too long, or a double quote is never closed"
    return f"not CSV: {error}"

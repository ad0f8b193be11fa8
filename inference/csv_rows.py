"""Reads CSV as a stream of rows: each a dict by the header's names, or the error that says what is wrong.

Knows the form of CSV and that a table of articles needs a column `text`; what a row means is sources.py's
matter.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from khabar.models.errors import KhabarError
from khabar.models.messages import show

if TYPE_CHECKING:
    from _csv import Reader

TEXT_COLUMN = "text"
# The largest field that the csv module can be told of on every platform; its own default is 128 KiB.
_LONGEST_FIELD = 2**31 - 1
# Bytes that are no UTF-8 come out of the decoder as these, so that only the rows that hold them are lost.
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def csv_header(name: str, stream: BinaryIO) -> list[str]:
    """Read a table's column names.

    Args:
        name: The file, for messages.
        stream: The file's bytes from its start.

    Raises:
        KhabarError: If there is no column `text`, or a column that is read stands there twice.
    """
    with _reader(stream) as reader:
        return _header(name, reader)


def csv_rows(name: str, stream: BinaryIO) -> Iterator[tuple[int, dict[str, str] | ValueError]]:
    """Read a table's rows below its header; blank lines are skipped.

    Yields:
        The line where the row starts, from 1, and the row or why it cannot be used. A row with too many
        or too few fields cannot: a comma outside quotes would cut its text in silence.

    Raises:
        KhabarError: As `csv_header`.
    """
    with _reader(stream) as reader:
        header = _header(name, reader)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, ValueError(_reason(error))
                continue
            if fields:
                yield line, _row(header, fields)


@contextmanager
def _reader(stream: BinaryIO) -> Iterator[Reader]:
    csv.field_size_limit(_LONGEST_FIELD)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield csv.reader(text, strict=True)
    finally:
        text.detach()  # else it would close the caller's stream


def _header(name: str, reader: Reader) -> list[str]:
    try:
        header = [column.strip() for column in next(reader, [])]
    except csv.Error as error:
        raise KhabarError(f"{name}:1: {_reason(error)}") from None
    n_texts = header.count(TEXT_COLUMN)
    if n_texts != 1 or header.count("id") > 1:
        seen = ", ".join(map(show, header)) or "none"
        raise KhabarError(
            f"{name}:1: the header's columns are {seen}; allowed: one `text`, at most one `id`, any others"
        )
    return header


def _row(header: list[str], fields: list[str]) -> dict[str, str] | ValueError:
    if len(fields) != len(header):
        return ValueError(
            f"{len(fields)} fields; allowed: {len(header)}, as the header has (a text with commas, quotes or "
            "line ends stands in double quotes)"
        )
    row = dict(zip(header, fields, strict=True))
    for column in (TEXT_COLUMN, "id"):
        if found := _ESCAPED_BYTE.search(row.get(column, "")):
            byte = ord(found[0]) - 0xDC00
            return ValueError(f"not UTF-8: byte 0x{byte:02x} in column {column} at character {found.start() + 1}")
    return row


def _reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "not CSV: a double quote opened in this row is never closed"
    return f"not CSV: {error}"

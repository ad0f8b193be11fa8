"""Reads Parquet as a stream of rows: each a dict of the columns that scoring needs, or what is wrong with it.

Knows the form of Parquet, and no more of articles than the names and types of their columns. Needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from khabar.inference.fields import SEGMENTS, FieldNames
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.messages import show

_ROWS_AT_ONCE = 128
_UNREADABLE = (ValueError, OverflowError)  # what pyarrow raises for a value that Python has none for
_READ_AHEAD = 2**20  # bytes of a column; without it pyarrow reads a row group's whole column at once


def check_parquet(path: str | Path, fields: FieldNames) -> None:
    """See that a Parquet file can be read and has the columns it needs.

    Raises:
        KhabarError: If it is no Parquet, lacks a column, or a column is of a type that holds no texts or ids.
        MissingExtraError: If pyarrow is not installed.
    """
    with _open(path) as file:
        _columns(path, file.schema_arrow, fields)


def parquet_rows(path: str | Path, fields: FieldNames) -> Iterator[tuple[int, dict[str, object] | ValueError]]:
    """Read a file's rows, a few at a time whatever the size of its row groups.

    Yields:
        The row's number, from 1, and the row or why it cannot be used.

    Raises:
        KhabarError: As `check_parquet`; and when the file turns out to be damaged further on.
    """
    with _open(path) as file:
        columns = _columns(path, file.schema_arrow, fields)
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
            values = [_values(batch.column(name)) for name in columns]
            for row in zip(*values, strict=True):
                number += 1
                yield number, _row(dict(zip(columns, row, strict=True)))


@contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    """Open a file for pyarrow, and name the file in whatever pyarrow finds wrong with it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("formats", "reading Parquet") from None
    try:
        with pq.ParquetFile(path, buffer_size=_READ_AHEAD, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise KhabarError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())}") from None


def _columns(path: str | Path, schema: Any, fields: FieldNames) -> list[str]:
    """The columns to read, once it is sure that they are there and of use."""
    names = list(schema.names)
    fields.check_columns(str(path), names, SEGMENTS)
    used = [name for name in (fields.text, fields.id, SEGMENTS) if name in names]
    for name in used:
        kind = schema.field(name).type
        if name != SEGMENTS and not _is_usable(kind, whole_numbers=name == fields.id):
            allowed = "strings or whole numbers" if name == fields.id else "strings"
            raise KhabarError(f"{path}: column {show(name)} is of type {kind}; allowed: {allowed}")
    return used


def _is_usable(kind: Any, *, whole_numbers: bool) -> bool:
    import pyarrow.types as t

    if t.is_dictionary(kind):
        kind = kind.value_type
    holds_text = t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind)
    holds_bytes = t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind)
    return holds_text or holds_bytes or t.is_null(kind) or (whole_numbers and t.is_integer(kind))


def _values(column: Any) -> list[object]:
    """A column's values; strings as bytes, since pyarrow would fail as a whole over one that is not UTF-8."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_dictionary(column.type):
        column = column.dictionary_decode()
    if t.is_string(column.type) or t.is_large_string(column.type) or t.is_string_view(column.type):
        column = column.cast(pa.large_binary())
    try:
        values: list[object] = column.to_pylist()
    except _UNREADABLE:  # one of them
        return list(map(_value, column))
    return values


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except _UNREADABLE as error:
        return error


def _row(row: dict[str, object]) -> dict[str, object] | ValueError:
    for name, value in row.items():
        if isinstance(value, _UNREADABLE):
            return ValueError(f"column {name} cannot be read: {value}")
        if isinstance(value, bytes):
            try:
                row[name] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                bad = value[error.start]
                return ValueError(f"not UTF-8: byte 0x{bad:02x} in column {name} at byte {error.start + 1}")
    return row

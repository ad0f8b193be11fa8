"""Input files of every kind for tests, and the rows that are read from them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from khabar.inference.sources import BadRow, Source, open_sources, read_placed_rows
from khabar.models.article import Article


def read_rows(sources: Iterable[Source], stdin: io.BufferedIOBase | None = None) -> Iterator[Article | BadRow]:
    return (placed.row for placed in read_placed_rows(sources, stdin=stdin))


def rows_of(*inputs: str | Path, stdin: bytes | io.BufferedIOBase | None = None, **options) -> list[Article | BadRow]:
    stream = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
    return list(read_rows(open_sources(inputs, **options), stdin=stream))


def json_lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_table(*rows: dict[str, str]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet(path: Path, columns: dict[str, object], **options) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
    return path


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path

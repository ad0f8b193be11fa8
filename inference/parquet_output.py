"""Writes results as Parquet: a row an article, with the columns nested as in the JSON form.

The schema is the same whatever the results hold, so that many files make one table. Needs pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# A row group's bounds: what is held in memory, and what a reader takes at once.
_ROWS_IN_GROUP = 4096
_CHARACTERS_IN_GROUP = 16 * 2**20


def parquet_schema() -> Any:
    """The columns and their types, as a `pyarrow.Schema`."""
    import pyarrow as pa

    topic = pa.struct([("label", pa.string()), ("score", pa.float64()), ("segments", pa.list_(pa.int64()))])
    segment = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("topics", pa.list_(pa.string()))])
    entity = pa.struct(
        [
            ("label", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("text", pa.string()),
            ("score", pa.float64()),
        ]
    )
    return pa.schema(
        [
            ("id", pa.string()),
            ("story", pa.string()),
            ("topics", pa.list_(topic)),
            ("topic_scores", pa.map_(pa.string(), pa.float64())),
            ("uncertain", pa.list_(pa.string())),
            ("segments", pa.list_(segment)),
            ("entities", pa.list_(entity)),
            ("characters", pa.int64()),
            ("characters_read", pa.int64()),
            ("model", pa.string()),
        ]
    )


def write_parquet(articles: Iterable[dict[str, Any]], path: Path) -> None:
    """Write results; keys that a result lacks are null.

    Args:
        articles: Objects as `TaggedArticle.to_json` gives them.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(articles):
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))


def _groups(articles: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    n_characters = 0
    for article in articles:
        group.append(article | {"topic_scores": list(article["topic_scores"].items())})
        n_characters += article["characters"]
        if len(group) >= _ROWS_IN_GROUP or n_characters >= _CHARACTERS_IN_GROUP:
            yield group
            group, n_characters = [], 0
    if group:
        yield group

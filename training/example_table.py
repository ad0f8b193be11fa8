"""Turns examples into rows of an Arrow table, and such rows back into equal examples.

Compact: whole numbers of 1 or 4 bytes, allowed tags and the pieces that begin words as bits. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from khabar.models import tags
from khabar.models.encoding import EncodedArticle
from khabar.training.batching import Example
from khabar.training.targets import LabelSet, Targets

# Of (…, n_topics) targets: what is not annotated. What is, is stored in percent.
_UNKNOWN = -1

SCHEMA = pa.schema(
    {
        "n_characters": pa.int32(),
        "weight": pa.float64(),
        "input_ids": pa.list_(pa.int32()),
        "word_starts": pa.list_(pa.uint8()),  # a bit for each piece: whether a word begins with it
        "words": pa.list_(pa.int32()),  # start, end, start, end, …
        "segments": pa.list_(pa.int32()),  # likewise
        "segment_sizes": pa.list_(pa.int32()),  # pieces of each segment
        "segment_topics": pa.list_(pa.int8()),
        "article_topics": pa.list_(pa.int8()),
        "allowed_tags": pa.list_(pa.uint8()),  # the bits of each word, filled up to whole bytes
        "proclitics": pa.list_(pa.int8()),
    }
)


def to_table(examples: Sequence[Example]) -> pa.Table:
    """Lay examples out as a table, one row each."""
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in SCHEMA.names[2:]}
    for example in examples:
        encoded, targets = example.encoded, example.targets
        word_starts = np.zeros(encoded.n_pieces, dtype=np.bool_)
        word_starts[encoded.word_pieces] = True
        row: dict[str, NDArray[Any]] = {
            "input_ids": encoded.input_ids,
            "word_starts": np.packbits(word_starts),
            "words": encoded.words.ravel(),
            "segments": np.array(encoded.segments, dtype=np.int32).ravel(),
            "segment_sizes": np.bincount(encoded.piece_segments, minlength=len(encoded.segments)),
            "segment_topics": _percent(targets.segment_topics),
            "article_topics": _percent(targets.article_topics),
            "allowed_tags": np.packbits(targets.allowed_tags, axis=1).ravel(),
            "proclitics": targets.proclitics,
        }
        for name, values in row.items():
            columns[name].append(values)
    return pa.table(
        {
            "n_characters": pa.array([example.encoded.n_characters for example in examples], pa.int32()),
            "weight": pa.array([example.targets.weight for example in examples], pa.float64()),
            **{name: _lists(rows, SCHEMA.field(name).type) for name, rows in columns.items()},
        },
        schema=SCHEMA,
    )


def from_table(table: pa.Table, labels: LabelSet) -> list[Example]:
    """Read examples off a table that was laid out under the same labels."""
    table = table.combine_chunks()
    lists = {name: _Rows(table.column(name)) for name in SCHEMA.names[2:]}
    n_topics, n_tags = len(labels.topics), tags.n_tags(len(labels.entity_labels))
    examples: list[Example] = []
    for k, (n_characters, weight) in enumerate(
        zip(table.column("n_characters").to_pylist(), table.column("weight").to_pylist(), strict=True)
    ):
        row = {name: rows[k] for name, rows in lists.items()}
        input_ids, sizes = row["input_ids"], row["segment_sizes"]
        piece_segments = np.repeat(np.arange(len(sizes)), sizes)
        word_pieces = np.flatnonzero(np.unpackbits(row["word_starts"], count=len(input_ids))).astype(np.int32)
        n_bytes = -(-n_tags // 8)
        allowed = np.unpackbits(row["allowed_tags"].reshape(len(word_pieces), n_bytes), axis=1, count=n_tags)
        encoded = EncodedArticle(
            n_characters=n_characters,
            input_ids=input_ids,
            piece_segments=piece_segments,
            segments=_spans(row["segments"]),
            words=row["words"].reshape(-1, 2),
            word_pieces=word_pieces,
            word_segments=piece_segments[word_pieces],
        )
        targets = Targets(
            segment_topics=_with_unknown(row["segment_topics"]).reshape(len(sizes), n_topics),
            article_topics=_with_unknown(row["article_topics"]),
            allowed_tags=allowed.astype(np.bool_),
            proclitics=row["proclitics"].astype(np.int64),
            weight=weight,
        )
        examples.append(Example(encoded=encoded, targets=targets))
    return examples


class _Rows:
    """One column of lists, as arrays that share its memory."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = pa.concat_arrays(lists.chunks)
        self._offsets = lists.offsets.to_numpy()
        self._values = lists.values.to_numpy()

    def __getitem__(self, index: int) -> NDArray[Any]:
        values: NDArray[Any] = self._values[self._offsets[index] : self._offsets[index + 1]]
        return values


def _lists(rows: Sequence[NDArray[Any]], kind: pa.DataType) -> pa.Array:
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.concatenate(rows).astype(kind.value_type.to_pandas_dtype(), copy=False)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind)


def _percent(topics: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.where(np.isnan(topics), _UNKNOWN, np.rint(topics * 100)).astype(np.int8).ravel()


def _with_unknown(topics: NDArray[Any]) -> NDArray[np.float32]:
    return np.where(topics == _UNKNOWN, np.float32(np.nan), topics.astype(np.float32) / 100)


def _spans(flat: NDArray[Any]) -> tuple[tuple[int, int], ...]:
    numbers = flat.tolist()
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))

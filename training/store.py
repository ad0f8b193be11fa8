"""Keeps training examples in a file that is mapped into memory, so that a corpus of any size trains in little.

Turns a stream of examples into a folder, and the folder into a sequence of examples. Knows nothing of corpora.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray

from khabar.models.errors import KhabarError
from khabar.training.batching import Example
from khabar.training.example_table import SCHEMA, from_table, to_table
from khabar.training.targets import LabelSet, LostEntities

_EXAMPLES, _FACTS = "examples.arrow", "facts.json"


class ExampleStore:
    """Examples on disk; what is read of them is the operating system's to keep in memory or to drop.

    Args:
        folder: As `write_store` leaves it.
        labels: Those that the targets were made for.

    Attributes:
        lengths: (n_examples,) pieces of each example.
        lost: The account of entities that words cannot express.
    """

    def __init__(self, folder: Path, labels: LabelSet) -> None:
        self._labels = labels
        self._dataset = Dataset.from_file(str(folder / _EXAMPLES)).with_format("arrow")
        lengths = pc.list_value_length(self._dataset.data.column("input_ids"))
        self.lengths: NDArray[np.int32] = lengths.to_numpy()
        self.lost = LostEntities(**json.loads((folder / _FACTS).read_text(encoding="utf-8")))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, indices: Sequence[int] | NDArray[np.integer]) -> list[Example]:
        """Read examples, in the order of the indices.

        Raises:
            IndexError: If an index is not in [0, len).
        """
        places = np.asarray(indices, dtype=np.int64)
        if not len(places):
            return []
        if places.min() < 0 or places.max() >= len(self):
            raise IndexError(f"indices must be in [0, {len(self)}), got {places.min()} to {places.max()}")
        return from_table(self._dataset[places.tolist()], self._labels)


def write_store(folder: Path, batches: Iterable[Sequence[Example]], lost: LostEntities) -> None:
    """Write examples into a folder, which appears when all of them are there.

    Args:
        folder: A folder that is not there yet.
        batches: A few at a time; each is a unit of reading, so none should be large.
        lost: Complete once the batches have been read.

    Raises:
        KhabarError: If the folder cannot be written.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        with ArrowWriter(path=str(partial / _EXAMPLES), schema=SCHEMA) as writer:
            for batch in batches:
                if batch:
                    writer.write_table(to_table(batch))
            writer.finalize()
        (partial / _FACTS).write_text(json.dumps(asdict(lost), ensure_ascii=False), encoding="utf-8")
        partial.replace(folder)
    except OSError as error:
        raise KhabarError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_stores(folder: Path) -> None:
    """Remove every store in a folder, and what an interrupted `write_store` left; then the folder, if it is empty."""
    for file in (*folder.glob(f"*/{_EXAMPLES}"), *folder.glob(f".partial-*/{_EXAMPLES}")):
        shutil.rmtree(file.parent, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()

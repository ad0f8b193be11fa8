"""Plain text files -> one stream of piece ids -> batches of equal rows, the same for the same step.

Knows text files and a tokenizer; knows nothing of models or objectives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from khabar.inference.compressed import open_bytes, put_back
from khabar.models.article_reader import HEAD_BYTES, refuse_encoding
from khabar.models.errors import KhabarError
from khabar.models.messages import not_utf8

_ENCODED_TOGETHER = 512  # articles a call of the fast tokenizer


def text_file(path: str | Path) -> Path:
    """Give a text's path.

    Raises:
        KhabarError: If there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise KhabarError(f"{path}: no such text file")
    return path


def read_lines(paths: Sequence[str | Path]) -> Iterator[str]:
    """Read the lines of text files, compressed or not; an empty line follows each file.

    Raises:
        KhabarError: If a file is missing or not UTF-8, or its compressed data is damaged or cut off.
        MissingExtraError: If it is Zstandard and the package for that is not installed.
    """
    for path in map(text_file, paths):
        with open_bytes(path) as stream:
            head = stream.read(HEAD_BYTES)
            refuse_encoding(path, head)
            for number, line in enumerate(put_back(head, stream), start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise KhabarError(f"{path}:{number}: {not_utf8(error)} of the line") from None
        yield ""


def read_articles(paths: Sequence[str | Path]) -> Iterator[str]:
    """Read articles from text files: one paragraph a line, an empty line between articles."""
    paragraphs: list[str] = []
    for line in read_lines(paths):
        if line.strip():
            paragraphs.append(line)
        elif paragraphs:
            yield "\n".join(paragraphs)
            paragraphs = []


def encode_corpus(paths: Sequence[str | Path], tokenizer: PreTrainedTokenizerFast) -> NDArray[np.integer]:
    """Encode articles, each between the tokenizer's two special pieces, into one stream.

    Args:
        paths: Text files.
        tokenizer: A fast tokenizer.

    Returns:
        (n_pieces,) piece ids, in as few bytes each as the vocabulary allows.

    Raises:
        KhabarError: If a file cannot be read, or the files hold no text.
    """
    backend = tokenizer.backend_tokenizer
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    arrays: list[NDArray[np.integer]] = []
    together: list[str] = []
    for article in read_articles(paths):
        together.append(article)
        if len(together) == _ENCODED_TOGETHER:
            arrays.extend(np.asarray(encoding.ids, dtype) for encoding in backend.encode_batch_fast(together))
            together = []
    arrays.extend(np.asarray(encoding.ids, dtype) for encoding in backend.encode_batch_fast(together))
    if not arrays:
        raise KhabarError(f"{', '.join(map(str, paths))}: no text to pretrain on")
    return np.concatenate(arrays)


@dataclass(frozen=True, kw_only=True)
class PieceBatches:
    """Cuts a stream into rows and gives each step its batch by arithmetic: a resumed run reads the same.

    Every pass starts the rows at another place of the stream, and takes them in another order.

    Attributes:
        stream: (n_pieces,) piece ids.
        rows: Rows a batch, over all processes together.
        length: Pieces a row.
        seed: Decides places and orders.
    """

    stream: NDArray[np.integer]
    rows: int
    length: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that there is at least one batch.

        Raises:
            KhabarError: If the stream is too short for one batch.
        """
        if self.steps_a_pass < 1:
            batch = f"a batch of {self.rows} rows of {self.length} pieces"
            raise KhabarError(f"{len(self.stream)} pieces of text are too few for {batch}")

    @property
    def steps_a_pass(self) -> int:
        """Batches in one pass over the stream."""
        return (len(self.stream) // self.length - 1) // self.rows

    def batch(self, step: int, process: int = 0, n_processes: int = 1) -> Tensor:
        """Give one process's share of a step's batch: (rows of this process, length) int64."""
        number, position = divmod(step, self.steps_a_pass)
        start, order = _layout(self.seed, number, self.length, len(self.stream) // self.length - 1)
        chosen = order[position * self.rows : (position + 1) * self.rows][process::n_processes]
        rows = [self.stream[start + row * self.length :][: self.length] for row in chosen]
        return torch.from_numpy(np.stack(rows).astype(np.int64))


@lru_cache(maxsize=2)
def _layout(seed: int, number: int, length: int, n_rows: int) -> tuple[int, NDArray[np.int64]]:
    """Where a pass's rows start, and their order; kept, since every step of the pass asks for it."""
    generator = np.random.default_rng((seed, number))
    return int(generator.integers(length)), generator.permutation(n_rows)


def held_out(stream: NDArray[np.integer], share: float) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Split a stream into what is trained on and its last part, which only measures."""
    kept = len(stream) - int(len(stream) * share)
    return stream[:kept], stream[kept:]

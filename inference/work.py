"""Plans batches over encoded articles and lays each out as tensors: the work of a forward pass.

Works on encoded articles; knows nothing of texts, models or devices. Works travel between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from khabar.inference.planning import plan_batches
from khabar.models.batch import Batch, WindowSettings, collate
from khabar.models.encoding import EncodedArticle, from_arrays, to_arrays


class Sealed:
    """Encoded articles that are only carried here: they arrive from another process as arrays, and are sent on as such.

    To unpack an article's many small objects takes a process longer than all else that it does for it.
    """

    def __init__(self, articles: Sequence[EncodedArticle]) -> None:
        self._articles: Sequence[EncodedArticle] | None = articles
        self._arrays: list[NDArray[np.int32]] = []

    def open(self) -> Sequence[EncodedArticle]:
        """Give the articles; those that came from another process are taken out of the arrays each time."""
        return from_arrays(self._arrays) if self._articles is None else self._articles

    def __getstate__(self) -> list[NDArray[np.int32]]:
        """Give what is pickled."""
        return self._arrays if self._articles is None else to_arrays(self._articles)

    def __setstate__(self, arrays: list[NDArray[np.int32]]) -> None:
        """Keep it as it came."""
        self._articles, self._arrays = None, arrays


@dataclass(frozen=True, kw_only=True)
class Work:
    """Some of a list's articles, ready for the model.

    Attributes:
        indices: Their places in the list.
        encoded: The articles.
        n_pieces: Their length together, special pieces excluded.
        batch: The same as tensors; in work that came from another process, integers of 32 bits, which `widen` widens.
    """

    indices: Sequence[int]
    encoded: Sealed
    n_pieces: int
    batch: Batch

    def __reduce__(self) -> tuple[Callable[..., Work], tuple[Any, ...]]:
        """Travel with arrays, in 32 bits: torch sends tensors between processes through shared memory, or slowly."""
        arrays = {name: tensor.numpy() for name, tensor in self.batch.tensors().items()}
        narrow = {name: array.astype(np.int32) if array.dtype == np.int64 else array for name, array in arrays.items()}
        return _arrived, (self.indices, self.encoded, self.n_pieces, narrow)

    def halves(self, windows: WindowSettings) -> list[Work]:
        """Cut work on two articles or more in two."""
        encoded, middle = self.encoded.open(), len(self.indices) // 2
        return [_work(self.indices[half], encoded[half], windows) for half in (slice(middle), slice(middle, None))]


@dataclass(frozen=True, kw_only=True)
class Planning:
    """How articles are put together for forward passes.

    Attributes:
        windows: How they are laid into windows.
        batch_pieces: Most pieces of work, padding included; a longer article goes alone.
        at_once: Works that will be run at the same time; a short list too is cut into as many.
    """

    windows: WindowSettings
    batch_pieces: int
    at_once: int = 1

    def works(self, encoded: Sequence[EncodedArticle]) -> list[Work]:
        """Cut a list of articles into work of like length; together each article once."""
        batches = plan_batches(
            [one.n_pieces for one in encoded],
            window=self.windows.window,
            stride=self.windows.stride,
            batch_pieces=self.batch_pieces,
            at_once=self.at_once,
        )
        return [_work(indices, [encoded[index] for index in indices], self.windows) for indices in batches]

    def smaller(self, batch_pieces: int) -> Planning:
        """Give the same with fewer pieces in a pass."""
        return replace(self, batch_pieces=max(1, min(self.batch_pieces, batch_pieces)))


def widen(tensor: Tensor) -> Tensor:
    """Put integers in the 64 bits in which a model takes them."""
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def _arrived(indices: Sequence[int], encoded: Sealed, n_pieces: int, arrays: dict[str, NDArray[Any]]) -> Work:
    batch = Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    return Work(indices=indices, encoded=encoded, n_pieces=n_pieces, batch=batch)


def _work(indices: Sequence[int], encoded: Sequence[EncodedArticle], windows: WindowSettings) -> Work:
    return Work(
        indices=indices,
        encoded=Sealed(encoded),
        n_pieces=sum(one.n_pieces for one in encoded),
        batch=collate(encoded, windows),
    )

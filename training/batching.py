"""Plans training batches by piece count, and turns examples into tensors with targets.

The plan is a pure function of the lengths, the seed and the epoch: a resumed run sees the same batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from khabar.models.batch import WindowSettings, collate, word_places
from khabar.models.encoding import EncodedArticle
from khabar.models.model import NOT_ANNOTATED
from khabar.training.targets import Targets

# How far, as a share of its length, an article may move in the order by length: keeps padding low and batches varied.
LENGTH_JITTER = 0.1


@dataclass(frozen=True, kw_only=True)
class Example:
    """One article ready for training."""

    encoded: EncodedArticle
    targets: Targets


class BatchPlan:
    """Cuts articles into batches of about the same number of pieces; each epoch cuts them anew.

    An epoch's plan takes about 50 bytes an article while it is made and 25 afterwards.

    Args:
        lengths: Pieces of each article.
        batch_pieces: Pieces wanted in a batch; an article longer than that is a batch of its own.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[np.integer], *, batch_pieces: int, seed: int) -> None:
        # Two special pieces a window; a text without pieces still costs a window.
        self.lengths = np.asarray(lengths, dtype=np.float64) + 2
        self.seed = seed
        # The same count in every epoch, so that the schedule's length is known.
        self.n_batches = max(1, min(len(self.lengths), int(np.ceil(self.lengths.sum() / batch_pieces))))

    def n_steps(self, n_processes: int) -> int:
        """Steps of an epoch whose batches so many processes share, a batch each."""
        return -(-self.n_batches // n_processes)

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Give the epoch's batches as article indices, each article once, in an order of the seed."""
        random = np.random.default_rng((self.seed, epoch))
        keys = random.uniform(1 - LENGTH_JITTER, 1 + LENGTH_JITTER, len(self.lengths))
        keys *= self.lengths
        order = np.argsort(keys, kind="stable")
        del keys
        sorted_lengths = self.lengths[order]
        middle = np.cumsum(sorted_lengths)
        total = middle[-1]
        middle -= sorted_lengths / 2
        batch = np.minimum((middle / total * self.n_batches).astype(np.int32), self.n_batches - 1)
        groups = np.split(order, np.flatnonzero(np.diff(batch)) + 1)
        # A very long article can leave a share without articles; halve the largest groups until the count is right.
        largest = [(-len(group), place) for place, group in enumerate(groups)]
        heapq.heapify(largest)
        while len(groups) < self.n_batches:
            _, place = largest[0]
            group = groups[place]
            half = len(group) // 2
            groups[place] = group[half:]
            groups.append(group[:half])
            heapq.heapreplace(largest, (-len(group[half:]), place))
            heapq.heappush(largest, (-half, len(groups) - 1))
        return [groups[index] for index in random.permutation(self.n_batches)]


def collate_examples(examples: Sequence[Example], settings: WindowSettings) -> dict[str, Tensor]:
    """Turn examples into the arguments of the model's forward, targets included."""
    batch = collate([example.encoded for example in examples], settings)
    n_segments, n_words = batch.word_mask.shape
    n_tags = examples[0].targets.allowed_tags.shape[1]
    allowed = np.ones((n_segments, n_words, n_tags), dtype=bool)
    proclitics = np.full((n_segments, n_words), NOT_ANNOTATED, dtype=np.int64)
    first = 0
    for example in examples:
        rows, columns = word_places(example.encoded)
        allowed[rows + first, columns] = example.targets.allowed_tags
        proclitics[rows + first, columns] = example.targets.proclitics
        first += len(example.encoded.segments)
    weights = [np.full(len(e.encoded.segments), e.targets.weight, dtype=np.float32) for e in examples]
    return batch.tensors() | {
        "segment_topics": torch.from_numpy(np.concatenate([e.targets.segment_topics for e in examples])),
        "article_topics": torch.from_numpy(np.stack([e.targets.article_topics for e in examples])),
        "allowed_tags": torch.from_numpy(allowed),
        "proclitics": torch.from_numpy(proclitics),
        "segment_weights": torch.from_numpy(np.concatenate(weights)),
    }

"""A stream of piece ids -> one static vector a piece, to start an encoder's embedding from.

Knows piece ids; knows nothing of text or encoders.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_LINE = 2000  # pieces a line of gensim's input; it cuts lines at 10,000


def static_vectors(
    stream: NDArray[np.integer],
    vocab_size: int,
    size: int,
    *,
    epochs: int = 3,
    window: int = 5,
    seed: int = 0,
    workers: int = 1,
) -> NDArray[np.float32]:
    """Train skip-gram vectors with negative sampling on a stream of pieces.

    Source: Mikolov et al. 2013, "Distributed Representations of Words and Phrases and their
    Compositionality", sections 2.2 (negative sampling) and 2.3 (subsampling of frequent pieces).

    Args:
        stream: (n_pieces,) piece ids.
        vocab_size: Number of pieces in the vocabulary.
        size: Width of the vectors.
        epochs: Passes over the stream.
        window: Furthest neighbour, in pieces.
        seed: Seed of initialisation and sampling; the same numbers come out with one worker only.
        workers: Threads.

    Returns:
        (vocab_size, size) vectors of standard deviation 1 over all seen pieces; zeros for pieces never seen.
    """
    from gensim.models import Word2Vec

    with tempfile.TemporaryDirectory(prefix="khabar-vectors-") as folder:
        path = Path(folder) / "pieces.txt"
        with path.open("w", encoding="ascii") as file:
            for start in range(0, len(stream), _LINE):
                file.write(" ".join(map(str, stream[start : start + _LINE].tolist())) + "\n")
        model = Word2Vec(
            corpus_file=str(path),
            vector_size=size,
            window=window,
            sg=1,
            negative=5,
            sample=1e-4,
            min_count=1,
            epochs=epochs,
            seed=seed,
            workers=workers,
        )
    vectors = np.zeros((vocab_size, size), np.float32)
    ids = np.array([int(piece) for piece in model.wv.index_to_key])
    vectors[ids] = model.wv.vectors
    vectors[ids] -= vectors[ids].mean(0)
    vectors[ids] /= vectors[ids].std()
    return vectors

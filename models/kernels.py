"""Bounds how many compiled kernels a CPU's library keeps. Sets the environment; needs no torch."""

import os

# oneDNN, and torch's bridge to it in each thread, keep a compiled kernel for every shape of a product, up to 1,024 of
# most of a megabyte each. Batches come in hundreds of shapes; one pass needs some ten kernels, fifty while training.
_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "16"}


def bound_kernels() -> None:
    """Let a CPU keep few kernels, unless the environment says how many; after the first product it has no effect."""
    for name, number in _KEPT.items():
        os.environ.setdefault(name, number)

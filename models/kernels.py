"""Bounds how many compiled kernels a CPU's library keeps. Sets the environment; needs no torch."""

import os

# oneDNN, and torch's bridge to it in each thread, keep a compiled kernel for every shape of a product, up to 1,024 of
# most of a megabyte each. Batches come in hundreds of shapes; a pass needs some eight kernels at a time, in its thread,
# and at most eight passes run at once.
_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "8"}


def bound_kernels() -> None:
    """Let a CPU keep few kernels, unless the environment says how many; after the first product it has no effect."""
    for name, number in _KEPT.items():
        os.environ.setdefault(name, number)

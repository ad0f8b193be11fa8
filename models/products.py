"""Lets oneDNN multiply float32 matrices where the library that torch takes for that uses half of the processor.

Knows torch's setting for it, which all threads share; knows nothing of models.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

_DEFAULT, _BY_ONEDNN = "highest", "medium"  # torch's names for the setting's values
_FINE = 2.0**-12  # a digit that bfloat16 and TensorFloat-32 round away
_SIZES = (32, 64, 300, 768)  # tried before oneDNN is believed to round nothing


class _Setting:
    """torch's precision of float32 products, one for the process, which several may want changed at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self._found: list[tuple[Any, str]] = []

    def change(self) -> bool:
        """Hand float32 products to oneDNN, unless somebody chose otherwise or it rounds; say whether it is so."""
        if _chosen() != _DEFAULT:
            return False
        self._found = [(part, part.fp32_precision) for part in _parts()]
        torch.set_float32_matmul_precision(_BY_ONEDNN)
        if _rounds_nothing():
            return True
        self.put_back()
        return False

    def put_back(self) -> None:
        """Set what was found, unless somebody has chosen otherwise meanwhile."""
        if _chosen() != _BY_ONEDNN:
            return
        torch.set_float32_matmul_precision(_DEFAULT)
        for part, precision in self._found:
            part.fp32_precision = precision

    def start_anew(self) -> None:
        """Begin in a forked child: what other threads of its parent asked for is not asked for here."""
        self.lock = threading.Lock()
        if self.users:
            self.users = 0
            self.put_back()


_setting = _Setting()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_setting.start_anew)


def _chosen() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # chosen part by part, which torch cannot say in one word
        return None


def _parts() -> list[Any]:
    """Give the parts of torch that the setting reaches, where they have settings of their own: since torch 2.9."""
    parts = [getattr(backend, "matmul", None) for backend in (torch.backends.mkldnn, torch.backends.cuda)]
    return [part for part in parts if hasattr(part, "fp32_precision")]


@cache
def _rounds_nothing() -> bool:
    """Say whether products are those of float32, as the setting is now."""
    for size in _SIZES:
        numbers = torch.full((2, size, size), 1 + _FINE)
        products = torch.stack([*torch.bmm(numbers, numbers), numbers[0] @ numbers[0].T])
        if not torch.allclose(products, torch.tensor(size * (1 + _FINE) ** 2), atol=0, rtol=_FINE):
            return False
    return True


def torch_multiplies_slowly() -> bool:
    """Say whether what torch multiplies with leaves much of this machine's processor unused, and oneDNN does not.

    That is so where there is arithmetic in bfloat16, but no AMX, which torch's own kernels use: AMD since Zen 4.
    """
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(has.get("avx512_bf16")) and not has.get("amx_tile")


@contextmanager
def fast_products() -> Iterator[bool]:
    """Let torch multiply float32 matrices on the CPU by oneDNN meanwhile, where that is faster and as exact.

    torch does so where products may be rounded to bfloat16, which oneDNN does on processors with AMX alone; that it
    rounds nothing here is tried before. It holds for all threads of the process, until the last of those who asked
    for it has left. Who has chosen another precision keeps it, and so does a process that computes on a GPU too, where
    the same setting would round.

    Yields:
        Whether it is so.
    """
    with _setting.lock:
        serves = _setting.users > 0 or (_is_wanted() and _setting.change())
        _setting.users += serves
    try:
        yield serves
    finally:
        if serves:
            with _setting.lock:
                _setting.users -= 1
                if not _setting.users:
                    _setting.put_back()


def _is_wanted() -> bool:
    mkldnn: Any = torch.backends.mkldnn
    return torch_multiplies_slowly() and mkldnn.is_available() and mkldnn.enabled and not torch.cuda.is_initialized()

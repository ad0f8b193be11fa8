"""Lets oneDNN multiply float32 matrices where the library that torch takes for that uses half of the processor.

Knows torch's setting for it, which is one for the whole process; knows nothing of models.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

_DEFAULT, _MAY_BE_ROUNDED = "highest", "medium"  # torch's words for the setting's values
_FINE = 2.0**-12  # a digit that bfloat16 and TensorFloat-32 round away
_SIZES = (32, 64, 300, 768)  # tried before oneDNN is believed to round nothing


def torch_multiplies_slowly() -> bool:
    """Say whether what torch multiplies with leaves much of this machine's processor unused, and oneDNN does not.

    That is so where there is arithmetic in bfloat16, but no AMX, which torch's own kernels use: AMD since Zen 4.
    """
    return _has("avx512_bf16") and not _has("amx_tile")


def _has(instructions: str) -> bool:
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(has.get(instructions))


def prepacking_pays(*, bf16: bool) -> bool:
    """Say whether products whose weights were laid out for oneDNN beforehand are faster here than torch's own.

    In float32 they are not where there is AMX, on Intel's processors: torch's own are as fast, and take no second copy
    of the weights.
    """
    return onednn_serves(bf16=bf16) and (bf16 or not _has("amx_tile"))


def onednn_serves(*, bf16: bool = False) -> bool:
    """Say whether oneDNN can multiply on this machine's processor: in float32, or in bfloat16."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or torch.backends.mkldnn.enabled is False:  # type: ignore[comparison-overlap]
        return False
    return not bf16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiply_by_onednn() -> None:
    """Let all of this process's float32 products on the CPU be oneDNN's, where that is faster and as exact.

    torch leaves them to oneDNN where they may be rounded to bfloat16, which oneDNN does on processors with AMX alone;
    that it rounds nothing here is tried. Nothing changes where another precision has been chosen, nor on a machine with
    a GPU, where the same setting would round. For processes of khabar's own: what others set is theirs.
    """
    if not torch_multiplies_slowly() or torch.cuda.is_available() or _chosen() != _DEFAULT:
        return
    torch.set_float32_matmul_precision(_MAY_BE_ROUNDED)
    if not _rounds_nothing():
        torch.set_float32_matmul_precision(_DEFAULT)


def onednn_multiplies() -> bool:
    """Say whether float32 products are oneDNN's, and exact, as this process is set now."""
    part = getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", None)  # since torch 2.9
    may_be_rounded = _chosen() == _MAY_BE_ROUNDED if part is None else part == "bf16"
    return may_be_rounded and bool(torch.backends.mkldnn.enabled) and _rounds_nothing()


def _chosen() -> str | None:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # chosen part by part, which torch cannot say in one word
        return None


@cache
def _rounds_nothing() -> bool:
    """Say whether products are those of float32 where they may be rounded, as is set when this is first asked."""
    for size in _SIZES:
        numbers = torch.full((2, size, size), 1 + _FINE)
        products = torch.stack([*torch.bmm(numbers, numbers), numbers[0] @ numbers[0].T])
        if not torch.allclose(products, torch.tensor(size * (1 + _FINE) ** 2), atol=0, rtol=_FINE):
            return False
    return True

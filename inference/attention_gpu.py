"""Attention on a GPU: kernels that torch has, but would not choose.

Knows torch's kernels and the masks they take; knows nothing of models.
"""

from __future__ import annotations

import torch
from torch import Tensor

from khabar.inference.masks import ALIGNED, HALVES, LENGTHS

_WIDEST = 256  # of a head, for flash attention


def on_gpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    is_causal: bool,
    reach: int | None,
) -> Tensor | None:
    """Attend by a kernel that torch has, but would not choose; the mask is what `hide_on_gpu` made."""
    del reach  # the mask says it
    width = query.shape[-1]
    if query.device.type != "cuda" or mask is None or width % ALIGNED or torch.is_grad_enabled():
        return None
    if mask.dtype == LENGTHS:
        suits = not is_causal and width <= _WIDEST and query.dtype in HALVES
        return _by_flash_kernel(query, key, value, mask.flatten(), scaling) if suits else None
    # A mask hides what comes later too.
    suits = mask.dtype == query.dtype and mask.stride(-2) % ALIGNED == 0
    return _by_efficient_kernel(query, key, value, mask, scaling) if suits else None


def _by_flash_kernel(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scaling: float | None) -> Tensor:
    rows, heads, pieces, width = query.shape
    # The kernel takes rows end to end, and looks no further in each than it is told.
    laid = [states.transpose(1, 2).reshape(rows * pieces, heads, width) for states in (query, key, value)]
    starts = torch.arange(0, (rows + 1) * pieces, pieces, dtype=LENGTHS, device=query.device)
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        *laid, starts, starts, pieces, pieces, 0.0, False, False, scale=scaling, seqused_k=lengths
    )[0]
    return attended.view(rows, pieces, heads, width)


def _by_efficient_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    rows, heads, pieces, _ = query.shape
    added = mask.expand(rows, heads, pieces, pieces)
    # torch's own choice goes by settings of the whole process, in which cuDNN's kernel comes first.
    attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, added, compute_log_sumexp=False, scale=scaling
    )[0]
    return attended.transpose(1, 2).contiguous()

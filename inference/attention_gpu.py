"""Attention on a GPU, and its masks: kernels that torch has, but would not choose.

Knows torch's kernels, and how transformers asks for masks; knows nothing of models.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from khabar.inference.masks import added_to_scores, precision_of_pass

LENGTHS = torch.int32  # of a mask that says how many pieces of each row are seen

_HALVES = (torch.bfloat16, torch.float16)  # what flash attention computes in
_WIDEST = 256  # of a head, for it
_ALIGNED = 8  # elements: what the other kernel reads at a time of what is added to scores


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
    """Attend by a kernel that torch has, but would not choose.

    Takes and gives what `attention_cpu.on_cpu` does; the mask is what `hide_on_gpu` made, and says how far pieces look.
    """
    del reach
    width = query.shape[-1]
    if query.device.type != "cuda" or mask is None or width % _ALIGNED or torch.is_grad_enabled():
        return None
    if mask.dtype == LENGTHS:
        suits = not is_causal and width <= _WIDEST and query.dtype in _HALVES
        return _by_flash_kernel(query, key, value, mask.flatten(), scaling) if suits else None
    # A mask hides what comes later too.
    suits = mask.dtype == query.dtype and mask.stride(-2) % _ALIGNED == 0
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


def hide_on_gpu(**given: Any) -> Tensor | None:
    """Make a pass's mask, as transformers asks for it; in inference mode as what a GPU's kernel takes.

    Args:
        given: What transformers' `sdpa_mask` takes.

    Returns:
        For flash attention, (rows, 1, 1, 1) int32: how many pieces are seen of each row. Else (rows, 1, pieces, pieces)
        in the precision of the pass: zero where a piece looks, else very low. Outside inference mode, or on another
        device, what `sdpa_mask` gives.
    """
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    device = torch.device(given["device"])
    if not torch.is_inference_mode_enabled() or device.type != "cuda":
        return sdpa_mask(**given)
    dtype = precision_of_pass("cuda", given["dtype"])
    n_rows, n_pieces, padding = given["batch_size"], given["kv_length"], given.get("attention_mask")
    if (
        given["mask_function"] is bidirectional_mask_function
        and given["q_length"] == n_pieces
        and (padding is None or padding.shape == (n_rows, n_pieces))
        and dtype in _HALVES
        and _has_flash()
    ):
        if padding is None:
            padding = torch.ones(n_rows, n_pieces, dtype=torch.bool, device=device)
        lengths: Tensor = padding.sum(-1, dtype=LENGTHS)
        return lengths[:, None, None, None]
    # Whether all is seen would have to be asked of the GPU, which has other work to do before.
    seen = cast("Tensor", sdpa_mask(**given | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}))
    return added_to_scores(seen, dtype, aligned=_ALIGNED)


@cache
def _has_flash() -> bool:
    """Say whether torch was built with flash attention that can be told how much is seen."""
    built = getattr(torch.backends.cuda, "is_flash_attention_available", bool)()
    kernel = torch.ops.aten._flash_attention_forward.default
    return bool(built) and any(argument.name == "seqused_k" for argument in kernel._schema.arguments)

"""What hides pieces from each other: a pass's masks, made once in the form that a device's attention takes them in.

Knows how transformers asks for masks; knows nothing of attention.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

LENGTHS = torch.int32  # of a mask that says how many pieces of each row are seen
HALVES = (torch.bfloat16, torch.float16)  # what a GPU's flash attention computes in
ALIGNED = 8  # elements: what the GPU's kernels read at a time of what is added to scores


def hide_on_cpu(**given: Any) -> Tensor | None:
    """Make a pass's mask, as transformers asks for it; in inference mode on a CPU as what is added to scores.

    Args:
        given: What transformers' `sdpa_mask` takes.

    Returns:
        (rows, 1, pieces, pieces), or (rows, 1, 1, pieces) where all pieces of a row see the same, in the precision of
        the pass: zero where a piece looks, else very low. None where all is seen. Outside inference mode, or on another
        device, what `sdpa_mask` gives.
    """
    from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

    seen = sdpa_mask(**given)
    if seen is None or torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():  # not to be traced
        return seen
    if torch.device(given["device"]).type != "cpu":
        return seen
    if given["mask_function"] is bidirectional_mask_function:
        seen = seen[:, :, :1]
    return added_to_scores(seen, _precision("cpu", given["dtype"]))


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
    dtype = _precision("cuda", given["dtype"])
    n_rows, n_pieces, padding = given["batch_size"], given["kv_length"], given.get("attention_mask")
    if (
        given["mask_function"] is bidirectional_mask_function
        and given["q_length"] == n_pieces
        and (padding is None or padding.shape == (n_rows, n_pieces))
        and dtype in HALVES
        and has_flash()
    ):
        if padding is None:
            padding = torch.ones(n_rows, n_pieces, dtype=torch.bool, device=device)
        lengths: Tensor = padding.sum(-1, dtype=LENGTHS)
        return lengths[:, None, None, None]
    # Whether all is seen would have to be asked of the GPU, which has other work to do before.
    seen = cast("Tensor", sdpa_mask(**given | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}))
    return added_to_scores(seen, dtype, aligned=ALIGNED)


def _precision(device: str, dtype: torch.dtype) -> torch.dtype:
    """Give what a pass computes in."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


@cache
def has_flash() -> bool:
    """Say whether torch was built with flash attention that can be told how much is seen."""
    built = getattr(torch.backends.cuda, "is_flash_attention_available", bool)()
    kernel = torch.ops.aten._flash_attention_forward.default
    return bool(built) and any(argument.name == "seqused_k" for argument in kernel._schema.arguments)


def added_to_scores(seen: Tensor, dtype: torch.dtype, *, aligned: int = 1) -> Tensor:
    """Turn what pieces see into what is added to their scores.

    Args:
        seen: (…, queries, keys) bool.
        dtype: Of the scores.
        aligned: Elements; queries begin at multiples of so many.

    Returns:
        The same shape: zero where it is true, else very low.
    """
    *others, n_keys = seen.shape
    added = torch.zeros(*others, -(-n_keys // aligned) * aligned, dtype=dtype, device=seen.device)[..., :n_keys]
    return added.masked_fill_(~seen, torch.finfo(dtype).min)

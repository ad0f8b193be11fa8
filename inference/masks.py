"""What the masks of CPUs and GPUs have in common: the numbers that hide pieces from each other, and when they serve.

Knows nothing of attention.
"""

from __future__ import annotations

import torch
from torch import Tensor


def is_inferring() -> bool:
    """Say whether this is inference mode, and run as it is written."""
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()  # which torch.compile cannot trace


def precision_of_pass(device: str, dtype: torch.dtype) -> torch.dtype:
    """Give what a pass computes in, on a type of device, for a model of a dtype."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype


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

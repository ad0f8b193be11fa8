"""Attention on a CPU: in blocks where pieces look only so far, by torch's kernel or by two products and a softmax.

Knows which of these is faster on this processor; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from khabar.inference.masks import added_to_scores
from khabar.models.products import onednn_multiplies, torch_multiplies_slowly

_BLOCK = 128  # queries at a time where they look only so far; half and twice as many were no faster
_MOST_SCORES = 2**20  # at a time, or a head's: what a cache holds
_LONGEST = 2048  # pieces; torch's kernel never holds all of a head's scores


def on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    is_causal: bool,
    reach: int | None,
) -> Tensor | None:
    """Attend in blocks where pieces look only so far.

    Args:
        query: (rows, heads, pieces, head width), like key and value.
        key: See there.
        value: See there.
        mask: What `hide_on_cpu` made, or bool.
        scaling: What scores are multiplied by; None stands for one over the root of the head width.
        is_causal: Whether pieces look back only.
        reach: Pieces; no piece looks further, as far as the mask lets it. None where there is no such bound.

    Returns:
        (rows, pieces, heads, head width); None where this does not serve.
    """
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():  # it cannot trace the second
        return None
    suits = mask is None or mask.dtype in (torch.bool, query.dtype)
    if query.device.type != "cpu" or is_causal or not suits:
        return None
    if mask is not None and mask.dtype == torch.bool:
        mask = added_to_scores(mask, query.dtype)
    rows, heads, pieces, width = query.shape
    attend_block = _write_out if _is_written_out(query.dtype) and pieces <= _LONGEST else by_torchs_kernel
    attended = query.new_empty((rows, pieces, heads, width))
    for queries, keys in _blocks(pieces, None if mask is None else reach):
        hidden = None if mask is None else mask[:, :, queries if mask.shape[2] > 1 else slice(None), keys]
        block = attend_block(query[:, :, queries], key[:, :, keys], value[:, :, keys], hidden, scaling)
        attended[:, queries] = block.transpose(1, 2)
    return attended


def _blocks(pieces: int, reach: int | None) -> Iterator[tuple[slice, slice]]:
    """Cut queries into blocks, each with the keys that it can see at most: all, where little would be gained."""
    block = _BLOCK if reach is not None and pieces > 2 * max(_BLOCK, reach) else max(1, pieces)
    for first in range(0, pieces, block):
        end = min(pieces, first + block)
        seen = slice(0, pieces) if reach is None else slice(max(0, first - reach), min(pieces, end + reach))
        yield slice(first, end), seen


def _is_written_out(dtype: torch.dtype) -> bool:
    """Say whether two products and a softmax are faster here than torch's kernel."""
    if (
        not torch_multiplies_slowly()
        or not torch.backends.mkldnn.is_available()
        or not bool(torch.backends.mkldnn.enabled)
    ):
        return False
    return dtype == torch.bfloat16 or (dtype == torch.float32 and onednn_multiplies())


def by_torchs_kernel(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scaling: float | None) -> Tensor:
    """Attend by torch's own choice of kernel: (rows, heads, queries, head width)."""
    return functional.scaled_dot_product_attention(query, key, value, hidden, scale=scaling)


def _write_out(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scaling: float | None) -> Tensor:
    """Attend to as many rows, or heads of a row, at a time as a cache holds the scores of."""
    rows, heads, n_queries, width = query.shape
    query = query * (width**-0.5 if scaling is None else scaling)
    key = key.transpose(-1, -2)
    if hidden is not None:
        hidden = hidden.expand(rows, -1, -1, -1)
    attended = value.new_empty((rows, heads, n_queries, width))
    of_heads = max(1, _MOST_SCORES // max(1, n_queries * value.shape[2]))
    n_rows, n_heads = max(1, of_heads // heads), min(of_heads, heads)
    for row, head in product(range(0, rows, n_rows), range(0, heads, n_heads)):
        some, those = slice(row, row + n_rows), slice(head, head + n_heads)
        scores = torch.matmul(query[some, those], key[some, those])
        if hidden is not None:
            scores += hidden[some]
        torch.matmul(scores.softmax(-1), value[some, those], out=attended[some, those])
    return attended

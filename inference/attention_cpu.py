"""Attention on a CPU, and its masks: in blocks where pieces look only so far, by torch's kernel or written out.

Knows how transformers asks for masks, and which of these is faster on this processor; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from khabar.inference.masks import added_to_scores, is_inferring, precision_of_pass
from khabar.models.products import onednn_multiplies, onednn_serves, torch_multiplies_slowly

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
    if not is_inferring() or query.device.type != "cpu" or is_causal:
        return None
    if mask is not None:
        if mask.dtype not in (torch.bool, query.dtype) or mask.dim() != 4 or mask.shape[1] != 1:
            return None
        if mask.dtype == torch.bool:
            mask = added_to_scores(mask, query.dtype)
    rows, heads, pieces, width = query.shape
    if reach is None or mask is None or mask.shape[2] == 1:  # a mask that hides pieces from all leaves the far ones
        reach = pieces
    attend_block = _write_out if _is_written_out(query.dtype) and pieces <= _LONGEST else by_torchs_kernel
    attended = query.new_empty((rows, pieces, heads, width))
    for queries, keys in _blocks(pieces, reach):
        hidden = None if mask is None else mask[:, :, queries, keys]
        block = attend_block(query[:, :, queries], key[:, :, keys], value[:, :, keys], hidden, scaling)
        attended[:, queries] = block.transpose(1, 2)
    return attended


def _blocks(pieces: int, reach: int) -> Iterator[tuple[slice, slice]]:
    """Cut queries into blocks, each with the keys that it can see at most: all, where little would be gained."""
    block = _BLOCK if pieces > 2 * max(_BLOCK, reach) else max(1, pieces)
    for first in range(0, pieces, block):
        end = min(pieces, first + block)
        yield slice(first, end), slice(max(0, first - reach), min(pieces, end + reach))


def _is_written_out(dtype: torch.dtype) -> bool:
    """Say whether two products and a softmax are faster here than torch's kernel."""
    if not torch_multiplies_slowly():
        return False
    return onednn_serves(bf16=True) if dtype == torch.bfloat16 else dtype == torch.float32 and onednn_multiplies()


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
    if seen is None or not is_inferring() or torch.device(given["device"]).type != "cpu":
        return seen
    if given["mask_function"] is bidirectional_mask_function:
        seen = seen[:, :, :1]
    return added_to_scores(seen, precision_of_pass("cpu", given["dtype"]))

"""Attention as two products and a softmax, for CPUs on which that is faster than torch's fused kernel.

Changes how a transformers model attends, not to what. Knows nothing of texts, or of what asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "khabar_written_out"  # among transformers' ways of attending
_MOST_SCORES = 2**20  # at a time, or a row's: what a cache holds
_LONGEST = 1024  # pieces; beyond, torch's kernel is as fast and never holds all of a row's scores


def write_out_attention(model: nn.Module) -> None:
    """Let a model write attention out in bfloat16, in inference mode, on a CPU where that pays; else nothing changes.

    torch's fused kernel leaves bfloat16 arithmetic to the library it multiplies with, which without AMX is as slow as
    in float32; oneDNN is not. Scores are rounded to bfloat16 before the softmax, as in transformers' eager attention.

    Args:
        model: Any model on the device it is to run on; of it, what attends through torch's kernel is changed.
    """
    if not pays():
        return
    make_known()
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or module.device.type != "cpu":
            continue
        if module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(_NAME)


def make_known() -> None:
    """Let transformers find this way of attending by its name, which a model's configuration then holds."""
    # Loaded with the models that attend; without one it takes much along that khabar needs nothing of.
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, sdpa_mask)


def pays() -> bool:
    """Say whether this machine's processor has arithmetic in bfloat16, but no AMX, which torch's kernel uses itself."""
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(has.get("avx512_bf16")) and not has.get("amx_tile")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attend from queries to keys: written out where that is what `write_out_attention` promises, else as sdpa does.

    Args:
        module: The attention layer.
        query: (rows, heads, pieces, head width), like key and value.
        key: See there.
        value: See there.
        attention_mask: (rows, 1, pieces, pieces), true where a piece looks; None where each looks at all.
        scaling: What scores are multiplied by; None stands for one over the root of the head width.
        dropout: Share of the weights that is dropped.
        given: What else transformers hands on.

    Returns:
        (rows, pieces, heads, head width), and no weights.
    """
    if not (
        torch.is_inference_mode_enabled()
        and not torch.compiler.is_compiling()
        and query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype == torch.bfloat16
        and query.shape == key.shape == value.shape
        and query.shape[2] <= _LONGEST
        and (attention_mask is None or attention_mask.dtype == torch.bool)
        and not (getattr(module, "is_causal", True) if given.get("is_causal") is None else given["is_causal"])
        and not dropout
        and given.get("position_bias") is None
        and given.get("softcap") is None
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **given
        )
    rows, heads, pieces, width = query.shape
    query = query * (width**-0.5 if scaling is None else scaling)
    key = key.transpose(-1, -2)
    hidden = None
    if attention_mask is not None:  # added: filling in scores takes as long as their softmax
        lowest = torch.finfo(query.dtype).min
        hidden = query.new_zeros(attention_mask.shape).masked_fill_(~attention_mask, lowest).expand(rows, -1, -1, -1)
    attended = query.new_empty((rows, pieces, heads, width))
    at_once = max(1, _MOST_SCORES // max(1, heads * pieces * pieces))
    for start in range(0, rows, at_once):
        some = slice(start, start + at_once)
        scores = torch.matmul(query[some], key[some])
        if hidden is not None:
            scores += hidden[some]
        attended[some] = torch.matmul(scores.softmax(-1), value[some]).transpose(1, 2)
    return attended, None

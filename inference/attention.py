"""Ways of attending that suit a device better than the one torch would choose there.

On a CPU pieces that look only so far attend in blocks; and on some CPUs two products and a softmax are faster than
torch's fused kernel. On a GPU torch may choose cuDNN's, which plans anew for each shape that it meets, and articles
come in thousands of shapes; and with padding it never chooses flash attention, which is the fastest and can be told how
much is seen. Changes how a transformers model attends, not to what. Knows nothing of texts, or of what asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from khabar.inference.attention_cpu import by_torchs_kernel, hide_on_cpu, on_cpu
from khabar.inference.attention_gpu import LENGTHS, hide_on_gpu, on_gpu

# Among transformers' ways of attending.
ON_CPU, _AS_ONE_STEP, _ON_GPU = "khabar_on_cpu", "khabar_as_one_step", "khabar_on_gpu"
_OP = "khabar::attend"
_LEAST_CAPABILITY = (8, 0)  # of a GPU that computes in bfloat16

Way = Callable[..., Tensor | None]  # of attending


def suit_attention(model: nn.Module) -> None:
    """Let a model attend as suits its device, in inference mode; else nothing changes.

    On a CPU pieces that look only so far do so in blocks, instead of at all with most hidden; and what hides is made
    once a pass, in the numbers that are added to scores. Where torch multiplies slowly, attention is written out: its
    fused kernel leaves its products to that same library, in bfloat16 too, where it is no faster than in float32;
    oneDNN is. In bfloat16 scores are rounded before the softmax, as in transformers' eager attention. In float32 it is
    so where the process lets oneDNN multiply.

    On an NVIDIA GPU that computes in half precision, it is flash attention where pieces see all but the padding, which
    must come last in a row, as in khabar's batches; else torch's memory-efficient kernel. What hides padding is made
    once a pass, without the computer waiting for the GPU to see whether there is some.

    Args:
        model: Any model on the device it is to run on; of it, what attends through torch's kernel is changed.
    """
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or module.config._attn_implementation != "sdpa":
            continue
        if module.device.type == "cpu":
            make_known()
            module.set_attn_implementation(ON_CPU)
        elif module.device.type == "cuda" and _is_capable(module.device):
            make_known()
            module.set_attn_implementation(_ON_GPU)


def compile_attention(model: nn.Module) -> None:
    """Let torch.compile take attention on a CPU as one step, for whoever calls that.

    Else it compiles torch's own kernel in, which attends to all with most hidden, or multiplies slowly.

    Args:
        model: A model that `suit_attention` has seen; where it is not on a CPU, nothing changes.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == ON_CPU:
            make_known()
            module.set_attn_implementation(_AS_ONE_STEP)


def make_known() -> None:
    """Let transformers find these ways of attending by their names, one of which a model's configuration then holds."""
    # Loaded with the models that attend; without one it takes much along that khabar needs nothing of.
    from transformers.masking_utils import AttentionMaskInterface

    for name, attending, masks in (
        (ON_CPU, attend_on_cpu, hide_on_cpu),
        (_AS_ONE_STEP, attend_as_one_step, hide_on_cpu),
        (_ON_GPU, attend_on_gpu, hide_on_gpu),
    ):
        AttentionInterface.register(name, attending)
        AttentionMaskInterface.register(name, masks)
    if not hasattr(torch.ops.khabar, "attend"):
        torch.library.define(
            _OP, "(Tensor query, Tensor key, Tensor value, Tensor? mask, float? scaling, int? reach) -> Tensor"
        )
        torch.library.impl(_OP, "CPU", _attend)
        torch.library.register_fake(
            _OP, lambda query, *_: torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        )


def _is_capable(gpu: torch.device) -> bool:
    return torch.version.cuda is not None and torch.cuda.get_device_capability(gpu) >= _LEAST_CAPABILITY


def attend(
    way: Way,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attend from queries to keys: in a way of khabar's where that serves, else as sdpa does.

    Args:
        way: What attends where it serves, else gives None.
        module: The attention layer.
        query: (rows, heads, pieces, head width), like key and value.
        key: See there.
        value: See there.
        attention_mask: What the way's function for masks gave; None where each piece looks at all.
        scaling: What scores are multiplied by; None stands for one over the root of the head width.
        dropout: Share of the weights that is dropped.
        given: What else transformers hands on.

    Returns:
        (rows, pieces, heads, head width), and no weights.
    """
    if (
        query.dtype == key.dtype == value.dtype
        and query.shape == key.shape == value.shape
        and not dropout
        and given.get("position_bias") is None
        and given.get("softcap") is None
    ):
        is_causal = getattr(module, "is_causal", True) if given.get("is_causal") is None else given["is_causal"]
        reach = given.get("sliding_window")  # how far pieces look, or one more: transformers' models do not agree
        attended = way(query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, reach=reach)
        if attended is not None:
            return attended, None
    if attention_mask is not None and attention_mask.dtype == LENGTHS:
        attention_mask = torch.arange(key.shape[2], device=key.device) < attention_mask
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **given)


def _as_one_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None,
    is_causal: bool,
    reach: int | None,
) -> Tensor | None:
    """Attend as on a CPU, in a step that torch.compile does not look into."""
    if torch.is_grad_enabled() or query.device.type != "cpu" or is_causal:
        return None
    attended: Tensor = torch.ops.khabar.attend(query, key, value, mask, scaling, reach)
    return attended


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, reach: int | None
) -> Tensor:
    attended = on_cpu(query, key, value, mask, scaling=scaling, is_causal=False, reach=reach)
    if attended is None:
        attended = by_torchs_kernel(query, key, value, mask, scaling).transpose(1, 2).contiguous()
    return attended


attend_on_cpu, attend_as_one_step = partial(attend, on_cpu), partial(attend, _as_one_step)
attend_on_gpu = partial(attend, on_gpu)

"""Ways of attending that suit a device better than the one torch would choose there.

On some CPUs two products and a softmax are faster than torch's fused kernel. On a GPU torch may choose cuDNN's, which
plans anew for each shape that it meets, and articles come in thousands of shapes; and with padding it never chooses
flash attention, which is the fastest and can be told how much is seen. Changes how a transformers model
attends, not to what. Knows nothing of texts, or of what asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from khabar.models.products import onednn_multiplies, torch_multiplies_slowly

# Among transformers' ways of attending.
_WRITTEN_OUT, _AS_ONE_STEP, _ON_GPU = "khabar_written_out", "khabar_as_one_step", "khabar_on_gpu"
_OP = "khabar::attend"
_MOST_SCORES = 2**20  # at a time, or a head's: what a cache holds
_LONGEST = 2048  # pieces; torch's kernel never holds all of a head's scores
_ALIGNED = 8  # elements: rows of what is added to scores begin at multiples of so many, for the GPU's kernels
_WIDEST = 256  # of a head, for the GPU's flash attention
_HALVES = (torch.bfloat16, torch.float16)  # what it computes in
_LENGTHS = torch.int32  # of a mask that says how many pieces of each row are seen
_LEAST_CAPABILITY = (8, 0)  # of a GPU that computes in bfloat16

Way = Callable[..., Tensor | None]  # of attending


def suit_attention(model: nn.Module, *, by_onednn: bool = True) -> None:
    """Let a model attend as suits its device, in inference mode; else nothing changes.

    On a CPU where torch multiplies slowly, attention is written out: torch's fused kernel leaves its products to that
    same library, in bfloat16 too, where it is no faster than in float32; oneDNN is. In bfloat16 scores are rounded
    before the softmax, as in transformers' eager attention. In float32 it is so where the process lets oneDNN multiply.

    On an NVIDIA GPU that computes in half precision, it is flash attention where pieces see all but the padding, which
    must come last in a row, as in khabar's batches; else torch's memory-efficient kernel. What hides padding is made
    once a pass, without the computer waiting for the GPU to see whether there is some.

    Args:
        model: Any model on the device it is to run on; of it, what attends through torch's kernel is changed.
        by_onednn: Whether oneDNN can multiply in the precision of its passes, if it is on a CPU.
    """
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or module.config._attn_implementation != "sdpa":
            continue
        if module.device.type == "cpu" and by_onednn and torch_multiplies_slowly():
            make_known()
            module.set_attn_implementation(_WRITTEN_OUT)
        elif module.device.type == "cuda" and _is_capable(module.device):
            make_known()
            module.set_attn_implementation(_ON_GPU)


def compile_attention(model: nn.Module) -> None:
    """Let torch.compile take attention that is written out as one step, for whoever calls that.

    Else it compiles torch's own kernel in, which multiplies slowly.

    Args:
        model: A model that `suit_attention` has seen; where nothing is written out, nothing changes.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == _WRITTEN_OUT:
            make_known()
            module.set_attn_implementation(_AS_ONE_STEP)


def make_known() -> None:
    """Let transformers find these ways of attending by their names, one of which a model's configuration then holds."""
    # Loaded with the models that attend; without one it takes much along that khabar needs nothing of.
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_WRITTEN_OUT, attend_written_out)
    AttentionMaskInterface.register(_WRITTEN_OUT, sdpa_mask)
    AttentionInterface.register(_AS_ONE_STEP, attend_as_one_step)
    AttentionMaskInterface.register(_AS_ONE_STEP, sdpa_mask)
    AttentionInterface.register(_ON_GPU, attend_on_gpu)
    AttentionMaskInterface.register(_ON_GPU, hide_on_gpu)
    if not hasattr(torch.ops.khabar, "attend"):
        torch.library.define(_OP, "(Tensor query, Tensor key, Tensor value, Tensor? mask, float? scaling) -> Tensor")
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
        attended = way(query, key, value, attention_mask, scaling=scaling, is_causal=is_causal)
        if attended is not None:
            return attended, None
    if attention_mask is not None and attention_mask.dtype == _LENGTHS:
        attention_mask = torch.arange(key.shape[2], device=key.device) < attention_mask
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **given)


def _write_out(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float | None, is_causal: bool
) -> Tensor | None:
    """Attend by two products and a softmax; the mask is bool, true where a piece looks."""
    if not (
        not torch.compiler.is_compiling()  # first: torch.compile cannot trace the next, and would cut its graph
        and torch.is_inference_mode_enabled()
        and query.device.type == "cpu"
        and (query.dtype == torch.bfloat16 or (query.dtype == torch.float32 and onednn_multiplies()))
        and query.shape[2] <= _LONGEST
        and (mask is None or mask.dtype == torch.bool)
        and not is_causal
    ):
        return None
    return _in_parts(query, key, value, mask, scaling)


def _in_parts(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """Attend to as many rows, or heads of a row, at a time as a cache holds the scores of."""
    rows, heads, pieces, width = query.shape
    query = query * (width**-0.5 if scaling is None else scaling)
    key = key.transpose(-1, -2)
    # Added: filling in scores takes as long as their softmax.
    hidden = None if mask is None else added_to_scores(mask, query.dtype).expand(rows, -1, -1, -1)
    attended = query.new_empty((rows, pieces, heads, width))
    of_heads = max(1, _MOST_SCORES // max(1, pieces * pieces))
    n_rows, n_heads = max(1, of_heads // heads), min(of_heads, heads)
    for row, head in product(range(0, rows, n_rows), range(0, heads, n_heads)):
        some, those = slice(row, row + n_rows), slice(head, head + n_heads)
        scores = torch.matmul(query[some, those], key[some, those])
        if hidden is not None:
            scores += hidden[some]
        attended[some, :, those] = torch.matmul(scores.softmax(-1), value[some, those]).transpose(1, 2)
    return attended


def _as_one_step(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float | None, is_causal: bool
) -> Tensor | None:
    """Attend as is written out, in a step that torch.compile does not look into."""
    if torch.is_grad_enabled() or query.device.type != "cpu" or is_causal:
        return None
    attended: Tensor = torch.ops.khabar.attend(query, key, value, mask, scaling)
    return attended


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    attended = _write_out(query, key, value, mask, scaling=scaling, is_causal=False)
    if attended is None:
        attended = functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling)
        attended = attended.transpose(1, 2).contiguous()
    return attended


def _on_gpu(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float | None, is_causal: bool
) -> Tensor | None:
    """Attend by a kernel that torch has, but would not choose; the mask is what `hide_on_gpu` made."""
    width = query.shape[-1]
    if query.device.type != "cuda" or mask is None or width % _ALIGNED or torch.is_grad_enabled():
        return None
    if mask.dtype == _LENGTHS:
        suits = not is_causal and width <= _WIDEST and query.dtype in _HALVES
        return _by_flash_kernel(query, key, value, mask.flatten(), scaling) if suits else None
    # A mask hides what comes later too.
    suits = mask.dtype == query.dtype and mask.stride(-2) % _ALIGNED == 0
    return _by_efficient_kernel(query, key, value, mask, scaling) if suits else None


def _by_flash_kernel(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor, scaling: float | None) -> Tensor:
    rows, heads, pieces, width = query.shape
    # The kernel takes rows end to end, and looks no further in each than it is told.
    laid = [states.transpose(1, 2).reshape(rows * pieces, heads, width) for states in (query, key, value)]
    starts = torch.arange(0, (rows + 1) * pieces, pieces, dtype=_LENGTHS, device=query.device)
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


attend_written_out, attend_as_one_step = partial(attend, _write_out), partial(attend, _as_one_step)
attend_on_gpu = partial(attend, _on_gpu)


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
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else given["dtype"]
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
        lengths: Tensor = padding.sum(-1, dtype=_LENGTHS)
        return lengths[:, None, None, None]
    # Whether all is seen would have to be asked of the GPU, which has other work to do before.
    seen = cast("Tensor", sdpa_mask(**given | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}))
    return added_to_scores(seen, dtype)


@cache
def _has_flash() -> bool:
    """Say whether torch was built with flash attention that can be told how much is seen."""
    built = getattr(torch.backends.cuda, "is_flash_attention_available", bool)()
    kernel = torch.ops.aten._flash_attention_forward.default
    return bool(built) and any(argument.name == "seqused_k" for argument in kernel._schema.arguments)


def added_to_scores(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn what pieces see into what is added to their scores, in rows that begin where the GPU's kernel can read them.

    Args:
        seen: (…, queries, keys) bool.
        dtype: Of the scores.

    Returns:
        The same shape: zero where it is true, else very low.
    """
    *others, n_keys = seen.shape
    added = torch.zeros(*others, -(-n_keys // _ALIGNED) * _ALIGNED, dtype=dtype, device=seen.device)[..., :n_keys]
    return added.masked_fill_(~seen, torch.finfo(dtype).min)

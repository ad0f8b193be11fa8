"""Readies a model's weights for inference: rounded or laid out once, instead of at every forward pass.

Changes how a model runs, not what it says. Knows nothing of texts or of batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from khabar.inference.attention import compile_attention, make_known, suit_attention
from khabar.models.kernels import bound_kernels
from khabar.models.products import prepacking_pays

# Rows that a layout is chosen for. With more or fewer it is as good: from 33 to 4,000, no difference was measured.
_TYPICAL_ROWS = 512
_OP = "khabar::prepacked_linear"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A layer's weights for one precision.

    Attributes:
        marks: What the layer's own weights were then.
        held: Their storage, so that no others come to stand at its address.
        weight: (out_features, in_features), or the same in oneDNN's layout.
        bias: (out_features,), or None.
        prepacked: Whether it is oneDNN's.
    """

    marks: tuple[Any, ...]
    held: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor | None
    prepacked: bool


def prepare(model: nn.Module, *, bf16: bool = False) -> None:
    """Let a model's linear layers ready their weights for inference mode, in place.

    On an x86 CPU weights are prepacked for oneDNN, whose float32 products use what the processor has whoever made it;
    not in float32 where torch's own do so too. Elsewhere, in bfloat16, they are held rounded, as autocast rounds them
    at each pass: the same results from fewer operations. Attention too is computed as suits the device, see
    attention.py. Outside inference mode, as in training, and in the weights that are saved, layers are what they were.

    Layers readied before are readied anew. So are weights that were changed or moved since, at the next pass; but a
    change that torch is not told of, through `weight.data`, shows only after another call, and so does any change
    where `compile_prepared` was called.

    Args:
        model: Any model, on the device it is to run on. What is readied takes as much memory again as its linear
            layers' weights in that precision.
        bf16: Whether its products will be computed in bfloat16, under autocast.
    """
    bound_kernels()
    suit_attention(model)
    for module in model.modules():
        if type(module).__name__ == "ModernBertAttention":
            _prepare_modernbert(module)
        if type(module) is nn.Linear and _has_weight(module):
            module.__class__ = PreparedLinear
        if isinstance(module, PreparedLinear):
            module.ready(torch.bfloat16 if bf16 else torch.float32)


def _prepare_modernbert(attention: nn.Module) -> None:
    # Its package is loaded with such a model; others do without what it takes along.
    from transformers.models.modernbert.modeling_modernbert import ModernBertAttention

    from khabar.inference.modernbert import PreparedAttention

    if type(attention) is ModernBertAttention:
        attention.__class__ = PreparedAttention


def _has_weight(linear: nn.Linear) -> bool:
    """Say whether a layer has a weight of its own: not one that a hook makes at every pass, nor in another format."""
    weight = linear._parameters.get("weight")
    return type(weight) is nn.Parameter and not weight.is_inference() and weight.numel() > 0


def compile_prepared(model: nn.Module) -> None:
    """Let torch.compile put what a model's layers have readied into what it compiles, for whoever calls that."""
    if not hasattr(torch.ops.khabar, "prepacked_linear"):
        # torch.compile takes oneDNN's product for a step of its own and refuses weights that it has not packed itself:
        # hence a name of khabar's own.
        torch.library.define(_OP, "(Tensor states, Tensor packed, Tensor? bias, int width) -> Tensor")
        torch.library.impl(_OP, "MkldnnCPU", lambda states, packed, bias, _width: _product(states, packed, bias))
        torch.library.register_fake(
            _OP, lambda states, _packed, _bias, width: states.new_empty((*states.shape[:-1], width))
        )
    compile_attention(model)
    for module in model.modules():
        if isinstance(module, PreparedLinear):
            module.is_compiled = True


def _product(states: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return product


class PreparedLinear(nn.Linear):
    """A linear layer that in inference mode takes weights readied beforehand; made of another one by `prepare`."""

    is_compiled = False

    def ready(self, dtype: torch.dtype) -> None:
        """Ready the weights for products in float32 or bfloat16; those readied before are let go."""
        self._ready: dict[torch.dtype, Ready] = {}
        self._renew(dtype)

    def forward(self, states: Tensor) -> Tensor:
        """Multiply by the weights and add the bias: (…, in_features) to (…, out_features)."""
        compiling = torch.compiler.is_compiling()  # by khabar, or by others
        if torch.is_grad_enabled() or not (self.is_compiled if compiling else torch.is_inference_mode_enabled()):
            if self.training and not compiling:
                self._ready.clear()  # the weights are about to change
            return super().forward(states)
        device = self.weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        ready = self._ready.get(dtype)
        if not compiling and (ready is None or ready.marks != self._marks()):  # marks cannot be asked for in kernels
            ready = self._renew(dtype)
        if ready is None:
            return super().forward(states)
        states = states.to(dtype)
        if not ready.prepacked:
            return functional.linear(states, ready.weight, ready.bias)
        if not compiling:
            return _product(states, ready.weight, ready.bias)
        product: Tensor = torch.ops.khabar.prepacked_linear(states, ready.weight, ready.bias, self.out_features)
        return product

    def _marks(self) -> tuple[Any, ...]:
        """Give what changes when the weights do."""
        if type(self) is not PreparedLinear or not _has_weight(self):  # as it can have become since
            return ()
        return tuple((one.data_ptr(), one.device, one.dtype, one._version) for one in self.parameters(recurse=False))

    def _renew(self, dtype: torch.dtype) -> Ready | None:
        """Ready the weights as they are now; None where nothing is to be gained, or they are not float32."""
        marks = self._marks()  # before the copies: what changes meanwhile is copied again
        bf16 = dtype == torch.bfloat16
        on_cpu = self.weight.device.type == "cpu" and prepacking_pays(bf16=bf16)
        if not marks or self.weight.dtype != torch.float32 or not (bf16 or (on_cpu and dtype == torch.float32)):
            self._ready.pop(dtype, None)
            return None
        held = tuple(one.detach() for one in self.parameters(recurse=False))
        given: Tensor | None = self.bias
        with torch.no_grad():
            weight, bias = self.weight.to(dtype), None if given is None else given.to(dtype, copy=True)
            if on_cpu:
                weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        ready = self._ready[dtype] = Ready(marks=marks, held=held, weight=weight, bias=bias, prepacked=on_cpu)
        return ready

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come from another process; the model around it may attend in a way that this one has yet to know."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        make_known()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was readied, which cannot be copied: it is readied again at the next pass."""
        return {**super().__getstate__(), "_ready": {}}  # type: ignore[no-untyped-call]

"""Lays a model's weights out once as a CPU's matrix products read them, instead of at every product.

Changes how a model runs, not what it says. Knows nothing of texts or of batches.
"""

from __future__ import annotations

import platform
from copy import copy

import torch
from torch import Tensor, nn

from khabar.models.model import KhabarModel

# oneDNN's product under a name of khabar's own: torch.compile takes torch's for a step of its own and refuses packed
# weights that it has not made. They are of a kind (Mkldnn) by which torch chooses among kernels.
_library = torch.library.Library("khabar", "DEF")
_library.define("prepacked_linear(Tensor states, Tensor packed, Tensor? bias, int width) -> Tensor")


def _product(states: Tensor, packed: Tensor, bias: Tensor | None, _width: int) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return product


def _product_shape(states: Tensor, _packed: Tensor, _bias: Tensor | None, width: int) -> Tensor:
    return states.new_empty((*states.shape[:-1], width))


for _kind in ("CPU", "MkldnnCPU"):
    _library.impl("prepacked_linear", _product, _kind)
torch.library.register_fake("khabar::prepacked_linear", _product_shape, lib=_library)

# Rows that a layout is chosen for. With more or fewer it is as good: from 33 to 4,000, no difference was measured.
_TYPICAL_ROWS = 512


def prepacked(model: KhabarModel, *, bf16: bool = False) -> KhabarModel:
    """Give the same model with its encoder's linear layers prepacked for oneDNN.

    oneDNN's float32 products are as exact as others, use what the processor has whoever made it, and need not copy
    weights; in bfloat16 weights are rounded once. The given model stays as it is, and what is saved is that one:
    both share everything but the packed weights, forward hooks too. Weights that change later change the given
    model alone.

    Args:
        model: A model in evaluation mode.
        bf16: Whether its products will be computed in bfloat16, under autocast.

    Returns:
        A model for inference; the given one itself where oneDNN cannot serve: on a GPU, on other processors than
        x86's, for weights that are not float32, and in bfloat16 where the processor lacks the instructions.
    """
    if model.device.type != "cpu" or not can_prepack(bf16=bf16):
        return model
    ours = copy(model)
    ours._modules = {**model._modules, "encoder": _twin(model.encoder, torch.bfloat16 if bf16 else torch.float32, {})}
    return ours


def can_prepack(*, bf16: bool = False) -> bool:
    """Say whether oneDNN can serve on this machine's processor: in float32, or in bfloat16."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    return not bf16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _twin(module: nn.Module, dtype: torch.dtype, known: dict[int, nn.Module]) -> nn.Module:
    """Give a module with prepacked layers for the linear ones in it: a copy that shares its tensors and other parts.

    Args:
        module: Any module.
        dtype: That of the products.
        known: What was given for modules, by their identity: one that stands in two places stays one.
    """
    if id(module) in known:
        return known[id(module)]
    if type(module) is nn.Linear and module.weight.dtype == torch.float32:
        ours: nn.Module = PrepackedLinear(module, dtype)
    else:
        parts = {name: part and _twin(part, dtype, known) for name, part in module._modules.items()}
        ours = module
        if any(part is not module._modules[name] for name, part in parts.items()):
            ours = copy(module)
            ours._modules = parts
    known[id(module)] = ours
    return ours


class PrepackedLinear(nn.Module):
    """A linear layer for inference: (…, in_features) to (…, out_features), in its own dtype.

    Args:
        linear: The layer whose weights to take, in float32 on a CPU.
        dtype: torch.float32, or torch.bfloat16, in which the result then is too.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias  # as encoders' own code may ask for them
        self._dtype = dtype
        with torch.no_grad():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.to(dtype), _TYPICAL_ROWS)
            bias: Tensor | None = linear.bias
            self._bias = None if bias is None else bias.to(dtype)

    def forward(self, states: Tensor) -> Tensor:
        """Multiply by the weights and add the bias."""
        width = self.weight.shape[0]
        product: Tensor = torch.ops.khabar.prepacked_linear(states.to(self._dtype), self._packed, self._bias, width)
        return product

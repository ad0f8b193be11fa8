"""Builds the optimizer and its schedule: layer-wise learning rates, decay of matrices only, warm-up and fall.

Knows a model's parameter names; knows nothing of data.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, get_ema_multi_avg_fn
from transformers import get_linear_schedule_with_warmup

from khabar.models.model import KhabarModel
from khabar.training.settling import SettledSettings

_LAYER = re.compile(r"\.(?:layers?|blocks?|h)\.(\d+)\.")


def new_parameters(encoder: nn.Module) -> set[str]:
    """Name the encoder's parameters that its pretraining leaves untrained (see `RecurrentEncoder.new_parts`)."""
    parts = getattr(encoder, "new_parts", ())
    return {name for name, _ in encoder.named_parameters() if name.split(".", 1)[0] in parts}


def pretrained_parameters(encoder: nn.Module) -> list[nn.Parameter]:
    """Give the encoder's parameters that come from its pretraining."""
    new = new_parameters(encoder)
    return [parameter for name, parameter in encoder.named_parameters() if name not in new]


def encoder_depths(encoder: nn.Module) -> dict[str, int]:
    """Number an encoder's pretrained parameters by depth: embeddings 0, the first layer 1, …; what follows, the last.

    An encoder without numbered layers is as deep as it has parts, in their order.

    Returns:
        Depth of each pretrained parameter by its name in the encoder.
    """
    new = new_parameters(encoder)
    names = [name for name, _ in encoder.named_parameters() if name not in new]
    numbers = {name: int(found[1]) + 1 for name in names if (found := _LAYER.search(f".{name}"))}
    if not numbers:
        parts = dict.fromkeys(name.split(".", 1)[0] for name in names if "embed" not in name)
        depth = {part: index + 1 for index, part in enumerate(parts)}
        numbers = {name: depth[part] for name in names if (part := name.split(".", 1)[0]) in depth}
    top = max(numbers.values(), default=0)
    return {name: numbers.get(name, 0 if "embed" in name else top) for name in names}


def make_optimizer(model: KhabarModel, settings: SettledSettings) -> torch.optim.AdamW:
    """Group parameters by learning rate and decay.

    Source: AdamW, Loshchilov and Hutter 2019; no decay of biases and norms, Devlin et al. 2019's code.
    """
    depths = encoder_depths(model.encoder)
    top = max(depths.values(), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = name.removeprefix("encoder.")
        if inner in depths and name.startswith("encoder."):
            rate = settings.learning_rate * settings.layer_decay ** (top - depths[inner])
        else:
            rate = settings.head_learning_rate
        decay = settings.weight_decay if parameter.ndim > 1 and "crf" not in name else 0.0
        groups[rate, decay].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
    )


def moving_average(decay: float) -> Callable[[PARAM_LIST, PARAM_LIST, Tensor | int], None]:
    """Make the rule by which an average follows a model's weights, for AveragedModel: while it is young, faster.

    With a fixed decay of 0.999, after 200 steps most of an average would still be the weights that training began with.

    Args:
        decay: Share of the average that a step leaves, once there have been some 10 / (1 - decay) of them.

    Source: min(decay, (1 + n) / (10 + n)) after n steps, TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """

    def follow(averaged: PARAM_LIST, current: PARAM_LIST, n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, n_averaged)

    return follow


def make_schedule(
    optimizer: torch.optim.Optimizer, *, n_steps: int, warmup: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Rates rise linearly over the first `warmup` share of the steps, then fall linearly to zero."""
    schedule: torch.optim.lr_scheduler.LambdaLR
    schedule = get_linear_schedule_with_warmup(optimizer, int(warmup * n_steps), n_steps)
    return schedule

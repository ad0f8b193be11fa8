"""Turns what a user writes for a device or a precision of training into torch's, and never falls back in silence.

Knows torch's devices; knows nothing of models.
"""

from __future__ import annotations

import torch

from khabar.models.errors import DeviceError


def check_whole_device(device: str) -> None:
    """Refuse one GPU by its number, for work that goes to all that torch sees, one a process.

    Raises:
        DeviceError: If the device is neither `auto`, `cpu` nor `cuda`.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(
            f"device is {device!r}, must be auto, cpu or cuda; CUDA_VISIBLE_DEVICES=N in the environment chooses a GPU"
        )


def choose_device(device: str | torch.device) -> torch.device:
    """Choose the device: `auto` takes the first GPU if there is one; any other is taken at its word.

    Raises:
        DeviceError: If the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"device is {device!r}, must be auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"device is {device!r}, must be auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device is {device!r}, but torch sees no CUDA device here; use cpu or auto")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device is {device!r}, but there are only {torch.cuda.device_count()} CUDA devices")
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """Choose the precision to train in: `auto` takes bf16 on a GPU that has it, else fp32.

    Args:
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        device: Where it is computed.

    Raises:
        DeviceError: If the device cannot compute in it.
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision is 'fp16', which needs a GPU; on this device use fp32 or bf16")
    return precision

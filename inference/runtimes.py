"""The names of what runs a model and of its precisions, as every way in takes them, and which go together."""

from __future__ import annotations

from typing import Literal, get_args

from khabar.models.errors import DeviceError, KhabarError
from khabar.models.ranges import check_choice

Runtime = Literal["torch", "compiled", "onnx"]
Precision = Literal["auto", "fp32", "bf16"]


def check_runtime(runtime: str, precision: str, device: str) -> None:
    """See that there are such a runtime and precision, and that they and the device go together.

    Raises:
        DeviceError: If the runtime does not run on the device.
        KhabarError: If something else is wrong.
    """
    check_choice("precision", precision, get_args(Precision))
    check_choice("runtime", runtime, get_args(Runtime))
    if runtime == "onnx" and precision != "auto":
        raise KhabarError(f"precision is {precision!r}, but an exported model has its own; allowed: auto")
    if runtime == "onnx" and device not in ("auto", "cpu"):
        raise DeviceError(f"device is {device!r}, but runtime onnx runs on the CPU; allowed: auto, cpu")

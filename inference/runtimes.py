"""The names of what runs a model and of its precisions, as every way in takes them."""

from __future__ import annotations

from typing import Literal

Runtime = Literal["torch", "compiled", "onnx"]
Precision = Literal["auto", "fp32", "bf16"]

"""What a pretraining run is measured against and shown as: the device's matrix peak, the loss curve.

Knows devices and a run's history; knows nothing of models.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

# Dense bf16 operations a second. Source: NVIDIA's data sheets of these GPUs, the SXM form where there is one.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12}


def measured_peak_flops(device: torch.device, precision: str) -> float | None:
    """Give the operations a second that one process's matrix products can reach at most.

    A GPU's bf16 peak is looked up; a CPU's is measured with one large product, on the threads torch has now.
    None if the GPU or its precision is not in the table.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = (peak for key, peak in _PEAKS.items() if key in name)
        return next(known, None) if precision == "bf16" else None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.ones(1024, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best


def save_loss_curve(history: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw the losses over the steps as a PNG; without matplotlib, say in the log what is missing.

    Args:
        history: Entries with step, loss and held_out.
        path: The PNG.
        title: What stands above the curve.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.warning("no loss curve: drawing it needs pip install 'khabar[plots]'")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [entry["step"] for entry in history]
    axes.plot(steps, [entry["loss"] for entry in history], label="training")
    measured = [(entry["step"], entry["held_out"]) for entry in history if entry["held_out"] is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), label="held-out")
    axes.set(xlabel="step", ylabel="loss (nats a piece)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)

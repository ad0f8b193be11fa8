"""Runs pretraining steps: rates, gradients, measurements, throughput, checkpoints that resume exactly.

Takes an objective (rows of piece ids to a loss) and batches by step number; knows nothing of text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from khabar.training.checkpoints import Checkpoints, Progress
from khabar.training.pretrain_data import PieceBatches
from khabar.training.pretrain_settings import PretrainSettings

Report = Callable[[dict[str, Any]], None]


def rate_share(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """The share of the peak learning rate that a step takes: up, level, down to zero."""
    rising = (step + 1) / max(1, round(warmup * n_steps))
    falling = (n_steps - step) / max(1, round(decay * n_steps))
    return min(1.0, rising, falling)


def make_optimizer(model: nn.Module, settings: PretrainSettings) -> torch.optim.AdamW:
    """AdamW without decay of vectors.

    Source: Loshchilov and Hutter 2019; beta2 of 0.98, Liu et al. 2019 (RoBERTa), section 3.1.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)


def run_steps(
    model: nn.Module,
    batches: PieceBatches,
    measure: Callable[[], float | None],
    *,
    settings: PretrainSettings,
    n_steps: int,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    flops_a_piece: float,
    peak_flops: float | None,
    report: Report,
) -> Progress:
    """Train an objective to the end of its steps.

    Args:
        model: The objective: (rows, length) piece ids to a scalar loss.
        batches: Gives each step its rows.
        measure: Gives the loss on held-out text.
        settings: The run's settings.
        n_steps: Steps of the whole run.
        accelerator: Devices, processes, precision.
        checkpoints: The run's checkpoints; it goes on from the newest.
        flops_a_piece: Floating-point operations that training on one piece takes.
        peak_flops: Operations a second that all processes' devices can do; None if unknown.
        report: Called in the main process with each measurement: step, loss, held_out, rate,
            pieces_a_second, and utilisation if the peak is known.

    Returns:
        The run's progress, with the measurements as its history.
    """
    model, optimizer = accelerator.prepare(model, make_optimizer(model, settings))
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    if (latest := checkpoints.latest()) is not None:
        accelerator.load_state(str(latest))
    losses: list[Tensor] = []
    clock = time.perf_counter()
    with checkpoints.resumable():
        for step in range(progress.step, n_steps):
            rate = settings.learning_rate * rate_share(step, n_steps, settings.warmup, settings.decay)
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = batches.batch(step, accelerator.process_index, accelerator.num_processes)
            with accelerator.autocast():
                loss = model(rows.to(accelerator.device))
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            progress.step = step + 1
            if progress.step % settings.measure_steps == 0 or progress.step == n_steps:
                # This waits for the device, so the clock is read after it.
                mean = float(accelerator.reduce(torch.stack(losses).mean(), reduction="mean"))
                seconds = time.perf_counter() - clock
                speed = len(losses) * batches.rows * batches.length / seconds
                entry: dict[str, Any] = {
                    "step": progress.step,
                    "loss": mean,
                    "rate": rate,
                    "pieces_a_second": speed,
                }
                if peak_flops:
                    entry["utilisation"] = speed * flops_a_piece / peak_flops
                entry["held_out"] = measure()
                progress.seconds += seconds
                progress.history.append(entry)
                if accelerator.is_main_process:
                    report(entry)
                losses, clock = [], time.perf_counter()
            if progress.step % settings.checkpoint_steps == 0 and progress.step < n_steps:
                paused = time.perf_counter()
                checkpoints.save(accelerator, progress)
                clock += time.perf_counter() - paused
    return progress

"""Lets the processes of `accelerate launch` or torchrun agree: one works, all know what came of it.

Knows processes; knows nothing of models or corpora. A run in a single process needs nothing of this to change.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from khabar.models.errors import KhabarError

T = TypeVar("T")

# While the main process measures, calibrates or saves, the others wait in a broadcast. The default, ten minutes,
# is soon over with a large dev set.
LONGEST_WAIT = timedelta(hours=12)


def join_processes(device: torch.device) -> None:
    """Join this run's processes, before anything that they share; afterwards it does nothing."""
    PartialState(cpu=device.type == "cpu", timeout=LONGEST_WAIT)


def n_processes() -> int:
    """Give the number of this run's processes."""
    return int(PartialState().num_processes)


def is_main_process() -> bool:
    """Tell whether this process is the one that measures, saves and prints."""
    return bool(PartialState().is_main_process)


def on_main(work: Callable[[], T]) -> T:
    """Do work in the main process alone, and give every process its result.

    Args:
        work: What to do; its result must be one that pickle takes.

    Raises:
        KhabarError: In every process, if the work raises one.
    """
    outcome: list[Any] = [None, None]
    raised: KhabarError | None = None
    if is_main_process():
        try:
            outcome = [work(), None]
        except KhabarError as error:
            raised, outcome = error, [None, str(error)]
    result, message = broadcast_object_list(outcome)
    if raised is not None:
        raise raised
    if message is not None:
        raise KhabarError(message)
    given: T = result
    return given

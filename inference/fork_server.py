"""Starts the process that workers are forked from: it imports torch once for all of them, while its parent does too.

Loads nothing heavy itself. Knows nothing of what workers do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.context import BaseContext

_PRELOADED = "khabar.inference.workers"
_GPU_FILES = ("/dev/nvidiactl", "/dev/dxg")  # of NVIDIA's driver on Linux, and under Windows


def start_if_needed(device: str, workers: int | None, runtime: str) -> None:
    """Start the server where a tagger will have workers, for a process of khabar's own that has not imported torch yet.

    Args:
        device: As for `khabar.load`.
        workers: Likewise.
        runtime: Likewise.
    """
    may_be_on_gpu = device != "cpu" and runtime != "onnx" and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")
    on_gpu = may_be_on_gpu and any(map(os.path.exists, _GPU_FILES))
    if on_gpu if workers is None else workers > 0:
        start_context()


def start_context() -> BaseContext:
    """Give the way to start processes: on Linux from a fork server, which is started if it does not run yet."""
    if sys.platform != "linux":  # macOS has one too, but its libraries do not bear a fork
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    resource_tracker.ensure_running()  # or its start, which is part of the other's, would unblock what is blocked here
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the server inherits that it does not hear Ctrl-C
    try:
        forkserver.ensure_running()
    except OSError:  # no room for its socket, or this process is itself forked from one that had a server
        return multiprocessing.get_context("spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return context

"""Says how many threads torch's operations take that one thread asks for, beside others that go on as they are.

Knows torch's counts alone.
"""

from __future__ import annotations

import threading

import torch

_changing = threading.Lock()


def take_threads(n: int) -> None:
    """Let torch take n threads for what this thread asks of it. Other threads, there or to come, keep what they have.

    torch keeps a count for each thread, which `torch.set_num_threads` sets; but that also sets the one with which
    later threads start.

    Args:
        n: Number of threads, at least 1.
    """
    with _changing:
        usual = torch.get_num_threads()
        torch.set_num_threads(n)
        restoring = threading.Thread(target=torch.set_num_threads, args=(usual,))
        restoring.start()
        restoring.join()

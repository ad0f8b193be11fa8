"""Threads with processors of their own, for work that is run several at a time; one set of them for the process.

Knows torch's counts of threads; knows nothing of models.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_changing = threading.Lock()


def take_threads(n: int) -> None:
    """Let torch take n threads for what this thread asks of it. Other threads keep what they have.

    torch keeps a count for each thread, which `torch.set_num_threads` sets; but that also sets the one with which
    later threads start, which is put back at once: a thread that first asks torch in between starts with n.

    Args:
        n: Number of threads, at least 1.
    """
    with _changing:
        usual = torch.get_num_threads()
        torch.set_num_threads(n)
        restoring = threading.Thread(target=torch.set_num_threads, args=(usual,))
        restoring.start()
        restoring.join()


def done_at_once(function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Call a function in this thread; give what it gave, or raised, as a future."""
    future: Future[T] = Future()
    _settle(future, function, *arguments)
    return future


def _settle(future: Future[T], function: Callable[..., T], *arguments: Any) -> None:
    try:
        future.set_result(function(*arguments))
    except BaseException as error:  # it belongs to whoever takes the result
        future.set_exception(error)


class Lanes:
    """Threads that share processors out among them; they wait for work until the process ends, and do not hold it up.

    Args:
        n: Number of threads.
        processors: For all together; at least one for each.
    """

    def __init__(self, n: int, processors: int) -> None:
        self._each = max(1, processors // n)
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()
        for i in range(n):
            threading.Thread(target=self._work, name=f"khabar-lane-{i}", daemon=True).start()

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a function called by the next thread that is free; a future that is cancelled before is passed over."""
        future: Future[T] = Future()
        self._waiting.put((future, function, arguments))
        return future

    def _work(self) -> None:
        take_threads(self._each)
        while True:
            future, function, arguments = self._waiting.get()
            if future.set_running_or_notify_cancel():
                _settle(future, function, *arguments)
            del future, function, arguments  # nothing is held while there is no work


_lanes: dict[tuple[int, int], Lanes] = {}


def lanes(n: int, processors: int) -> Lanes:
    """Give the process's n threads with so many processors; all who ask for the same share them."""
    with _changing:
        if (n, processors) not in _lanes:
            _lanes[n, processors] = Lanes(n, processors)
        return _lanes[n, processors]


def _start_anew() -> None:
    """In a forked child: none of its parent's threads is there, and what one of them held it will not give back."""
    global _changing  # noqa: PLW0603
    _changing = threading.Lock()
    _lanes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)

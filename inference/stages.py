"""Runs steps of work that overlap: each in a thread of its own, joined by short queues, results in order.

Knows threads and queues; knows nothing of articles or models.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# A step takes what the step before gives, one after the other, and gives what the next one takes.
Step = Callable[[Iterator[Any]], Iterator[Any]]

JOIN_SECONDS = 0.1  # between looks at whether a thread has ended, so that signals are heard meanwhile


class Closed(Exception):  # noqa: N818  # no error: the other side has gone
    """The channel was closed from the other end, so that whoever waits at it gives up."""


class Channel(Generic[T]):
    """A queue of bounded length that ends with an end or an error, and can be closed while threads wait at it."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._error: BaseException | None = None
        self._closed = False

    def put(self, item: T) -> None:
        """Add an item, waiting for room.

        Raises:
            Closed: If the channel is closed, now or while waiting.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._length)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, or what went wrong; whoever reads meets it behind the last item."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Drop what waits and let everyone who puts or reads give up."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._finished or bool(self._items))
                if self._closed:
                    raise Closed
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


def run_stages(
    source: Iterable[Any],
    steps: Sequence[Step],
    *,
    enough: Callable[[Sequence[Any]], bool],
    queue_length: int = 2,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[Any]:
    """Send a source's items through steps that work at the same time.

    The source is read by the caller, in the caller's thread, so that it may be bound to that thread and an
    interrupt ends it. Leaving the generator early, by an error or by closing it, ends the steps: each gives up
    at the queue it next comes to, or with `Closed` before, and all have ended when the generator has.

    Args:
        source: Any iterable; read as far ahead of what has come out as `enough` lets it.
        steps: Each a generator function over the items of the one before. Together they must give exactly one
            result for each item of the source, in order.
        enough: Says of the items that are on their way, oldest first, whether there are enough; never of none.
        queue_length: Most items that wait between two steps; at least 1.
        stop: Is called when the steps are to end, so that one that takes long over an item need not finish it.

    Raises:
        Whatever the source or a step raises, once the results before it are out.
    """
    channels: list[Channel[Any]] = [Channel(sys.maxsize), *(Channel(queue_length) for _ in steps)]
    threads = [
        threading.Thread(target=_work, args=(step, *channels[i : i + 2]), name=f"khabar-stage-{i}", daemon=True)
        for i, step in enumerate(steps)
    ]
    results = iter(channels[-1])
    for thread in threads:
        thread.start()
    try:
        on_their_way: deque[Any] = deque()
        for item in _sent(source, channels[0]):
            on_their_way.append(item)
            del item
            while enough(on_their_way):
                result = next(results)
                on_their_way.popleft()
                yield result
        on_their_way.clear()
        yield from results
    finally:
        for channel in channels:
            channel.close()
        stop()
        for thread in threads:
            while thread.is_alive():
                thread.join(JOIN_SECONDS)


def _sent(source: Iterable[Any], first: Channel[Any]) -> Iterator[Any]:
    """Put the source's items into the first channel, and behind them its end or its error; give each that was put."""
    try:
        for item in source:
            first.put(item)
            yield item
            del item
    except Closed:
        return  # a step has failed: what it raised comes behind its results
    except Exception as error:
        first.finish(error)
    else:
        first.finish()


def _work(step: Step, taken: Channel[Any], given: Channel[Any]) -> None:
    try:
        for item in step(iter(taken)):
            given.put(item)
    except BaseException as error:  # it belongs to whoever waits for the results; on closed channels nobody does
        given.finish(error)
        taken.close()
    else:
        given.finish()

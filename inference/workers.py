"""Encodes texts and reads results in processes beside the model's, where one interpreter is too slow for a GPU.

Turns articles into encoded ones, and a forward pass's numbers into results. Knows nothing of the model between.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from khabar.inference.decode import Labels, Logits, decode
from khabar.inference.fork_server import start_context
from khabar.inference.results import TaggedArticle
from khabar.inference.threads import done_at_once
from khabar.inference.work import Planning, Sealed, Work
from khabar.models.article import Article
from khabar.models.crf import LinearChainCRF
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.models.ranges import check_range

MOST_USUAL = 14  # processes: as many as one process at a GPU keeps busy
LOOK_SECONDS = 5.0  # between looks at whether the process that is waited for is still there
AT_HAND = 2  # pieces of work, beside one for each process, so that who has done one finds another

T_co = TypeVar("T_co", covariant=True)
_UNPICKLABLE = (pickle.PicklingError, AttributeError, TypeError)  # what pickle raises
_Parts = tuple[PreTrainedTokenizerFast, int, int, dict[str, NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class TextWork:
    """What is done to texts before the model and after it, with all that this needs."""

    tokenizer: PreTrainedTokenizerFast
    max_segment_words: int
    crf: LinearChainCRF  # on the CPU

    def encode(self, articles: Sequence[Article]) -> Sealed:
        """Encode articles; segments that they have are kept."""
        return Sealed(
            encode_articles(
                [article.text for article in articles],
                self.tokenizer,
                max_segment_words=self.max_segment_words,
                segments=[article.segment_spans for article in articles],
            )
        )

    def plan(self, parts: Sequence[Sealed], planning: Planning) -> list[Work]:
        """Put a list's articles, encoded in parts, together for forward passes."""
        return planning.works([article for part in parts for article in part.open()])

    @torch.inference_mode()
    def decode(
        self,
        articles: Sequence[Article],
        encoded: Sealed,
        logits: Logits,
        labels: Labels,
        finish: Callable[[TaggedArticle], Any],
    ) -> list[Any]:
        """Read the results of one forward pass, and finish them."""
        return list(map(finish, decode(articles, encoded.open(), logits, self.crf, labels)))

    def parts(self) -> _Parts:
        """Give what another process makes the same from.

        Without a tensor: torch sends those through shared memory, which not every container has.
        """
        weights = {name: weight.numpy() for name, weight in self.crf.state_dict().items()}
        return self.tokenizer, self.max_segment_words, self.crf.n_labels, weights

    @classmethod
    def of(cls, parts: _Parts) -> TextWork:
        """Put it together again."""
        tokenizer, max_segment_words, n_labels, weights = parts
        crf = LinearChainCRF(n_labels)
        crf.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
        return cls(tokenizer=tokenizer, max_segment_words=max_segment_words, crf=crf)


class Pending(Protocol[T_co]):
    """Work that was begun."""

    def result(self) -> T_co:
        """Wait for it and give its result.

        Raises:
            KhabarError: If a process ended in the middle of it.
            Whatever the work raised.
        """
        ...


def usual_number(device: str, processors: int | None = None) -> int:
    """Give the number of processes that a model on a device is served well by.

    Args:
        device: Its kind; a CPU is served well by none.
        processors: Those that there are for it; None for all that this process may use.
    """
    if device != "cuda":
        return 0
    if processors is None:
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST_USUAL, processors - 2))


class _Pool(ProcessPoolExecutor):
    """A pool that does not wait for ever for what a process had begun to send when it ended.

    What it takes for that are parts of `ProcessPoolExecutor` that its documentation does not name.
    """

    @property
    def processes(self) -> Sequence[Any]:
        return list((self._processes or {}).values())

    @property
    def has_lost_one(self) -> bool:
        """Whether a process has ended; the pool's own thread may not have seen it yet."""
        processes = self.processes
        if wait([process.sentinel for process in processes], timeout=0):
            return True
        # Between its end and that of its sentinel; to ask each one for its exit code would take much longer.
        return any(process._popen is not None and process._popen.returncode is not None for process in processes)

    def look(self) -> None:
        """See whether a process has ended unseen; then end all, so that everyone who waits is told."""
        if not self._broken and self.has_lost_one:
            self._give_up(self.processes, self._result_queue)

    def end(self) -> None:
        """Drop what is not begun, and wait until the processes have ended."""
        thread: Any = self._executor_manager_thread
        processes, results = self.processes, self._result_queue
        self.shutdown(wait=False, cancel_futures=True)
        while thread is not None and thread.is_alive():
            thread.join(LOOK_SECONDS)
            if thread.is_alive() and any(process.exitcode not in (None, 0) for process in processes):
                self._give_up(processes, results)

    @staticmethod
    def _give_up(processes: Sequence[Any], results: Any) -> None:
        for process in processes:
            process.kill()
        results._writer.close()  # nobody is left who could write


class Workers:
    """Does the work in n processes, or, with none, at once in the thread that asks.

    The processes start when they are first needed, and end with `close` or with this process, however that ends. They
    are new interpreters: a script that uses them must not start them on import. On Linux they are forked from Python's
    fork server, which imports torch for all of them and stays, asleep, until this process ends. There is one for the
    whole process: what a program has told it to preload is replaced, and its environment is that of its start.

    Args:
        n: Number of processes.
        work: What they do.
        spare_short: Leave a short list that comes first to the thread that asks: it is done before they have started.

    Raises:
        KhabarError: If n is negative.
    """

    def __init__(self, n: int, work: TextWork, *, spare_short: bool = False) -> None:
        check_range("workers", n, at_least=0)
        self.n = n
        self.spare_short = spare_short
        self._work = work
        self._pool: _Pool | None = None
        self._starting = threading.Lock()
        self._changed = threading.Condition()
        self._n_unfinished = 0  # pieces of work

    def here(self) -> Workers:
        """Give what does the same work in the thread that asks."""
        return Workers(0, self._work)

    def sendable(self, function: Callable[..., Any]) -> Any:
        """Make a function ready to be an argument of `submit`.

        Raises:
            KhabarError: If there are processes, and it cannot be sent to them.
        """
        return _Sent.of(function) if self.n else function

    def close(self) -> None:
        """End the processes; what they have not begun is dropped. The next use starts new ones."""
        with self._starting:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.end()

    def submit(self, step: Callable[..., Any], *arguments: Any) -> Pending[Any]:
        """Begin a step, a method of `TextWork`. Work is done in the order in which it was submitted.

        Raises:
            KhabarError: If processes cannot be started, or have ended.
        """
        if not self.n:
            return done_at_once(step, self._work, *arguments)
        with self._changed:
            self._n_unfinished += 1
        return self._begin(step, arguments)

    def submit_when_room(self, step: Callable[..., Any], *arguments: Any) -> Pending[Any]:
        """Begin a step that is not urgent, once a process would soon have nothing to do: not in front of what is.

        Raises:
            KhabarError: As `submit`.
        """
        if not self.n:
            return done_at_once(step, self._work, *arguments)
        with self._changed:
            while not self._changed.wait_for(self._has_room, timeout=LOOK_SECONDS):
                if (pool := self._pool) is not None:
                    pool.look()
            self._n_unfinished += 1
        return self._begin(step, arguments)

    def _has_room(self) -> bool:
        return self._n_unfinished < self.n + AT_HAND

    def _begin(self, step: Callable[..., Any], arguments: Sequence[Any]) -> Pending[Any]:
        """Submit what has been counted already."""
        try:
            with self._starting:
                pool, future = self._in_pool(step, arguments)
        except BaseException:
            self._count_off()
            raise
        future.add_done_callback(self._count_off)
        return _InPool(self, pool, future)

    def _in_pool(
        self, step: Callable[..., Any], arguments: Sequence[Any], *, again: bool = True
    ) -> tuple[_Pool, Future[_Packed]]:
        try:
            if self._pool is not None and self._n_unfinished == 1 and self._pool.has_lost_one:
                self._pool.look()  # nobody else waits, who would; this has to be done by others
                self._pool = None
            if self._pool is None:
                self._pool = _Pool(self.n, start_context(), initializer=_start, initargs=(self._work.parts(),))
            return self._pool, self._pool.submit(_do, step, arguments)
        except BrokenProcessPool as error:
            self._pool = None
            if again:  # a process has ended before this was begun: others can do it
                return self._in_pool(step, arguments, again=False)
            raise _ended() from error
        except (OSError, EOFError, ImportError) as error:  # processes are started by the first call
            pool, self._pool = self._pool, None
            if pool is not None:
                for process in pool.processes:  # nobody would tell those that have started to end
                    process.kill()
                pool.shutdown()
            raise KhabarError(f"workers cannot be started ({type(error).__name__}: {error}); {_WHY}") from error

    def _count_off(self, _done: object = None) -> None:
        with self._changed:
            self._n_unfinished -= 1
            self._changed.notify_all()

    def let_go(self, pool: _Pool) -> None:
        """Use a pool of which a process has ended no more; the next use starts another."""
        with self._starting:
            if self._pool is pool:
                self._pool = None


@dataclass(frozen=True)
class _InPool:
    """Work that is done in a pool's process."""

    workers: Workers
    pool: _Pool
    future: Future[_Packed]

    def result(self) -> Any:
        done = threading.Event()  # `concurrent.futures.wait` would wait for ever for what a pool's end has cancelled
        self.future.add_done_callback(lambda _: done.set())
        while not done.wait(LOOK_SECONDS):
            self.pool.look()
        try:
            return self.future.result().unpacked()
        except BrokenProcessPool as error:
            self.workers.let_go(self.pool)
            raise _ended() from error
        except CancelledError:
            raise KhabarError("the workers were closed in the middle of their work") from None


@dataclass(frozen=True)
class _Sent:
    """A function on its way to a worker, where the task itself unpacks it.

    A process that cannot unpack a task ends, and the pool with it, without saying why.
    """

    name: str
    pickled: bytes

    @classmethod
    def of(cls, function: Callable[..., Any]) -> _Sent:
        inner = function.func if isinstance(function, partial) else function
        name = getattr(inner, "__qualname__", type(inner).__name__)
        try:
            return cls(name, pickle.dumps(function))
        except _UNPICKLABLE as error:
            raise cls._cannot(name, error) from error

    def found(self) -> Callable[..., Any]:
        try:
            function: Callable[..., Any] = pickle.loads(self.pickled)  # noqa: S301  # of our own parent
        except (ImportError, AttributeError) as error:
            raise self._cannot(self.name, error) from error
        return function

    @staticmethod
    def _cannot(name: str, error: Exception) -> KhabarError:
        return KhabarError(f"{name} cannot be sent to workers ({error}); allowed: a function at the top of a module")


@dataclass(frozen=True)
class _Packed:
    """A worker's result on its way here: bytes, which whoever waits for it unpacks, not the pool's only thread."""

    pickled: bytes

    def unpacked(self) -> Any:
        # Each batch brings thousands of objects that stay: without a pause the garbage collector looks through the
        # whole process again and again meanwhile, which takes more than twice as long as unpacking them.
        with _unpacking:
            collects = gc.isenabled()
            gc.disable()
            try:
                return pickle.loads(self.pickled)  # noqa: S301  # by a process of our own
            finally:
                if collects:
                    gc.enable()


_unpacking = threading.Lock()  # or one thread takes another's pause for what the program wants


_WHY = (
    "the reason can be a signal, lack of memory (fewer workers need less), or a script without "
    "`if __name__ == '__main__':` around what starts them"
)


def _ended() -> KhabarError:
    return KhabarError(f"a worker process ended unexpectedly; {_WHY}")


_work_here: TextWork | None = None  # in a worker process


def _start(parts: _Parts) -> None:
    """Make a new process ready: one thread for itself, deaf to Ctrl-C, gone when its parent is."""
    global _work_here  # noqa: PLW0603  # what an initializer prepares has no other place
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends its workers
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    _work_here = TextWork.of(parts)
    gc.freeze()  # or the garbage collector looks through all of torch again and again


def _leave_with(parent: Any) -> None:
    # A killed parent closes nothing: its workers would wait for work for ever.
    parent.join()
    os._exit(1)


def _do(step: Callable[..., Any], arguments: Sequence[Any]) -> _Packed:
    gc.disable()  # it would look again and again through thousands of objects that all stay until the end
    try:
        return _done(step, arguments)
    finally:
        gc.enable()


def _done(step: Callable[..., Any], arguments: Sequence[Any]) -> _Packed:
    try:
        found = (argument.found() if isinstance(argument, _Sent) else argument for argument in arguments)
        result = step(_work_here, *found)
    except Exception as error:
        if _travels(error):
            raise
        raise KhabarError(f"in a worker, {type(error).__name__}: {error}") from None
    try:
        return _Packed(pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))
    except _UNPICKLABLE as error:
        raise KhabarError(f"what was made in a worker cannot be sent back ({error})") from None


def _travels(error: Exception) -> bool:
    """Tell whether an error arrives where it is sent; one that cannot be made anew there breaks the pool."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # of our own making
    except Exception:
        return False
    return True

"""What all commands share: errors as one line and an exit code, and libraries that keep quiet.

Exit codes: 0 all well; 1 done, but some rows could not be used, or a strict check warned; 2 not done, the user can put
it right; 130 Ctrl-C; 141 the reader of the output has gone; 143 told to stop.
"""

from __future__ import annotations

import functools
import io
import logging
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, ParamSpec

import typer

from khabar.models.errors import CorpusError, KhabarError
from khabar.models.kernels import bound_kernels

if TYPE_CHECKING:
    from khabar.inference.tagger import Tagger

P = ParamSpec("P")

PATIENCE = 5.0  # seconds in which a second Ctrl-C is not heard
BAD_ROWS, NOT_DONE, INTERRUPTED, READER_GONE, TERMINATED = 1, 2, 130, 141, 143

Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda or cuda:N.")]


def standard_input() -> BinaryIO | None:
    """Give standard input as bytes; None where it is closed."""
    return getattr(sys.stdin, "buffer", None)


def one_line_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Let a command end as users expect: a line on standard error and an exit code, no traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        heard = _Heard()
        before = signal.signal(signal.SIGTERM, heard.stop), signal.getsignal(signal.SIGINT)
        if before[1] is signal.default_int_handler:  # not where Ctrl-C is not to be heard
            signal.signal(signal.SIGINT, heard.interrupt)
        try:
            command(*args, **kwargs)
        except CorpusError as error:
            for problem in error.problems:
                say(f"error: {problem}")
            total = len(error.problems) + error.n_more
            if total > 1:
                more = f", of which {error.n_more:,} are not listed" if error.n_more else ""
                say(f"{total:,} problems{more}")
            raise typer.Exit(NOT_DONE) from None
        except KhabarError as error:
            for line in str(error).splitlines():
                say(f"error: {line}")
            _say_notes(error)
            raise typer.Exit(NOT_DONE) from None
        except KeyboardInterrupt as error:
            say("interrupted")
            _say_notes(error)
            raise typer.Exit(INTERRUPTED) from None
        except SystemExit as error:
            _say_notes(error)
            raise
        except BrokenPipeError:
            # Python flushes standard output once more as it ends; that must not fail too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(READER_GONE) from None
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            say(f"error: {place}{error.strerror or error}")
            _say_notes(error)
            raise typer.Exit(NOT_DONE) from None
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                if handler is not None and not heard.any:  # None: it was not set from Python
                    signal.signal(number, handler)

    return run


class _Heard:
    """Ends a command at Ctrl-C or when it is told to stop; while it then tidies up, no more is heard for some seconds.

    `timeout`, supervisors and people send several signals, and the second would leave threads in the middle of their
    work, in which Python cannot end.
    """

    def __init__(self) -> None:
        self._last = -math.inf

    @property
    def any(self) -> bool:
        """Whether a signal has come: the process is about to end."""
        return self._last > -math.inf

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Hear Ctrl-C."""
        if self._is_first():
            raise KeyboardInterrupt

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Leave by an exception, so that half-written files are taken away."""
        if self._is_first():
            raise SystemExit(TERMINATED)

    def _is_first(self) -> bool:
        now = time.monotonic()
        if now - self._last < PATIENCE:
            return False
        self._last = now
        return True


def _say_notes(error: BaseException) -> None:
    """Say what the code in between knew of the error: how to go on, say."""
    for note in getattr(error, "__notes__", ()):
        say(note)


def say(line: str) -> None:
    """Write a line to standard error, if there is one that takes it: what a command does is not undone by it."""
    with suppress(OSError):
        typer.echo(line, err=True)


def quiet_libraries() -> None:
    """Set up logging, keep other packages' notes and bars off standard error, and escape what an encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("khabar").setLevel(logging.INFO)
    for library in ("accelerate", "gensim"):
        logging.getLogger(library).setLevel(logging.ERROR)
    # Read when those packages are first imported, which no command has done yet.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    bound_kernels()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def load_tagger(model: str, *, device: str, workers: int | None = 0, runtime: str = "torch", **options: Any) -> Tagger:
    """Load a model, as `khabar.load` does, for a process that is the command's own. Imports torch."""
    from khabar.inference.fork_server import start_if_needed

    # Their server imports torch too: the sooner it begins, the sooner workers are there.
    start_if_needed(device, workers, runtime)
    from khabar.inference.tagger import load
    from khabar.models.products import multiply_by_onednn

    multiply_by_onednn()
    return load(model, device=device, workers=workers, runtime=runtime, **options)

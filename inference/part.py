"""Keeps the unfinished output of a run on disk, so that a run that was stopped can go on where it was.

Three files beside the output: results so far, bad rows so far, and a state that says how much of both is
whole. Knows lines and numbers; knows nothing of what the lines say or of where they come from.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from khabar.inference.outputs import unfinished
from khabar.models.errors import KhabarError
from khabar.models.messages import changes, show

# Windows keeps others from a locked byte: one that only results of more than a gigabyte reach. It takes 31 bits.
_LOCKED_BYTE = 2**30


@dataclass(frozen=True, kw_only=True)
class Done:
    """How far a run has come: all of it is in the part files.

    Attributes:
        n_rows: Rows read, bad ones included.
        n_articles: Rows scored.
        n_bad_rows: Rows that could not be.
        rows_digest: Digest of the rows read, by which a resumed run knows that it reads the same.
        part_bytes: Length of the results.
        errors_bytes: Length of the bad rows.
        whole: Whether there is nothing left but to move the files into place.
    """

    n_rows: int = 0
    n_articles: int = 0
    n_bad_rows: int = 0
    rows_digest: str = ""
    part_bytes: int = 0
    errors_bytes: int = 0
    whole: bool = False


def errors_path(output: str | Path) -> Path:
    """Where the bad rows of a run that writes a file go: beside the output, or beside what it links to."""
    return Path(f"{_place(Path(output))}.errors.jsonl")


def files_beside(output: str | Path) -> list[Path]:
    """Name all that a run keeps beside its output, while it works or for good: what no run may read."""
    part, errors = Path(f"{_place(Path(output))}.part"), errors_path(output)
    state = Path(f"{part}.state.json")
    return [part, errors, Path(f"{errors}.part"), state, Path(f"{state}.partial"), unfinished(output)]


class PartFiles:
    """The part files of one output; a context manager that keeps them after an error, for another run to go on.

    A kill at any moment leaves a state, and files that hold at least what the state says: results and bad rows
    reach the disk before the state that counts them, and a state takes the older one's place as a whole.

    Args:
        output: The file that the results are for.
        run: What the run is: JSON values by name, all of which must be the same for a run to go on.
        finish: Turns the whole part file into the output.
        resume: Go on with the part files that are there. Without it they are refused.

    Raises:
        KhabarError: On entering: if there are part files and `resume` is not set, if they cannot be gone on
            with or belong to another run, or if they are in use; the message says what to do.
    """

    def __init__(
        self, output: str | Path, run: Mapping[str, object], *, finish: Callable[[Path, Path], None], resume: bool
    ) -> None:
        self.output = Path(output)
        self.part = Path(f"{_place(self.output)}.part")
        self._errors = errors_path(output)
        self.errors_part = Path(f"{self._errors}.part")
        self.state = Path(f"{self.part}.state.json")
        self._run = dict(run)
        self._finish = finish
        self._resume = resume
        self.done = Done()
        self._streams: list[BinaryIO] = []
        self._files: list[Path] = []  # those that are open
        self._is_lost = False

    def __enter__(self) -> Self:
        try:
            before = self._found()  # before anything is touched
        except KhabarError:
            _refuse_in_use(self.part)  # what looks wrong may be a run at work
            raise
        is_whole = before is not None and before.whole  # nothing is left to write
        files = [path for path in (self.part, self.errors_part) if path.exists() or not is_whole]
        made = [path for path in files if not path.exists()]
        try:
            for path in files:
                self._streams.append(_open_locked(path))
                self._files.append(path)
            found = self._found()  # now that nobody else writes
            if (before is not None and found is None) or not self._are_in_place():
                raise KhabarError(f"{self.output} has been finished by another run meanwhile")
            if found is None:
                self._save(Done())
            else:
                self.done = found
            if is_whole:
                return self
            for stream, length in zip(self._streams, self._lengths, strict=True):
                stream.truncate(length)
                stream.seek(length)
        except BaseException as error:
            # Of this run nothing was done that could be gone on with; another's may stand there by now.
            ours = [path for stream, path in zip(self._streams, self._files, strict=True) if _is_at(stream, path)]
            if sys.platform == "win32":  # where an open file cannot be removed
                self._close()
            for path in [path for path in ours if path in made]:
                path.unlink()
                Path(f"{self.state}.partial").unlink(missing_ok=True)
            self._close()
            if isinstance(error, OSError):
                raise self._cannot_write(error) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if error is None or self._is_lost:
            return
        if self.done.n_rows == 0:
            self._remove()
        else:
            error.add_note(
                f"{self.done.n_rows:,} rows are done and kept in {self.part}; the same command on the same input "
                "goes on with --resume"
            )

    def write(self, results: bytes, errors: bytes, done: Done) -> None:
        """Add a chunk's lines for good.

        Args:
            results: Its results' lines.
            errors: Its bad rows' lines.
            done: Everything so far, this chunk included; the files' lengths are filled in here.

        Raises:
            KhabarError: If the disk takes no more, or somebody has taken the part files away.
        """
        self._check_in_place()
        lengths = [length + len(data) for length, data in zip(self._lengths, (results, errors), strict=True)]
        try:
            for stream, data in zip(self._streams, (results, errors), strict=True):
                _write(stream, data)
            self._save(replace(done, part_bytes=lengths[0], errors_bytes=lengths[1]))
        except OSError as error:
            raise self._cannot_write(error) from None

    def finish(self) -> None:
        """Move everything into place and take the state away; bad rows first, so that who finds the output finds them.

        Raises:
            KhabarError: If the output cannot be written; a run that goes on tries again. Or as `write` does.
        """
        self._check_in_place()
        try:
            self._save(replace(self.done, whole=True))
            if sys.platform == "win32":  # where an open file cannot be moved
                self._close()
            if self.done.errors_bytes == 0:
                self._errors.unlink(missing_ok=True)
                self.errors_part.unlink(missing_ok=True)
            elif self.errors_part.exists():
                self.errors_part.replace(self._errors)
            if self.part.exists():
                self._finish(self.part, self.output)
                self.part.unlink(missing_ok=True)
            self.state.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from None

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.done.part_bytes, self.done.errors_bytes

    def _are_in_place(self) -> bool:
        return all(map(_is_at, self._streams, self._files))

    def _check_in_place(self) -> None:
        """See that what is written still has its name: else it is gone when it is closed."""
        if not self._are_in_place():
            self._is_lost = True
            raise KhabarError(
                f"{self.part} or {self.errors_part.name} was removed or replaced while this run wrote it; what it held "
                f"is lost and {self.output} is as it was before: score again"
            )

    def _found(self) -> Done | None:
        """Give what an earlier run has done and this one is to go on with; None to start from the first row."""
        lines = [path for path in (self.part, self.errors_part) if path.exists() and path.stat().st_size]
        if not self.state.exists():
            if lines:
                raise KhabarError(
                    f"{lines[0]} is there without {self.state.name}, so that no run can go on with it; remove it, "
                    "or give another output"
                )
            return None
        run, done = self._read_state()
        moved = done.whole and not lines  # all but the state, whose run was killed with its last step to do
        if done.n_rows == 0 or (moved and not self._resume):
            return None
        remove = f"remove {self.part}, {self.errors_part.name} and {self.state.name} to start over"
        if not self._resume:
            raise KhabarError(
                f"{self.part} holds {done.n_rows:,} rows of a run that was stopped; go on with it by --resume, "
                f"or {remove}"
            )
        if changed := changes(run, self._run, _shown):
            raise KhabarError(f"{self.part} is of another run: {changed}. Give what was given then, or {remove}")
        for path, length in ((self.part, done.part_bytes), (self.errors_part, done.errors_bytes)):
            if not done.whole and (path.stat().st_size if path.exists() else 0) < length:
                raise KhabarError(f"{path} is shorter than the {length:,} bytes its run had written; {remove}")
        return done

    def _read_state(self) -> tuple[dict[str, object], Done]:
        try:
            state = json.loads(self.state.read_bytes())
            return dict(state["run"]), Done(**state["done"])
        except (ValueError, KeyError, TypeError):
            others = f"{self.part.name} and {self.errors_part.name}"
            raise KhabarError(f"{self.state} is damaged; remove it, {others} to start over") from None

    def _save(self, done: Done) -> None:
        beside = Path(f"{self.state}.partial")
        with beside.open("wb", buffering=0) as stream:
            # In ASCII: names of files may hold bytes that are no UTF-8.
            _write(stream, json.dumps({"run": self._run, "done": asdict(done)}).encode())
        beside.replace(self.state)
        self.done = done

    def _close(self) -> None:
        while self._streams:
            self._streams.pop().close()

    def _remove(self) -> None:
        for path in (self.part, self.errors_part, Path(f"{self.state}.partial"), self.state):
            path.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> KhabarError:
        return KhabarError(f"{self.output} cannot be written: {error.strerror or error}")


def _place(output: Path) -> Path:
    """Where an output's files lie: a link stays a link."""
    return output.resolve() if output.is_symlink() else output


def _shown(value: object) -> str:
    return value if isinstance(value, str) else show(value)


def _open_locked(path: Path) -> BinaryIO:
    """Open a file for reading and writing, made where it is missing, for this process alone."""
    stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    try:
        _lock(stream)
    except (BlockingIOError, PermissionError):  # Linux and macOS; Windows
        stream.close()
        raise KhabarError(f"{path} is being written by another run; wait for it, or stop it") from None
    return stream


def _refuse_in_use(path: Path) -> None:
    """Raise the error for a file that another run is writing, if it is."""
    with suppress(OSError):
        if path.exists():
            _open_locked(path).close()


def _is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether an open file is still the one at its path: another run may have moved it into place."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(stream: BinaryIO) -> None:
    """Lock a file until it is closed, or raise the system's error where another process has."""
    if sys.platform == "win32":
        import msvcrt

        stream.seek(_LOCKED_BYTE)
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(stream: BinaryIO, data: bytes) -> None:
    """Write all of it, to the disk itself: nothing after it may be there while it is not."""
    rest = memoryview(data)
    while rest:
        rest = rest[stream.write(rest) :]
    os.fsync(stream.fileno())

"""Writes files and folders that appear whole or not at all.

Knows paths and lines of text; knows nothing of what the lines say.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from khabar.models.errors import KhabarError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a hidden path beside a file's to write to; what is there at the end becomes the file.

    Whatever stood there before stays until then, and stays for good if an error comes first. Of several files in
    one `ExitStack` none appears before all are written; the last one opened appears first.

    Args:
        path: The file; its folder must exist. A link stays a link: it is its target that is replaced.
            A pipe or a device is written to itself.
    """
    place = Path(path).resolve()
    if is_special(place):
        yield place
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("r+b") as written:  # Windows writes out none that is open for reading alone
            os.fsync(written.fileno())
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Give a hidden folder beside a folder's place to fill; at the end it becomes that folder.

    If an error comes first, nothing of it is left.

    Args:
        path: The folder, new or empty; those above it are made. A link stays a link.
    """
    place = Path(path).resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent, ignore_cleanup_errors=True) as hidden:
        partial = Path(hidden) / place.name  # with the usual rights; the one around it is its maker's alone
        partial.mkdir()
        yield partial
        if place.exists():
            place.rmdir()  # not every system moves a folder onto another, be it empty
        partial.replace(place)


class FileSink:
    """A file of lines in UTF-8, which appears as that of `whole_file` does.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._opened = ExitStack()

    def write(self, line: str) -> None:
        """Write one line; its end is added."""
        if self._stream is None:
            raise ValueError("FileSink is written to inside `with` only")
        self._stream.write(line.encode("utf-8") + b"\n")

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            partial = opened.enter_context(whole_file(self._path))
            self._stream = opened.enter_context(partial.open("wb"))
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream = None
        self._opened.__exit__(kind, error, trace)


def check_output(path: str | Path, *, ending: str = "", inputs: Iterable[str | Path] = ()) -> None:
    """See, before long work, that an output can be written.

    Args:
        path: The output.
        ending: What its name must end in; it keeps an option that lacks its value from taking an input for it.
        inputs: Files that it must not replace.

    Raises:
        KhabarError: If it ends otherwise or is an input or a folder, or its folder is missing or closed to writing.
    """
    path = Path(path)
    if path.is_dir():
        raise KhabarError(f"{path} is a folder; allowed: a file to write")
    try:
        path.resolve()
    except (RuntimeError, OSError):  # Python 3.11 and 3.12; 3.13 with `strict` alone
        raise KhabarError(f"{path} is a link that leads back to itself; allowed: a file to write") from None
    if not path.name.lower().endswith(ending):
        raise KhabarError(f"{path} cannot be the output; allowed: a name that ends in {ending}")
    if path.resolve() in {Path(file).resolve() for file in inputs}:
        raise KhabarError(f"{path} is an input, which would be replaced; allowed: another file")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise KhabarError(f"{path}: no folder {parent} to write in")
    if not is_special(path) and not os.access(parent, os.W_OK):
        raise KhabarError(f"{path}: folder {parent} cannot be written in")


def is_special(path: str | Path) -> bool:
    """Whether a path is a device or a pipe, which cannot be moved into place."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()

"""Writes lines to a file that appears whole or not at all.

Knows paths and lines of text; knows nothing of what the lines say.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from khabar.models.errors import KhabarError


class FileSink:
    """A file of lines in UTF-8, written beside its place and moved there once whole.

    Whatever stood there before stays until then, and stays for good if an error comes first.

    Args:
        path: The file; its folder must exist.
    """

    def __init__(self, path: str | Path) -> None:
        # A link stays a link: it is its target that is replaced.
        self.path = Path(path).resolve()
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._stream: BinaryIO | None = None

    def write(self, line: str) -> None:
        """Write one line; its end is added."""
        if self._stream is None:
            raise ValueError("FileSink is written to inside `with` only")
        self._stream.write(line.encode("utf-8") + b"\n")

    def __enter__(self) -> Self:
        self._stream = self._partial.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stream, self._stream = self._stream, None
        try:
            if stream is None:
                return
            with stream:
                if kind is None:
                    stream.flush()
                    os.fsync(stream.fileno())
            if kind is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def check_output(path: str | Path) -> None:
    """See, before long work, that an output can be written.

    Raises:
        KhabarError: If it is a folder, or its folder is missing or closed to writing.
    """
    path = Path(path)
    if path.is_dir():
        raise KhabarError(f"{path} is a folder; allowed: a file to write")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise KhabarError(f"{path}: no folder {parent} to write in")
    if not is_special(path) and not os.access(parent, os.W_OK):
        raise KhabarError(f"{path}: folder {parent} cannot be written in")


def is_special(path: str | Path) -> bool:
    """Whether a path is a device or a pipe, which cannot be moved into place."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()

"""Writes lines to a file that appears whole or not at all, or to a stream as they come.

Knows paths and lines of text; knows nothing of what the lines say.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from khabar.models.errors import KhabarError

_OTHER_FORMATS = (".csv", ".tsv", ".parquet", ".xlsx", ".gz", ".zst", ".zip")


class LineSink(Protocol):
    """Where lines go; a context manager that finishes the output, or drops it after an error."""

    def write(self, line: str) -> None:
        """Write one line; its end is added."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FileSink:
    """A file of lines in UTF-8, written beside its place and moved there once whole.

    Whatever stood there before stays until then, and stays for good if an error comes first.

    Args:
        path: The file; its folder must exist.
        keep_empty: Whether an output without lines gives an empty file; if not, it gives none, and takes
            away what stood there before.
    """

    def __init__(self, path: str | Path, *, keep_empty: bool = True) -> None:
        # A link stays a link: it is its target that is replaced.
        self.path = Path(path).resolve()
        self.keep_empty = keep_empty
        self.n_lines = 0
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._stream: BinaryIO | None = None

    def write(self, line: str) -> None:
        """Write one line; its end is added."""
        if self._stream is None:
            raise ValueError("FileSink is written to inside `with` only")
        self._stream.write(line.encode("utf-8") + b"\n")
        self.n_lines += 1

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
            if kind is not None:
                return
            if self.n_lines or self.keep_empty:
                self._partial.replace(self.path)
            else:
                self.path.unlink(missing_ok=True)
        finally:
            self._partial.unlink(missing_ok=True)


class StreamSink:
    """A stream that others read while it is written: each line goes out at once. It is not closed.

    Args:
        stream: Standard output's bytes, say.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        """Write one line; its end is added."""
        self._stream.write(line.encode("utf-8") + b"\n")
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._stream.flush()


def check_output(path: str | Path) -> None:
    """See, before long work, that an output can be written.

    Raises:
        KhabarError: If it is a folder, its folder is missing or closed to writing, or its ending promises
            another format than lines of text.
    """
    path = Path(path)
    if path.is_dir():
        raise KhabarError(f"{path} is a folder; allowed: a file to write")
    if path.suffix.lower() in _OTHER_FORMATS:
        raise KhabarError(f"{path}: output ending {path.suffix} is not known; allowed: .jsonl (or .txt)")
    parent = path.resolve().parent
    if not parent.is_dir():
        raise KhabarError(f"{path}: no folder {parent} to write in")
    if not is_special(path) and not os.access(parent, os.W_OK):
        raise KhabarError(f"{path}: folder {parent} cannot be written in")


def is_special(path: str | Path) -> bool:
    """Whether a path is a device or a pipe, which cannot be moved into place."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()

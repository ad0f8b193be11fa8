"""Opens files and streams of bytes that may be compressed, and reads their lines without holding more than one.

Turns gzip and Zstandard data, known by its first bytes, into the bytes it was made of. Knows nothing of what
the bytes say.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from khabar.models.errors import KhabarError, MissingExtraError

COMPRESSION_OF_ENDING = {".gz": "gzip", ".zst": "Zstandard"}
# The longest line, and the longest article of plain text, that is taken into memory.
MAX_BYTES = 256 * 2**20
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    # A frame that says nothing, as parallel compressors begin with. Source: RFC 8878, section 3.1.2.
    **{bytes([0x50 + kind, 0x2A, 0x4D, 0x18]): "Zstandard" for kind in range(16)},
}
_BUFFER = 2**16  # bytes
# Of compressed data less is taken at once: two bytes can stand for a thousand, in Zstandard for many more.
_PIECE = 2**11


@contextmanager
def open_bytes(
    path: str | Path, *, name: str | None = None, opened: Callable[[BinaryIO], object] = lambda _: None
) -> Iterator[BinaryIO]:
    """Open a file, compressed or not, as a stream of what it holds.

    Args:
        path: The file; a pipe will do.
        name: What it is called in messages, if not by its path.
        opened: Gets the file itself, whose position tells how far it is read.

    Raises:
        KhabarError: Now or when the stream is read: if its ending promises a compression that it has not, or
            it is damaged, or ends before its compressed data does.
        MissingExtraError: If it is Zstandard and the package for that is not installed.
        OSError: If it cannot be opened.
    """
    path = Path(path)
    name = str(path) if name is None else name
    with path.open("rb") as raw:
        opened(raw)
        stream, found = _decompressed(name, raw)
        promised = COMPRESSION_OF_ENDING.get(path.suffix.lower())
        if promised is not None and found != promised:
            raise KhabarError(f"{name} is not {promised} data, as its ending {path.suffix} promises")
        yield stream


def decompressed(name: str, raw: BinaryIO) -> BinaryIO:
    """Give what a stream holds, compressed or not; the stream itself is neither closed nor looked at twice.

    Args:
        name: What the stream is called in messages.
        raw: Bytes; need not be seekable.

    Raises:
        As `open_bytes`.
    """
    return _decompressed(name, raw)[0]


def put_back(head: bytes, stream: BinaryIO) -> BinaryIO:
    """Give a stream as it was before `head` was read from it."""
    return _buffered(_Reader("", head, stream, None))


def capped_lines(stream: BinaryIO, *, max_bytes: int = MAX_BYTES) -> Iterator[bytes | ValueError]:
    """Read lines, their ends included; in place of one that is too long, the error that says so.

    Lines end with a line feed. Of a line that is too long no more than `max_bytes` are held at once.
    """
    while line := stream.readline(max_bytes + 1):
        if len(line) <= max_bytes:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(2**20)
        yield ValueError(f"the line is longer than {max_bytes:,} bytes, the most that is read at once")


class _Decoder(Protocol):
    """What the decoders of zlib and zstandard share: one reads one gzip member or Zstandard frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Reader(io.RawIOBase):
    """Bytes already taken from a stream, then the rest of it, decompressed if they say so.

    Python's own gzip reader and zstandard's stream reader are not used: the second takes data that was cut
    off for whole, without a word.
    """

    def __init__(self, name: str, head: bytes, raw: BinaryIO, compression: str | None) -> None:
        self._name = name
        self._pending = head  # taken from the stream and not yet decoded
        self._raw = raw
        self._compression = compression
        self._decoder: _Decoder | None = None  # None between members, and without compression
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        while not self._ready:
            piece = self._pending or _read1(self._name, self._raw, _PIECE if self._compression else _BUFFER)
            self._pending = b""
            if not piece:
                if self._decoder is not None:
                    raise KhabarError(f"{self._name} is cut off: its {self._compression} data lacks its end")
                return 0
            self._ready = memoryview(piece if self._compression is None else self._decode(piece))
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def _decode(self, piece: bytes) -> bytes:
        if self._decoder is None:
            if self._compression == "gzip":
                piece = piece.lstrip(b"\0")  # tapes and block devices fill up with these
                if not piece:
                    return b""
            self._decoder = _new_decoder(self._compression)
        try:
            data = self._decoder.decompress(piece)
        except Exception as error:  # zlib.error, zstandard.ZstdError
            raise KhabarError(f"{self._name}: its {self._compression} data is damaged ({error})") from None
        if self._decoder.eof:
            self._pending = self._decoder.unused_data
            self._decoder = None
        return data


def _decompressed(name: str, raw: BinaryIO) -> tuple[BinaryIO, str | None]:
    head = b""
    while any(magic.startswith(head) and head != magic for magic in _MAGIC):
        more = _read1(name, raw, 1 if head else 4)
        if not more:
            break
        head += more
    compression = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if compression is not None:
        _new_decoder(compression)  # complain of a missing package before anything is read
    return _buffered(_Reader(name, head, raw, compression)), compression


def _buffered(reader: _Reader) -> BinaryIO:
    stream: Any = io.BufferedReader(reader, _BUFFER)  # to typeshed no BinaryIO, though it does all of it
    return cast("BinaryIO", stream)


def _read1(name: str, raw: BinaryIO, n: int) -> bytes:
    """Read what is there, without waiting for more than a byte of it."""
    try:
        data: bytes = getattr(raw, "read1", raw.read)(n)
    except OSError as error:
        raise KhabarError(f"{name} cannot be read: {error.strerror or error}") from None
    return data


def _new_decoder(compression: str | None) -> _Decoder:
    if compression == "gzip":
        return zlib.decompressobj(wbits=31)
    try:
        import zstandard
    except ImportError:
        raise MissingExtraError("formats", "reading .zst") from None
    decoder: _Decoder = zstandard.ZstdDecompressor().decompressobj()
    return decoder

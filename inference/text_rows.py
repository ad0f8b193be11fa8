"""Reads articles that are whole files of plain text, and finds them in folders.

Turns a file into a row with a text, or into the error that says why it is none. Knows nothing of other formats.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from khabar.inference.compressed import COMPRESSION_OF_ENDING, MAX_BYTES, open_bytes
from khabar.models.article_reader import HEAD_BYTES, other_encoding
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.messages import not_utf8

_ENDINGS = (".txt", *(f".txt{ending}" for ending in COMPRESSION_OF_ENDING))


def text_files(folder: Path) -> Iterator[Path]:
    """Walk a folder and the folders in it by name; hidden ones, links to folders, pipes and devices are left out."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from text_files(Path(entry.path))
        elif entry.name.lower().endswith(_ENDINGS) and (entry.is_file() or not Path(entry.path).exists()):
            yield Path(entry.path)  # a broken link too: somebody meant a file


def folder_size(folder: Path) -> int:
    """Give the bytes of a folder's text files together; one that cannot be looked at, as a broken link, has none."""
    size = 0
    for path in text_files(folder):
        with suppress(OSError):
            size += path.stat().st_size
    return size


def file_row(path: Path, name: Path) -> dict[str, object] | ValueError:
    """Read a file as one article.

    Args:
        path: The file.
        name: Its name or its path in its folder: without endings, the article's id.
    """
    try:
        with open_bytes(path, name="the file") as stream:
            row = stream_row(stream)
    except MissingExtraError:
        raise
    except KhabarError as error:
        return error
    except OSError as error:
        return ValueError(f"cannot be read: {error.strerror}")
    if name.suffix.lower() in COMPRESSION_OF_ENDING:
        name = name.with_suffix("")
    return row if isinstance(row, ValueError) else {"id": printable(name.with_suffix("").as_posix()), **row}


def stream_row(stream: BinaryIO) -> dict[str, object] | ValueError:
    """Read all of a stream as one article. Line ends stay as they are: offsets count the text as given."""
    raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        return ValueError(f"the text is longer than {MAX_BYTES:,} bytes, the most that is read at once")
    if found := other_encoding(raw[:HEAD_BYTES]):
        return ValueError(found)
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return {"text": raw.decode("utf-8")}
    except UnicodeDecodeError as error:
        return ValueError(not_utf8(error))


def printable(name: str) -> str:
    """Show a file's name; bytes of it that are no UTF-8 come as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()

"""Turns a whole part file, JSON lines as `khabar score` writes them, into the file that the user asked for.

Goes by the output's ending. The file appears whole or not at all, and the same lines always give the same bytes.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from khabar.inference.csv_output import write_csv
from khabar.inference.parquet_output import write_parquet
from khabar.inference.sqlite_output import write_sqlite
from khabar.inference.text_rows import printable
from khabar.models.errors import KhabarError, MissingExtraError

OutputFormat = Literal["jsonl", "parquet", "csv", "sqlite"]

_FORMAT_OF_ENDING: dict[str, OutputFormat] = {
    **{f"{lines}{packed}": "jsonl" for lines in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst")},
    ".parquet": "parquet",
    ".csv": "csv",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".db": "sqlite",
}
_NEEDED = {".parquet": "pyarrow", ".zst": "zstandard"}
_ALLOWED = ".jsonl, .ndjson or .json (JSON Lines; also with .gz or .zst behind), .parquet, .csv, .sqlite (or .db)"


def output_format(path: str | Path) -> OutputFormat:
    """Say what a file of results is to be, before there are any.

    Raises:
        KhabarError: If its ending stands for no format; the message names those that do.
        MissingExtraError: If the format needs a package that is not installed.
    """
    path = Path(path)
    name = path.name.lower()
    found = next((kind for ending, kind in _FORMAT_OF_ENDING.items() if name.endswith(ending)), None)
    if found is None:
        raise KhabarError(f"{path}: output ending {path.suffix or '(none)'} is not known; allowed: {_ALLOWED}")
    if path.suffix.lower() == ".parquet" and printable(str(path)) != str(path):
        raise KhabarError(f"{printable(str(path))}: the name is not UTF-8, which writing Parquet needs; give another")
    package = _NEEDED.get(path.suffix.lower())
    if package is not None and importlib.util.find_spec(package) is None:
        raise MissingExtraError("formats", f"writing {path.suffix}")
    return found


def write_output(part: Path, target: Path) -> None:
    """Make the file of results, and take the part file away once it is there.

    Holds a few articles at a time, whatever the part's size.

    Args:
        part: One object a line, each as `TaggedArticle.to_json` gives it. It must be in the target's folder.
        target: The file; what stood there before is replaced. A link stays a link to the new file.

    Raises:
        KhabarError: If the target cannot be written (the disk is full, say); the part stays, and what stood in
            the target's place.
    """
    write = _writer(target)
    place, beside = target.resolve(), unfinished(target)
    try:
        if write is None:
            part.replace(place)
            return
        write(part, beside)
        with beside.open("r+b") as written:
            os.fsync(written.fileno())
        beside.replace(place)
    except OSError as error:
        raise KhabarError(f"{target} cannot be written: {error.strerror or error}; the results are in {part}") from None
    finally:
        beside.unlink(missing_ok=True)
    part.unlink()


def unfinished(target: str | Path) -> Path:
    """Where the file is made before it takes its place."""
    place = Path(target).resolve()
    return place.with_name(f".{place.name}.partial")


class _Articles:
    """A part file's objects, read anew by each loop."""

    def __init__(self, part: Path) -> None:
        self._part = part

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._part.open("rb") as lines:
            for line in lines:
                yield json.loads(line)


def _writer(target: Path) -> Callable[[Path, Path], None] | None:
    """What turns a part into a file of the target's kind; None where the part is that file."""
    kind = output_format(target)
    if kind == "jsonl":
        return {".gz": _gzip, ".zst": _zstandard}.get(target.suffix.lower())
    write = {"parquet": write_parquet, "csv": write_csv, "sqlite": write_sqlite}[kind]
    return lambda part, place: write(_Articles(part), place)


def _gzip(part: Path, place: Path) -> None:
    # Without name and time, which gzip would keep inside.
    with (
        part.open("rb") as lines,
        place.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as packed,
    ):
        shutil.copyfileobj(lines, packed)


def _zstandard(part: Path, place: Path) -> None:
    import zstandard

    with part.open("rb") as lines, place.open("wb") as packed:
        zstandard.ZstdCompressor(level=9, write_checksum=True).copy_stream(lines, packed)

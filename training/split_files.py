"""Splits files of articles: reads their lines, has them dealt out, writes each part's lines as they were.

Knows lines and folders; which article goes where is split.py's matter. Holds no texts.
"""

from __future__ import annotations

import os
import shutil
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from khabar.inference.duplicates import near_duplicates
from khabar.models.article import Article, parse_article
from khabar.models.article_reader import parse_json, read_lines
from khabar.models.errors import CorpusError, KhabarError, Problem
from khabar.models.messages import show
from khabar.training.source_spec import refuse_other_formats, refuse_repeated
from khabar.training.split import PARTS, Entry, Groups, Split, SplitSettings, split_entries


@dataclass(frozen=True, kw_only=True)
class CorpusSplit:
    """A split that has been written: which article of `entries` is in which part, and which belong together."""

    entries: Sequence[Entry]
    groups: Groups
    split: Split


def split_files(
    inputs: Sequence[str | Path], output: str | Path, settings: SplitSettings, *, overwrite: bool = False
) -> CorpusSplit:
    """Split the articles of files together, and write train.jsonl, dev.jsonl and test.jsonl, those asked for.

    Each article's line is copied byte for byte; lines keep their order. The files appear when all are written.

    Args:
        inputs: Files of articles, JSON Lines.
        output: The folder; made where there is none.
        settings: How to split.
        overwrite: Take an earlier split's files out of the folder.

    Raises:
        CorpusError: If any line is not an article, or dates decide and articles have none.
        KhabarError: If a file cannot be read, the folder holds a split, or the articles cannot be split so.
        MissingExtraError: If near-duplicates are to be grouped and the package for that is not installed.
    """
    folder = Path(output)
    refuse_other_formats(inputs)
    refuse_repeated(inputs)
    _check_folder(folder, inputs, overwrite=overwrite)
    lines = _Lines(inputs)
    if settings.group_duplicates:
        groups = near_duplicates(article.text for article in lines)
    else:
        groups = [[number] for number, _ in enumerate(lines)]
    if lines.problems:
        raise CorpusError(lines.problems)
    split = split_entries(lines.entries, groups, settings)
    _write(folder, lines, split)
    return CorpusSplit(entries=lines.entries, groups=groups, split=split)


class _Lines:
    """Reads articles one at a time, and remembers of each what there is to know but its text."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = paths
        self._ids: dict[str, tuple[str, int]] = {}  # file and line where each was first seen
        self._checksums = array("L")  # of each article's line
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []

    def __iter__(self) -> Iterator[Article]:
        for path, number, line in self._read():
            article = self._article(str(path), number, line)
            if article is not None:
                self._checksums.append(zlib.crc32(line))
                self.entries.append(_entry(str(path), number, article))
                yield article

    def again(self) -> Iterator[bytes]:
        """Read the articles' lines, without their ends, once more.

        Raises:
            KhabarError: If they are not those that were read before.
        """
        for (path, _, line), checksum in zip_longest(self._read(), self._checksums, fillvalue=(None, 0, b"")):
            if zlib.crc32(line) != checksum:
                raise KhabarError(f"{path or self._paths[-1]} has changed while it was being split; start again")
            yield line

    def _read(self) -> Iterator[tuple[str | Path, int, bytes]]:
        return ((path, number, line) for path in self._paths for number, line in read_lines(path))

    def _article(self, file: str, number: int, line: bytes) -> Article | None:
        try:
            article, messages = parse_article(parse_json(line))
        except ValueError as error:
            article, messages = None, [str(error)]
        if article is not None and article.id is not None:
            first = self._ids.setdefault(article.id, (file, number))
            if first != (file, number):
                messages = [f"id is {show(article.id)}, the id of {first[0]}:{first[1]} too; allowed: each id once"]
        self.problems += [Problem(file=file, line=number, message=message) for message in messages]
        return article


def _entry(file: str, line: int, article: Article) -> Entry:
    """Gather what splitting looks at: labels, and whether the article is annotated at all."""
    topics = set(article.topics or ()).union(*(segment.topics or () for segment in article.segments or ()))
    labels = {("topic", topic) for topic in topics}
    labels |= {("entity", entity.label) for entity in article.entities or ()}
    if article.topics is not None or any(segment.topics is not None for segment in article.segments or ()):
        labels.add(("annotated", "topics"))
    if article.entities is not None:
        labels.add(("annotated", "entities"))
    return Entry(file=file, line=line, labels=frozenset(labels), date=article.date, source=article.source)


def _check_folder(folder: Path, inputs: Sequence[str | Path], *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise KhabarError(f"{folder} is a file; allowed: a folder, there or new")
    targets = _files(folder)
    for path in inputs:
        if Path(path).resolve() in {target.resolve() for target in targets}:
            raise KhabarError(f"{path} would be overwritten by its own split; give another output folder")
    there = [target.name for target in targets if target.exists()]
    if there and not overwrite:
        raise KhabarError(f"{folder} already holds {', '.join(there)}; give another folder, or --overwrite")


def _write(folder: Path, lines: _Lines, split: Split) -> None:
    """Write the parts beside their place and move them in, train last: a folder with a train.jsonl is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}-{os.getpid()}"
    partial.mkdir()
    try:
        part_of = {number: name for name, numbers in split.parts.items() for number in numbers}
        with ExitStack() as files:
            streams = {name: files.enter_context((partial / f"{name}.jsonl").open("wb")) for name in split.parts}
            for number, line in enumerate(lines.again()):
                streams[part_of[number]].write(line + b"\n")
        folder.mkdir(exist_ok=True)
        for target in _files(folder):
            target.unlink(missing_ok=True)
        for target in reversed(_files(folder)):
            if target.stem in split.parts:
                (partial / target.name).replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return [folder / f"{name}.jsonl" for name in PARTS]

"""Cuts inputs into stretches that many workers can score at once, each into a file of its own.

Turns a source into stretches of rows, and a stretch into a part of the output folder. A stretch may be scored
again, by whoever: the same files come of it. Knows nothing of how work gets to workers.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from khabar.inference.chunks import ChunkTagger, cut_rows, score_chunks
from khabar.inference.lines import json_line, result_line
from khabar.inference.outputs import write_output
from khabar.inference.part import Done
from khabar.inference.planning import LOOK_AHEAD
from khabar.inference.sources import PlacedRow, Source, read_placed_rows
from khabar.models.errors import KhabarError

# Some thousand articles in these small chunks: a part of about 10 MB. A GPU takes eight of them together, and has
# nothing to do while a stretch begins and ends.
CHUNKS_IN_STRETCH = {"cpu": 16, "cuda": 64}
MOST_TRIES = 3  # what has ended so many workers would end the next one too

Place = tuple[int, int]  # number of an input and of the stretch in it, both from 1


@dataclass(frozen=True, kw_only=True)
class Staging:
    """The unfinished output, on a disk that every worker sees.

    Attributes:
        folder: Where it is; the parts stand in its folder `parts` until all are there.
        ending: Ending of the parts, which says what they are: `.jsonl` or `.parquet`, say.
    """

    folder: Path
    ending: str

    @property
    def parts(self) -> Path:
        """Folder of whole parts."""
        return self.folder / "parts"

    @property
    def work(self) -> Path:
        """Folder of what workers are at, a folder for each try."""
        return self.folder / "work"

    def part(self, place: Place) -> Path:
        """Results of a stretch; parts in the order of their names are in the order of the rows."""
        return self.parts / f"{_name(place)}{self.ending}"

    def bad_rows(self, place: Place) -> Path:
        """Bad rows of a stretch; there when it has some."""
        return self.folder / "bad_rows" / f"{_name(place)}.jsonl"

    def make(self) -> None:
        """Make the folders.

        Raises:
            FileExistsError: If there is a staging folder already.
        """
        self.folder.mkdir()
        for folder in (self.parts, self.work, self.folder / "bad_rows"):
            folder.mkdir()


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How all stretches of a run are read and scored.

    Attributes:
        max_characters: Longest text; a longer one is a bad row.
        strict: Stop at a bad row.
        directory: Where names of inputs start from.
        chunks_in_stretch: Most chunks in a stretch.
    """

    max_characters: int
    strict: bool
    directory: Path
    chunks_in_stretch: int = CHUNKS_IN_STRETCH["cpu"]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Rows of one input, from where a chunk begins to where one ends.

    Attributes:
        place: Which it is.
        rows: The rows; none in an input without any.
        last: Whether the input ends with it.
    """

    place: Place
    rows: Sequence[PlacedRow]
    last: bool


@dataclass(frozen=True, kw_only=True)
class ScoredStretch:
    """What came of a stretch; its results and bad rows are on the disk."""

    place: Place
    last: bool
    n_articles: int
    n_bad_rows: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Why a run cannot go on: a KhabarError's message, or the system's."""

    reason: str


def count_rows(source: Source, rules: Rules) -> int | Failed:
    """Count an input's rows, by which rows of later inputs that have no id are numbered."""
    try:
        os.chdir(rules.directory)
        return sum(1 for _ in read_placed_rows([source]))
    except (KhabarError, OSError) as error:
        return _failed(error)


def read_stretches(source: Source, number: int, n_before: int, rules: Rules) -> Iterator[Stretch | Failed]:
    """Read an input.

    Args:
        source: The input.
        number: Its number, from 1.
        n_before: Rows of all inputs before it.
        rules: As for the whole run.

    Yields:
        At least one stretch, the last one with its mark; or, behind the whole ones, what ended the reading.
    """
    chunks: list[list[PlacedRow]] = []
    n_stretches = 0

    def stretch(*, last: bool) -> Stretch:
        return Stretch(place=(number, n_stretches), rows=[row for chunk in chunks for row in chunk], last=last)

    try:
        os.chdir(rules.directory)  # bad rows name their file as the user wrote it
        rows = read_placed_rows([source], n_before=n_before)
        # These chunks only measure a stretch; who scores it cuts it for its device.
        look_ahead = LOOK_AHEAD["cpu"]
        for chunk in cut_rows(rows, look_ahead=look_ahead, max_characters=rules.max_characters, strict=rules.strict):
            if len(chunks) == rules.chunks_in_stretch:
                n_stretches += 1
                yield stretch(last=False)
                chunks = []
            chunks.append(chunk)
    except (KhabarError, OSError) as error:
        yield _failed(error)
        return
    n_stretches += 1
    yield stretch(last=True)


class StretchScorer:
    """A worker: loads its tagger once, with the first stretch, and writes a part for each stretch it is given.

    Args:
        load: Gives the tagger.
        staging: Where parts go.
        rules: As for the whole run.
    """

    def __init__(self, load: Callable[[], ChunkTagger], staging: Staging, rules: Rules) -> None:
        self._load = load
        self._tagger: ChunkTagger | None = None
        self._staging = staging
        self._rules = rules

    def score(self, stretch: Stretch) -> ScoredStretch | Failed:
        """Score a stretch into its part, which appears whole."""
        # The name tells who is at it; what a killed worker leaves behind stays, and is counted.
        tries = self._staging.work / _name(stretch.place)
        work = tries / f"{socket.gethostname()}.{os.getpid()}"
        try:
            tries.mkdir(exist_ok=True)
            if len(list(tries.iterdir())) >= MOST_TRIES:
                return Failed(reason=f"{_where(stretch)} has ended {MOST_TRIES} workers; is there memory enough?")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            scored = self._score_in(work, stretch)
            shutil.rmtree(tries)
        except (KhabarError, OSError) as error:
            return _failed(error)
        return scored

    def _score_in(self, work: Path, stretch: Stretch) -> ScoredStretch:
        if self._tagger is None:
            self._tagger = self._load()
        part, bad_rows = self._staging.part(stretch.place), self._staging.bad_rows(stretch.place)
        done = Done()
        with (work / "lines").open("wb") as lines, (work / "bad_rows").open("wb") as bad_lines:
            chunks = score_chunks(
                self._tagger,
                result_line,
                stretch.rows,
                done=done,
                max_characters=self._rules.max_characters,
                strict=self._rules.strict,
            )
            for chunk in chunks:
                lines.writelines(line.whole() for line in chunk.results)
                bad_lines.writelines(json_line(row.to_json()) for row in chunk.bad_rows)
                done = chunk.done
            for stream in (lines, bad_lines):
                stream.flush()
                os.fsync(stream.fileno())
        write_output(work / "lines", work / part.name)
        if done.n_bad_rows:
            (work / "bad_rows").replace(bad_rows)
        (work / part.name).replace(part)
        return ScoredStretch(
            place=stretch.place, last=stretch.last, n_articles=done.n_articles, n_bad_rows=done.n_bad_rows
        )


def check_whole(scored: Mapping[Place, ScoredStretch], n_inputs: int) -> None:
    """See that nothing is lost: of each input the stretches from the first to the last.

    Raises:
        KhabarError: Naming the first input of which something is missing.
    """
    numbers: dict[int, list[int]] = {number: [] for number in range(1, n_inputs + 1)}
    ended = set()
    for (number, in_input), stretch in sorted(scored.items()):
        numbers[number].append(in_input)
        if stretch.last:
            ended.add((number, in_input))
    for number, found in numbers.items():
        if found != list(range(1, len(found) + 1)) or (number, len(found)) not in ended:
            raise KhabarError(f"some of input {number} has been lost on the way; nothing is written: run it again")


def _name(place: Place) -> str:
    return f"part-{place[0]:06}-{place[1]:06}"


def _where(stretch: Stretch) -> str:
    """Where a stretch stands, for people."""
    if not stretch.rows:
        return f"input {stretch.place[0]}"
    first, last = stretch.rows[0], stretch.rows[-1]
    return first.file if first.line is None else f"{first.file}:{first.line} to {last.file}:{last.line}"


def _failed(error: KhabarError | OSError) -> Failed:
    if isinstance(error, KhabarError):
        return Failed(reason=str(error))
    place = f"{error.filename}: " if error.filename else ""
    return Failed(reason=f"{place}{error.strerror or error}")

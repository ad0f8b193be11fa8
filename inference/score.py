"""Scores any number of articles: sources in, one line a result out, bad rows put aside with their reasons.

Joins sources, a tagger and outputs: a file, with part files that another run can go on with, or a stream.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from khabar.inference.chunks import MAX_CHARACTERS, ChunkTagger, ScoredChunk, score_chunks
from khabar.inference.lines import ResultFormat, ResultLine, json_line, result_line
from khabar.inference.outputs import output_format, write_output
from khabar.inference.part import Done, PartFiles, files_beside
from khabar.inference.progress import Progress
from khabar.inference.run_identity import describe_run
from khabar.inference.sinks import check_output, is_special
from khabar.inference.sources import PlacedRow, Source, read_placed_rows
from khabar.inference.text_rows import text_files
from khabar.models.errors import KhabarError


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How rows are scored, as far as it shows in the output.

    Attributes:
        result_format: `json` gives a result's JSON object a line, `text` the view for people.
        max_characters: Longest text; a longer one is a bad row.
        group_duplicates: Say for each article which story it tells.

    Raises:
        KhabarError: If they do not go together.
    """

    result_format: ResultFormat = "json"
    max_characters: int = MAX_CHARACTERS
    group_duplicates: bool = False

    def __post_init__(self) -> None:
        if self.max_characters < 1:
            raise KhabarError(f"max_characters is {self.max_characters}, must be at least 1")
        if self.group_duplicates and self.result_format == "text":
            raise KhabarError("--group-duplicates does not go with --format text, which shows no stories")


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes:
        n_articles: Articles scored, those of the run that was gone on with included.
        n_bad_rows: Rows that could not be scored, likewise.
        n_before: Articles that the run that was gone on with had scored.
        seconds: From the first row's reading to the last result's writing.
    """

    n_articles: int
    n_bad_rows: int
    n_before: int = 0
    seconds: float

    @property
    def articles_per_second(self) -> float:
        """Articles scored in a second by this run; 0 when there were none."""
        return (self.n_articles - self.n_before) / self.seconds if self.seconds > 0 else 0.0


def check_results_file(path: str | Path, options: ScoreOptions) -> None:
    """See, before long work, that an output can be written.

    Raises:
        KhabarError: If it is a folder, its folder is missing or closed to writing, or its ending promises
            another format than there will be.
        MissingExtraError: If its format needs a package that is not installed.
    """
    check_output(path)
    if is_special(path):
        return
    if options.result_format == "json":
        output_format(path)
    elif Path(path).suffix.lower() not in ("", ".txt"):
        raise KhabarError(f"{path}: --format text gives plain text; allowed: an output ending .txt, or --format json")


def score_sources(
    tagger: ChunkTagger,
    sources: Sequence[Source],
    output: str | Path | BinaryIO,
    *,
    errors: BinaryIO,
    stdin: BinaryIO | None = None,
    options: ScoreOptions | None = None,
    made_by: Mapping[str, str] | None = None,
    strict: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Score sources into a file, which appears whole or not at all, or into a stream.

    A run into a file that ends before its time leaves part files, with which another run goes on: the output
    is then the same, byte by byte, as if nothing had happened.

    Args:
        tagger: Gives the results.
        sources: What `open_sources` gave.
        output: A path; or a stream of bytes, such as standard output's.
        errors: Gets a line for each bad row where the output is not a file; a file's bad rows go to
            `OUTPUT.errors.jsonl`, which is there exactly when there are some.
        stdin: Standard input as bytes, where a source stands for it.
        options: How rows are scored.
        made_by: What else the results depend on, such as the model's digest: a run goes on only with part files
            made by the same.
        strict: Stop at the first bad row.
        resume: Go on with the part files that are there. Without it they are refused.
        progress: Is told what is read and scored.

    Raises:
        KhabarError: If the output cannot be written, is one of the sources, or has part files that cannot be
            gone on with; or, if `strict`, at the first bad row.
        OSError: If reading or writing fails midway.
    """
    run = _Run(tagger, options or ScoreOptions(), strict=strict, progress=progress or Progress())

    def rows() -> Iterable[PlacedRow]:
        return map(run.progress.read, read_placed_rows(sources, stdin=stdin, opened=run.progress.opened))

    if resume and (not isinstance(output, str | Path) or is_special(output)):
        raise KhabarError("a stream of results cannot be gone on with; give an output file")
    if not isinstance(output, str | Path):
        return run.into_stream(rows(), output, errors)
    if is_special(output):
        with Path(output).open("wb") as stream:
            return run.into_stream(rows(), stream, errors)
    check_results_file(output, run.options)
    _check_apart(output, sources, stdin)
    finish = write_output if run.options.result_format == "json" else _rename
    identity = describe_run(sources, {**(made_by or {}), **asdict(run.options)})
    with PartFiles(output, identity, finish=finish, resume=resume) as parts:
        return run.into_parts(rows(), parts)


class _Run:
    """One scoring run: the same lines, wherever they go."""

    def __init__(self, tagger: ChunkTagger, options: ScoreOptions, *, strict: bool, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self._tagger = tagger
        self._strict = strict

    def into_stream(self, rows: Iterable[PlacedRow], stream: BinaryIO, errors: BinaryIO) -> ScoreSummary:
        def write(chunk: ScoredChunk[ResultLine]) -> None:
            # Bad rows go to people, who look at them while results come.
            if chunk.bad_rows:
                errors.write(b"".join(f"{row}\n".encode() for row in chunk.bad_rows))
                errors.flush()
            stream.write(_lines(chunk))
            stream.flush()

        started = time.perf_counter()
        return _summary(Done(), self._score(rows, Done(), write), started)

    def into_parts(self, rows: Iterable[PlacedRow], parts: PartFiles) -> ScoreSummary:
        def write(chunk: ScoredChunk[ResultLine]) -> None:
            bad_rows = b"".join(json_line(row.to_json()) for row in chunk.bad_rows)
            parts.write(_lines(chunk), bad_rows, chunk.done)

        started, before = time.perf_counter(), parts.done
        if not before.whole:
            self._score(rows, before, write)
        parts.finish()
        return _summary(before, parts.done, started)

    def _score(self, rows: Iterable[PlacedRow], before: Done, write: Callable[[ScoredChunk[ResultLine]], None]) -> Done:
        done = before
        chunks = score_chunks(
            self._tagger,
            partial(result_line, result_format=self.options.result_format),
            rows,
            done=before,
            max_characters=self.options.max_characters,
            group_duplicates=self.options.group_duplicates,
            strict=self._strict,
        )
        with closing(chunks):
            for chunk in chunks:
                write(chunk)
                self.progress.scored(len(chunk.results))
                done = chunk.done
        return done


def _lines(chunk: ScoredChunk[ResultLine]) -> bytes:
    return b"".join(line.whole(story) for line, story in zip(chunk.results, chunk.stories, strict=True))


def _summary(before: Done, done: Done, started: float) -> ScoreSummary:
    return ScoreSummary(
        n_articles=done.n_articles,
        n_bad_rows=done.n_bad_rows,
        n_before=before.n_articles,
        seconds=time.perf_counter() - started,
    )


def _rename(part: Path, target: Path) -> None:
    part.replace(target.resolve())


def _check_apart(output: str | Path, sources: Sequence[Source], stdin: BinaryIO | None) -> None:
    """Refuse to put results, or what is kept beside them, in an input's place: they do not hold its texts."""
    written = {path: path.stat() for path in (Path(output), *files_beside(output)) if path.exists()}
    for source in sources if written else ():
        for read in _files(source, stdin):
            for path, place in written.items():
                if os.path.samestat(place, read):
                    whose = "its results" if path == Path(output) else f"what is kept beside {output}"
                    raise KhabarError(f"{path} is an input too, which {whose} would replace; give another output")


def _files(source: Source, stdin: BinaryIO | None) -> Iterator[os.stat_result]:
    """Look at the files that a source is read from; those that are not there show when they are read."""
    if source.is_standard_input:
        with suppress(OSError, AttributeError):  # a stream that is no file of the system's
            yield os.fstat(stdin.fileno())  # type: ignore[union-attr]
        return
    for file in text_files(Path(source.name)) if source.is_folder else [Path(source.name)]:
        with suppress(OSError):
            yield file.stat()

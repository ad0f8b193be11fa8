"""Scores any number of articles: rows in, one line a result out, bad rows put aside with their reasons.

Joins sources, a tagger and sinks, holding a bounded stretch of articles. Knows a tagger only by tag_many.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from khabar.inference.render import render
from khabar.inference.results import TaggedArticle
from khabar.inference.sinks import FileSink, LineSink, StreamSink, check_output, is_special
from khabar.inference.sources import BadRow, Source, read_rows
from khabar.models.article import Article
from khabar.models.errors import KhabarError

OutputFormat = Literal["json", "text"]


class ArticleTagger(Protocol):
    """Whatever tags articles as a stream, in their order; khabar's Tagger is one."""

    def tag_many(self, articles: Iterable[Article], /) -> Iterator[TaggedArticle]:
        """Give one result an article."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes:
        n_articles: Articles scored.
        n_bad_rows: Rows that could not be scored.
        seconds: From the first row's reading to the last result's writing.
    """

    n_articles: int
    n_bad_rows: int
    seconds: float

    @property
    def articles_per_second(self) -> float:
        """Articles scored in a second; 0 when there were none."""
        return self.n_articles / self.seconds if self.seconds > 0 else 0.0


def score(
    tagger: ArticleTagger,
    rows: Iterable[Article | BadRow],
    *,
    write: Callable[[TaggedArticle], None],
    report: Callable[[BadRow], None],
    strict: bool = False,
) -> ScoreSummary:
    """Score rows as they come.

    Args:
        tagger: Gives the results.
        rows: What `read_rows` yields.
        write: Takes each result, in the rows' order.
        report: Takes each bad row, as soon as it is met.
        strict: Stop at the first bad row.

    Raises:
        KhabarError: At the first bad row, if `strict`.
    """
    started = time.perf_counter()
    n_articles = n_bad_rows = 0

    def articles() -> Iterator[Article]:
        nonlocal n_bad_rows
        for row in rows:
            if isinstance(row, Article):
                yield row
            elif strict:
                raise KhabarError(str(row))
            else:
                report(row)
                n_bad_rows += 1

    for result in tagger.tag_many(articles()):
        write(result)
        n_articles += 1
    return ScoreSummary(n_articles=n_articles, n_bad_rows=n_bad_rows, seconds=time.perf_counter() - started)


def score_sources(
    tagger: ArticleTagger,
    sources: Sequence[Source],
    output: str | Path | BinaryIO,
    *,
    errors: BinaryIO,
    stdin: BinaryIO | None = None,
    output_format: OutputFormat = "json",
    strict: bool = False,
    progress: Callable[[], object] = lambda: None,
) -> ScoreSummary:
    """Score sources into a file, which appears whole or not at all, or into a stream.

    Args:
        tagger: Gives the results.
        sources: What `open_sources` gave.
        output: A path; or a stream of bytes, such as standard output's.
        errors: Gets a line for each bad row where the output is not a file; a file's bad rows go to
            `OUTPUT.errors.jsonl`, which is there exactly when there are some.
        stdin: Standard input as bytes, where a source stands for it.
        output_format: `json` writes a result's JSON object a line, `text` the view for people.
        strict: Stop at the first bad row, without an output file.
        progress: Called after each result.

    Raises:
        KhabarError: If the output cannot be written, or is one of the sources; or, if `strict`, at the
            first bad row.
        OSError: If reading or writing fails midway.
    """
    with ExitStack() as stack:
        out: LineSink
        bad: LineSink
        if isinstance(output, str | Path) and not is_special(output):
            check_output(output)
            _check_apart(output, sources)
            out = FileSink(output)
            bad = FileSink(errors_path(output), keep_empty=False)
        else:
            if isinstance(output, str | Path):
                output = stack.enter_context(Path(output).open("wb"))
            out, bad = StreamSink(output), StreamSink(errors)
        # The bad rows' file is moved into place first: whoever finds the output finds them too.
        stack.enter_context(out)
        stack.enter_context(bad)

        def write(result: TaggedArticle) -> None:
            if output_format == "text":
                out.write(render(result) + "\n")
            else:
                out.write(json.dumps(result.to_json(), ensure_ascii=False))
            progress()

        def report(row: BadRow) -> None:
            bad.write(json.dumps(row.to_json(), ensure_ascii=False) if isinstance(bad, FileSink) else str(row))

        return score(tagger, read_rows(sources, stdin=stdin), write=write, report=report, strict=strict)


def errors_path(output: str | Path) -> Path:
    """Where the bad rows of a run that writes a file go."""
    return Path(f"{output}.errors.jsonl")


def _check_apart(output: str | Path, sources: Sequence[Source]) -> None:
    """Refuse to put results in an input's place: they do not hold its texts."""
    target = Path(output)
    if not target.exists():
        return
    for source in sources:
        if not source.is_standard_input and Path(source.name).exists() and target.samefile(source.name):
            raise KhabarError(f"{output} is an input too, which its results would replace; give another output")

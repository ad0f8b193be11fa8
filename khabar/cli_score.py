"""`khabar score`: articles in, one result a line out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from khabar.cli_common import BAD_ROWS, Device, one_line_errors, say
from khabar.models.errors import KhabarError

if TYPE_CHECKING:
    from khabar.inference.score import ScoreSummary


@one_line_errors
def score(
    articles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARTICLES",
            help="JSON Lines (.jsonl, .ndjson, .json), CSV with a column `text` (.csv), one article as plain "
            "text (.txt), a folder of .txt files, or - for standard input, the default in a pipe.",
        ),
    ] = None,
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model folder or hub id; `embedded` comes with khabar.")
    ] = "embedded",
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="File for the results, replaced once they are whole; - is standard output. Rows that cannot "
            "be scored go to OUTPUT.errors.jsonl, or to standard error.",
        ),
    ] = "-",
    output_format: Annotated[
        Literal["json", "text"],
        typer.Option("--format", "-f", help="json: an object a line; text: for people to read."),
    ] = "json",
    input_format: Annotated[
        Literal["auto", "jsonl", "csv", "txt"],
        typer.Option(
            help="What files and standard input are. auto: by a file's ending; standard input is JSON Lines "
            "if it starts with {, else the text of one article."
        ),
    ] = "auto",
    device: Device = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be scored.")] = False,
) -> None:
    """Find topics and entities in articles; one result a line.

    Exit code 0: every row scored; 1: some rows could not be; 2: nothing written, the message says why.
    """
    if not articles and sys.stdin.isatty():
        raise KhabarError("nothing to score: give files, a folder, or - for standard input")

    from khabar.inference.sinks import check_output
    from khabar.inference.sources import STANDARD_INPUT, open_sources

    sources = open_sources(articles or [STANDARD_INPUT], input_format=input_format)
    to_stream = output == "-"
    if not to_stream:
        check_output(output)

    # The slow import comes once the inputs are known to be there.
    from khabar.inference.score import errors_path, score_sources
    from khabar.inference.tagger import load

    tagger = load(model, device=device)
    with _progress(hidden=to_stream and sys.stdout.isatty()) as progress:
        summary = score_sources(
            tagger,
            sources,
            sys.stdout.buffer if to_stream else Path(output),
            errors=sys.stderr.buffer,
            stdin=sys.stdin.buffer,
            output_format=output_format,
            strict=strict,
            progress=progress,
        )
    say(_summary_line(summary, None if to_stream else errors_path(output)))
    if summary.n_bad_rows:
        raise typer.Exit(BAD_ROWS)


def _progress(*, hidden: bool) -> AbstractContextManager[Callable[[], object]]:
    """A count of articles on standard error, where a person looks at it and nothing else is shown."""
    if hidden or not sys.stderr.isatty():
        return nullcontext(lambda: None)
    return _bar()


@contextmanager
def _bar() -> Iterator[Callable[[], object]]:
    from tqdm import tqdm

    with tqdm(unit=" articles", leave=False) as bar:
        yield bar.update


def _summary_line(summary: ScoreSummary, errors: Path | None) -> str:
    parts = [f"scored {summary.n_articles:,} {_plural('article', summary.n_articles)}"]
    if summary.n_bad_rows:
        where = "" if errors is None else f" (see {errors})"
        parts.append(f"{summary.n_bad_rows:,} {_plural('row', summary.n_bad_rows)} could not be scored{where}")
    parts.append(f"{summary.articles_per_second:,.1f} articles/s")
    return "; ".join(parts)


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"

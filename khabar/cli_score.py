"""`khabar score`: articles in, one result a line out."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from khabar import __version__
from khabar.cli_common import BAD_ROWS, Device, load_tagger, one_line_errors, say, standard_input
from khabar.cli_progress import scoring_progress
from khabar.inference.runtimes import Precision, Runtime
from khabar.models.errors import KhabarError

if TYPE_CHECKING:
    from khabar.inference.score import ScoreSummary


@one_line_errors
def score(
    articles: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARTICLES",
            help="JSON Lines (.jsonl, .ndjson, .json), .csv, .parquet, one article as plain text (.txt), a folder "
            "of .txt files, a quoted pattern ('news/*.jsonl.gz'), or - for standard input, the default in a pipe. "
            "All but Parquet may be compressed (.gz, .zst).",
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
        Literal["auto", "jsonl", "csv", "parquet", "txt"],
        typer.Option(
            help="What files and standard input are. auto: by a file's ending; standard input is JSON Lines "
            "if it starts with {, else the text of one article."
        ),
    ] = "auto",
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="The key or column that holds a row's text.")
    ] = "text",
    id_field: Annotated[str, typer.Option(metavar="NAME", help="The key or column that holds a row's id.")] = "id",
    device: Device = "auto",
    runtime: Annotated[
        Runtime,
        typer.Option(
            help="What runs the model; compiled: torch.compile first, for half a minute or more, best on one core; "
            "onnx: a folder that `khabar export` wrote, on the CPU."
        ),
    ] = "torch",
    precision: Annotated[
        Precision,
        typer.Option(help="bf16 is faster on processors with AMX or AVX512-BF16; auto: bf16 on a GPU, fp32 on a CPU."),
    ] = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be scored.")] = False,
    max_characters: Annotated[
        int, typer.Option(metavar="N", help="Longest text; a row with a longer one cannot be scored.")
    ] = 300_000,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a run that was stopped, given the same again; where there is none, start."
        ),
    ] = False,
    group_duplicates: Annotated[
        bool,
        typer.Option(
            "--group-duplicates", help="Give each result a `story`: the id of the first article that tells the same."
        ),
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this process; ray: workers of a Ray cluster, which write a folder of parts."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="local: processes that encode texts and read results beside the model's; by default as many as suit "
            "a GPU and this machine, none for a CPU. ray: how many workers; by default as many as find room.",
        ),
    ] = None,
) -> None:
    """Find topics and entities in articles; one result a line.

    Exit code 0: every row scored; 1: some rows could not be; 2: not done, the message says why.
    """
    if not articles and (sys.stdin is None or sys.stdin.isatty()):
        raise KhabarError("nothing to score: give files, a folder, or - for standard input")

    from khabar.inference.fields import FieldNames
    from khabar.inference.part import errors_path, files_beside
    from khabar.inference.ray_cluster import RayOptions
    from khabar.inference.ray_engine import check_results_folder, score_sources_on_ray
    from khabar.inference.score import ScoreOptions, check_results_file, score_sources
    from khabar.inference.sinks import is_special
    from khabar.inference.sources import STANDARD_INPUT, open_sources

    options = ScoreOptions(
        result_format=output_format, max_characters=max_characters, group_duplicates=group_duplicates
    )
    fields = FieldNames(text=text_field, id=id_field)
    to_stream = output == "-"
    if to_stream and sys.stdout is None:
        raise KhabarError("standard output is closed; give --output")
    if not to_stream and engine == "local":
        check_results_file(output, options)
    errors = None if to_stream or is_special(output) else errors_path(output)
    own_files = () if errors is None else files_beside(output)
    sources = open_sources(articles or [STANDARD_INPUT], input_format=input_format, fields=fields, left_out=own_files)
    if engine == "ray":
        if to_stream or resume:
            raise KhabarError("--engine ray needs --output, a new folder, and does not go with --resume")
        ray_options = RayOptions(model=model, device=device, runtime=runtime, precision=precision, workers=workers)
        check_results_folder(output, options, sources)
        with scoring_progress((), hidden=False) as progress:
            summary = score_sources_on_ray(
                sources, output, ray_options, options=options, strict=strict, progress=progress
            )
        _end(summary, errors)
        return
    if to_stream and resume:
        raise KhabarError("--resume needs an output file: what went to standard output cannot be gone on with")

    # The slow import comes once the inputs are known to be there.
    from khabar.inference.run_identity import model_digest

    with load_tagger(model, device=device, runtime=runtime, precision=precision, workers=workers) as tagger:
        gc.freeze()  # or the garbage collector looks through all of torch again and again, while results come and go
        made_by = {"khabar": __version__, "device": tagger.device, "runtime": runtime, "precision": precision}
        if not to_stream:
            made_by["model"] = model_digest(model)
        with scoring_progress(sources, hidden=to_stream and sys.stdout.isatty()) as progress:
            summary = score_sources(
                tagger,
                sources,
                sys.stdout.buffer if to_stream else Path(output),
                errors=sys.stderr.buffer,
                stdin=standard_input(),
                options=options,
                made_by=made_by,
                strict=strict,
                resume=resume,
                progress=progress,
            )
    _end(summary, errors)


def _end(summary: ScoreSummary, errors: Path | None) -> None:
    """Say what was done, in words and by the exit code."""
    say(_summary_line(summary, errors))
    if summary.n_bad_rows:
        raise typer.Exit(BAD_ROWS)


def _summary_line(summary: ScoreSummary, errors: Path | None) -> str:
    parts = [f"scored {summary.n_articles:,} {_plural('article', summary.n_articles)}"]
    if summary.n_before:
        parts.append(f"{summary.n_before:,} of them before")
    if summary.n_bad_rows:
        where = "" if errors is None else f" (see {errors})"
        parts.append(f"{summary.n_bad_rows:,} {_plural('row', summary.n_bad_rows)} could not be scored{where}")
    parts.append(f"{summary.articles_per_second:,.1f} articles/s")
    return "; ".join(parts)


def _plural(noun: str, n: int) -> str:
    return noun if n == 1 else f"{noun}s"

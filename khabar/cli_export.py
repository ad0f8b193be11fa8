"""`khabar export`: a model to a folder that ONNX Runtime runs, behind a gate."""

from __future__ import annotations

from typing import Annotated

import typer

from khabar.cli_common import load_tagger, one_line_errors


@one_line_errors
def export(
    model: Annotated[str, typer.Argument(help="Model folder or hub id; `embedded` comes with khabar.")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to; a new or an empty folder.")],
    *,
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits. Needs --sample.")] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="ARTICLES",
            help="Your articles (.jsonl), at least 20, best labelled ones: the exported model is refused unless its "
            "results on them stay within half a point of F1 and 0.05 of every topic's probability.",
        ),
    ] = None,
    articles: Annotated[int, typer.Option(min=1, help="Most articles of the sample to measure on.")] = 500,
) -> None:
    """Export a model for `khabar score --runtime onnx`, with what it was measured to lose in export.json.

    Exit code 0: exported; 2: refused or failed, nothing written.
    """
    from khabar.models.article_reader import read_articles

    # What is wrong with the sample shows before the slow work.
    chosen = None if sample is None else read_articles(sample)[:articles]

    from khabar.inference.export import export_model

    tagger = load_tagger(model, device="cpu")
    report = export_model(tagger.model, tagger.tokenizer, folder, int8=int8, sample=chosen)
    if report is not None:
        typer.echo(f"measured on {report.n_articles:,} articles")
        for line in report.lines():
            typer.echo(f"  {line}")
    typer.echo(f"khabar score --runtime onnx --model {folder}")

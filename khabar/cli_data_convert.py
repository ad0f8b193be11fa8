"""`khabar data convert`: formats to settings, counts to the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from khabar.cli_common import one_line_errors, say

if TYPE_CHECKING:
    from khabar.training.convert.convert import Conversion

_FORMATS = "jsonl (articles), conll, spacy, label-studio, doccano, prodigy, brat, csv (topics), datasets"


@one_line_errors
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A file or folder of labelled articles.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="What to write; appears when it is whole.")],
    *,
    from_format: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help=f"IN's format: {_FORMATS}.  [default: by the ending]"),
    ] = None,
    to_format: Annotated[
        str | None, typer.Option("--to", metavar="FORMAT", help="OUT's format, likewise.  [default: by the ending]")
    ] = None,
    annotator: Annotated[
        str | None,
        typer.Option(metavar="WHO", help="Take this one's annotations from Label Studio's export: number or e-mail."),
    ] = None,
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="The column of a table (csv) that holds a row's text.")
    ] = "text",
    id_field: Annotated[str, typer.Option(metavar="NAME", help="The column that holds a row's id, likewise.")] = "id",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Convert labelled articles from and to other tools' formats; what a format cannot hold is counted and said."""
    from khabar.inference.fields import FieldNames
    from khabar.training.convert.convert import convert as run

    conversion = run(
        source,
        target,
        from_format=from_format,
        to_format=to_format,
        annotator=annotator,
        fields=FieldNames(text=text_field, id=id_field),
        overwrite=overwrite,
    )
    for place, losses in ((source, conversion.not_read), (target, conversion.not_written)):
        for what, n in losses.most_common():
            say(f"{place}: left out: {n:,} {what}")
    typer.echo(_summary(target, conversion))


def _summary(target: str, conversion: Conversion) -> str:
    articles = conversion.articles
    counts: Counter[str] = Counter()
    for article in articles:
        counts["entities"] += len(article.entities or ())
        counts["topics"] += len(article.topics or ())
        counts["segments"] += len(article.segments or ())
    held = ", ".join(f"{n:,} {what}" for what, n in counts.items())
    formats = f"from {conversion.source.name} to {conversion.target.name}"
    return f"{target}: {formats}, {len(articles):,} articles read with {held}"

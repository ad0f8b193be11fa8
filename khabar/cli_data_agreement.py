"""`khabar data agreement`: two files of the same articles to a table of how far their labels agree."""

from __future__ import annotations

from typing import Annotated

import typer

from khabar.cli_common import one_line_errors


@one_line_errors
def agreement(
    first: Annotated[str, typer.Argument(metavar="A", help="Articles as one annotator labelled them, JSON Lines.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same articles, labelled by another.")],
    *,
    list_all: Annotated[bool, typer.Option("--list", help="List every disagreement with its place.")] = False,
) -> None:
    """Measure how far two annotators agree: Cohen's kappa per topic, span F1 per entity label."""
    from khabar.models.article_reader import read_articles
    from khabar.training.agreement import measure_agreement
    from khabar.training.agreement_pairs import match_articles
    from khabar.training.agreement_table import describe_agreement, list_disagreements
    from khabar.training.source_spec import refuse_other_formats

    refuse_other_formats([first, second])
    found = measure_agreement(match_articles(read_articles(first), read_articles(second)))
    typer.echo(describe_agreement(found, first, second))
    n = len(found.disagreements)
    if list_all and n:
        typer.echo("")
        for line in list_disagreements(found.disagreements):
            typer.echo(line)
    elif n:
        typer.echo(f"\n{n:,} disagreement{'' if n == 1 else 's'}; --list shows them")

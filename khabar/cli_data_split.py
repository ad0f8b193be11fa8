"""`khabar data split`: flags to settings, the table to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from khabar.cli_common import one_line_errors

if TYPE_CHECKING:
    from datetime import date


@one_line_errors
def split(
    files: Annotated[list[str], typer.Argument(help="Files of articles, JSON Lines; split together.")],
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for train.jsonl, dev.jsonl and test.jsonl.")],
    dev: Annotated[
        float | None, typer.Option(help="Share of the articles for dev, 0 for none.  [default: 0.1]")
    ] = None,
    test: Annotated[float | None, typer.Option(help="The same for test.  [default: 0.1]")] = None,
    seed: Annotated[int, typer.Option(help="Other seeds deal out other articles.")] = 0,
    by_date: Annotated[
        str | None,
        typer.Option(metavar="DATE[,DATE]", help="Test is what is from this day on; of two days the first begins dev."),
    ] = None,
    hold_out_source: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Test is what is from this source; may be repeated.")
    ] = None,
    no_group_duplicates: Annotated[
        bool,
        typer.Option("--no-group-duplicates", help="Do not look for near-duplicates, which otherwise stay together."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier split in the folder.")] = False,
) -> None:
    """Split labelled articles into train, dev and test, near-duplicates on one side, labels in equal shares."""
    from khabar.training.split import SplitSettings
    from khabar.training.split_files import split_files
    from khabar.training.split_report import describe_split

    settings = SplitSettings(
        dev=dev,
        test=test,
        seed=seed,
        by_date=_days(by_date),
        hold_out_sources=tuple(hold_out_source or ()),
        group_duplicates=not no_group_duplicates,
    )
    typer.echo(describe_split(split_files(files, output, settings, overwrite=overwrite)))


def _days(text: str | None) -> tuple[date, ...]:
    from datetime import date

    from khabar.models.errors import KhabarError

    if text is None:
        return ()
    try:
        return tuple(date.fromisoformat(day.strip()) for day in text.split(","))
    except ValueError:
        raise KhabarError(f"by-date is {text!r}; allowed: a day as 2021-12-06, or two: 2021-06-01,2021-12-06") from None

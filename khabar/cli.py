"""The command `khabar`: puts its subcommands together. What they do is in cli_*.py and, mostly, elsewhere.

Imports nothing heavy: each command does when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from khabar import __version__
from khabar.cli_calibrate import calibrate
from khabar.cli_common import quiet_libraries
from khabar.cli_data import check
from khabar.cli_data_agreement import agreement
from khabar.cli_data_convert import convert
from khabar.cli_data_sample import sample
from khabar.cli_data_split import split
from khabar.cli_evaluate import evaluate
from khabar.cli_export import export
from khabar.cli_score import score
from khabar.cli_serve import serve
from khabar.cli_train import pretrain, train

# Plain help and plain errors read the same in a terminal, a log and a pipe.
app = typer.Typer(
    name="khabar",
    help="Topics with evidence and entities with exact offsets, read from Arabic news.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(
    help="Check, split, convert and compare labelled articles, and choose which to label.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data, name="data")

app.command()(score)
app.command()(train)
app.command()(evaluate)
app.command()(calibrate)
app.command()(pretrain)
app.command()(export)
app.command()(serve)
data.command()(check)
data.command()(split)
data.command()(sample)
data.command()(convert)
data.command()(agreement)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"khabar {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    quiet_libraries()


def main() -> None:
    """Run the command line."""
    app(prog_name="khabar")

"""`khabar data check`: findings to standard error, what the files hold to standard output, and the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from khabar.cli_common import NOT_DONE, one_line_errors, say

if TYPE_CHECKING:
    from khabar.training.check import Checked

WARNED = 1  # exit code under --strict


@one_line_errors
def check(
    files: Annotated[list[str], typer.Argument(help="Files of articles, JSON Lines; checked together.")],
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if there are warnings and no errors.")] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="Leave out findings of this [kind]; may be repeated.")
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Write copies with the safe fixes into a folder, and check those."),
    ] = None,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page with the articles to look at.")] = None,
) -> None:
    """List what is wrong with labelled articles, and count what they hold.

    Exit code: 2 if there are errors, with --strict 1 if there are warnings, else 0. Notes never count.
    """
    from khabar.inference.sinks import check_output
    from khabar.training.check import check_files, check_ignored
    from khabar.training.check_summary import summarise

    check_ignored(ignore or ())  # before anything is written
    if html is not None:
        check_output(html, ending=".html")
    checked_files = files
    if fix is not None:
        checked_files = _fix(files, fix)
    checked = check_files(checked_files, ignore=ignore or ())
    for finding in checked.findings:
        say(str(finding))
    summary = summarise(checked.files, checked.articles)
    if html is not None:
        from khabar.training.check_page import write_page

        write_page(checked, summary, html)
    if checked.articles:  # else a table of zeros, beside the errors that say why
        typer.echo(summary)
    say(checked.totals())
    _exit(checked, strict=strict)


def _fix(files: list[str], folder: str) -> list[str]:
    from khabar.training.check_fix import fix_files

    copies, changes = fix_files(files, folder)
    for change in changes:
        say(f"fixed: {change}")
    say(f"{len(changes):,} fixes; the copies in {folder} are checked")
    return list(map(str, copies))


def _exit(checked: Checked, *, strict: bool) -> None:
    if checked.count("error"):
        raise typer.Exit(NOT_DONE)
    if strict and checked.count("warning"):
        raise typer.Exit(WARNED)

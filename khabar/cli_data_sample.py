"""`khabar data sample`: flags to settings, counts to the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from khabar.cli_common import BAD_ROWS, Device, load_tagger, one_line_errors, say, standard_input
from khabar.cli_progress import scoring_progress

if TYPE_CHECKING:
    from khabar.training.sampling_pool import Sample


@one_line_errors
def sample(
    pool: Annotated[list[str], typer.Argument(metavar="POOL", help="Articles, in whatever form `khabar score` reads.")],
    *,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="tasks.json: Label Studio's tasks, with the project's labelling configuration in tasks.xml; or "
            "next.jsonl: articles, those of the random share in next.random.jsonl.",
        ),
    ],
    number: Annotated[int, typer.Option("--number", "-n", metavar="N", help="How many articles to pick.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model that is unsure, and whose labels are shown: folder or hub id.")
    ] = "embedded",
    random_share: Annotated[
        float, typer.Option(help="Share drawn at random from the whole pool; only this one measures a model.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Other seeds pick other articles.")] = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Articles (.jsonl) or Label Studio's tasks (.json) that are labelled or about to be: neither they nor "
            "near-duplicates of them are picked. May be repeated.",
        ),
    ] = None,
    topics: Annotated[
        Literal["segment", "article"],
        typer.Option(help="Ask for topics by segment, which teaches more, or by article, which is labelled faster."),
    ] = "segment",
    blank_random: Annotated[
        bool,
        typer.Option("--blank-random", help="Leave the model's labels out of the random share: they sway people."),
    ] = False,
    input_format: Annotated[
        Literal["auto", "jsonl", "csv", "parquet", "txt"], typer.Option(help="As in `khabar score`.")
    ] = "auto",
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="The key or column that holds a row's text.")
    ] = "text",
    id_field: Annotated[str, typer.Option(metavar="NAME", help="The key or column that holds a row's id.")] = "id",
    max_characters: Annotated[
        int, typer.Option(metavar="N", help="Longest text; a row with a longer one is left out.")
    ] = 300_000,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Pick what to label next: where a model is unsure, spread over the pool, and a share at random.

    Rows that cannot be used go to OUTPUT.errors.jsonl, and the exit code is then 1.
    """
    from khabar.inference.fields import FieldNames
    from khabar.inference.sources import open_sources, read_placed_rows
    from khabar.models.ranges import check_range
    from khabar.training.label_tasks import LabelRequest, check_label_files, write_label_files
    from khabar.training.sampling import SampleSettings
    from khabar.training.sampling_pool import sample_articles

    settings = SampleSettings(number=number, random_share=random_share, seed=seed)
    check_range("max characters", max_characters, at_least=1)
    excluded = exclude or []
    fields = FieldNames(text=text_field, id=id_field)
    sources = open_sources(pool, input_format=input_format, fields=fields)
    check_label_files(output, [*(source.name for source in sources), *excluded], overwrite=overwrite)
    labelled = [text for file in excluded for text in _texts(file)]
    with load_tagger(model, device=device) as tagger, scoring_progress(sources, hidden=False) as progress:
        placed = read_placed_rows(sources, stdin=standard_input(), opened=progress.opened)
        found = sample_articles(
            tagger,
            map(progress.read, placed),
            settings,
            labelled=labelled,
            max_characters=max_characters,
            progress=progress,
        )
    request = LabelRequest(
        topics=tagger.topics,
        entity_labels=tagger.entity_labels,
        topic_level=topics,
        blank_random=blank_random,
        model=tagger.model.config.full_name,
    )
    errors = write_label_files(found, output, request)
    say(_summary(found, output, settings.number))
    if errors is not None:
        say(f"{len(found.bad_rows):,} rows could not be used (see {errors})")
        raise typer.Exit(BAD_ROWS)


def _texts(file: str) -> Iterator[str]:
    """Give the texts of a file of articles or of tasks."""
    from khabar.models.article_reader import iter_articles
    from khabar.training.convert import label_studio
    from khabar.training.convert.gathering import Losses

    is_tasks = Path(file).suffix.lower() == ".json"
    articles = label_studio.read(Path(file), Losses()) if is_tasks else iter_articles(file)
    return (article.text for article in articles)


def _summary(found: Sample, output: str, wanted: int) -> str:
    n_random = sum(picked.reason == "random" for picked in found.articles)
    n = len(found.articles)
    line = f"{output}: {n:,} of {found.n_pool:,} articles, {n_random:,} at random, {n - n_random:,} by uncertainty"
    if n < wanted and n == found.n_pool:
        line += f"; {wanted:,} were asked for, there are no more"
    elif n < wanted:
        line += f"; {wanted:,} were asked for, the rest are near-duplicates of these or of excluded ones"
    return line

"""`khabar calibrate`: a model and annotated articles to a calibrated model, and a table of what that is worth.

Knows flags and files; what is fitted and how it is shown is in khabar.training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from khabar.cli_common import Device, load_tagger, one_line_errors, say


@one_line_errors
def calibrate(
    model: Annotated[str, typer.Argument(help="Model folder or hub id; `embedded` comes with khabar.")],
    corpus: Annotated[
        str,
        typer.Argument(
            help="Articles with topics that the model was not trained on (.jsonl, or a .yaml: its dev sources)."
        ),
    ],
    *,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for a calibrated copy.  [default: change MODEL]"),
    ] = None,
    wanted_precision: Annotated[
        float | None,
        typer.Option(help="Choose the lowest thresholds with this precision, such as 0.9.  [default: the best F1]"),
    ] = None,
    certainty: Annotated[
        float, typer.Option(help="Share of decisions outside the bands of uncertainty that should be right.")
    ] = 0.95,
    measures: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="File for all measures, as JSON.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Fit each topic's temperature, threshold and band of uncertainty to annotated articles, and store them."""
    from khabar.inference.sinks import FileSink, check_output
    from khabar.training.calibrated_folder import check_target, copy_calibrated, store_calibration
    from khabar.training.calibration import calibrate as fit
    from khabar.training.calibration import check_shares

    check_shares(wanted_precision=wanted_precision, certainty=certainty)
    check_target(model, output)
    if measures is not None:
        check_output(measures, ending=".json", inputs=[corpus])

    from tqdm import tqdm

    from khabar.models.folder import local_folder, own_config
    from khabar.training.calibration_report import render_calibration
    from khabar.training.corpora import as_gold, choose_split, load_corpus
    from khabar.training.leaks import warn_of_training_files
    from khabar.training.predictions import unknown_labels

    sources = load_corpus(
        corpus, split=choose_split(corpus, default=("dev",)), models=[own_config(local_folder(model))]
    )
    warn_of_training_files(model, sources)
    articles = [article for source in sources for article in as_gold(source, entities=False)]

    tagger = load_tagger(model, device=device)
    for line in unknown_labels(articles, topics=tagger.topics, entity_labels=tagger.entity_labels).lines():
        say(line)
    with tqdm(total=len(articles), unit=" articles", leave=False, disable=not sys.stderr.isatty()) as bar:
        fitted = fit(tagger, articles, wanted_precision=wanted_precision, certainty=certainty, progress=bar.update)
    typer.echo(render_calibration(fitted))

    config = tagger.model.config
    content = {"corpus": Path(corpus).name, **fitted.to_json()}  # where it lies here means nothing elsewhere
    if measures is not None:
        with FileSink(measures) as sink:
            sink.write(json.dumps({"model": config.full_name, **content}, ensure_ascii=False, indent=1))
    if output is None:
        store_calibration(model, config, content)
    else:
        copy_calibrated(model, output, config, content)
    say(f"stored in {output or model}")

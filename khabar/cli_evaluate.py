"""`khabar evaluate`: a model and a corpus to tables in the terminal and a report in a folder.

Knows flags and what to say when; what is measured and how it is shown is in khabar.training.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from khabar.cli_common import Device, load_tagger, one_line_errors, say
from khabar.inference.runtimes import Precision, Runtime


@one_line_errors
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or hub id; `embedded` comes with khabar.")],
    corpus: Annotated[
        str,
        typer.Argument(help="Labelled articles (.jsonl), tagged tokens (.bio, .conll) or a .yaml of sources."),
    ],
    *,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the report: index.html, to read, and report.json. Both quote from the corpus.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Another model, tested for a difference on the same articles."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Of a .yaml with splits: train, dev or test.  [default: test, or dev where there is none]"),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Bootstrap resamples, for 95 % intervals and p-values; at least 100.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
    device: Device = "auto",
    runtime: Annotated[
        Runtime, typer.Option(help="What runs MODEL; onnx: a folder that `khabar export` wrote. --against has torch.")
    ] = "torch",
    precision: Annotated[Precision, typer.Option(help="MODEL's; auto: bf16 on a GPU, fp32 on a CPU.")] = "auto",
) -> None:
    """Measure a model on labelled articles: topics per article and per segment, entities by exact span."""
    from khabar.training.bootstrap import check_resampling
    from khabar.training.page import check_folder, write_report
    from khabar.training.report import Evaluated, build_report

    check_resampling(resamples, seed)
    if report is not None:
        check_folder(report)

    from tqdm import tqdm

    from khabar.models.folder import local_folder, own_config
    from khabar.training.comparison import render_comparison
    from khabar.training.corpora import as_gold, choose_split, load_corpus
    from khabar.training.evaluate import render
    from khabar.training.leaks import warn_of_training_files
    from khabar.training.predictions import predict, unknown_labels
    from khabar.training.provenance import shown_path

    compared = [name for name in (model, against) if name is not None]
    sources = load_corpus(
        corpus, split=choose_split(corpus, split), models=[own_config(local_folder(name)) for name in compared]
    )
    articles = [article for source in sources for article in as_gold(source)]

    for name in compared:
        warn_of_training_files(name, sources)

    evaluated = []
    taggers = [load_tagger(model, device=device, runtime=runtime, precision=precision)]
    names = [", ".join([shown_path(model), *(one for one in (runtime, precision) if one not in ("torch", "auto"))])]
    if against is not None:
        taggers.append(load_tagger(against, device=device))
        names.append(shown_path(against))
        if names[0] == names[1]:
            names = [model, against]
    same = len({tagger.model.config.full_name for tagger in taggers}) < len(taggers)
    for tagger, name in zip(taggers, names, strict=True):
        unknown = unknown_labels(articles, topics=tagger.topics, entity_labels=tagger.entity_labels)
        full_name = tagger.model.config.full_name + (f" ({name})" if same else "")
        for line in unknown.lines():
            say(f"{full_name}: {line}")
        with tqdm(total=len(articles), unit=" articles", leave=False, disable=not sys.stderr.isatty()) as bar:
            predictions = predict(tagger, articles, progress=bar.update)
        evaluated.append(Evaluated(name=full_name, predictions=predictions, unknown=unknown))
    measures = build_report(*evaluated, corpus=corpus, resamples=resamples, seed=seed)
    typer.echo(render(measures))
    if measures["against"] is not None:
        typer.echo(f"\n{render_comparison(measures)}")
    if report is not None:
        write_report(measures, report)
        say(f"report written to {report}")

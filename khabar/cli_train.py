"""`khabar train`, `khabar pretrain` and `khabar evaluate`: flags to settings, results to the terminal.

A flag that is not given is not passed on: defaults and their reasons live in the settings' dataclasses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from khabar.cli_common import Device, one_line_errors, say
from khabar.models.errors import KhabarError

Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")]


@one_line_errors
def train(
    corpora: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CORPUS",
            help="Labelled articles (.jsonl), tagged tokens (.bio, .conll), or a .yaml that lists sources "
            "with their label maps.",
        ),
    ] = None,
    *,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder for the model.")] = None,
    config: Annotated[str | None, typer.Option(help="Settings as YAML or JSON; flags win over it.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Encoder: hub id or folder.  [default: aubmindlab/bert-base-arabertv02]"),
    ] = None,
    from_scratch: Annotated[
        bool | None,
        typer.Option("--from-scratch", help="Take the encoder's shape and vocabulary, not its weights."),
    ] = None,
    dev: Annotated[str | None, typer.Option(help="Labelled articles to measure on; the best epoch is kept.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the corpora.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better dev score.")] = None,
    batch_pieces: Annotated[int | None, typer.Option(help="Pieces in a batch, padding included.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the encoder's top layer.")] = None,
    head_learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the heads.")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="A layer's rate as a share of the rate of the layer above.")
    ] = None,
    average_decay: Annotated[
        float | None, typer.Option(help="Decay of the moving average of the weights; 0 for none.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Window length in pieces.")] = None,
    stride: Annotated[int | None, typer.Option(help="Step between windows in pieces.")] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; without it, one an epoch.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, order and dropout.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name, as results carry it.")] = None,
    version: Annotated[str | None, typer.Option(help="The model's version.")] = None,
    resume: Resume = False,
) -> None:
    """Train a model on labelled corpora.

    These settings and rarer ones can stand in the --config file, named as here with _ for -.
    """
    given = _given(locals(), but=("config", "corpora", "resume"))
    if corpora:
        given["corpora"] = tuple(corpora)
    if config is None:
        _require(given, corpora="CORPUS", output="--output")

    from khabar.training.settings import read_settings

    settings = read_settings(config, given)

    from khabar.training.evaluate import render
    from khabar.training.train import train as run

    result = run(settings, resume=resume, progress_bar=sys.stderr.isatty())
    report = result.metrics["dev"]
    if report is not None:
        typer.echo(f"{render(report)}\n")
        epochs = len(result.metrics["history"])
        say(f"best of {epochs} epochs on {settings.dev}: epoch {result.metrics['best_epoch']}")
    say(f"model saved in {result.folder}")


@one_line_errors
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or hub id; `embedded` comes with khabar.")],
    corpus: Annotated[
        str,
        typer.Argument(help="Labelled articles (.jsonl), tagged tokens (.bio, .conll) or a .yaml of sources."),
    ],
    *,
    report: Annotated[str | None, typer.Option(help="File for all measures, as JSON.")] = None,
    device: Device = "auto",
) -> None:
    """Measure a model on labelled articles: topics per article and per segment, entities by exact span."""
    from khabar.inference.sinks import FileSink, check_output

    if report is not None:
        check_output(report)

    from khabar.training.corpora import as_gold, load_corpus
    from khabar.training.evaluate import evaluate as measure
    from khabar.training.evaluate import render

    articles = [article for source in load_corpus(corpus) for article in as_gold(source)]

    from khabar.inference.tagger import load

    tagger = load(model, device=device)
    measures = measure(tagger, articles)
    typer.echo(render(measures))
    if report is not None:
        content = {"model": tagger.model.config.full_name, "corpus": corpus, **measures}
        with FileSink(report) as sink:
            sink.write(json.dumps(content, ensure_ascii=False, indent=1))


@one_line_errors
def pretrain(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            help="Text, plain or .zst: one paragraph a line, an empty line between articles.",
        ),
    ],
    *,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder for the encoder.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="recurrent, which a CPU pretrains, or transformer, which wants a GPU.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="recurrent: cloze; transformer: replaced-token or masked-lm.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder of a tokenizer to use as it is; without it, a vocabulary is trained."),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Pieces of the vocabulary to train.")] = None,
    embedding_size: Annotated[int | None, typer.Option(help="Width of the piece vectors.")] = None,
    hidden_size: Annotated[int | None, typer.Option(help="Width of a piece's state.")] = None,
    context_size: Annotated[int | None, typer.Option(help="recurrent: width of each direction's LSTM.")] = None,
    context_layers: Annotated[int | None, typer.Option(help="recurrent: LSTM layers of each direction.")] = None,
    layers: Annotated[int | None, typer.Option(help="transformer: layers.")] = None,
    heads: Annotated[int | None, typer.Option(help="transformer: attention heads.")] = None,
    intermediate_size: Annotated[
        int | None, typer.Option(help="transformer: width of the feed-forward layers.")
    ] = None,
    vector_passes: Annotated[
        int | None,
        typer.Option(help="recurrent: passes of static vector training to start from; 0 for none."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="recurrent: draws that a step's softmax runs over.")] = None,
    passes: Annotated[float | None, typer.Option(help="Passes over the text.")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows a step, all processes together.")] = None,
    length: Annotated[int | None, typer.Option(help="Pieces a row.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate.")] = None,
    warmup: Annotated[float | None, typer.Option(help="Share of the steps in which the rate rises.")] = None,
    decay: Annotated[float | None, typer.Option(help="Share of the steps, the last, in which it falls.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's decay of matrices.")] = None,
    max_grad_norm: Annotated[float | None, typer.Option(help="Gradients are scaled down to this norm.")] = None,
    held_out: Annotated[float | None, typer.Option(help="Share of the text, its end, that only measures.")] = None,
    measure_steps: Annotated[int | None, typer.Option(help="Steps between measurements on held-out text.")] = None,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, order and sampling.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32 or bf16.")] = None,
    device: Annotated[str | None, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")] = None,
    resume: Resume = False,
) -> None:
    """Pretrain an encoder on plain text."""
    given = _given(locals(), but=("texts", "resume"))
    _require(given, output="--output")

    from khabar.training.pretrain_settings import PretrainSettings

    settings = PretrainSettings(texts=tuple(texts), **given)

    from khabar.training.pretrain import pretrain as run

    run(settings, resume=resume)


def _given(values: Mapping[str, Any], *, but: tuple[str, ...]) -> dict[str, Any]:
    """Leave out what the user has not set, and what is no setting."""
    return {name: value for name, value in values.items() if value is not None and name not in but}


def _require(given: Mapping[str, Any], **names: str) -> None:
    for setting, flag in names.items():
        if setting not in given:
            raise KhabarError(f"{flag} is missing")

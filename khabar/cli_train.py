"""`khabar train` and `khabar pretrain`: flags to settings, results to the terminal.

A flag that is not given is not passed on: defaults and their reasons live in the settings' dataclasses.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from khabar.cli_common import one_line_errors, say
from khabar.models.errors import KhabarError
from khabar.models.ranges import check_range

# torchrun ends all processes as soon as one fails: that should be the one that speaks, if it fails as well.
LAST_WORDS = 30  # seconds

Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier model in the output folder.")]


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
        typer.Option(
            help="Encoder: hub id, folder, or embedded for that of the model in the package.  "
            "[default: aubmindlab/bert-base-arabertv02]"
        ),
    ] = None,
    from_model: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from a finished model: it keeps its labels and learns those of the corpora beside them. "
            "Needs a dev set, or --allow-drop.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of F1 that a label of the --from model may lose on dev.  [default: 2]"),
    ] = None,
    allow_drop: Annotated[
        bool | None, typer.Option("--allow-drop", help="Save the model even if one loses more.")
    ] = None,
    from_scratch: Annotated[
        bool | None,
        typer.Option("--from-scratch", help="Take the encoder's shape and vocabulary, not its weights."),
    ] = None,
    dev: Annotated[str | None, typer.Option(help="Labelled articles to measure on; the best epoch is kept.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the corpora.  [default: 10, more if they are small]")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a better dev score.  [default: never]")
    ] = None,
    batch_pieces: Annotated[
        int | None, typer.Option(help="Pieces in a batch, padding included.  [default: 8192, fewer if they are small]")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak rate of the encoder's top layer.  [default: as the encoder says, or 5e-05; with --from a fifth]"
        ),
    ] = None,
    head_learning_rate: Annotated[float | None, typer.Option(help="Peak rate of the heads.  [default: 0.001]")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="A layer's rate as a share of the rate of the layer above.  [default: 0.9]")
    ] = None,
    average_decay: Annotated[
        float | None, typer.Option(help="Decay of the moving average of the weights; 0 for none.  [default: 0]")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Window length in pieces.")] = None,
    stride: Annotated[int | None, typer.Option(help="Widest step between windows in pieces.")] = None,
    checkpoint_steps: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; without it, one an epoch.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, order and dropout.  [default: 0]")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.  [default: auto]")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto (a GPU if there is one), cpu or cuda.  [default: auto]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name, as results carry it.  [default: khabar]")] = None,
    version: Annotated[str | None, typer.Option(help="The model's version.  [default: 1.0]")] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate", help="Fit temperatures and thresholds to dev.  [default: calibrate]"
        ),
    ] = None,
    wanted_precision: Annotated[
        float | None, typer.Option(help="Choose thresholds for this precision, such as 0.9.  [default: the best F1]")
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            help="Train so many times, with --seed and the next ones, and keep the best on dev, which is needed."
        ),
    ] = 1,
    search: Annotated[
        int,
        typer.Option(
            help="First try so many settings around the given ones, and take the best on dev, which is needed."
        ),
    ] = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model on labelled corpora.

    These settings and rarer ones can stand in the --config file, named as here with _ for - (from_model for --from);
    --seeds, --search, --resume and --overwrite are for the command line alone.
    """
    given = _given(locals(), but=("config", "corpora", "seeds", "search", "resume", "overwrite"))
    if corpora:
        given["corpora"] = tuple(corpora)
    if config is None:
        _require(given, corpora="CORPUS", output="--output")

    check_range("--seeds", seeds, at_least=1)
    check_range("--search", search, at_least=0)

    from khabar.training.settings import read_settings

    settings = read_settings(config, given)

    from khabar.models.products import multiply_by_onednn
    from khabar.training.evaluate import render
    from khabar.training.search import render_trials
    from khabar.training.search import search as find
    from khabar.training.seeds import render_seeds, train_seeds
    from khabar.training.train import train as train_once

    multiply_by_onednn()
    more_metrics = {}
    options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "progress_bar": sys.stderr.isatty()}
    with _one_speaks() as speaks:
        if search:
            found = find(settings, search, **options)
            settings, more_metrics["search"] = found.settings, {"trials": found.trials}
            if speaks:
                typer.echo(f"{render_trials(found.trials)}\n")
        if seeds > 1:
            result = train_seeds(settings, seeds, more_metrics=more_metrics, **options)
        else:
            result = train_once(settings, more_metrics=more_metrics, **options)
    if not speaks:
        return
    report = result.metrics["dev"]
    if report is not None:
        typer.echo(f"{render(report)}\n")
        if seeds > 1:
            typer.echo(f"{render_seeds(result.metrics['seeds'])}\n")
            say(f"kept: seed {result.metrics['seeds']['kept']}")
        epochs = len(result.metrics["history"])
        say(f"kept: epoch {result.metrics['best_epoch']} of {epochs}, measured on {settings.dev}")
    say(f"model saved in {result.folder}")


@one_line_errors
def pretrain(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT",
            help="Text, plain, .gz or .zst: one paragraph a line, an empty line between articles.",
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
    overwrite: Overwrite = False,
) -> None:
    """Pretrain an encoder on plain text."""
    given = _given(locals(), but=("texts", "resume", "overwrite"))
    _require(given, output="--output")

    from khabar.training.pretrain_settings import PretrainSettings

    settings = PretrainSettings(texts=tuple(texts), **given)

    from khabar.models.products import multiply_by_onednn
    from khabar.training.pretrain import pretrain as run

    multiply_by_onednn()
    with _one_speaks() as speaks:
        result = run(settings, resume=resume, overwrite=overwrite)
    if speaks:
        say(f"encoder saved in {result.folder}")


@contextmanager
def _one_speaks() -> Iterator[bool]:
    """Let one of the processes that torchrun starts log and complain; tell whether this is the one."""
    speaks = os.environ.get("RANK", "0") == "0"
    if not speaks:
        logging.getLogger("khabar").setLevel(logging.ERROR)
    try:
        yield speaks
    except KhabarError:
        if not speaks:
            time.sleep(LAST_WORDS)
        raise


def _given(values: Mapping[str, Any], *, but: tuple[str, ...]) -> dict[str, Any]:
    """Leave out what the user has not set, and what is no setting."""
    return {name: value for name, value in values.items() if value is not None and name not in but}


def _require(given: Mapping[str, Any], **names: str) -> None:
    for setting, flag in names.items():
        if setting not in given:
            raise KhabarError(f"{flag} is missing")

"""Trains a khabar model on labelled corpora: settings in, a whole model folder out.

One run is: read the corpora and their labels, build the model, train it, calibrate and measure it, write the
folder with its card, move it to its place. Each stage has a file of its own; their order is here.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from accelerate.utils import set_seed
from transformers import PreTrainedTokenizerFast

from khabar.inference.sinks import FileSink, whole_folder
from khabar.inference.tagger import Tagger, load
from khabar.models.article import Article
from khabar.models.device import choose_device
from khabar.models.errors import KhabarError
from khabar.models.folder import MODEL_FILES, move_files, save_model
from khabar.models.model import KhabarModel
from khabar.training.bootstrap import RESAMPLES
from khabar.training.building import build_model
from khabar.training.calibration import TooFewExamplesError, calibrate
from khabar.training.card import render_card
from khabar.training.checkpoints import Checkpoints, remove_working_folder
from khabar.training.evaluate import evaluate
from khabar.training.growing import Change, compare_known, refuse_drops
from khabar.training.loop import Run, Watcher, make_accelerator
from khabar.training.material import Material, examples_folder
from khabar.training.processes import join_processes, n_processes, on_main
from khabar.training.provenance import public_settings, settings_yaml, versions
from khabar.training.settings import TrainSettings
from khabar.training.settling import SettledSettings, settle
from khabar.training.store import ExampleStore, remove_stores
from khabar.training.topic_scores import has_topic_gold

logger = logging.getLogger(__name__)

PAPERS = ("metrics.json", "settings.yaml", "README.md")  # beside the model's files


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gives: the model's folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def train(
    settings: TrainSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress_bar: bool = True,
    more_metrics: Mapping[str, Any] = MappingProxyType({}),
) -> TrainResult:
    """Train, keep the epoch that is best on dev, and save it to `settings.output`.

    Args:
        settings: What to train on and how.
        resume: Go on from the newest checkpoint under `settings.output`, if there is one.
        overwrite: Replace an earlier model there.
        progress_bar: Show a bar on standard error.
        more_metrics: What metrics.json is to hold beside the run's own, such as the search for its settings.

    Raises:
        KhabarError: If a corpus, the encoder, the device or the output cannot be used; or if known labels of the
            model to start from have become worse, in which case the new model is kept aside.
    """
    work = Path(settings.output) / "checkpoints"
    check_output_folder(settings.output, going_on=resume and work.exists(), overwrite=overwrite)
    checkpoints = open_run(settings, work, resume=resume)
    metrics = finish_run(settings, Material(settings), checkpoints, progress_bar=progress_bar)
    return release(settings, checkpoints.finished, {**metrics, **more_metrics}, work=checkpoints.folder)


def check_output_folder(output: str, *, going_on: bool, overwrite: bool) -> None:
    """See that no files of the output folder would be replaced that are to stay.

    Args:
        output: The folder.
        going_on: Whether a run that has a working folder there goes on: it has been let in before.
        overwrite: Whether they may be replaced.

    Raises:
        KhabarError: If there are such files.
    """
    folder = Path(output)
    there = [name for name in (*MODEL_FILES, *PAPERS) if (folder / name).exists()]
    if there and not overwrite and not going_on:
        raise KhabarError(f"{folder} already holds {', '.join(there)}; give another --output, or --overwrite")


def open_run(settings: TrainSettings, work: Path, *, resume: bool) -> Checkpoints:
    """Join the run's processes and see that its working folder can be used.

    Raises:
        KhabarError: As `Checkpoints.begin` does, or if the device is not there.
    """
    join_processes(choose_device(settings.device))
    checkpoints = Checkpoints(work, asdict(settings))
    on_main(lambda: checkpoints.begin(resume=resume))
    return checkpoints


def settled_for(settings: TrainSettings, material: Material) -> SettledSettings:
    """Fill in what settings leave open to the encoder and the corpora, as `learn` will."""
    return _build(settings, material)[0]


def learn(
    settings: TrainSettings,
    material: Material,
    checkpoints: Checkpoints,
    *,
    watcher: Watcher | None = None,
    progress_bar: bool = True,
) -> Run:
    """Build a model and train it, from the newest checkpoint on where there is one."""
    accelerator = make_accelerator(settings)
    _confirm(material, checkpoints)
    set_seed(settings.seed)
    settled, model, tokenizer, examples = _build(settings, material)
    run = Run(
        settled,
        accelerator,
        model,
        tokenizer,
        examples,
        material.dev,
        checkpoints,
        keep_last=not material.dev_can_choose,
    )
    run.go(checkpoints.latest(), watcher=watcher, progress_bar=progress_bar)
    return run


def finish_run(
    settings: TrainSettings, material: Material, checkpoints: Checkpoints, *, progress_bar: bool = True
) -> dict[str, Any]:
    """Train, then calibrate, measure and write the model with its card into `checkpoints.finished`, whole.

    Returns:
        The content of its metrics.json; of one that was finished before, what stands there.
    """
    if on_main(checkpoints.finished.exists):
        _confirm(material, checkpoints)
    else:
        run = learn(settings, material, checkpoints, progress_bar=progress_bar)
        on_main(lambda: _write_finished(settings, material, run, checkpoints))
        run.accelerator.free_memory()
    return on_main(lambda: read_metrics(checkpoints.finished))


def release(settings: TrainSettings, finished: Path, metrics: Mapping[str, Any], *, work: Path) -> TrainResult:
    """Move a finished model to `settings.output`, or aside if known labels have become worse; then tidy up.

    Args:
        settings: Where to, and what drops are allowed.
        finished: A model folder as `finish_run` writes it.
        metrics: What its metrics.json is to hold.
        work: The working folder, which is removed, and so are the encoded examples.

    Raises:
        KhabarError: If known labels have become worse by more than is allowed.
    """
    output = Path(settings.output)
    rejected = output / "rejected"

    def tidy_up() -> None:
        remove_working_folder(work)
        remove_stores(examples_folder(settings))

    def move() -> None:
        # A copy goes out, so that a run killed on the way still has the whole model to go on with.
        leaving = work / "leaving"
        shutil.rmtree(leaving, ignore_errors=True)
        shutil.copytree(finished, leaving, copy_function=_link)
        write_papers(leaving, metrics)
        changes = [Change(**change) for change in metrics["growth"]]
        try:
            if not settings.allow_drop:
                refuse_drops(changes, max_drop=settings.max_drop, kept_in=str(rejected))
        except KhabarError:
            shutil.rmtree(rejected, ignore_errors=True)
            leaving.replace(rejected)
            tidy_up()
            raise
        move_files(leaving, output)
        tidy_up()

    on_main(move)
    return TrainResult(folder=output, metrics=dict(metrics))


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read a model folder's metrics.json."""
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def write_papers(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write what a model folder holds beside the model: metrics.json, settings.yaml, and README.md made from both."""
    as_json = json.dumps(metrics, ensure_ascii=False, indent=1)
    for name, text in zip(PAPERS, (as_json, settings_yaml(metrics["settings"]), render_card(metrics)), strict=True):
        with FileSink(folder / name) as sink:
            sink.write(text)


def _confirm(material: Material, checkpoints: Checkpoints) -> None:
    """See that a run is resumed with the material, and in as many processes, as it was begun with."""
    on_main(lambda: checkpoints.confirm({**material.origin, "processes": n_processes()}))


def _build(
    settings: TrainSettings, material: Material
) -> tuple[SettledSettings, KhabarModel, PreTrainedTokenizerFast, ExampleStore]:
    """Build what a run begins with: settings that leave nothing open, model, tokenizer and examples."""
    model, tokenizer = build_model(settings, material.labels)
    examples = material.examples(tokenizer, max_segment_words=model.config.max_segment_words)
    settled = settle(settings, model.encoder.config, examples.lengths, n_processes=n_processes())
    return settled, model, tokenizer, examples


def _link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where the file system has no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_finished(settings: TrainSettings, material: Material, run: Run, checkpoints: Checkpoints) -> None:
    progress = run.progress
    if progress.best_epoch is None:
        tagger = Tagger(run.measured_model(), run.tokenizer)
    else:
        tagger = load(checkpoints.best(progress.best_epoch), device=settings.device)
    calibration = _calibrate(settings, tagger, material.dev)
    report = evaluate(tagger, material.dev, resamples=RESAMPLES) if material.dev else None
    config = tagger.model.config
    metrics = {
        "model": config.full_name,
        "settings": public_settings(run.settings),
        "labels": asdict(material.labels),
        "data": material.facts,
        "entities_lost": asdict(run.examples.lost),
        "n_articles": len(run.examples),
        "n_pieces": int(run.examples.lengths.sum(dtype=np.int64)),
        "n_parameters": sum(parameter.numel() for parameter in tagger.model.parameters()),
        "encoder": tagger.model.encoder.config.model_type,
        "window": config.window,
        "stride": config.stride,
        "max_segment_words": config.max_segment_words,
        "topic_temperatures": config.topic_temperatures,
        "topic_thresholds": config.topic_thresholds,
        "topic_bands": config.topic_bands,
        "processes": run.accelerator.num_processes,
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "best_epoch": progress.best_epoch,
        "epoch_chosen_on_dev": material.dev_can_choose,
        "history": progress.history,
        "calibration": calibration,
        "dev": report,
        "growth": _growth(settings, material, report),
        "versions": versions(),
    }
    with whole_folder(checkpoints.finished) as partial:
        save_model(tagger.model, run.tokenizer, partial)
        write_papers(partial, metrics)


def _growth(settings: TrainSettings, material: Material, report: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Measure the model to start from on dev, and compare it with the new one at what it knows."""
    if material.known is None or report is None:
        return []
    before = evaluate(load(settings.from_model, device=settings.device), material.dev)
    return [asdict(change) for change in compare_known(before, report, material.known)]


def _calibrate(settings: TrainSettings, tagger: Tagger, dev: Sequence[Article]) -> dict[str, Any] | None:
    """Calibrate the tagger on dev; None where that is not wanted or dev says nothing, or too little, of topics."""
    if not settings.calibrate or not tagger.topics or not any(map(has_topic_gold, dev)):
        return None
    try:
        report = calibrate(tagger, dev, wanted_precision=settings.wanted_precision)
    except TooFewExamplesError as error:
        logger.warning("%s; temperatures, thresholds and bands stay as they are", error)
        return None
    return {"corpus": public_settings(settings)["dev"], **report.to_json()}

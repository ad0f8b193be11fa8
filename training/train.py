"""Trains a khabar model on labelled corpora: examples in, a model folder out.

The loop is here; corpora, targets, batches, optimizer and checkpoints have files of their own.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from khabar.inference.tagger import Tagger
from khabar.models.article import Article
from khabar.models.batch import WindowSettings
from khabar.models.config import KhabarConfig
from khabar.models.device import choose_device
from khabar.models.errors import KhabarError
from khabar.models.folder import load_encoder, save_model
from khabar.models.model import KhabarModel
from khabar.models.text import load_tokenizer
from khabar.training.batching import BatchPlan, Example, collate_examples
from khabar.training.checkpoints import Checkpoints, Progress
from khabar.training.corpora import as_gold, load_corpora
from khabar.training.data import collect_labels, make_examples
from khabar.training.evaluate import evaluate, selection_score
from khabar.training.optimizer import make_optimizer, make_schedule, pretrained_parameters
from khabar.training.settings import TrainSettings
from khabar.training.targets import LabelSet

logger = logging.getLogger(__name__)

DEFAULT_WINDOW = 512


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gives: the model's folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def train(settings: TrainSettings, *, resume: bool = False, progress_bar: bool = True) -> TrainResult:
    """Train, keep the epoch that is best on dev, and save it to `settings.output`.

    Args:
        settings: What to train on and how.
        resume: Go on from the newest checkpoint under `settings.output`, if there is one.
        progress_bar: Show a bar on standard error.

    Raises:
        KhabarError: If a corpus, the encoder, the device or the output cannot be used.
    """
    checkpoints = Checkpoints(settings.output, asdict(settings))
    checkpoint = checkpoints.begin(resume=resume)
    corpora = load_corpora(settings.corpora)
    labels = collect_labels(corpora)
    dev = _dev_articles(settings, labels)
    accelerator = _accelerator(settings)
    set_seed(settings.seed)
    model, tokenizer = _build_model(settings, labels)
    examples, lost = make_examples(corpora, tokenizer, labels, max_segment_words=settings.max_segment_words)
    logger.info("%d articles; %s", len(examples), lost)

    run = _Run(settings, accelerator, model, tokenizer, examples, dev, checkpoints)
    run.go(checkpoint, progress_bar=progress_bar)
    metrics = _metrics(settings, labels, examples, run)
    metrics["entities_lost"] = {"without_pieces": lost.without_pieces, "inside_words": lost.inside_words}
    folder = Path(settings.output)
    if accelerator.is_main_process:
        if not dev:
            save_model(run.measured_model(), tokenizer, folder)
        (folder / "metrics.json").write_text(json.dumps(metrics, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return TrainResult(folder=folder, metrics=metrics)


class _Run:
    """The state of one training run and its loop."""

    def __init__(
        self,
        settings: TrainSettings,
        accelerator: Accelerator,
        model: KhabarModel,
        tokenizer: PreTrainedTokenizerFast,
        examples: list[Example],
        dev: list[Article],
        checkpoints: Checkpoints,
    ) -> None:
        self.settings, self.accelerator, self.tokenizer = settings, accelerator, tokenizer
        self.examples, self.dev, self.checkpoints = examples, dev, checkpoints
        self.windows = WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
        self.plan = BatchPlan(
            [example.encoded.n_pieces for example in examples],
            batch_pieces=settings.batch_pieces,
            seed=settings.seed,
        )
        self.steps_per_epoch = -(-self.plan.n_batches // accelerator.num_processes)
        optimizer = make_optimizer(model, settings)
        n_steps = self.steps_per_epoch * settings.epochs
        schedule = make_schedule(optimizer, n_steps=n_steps, warmup=settings.warmup)
        self.progress = Progress()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.schedule = schedule  # stepped here, once a step, whatever the number of processes
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay))
            if settings.average_decay
            else None
        )
        accelerator.register_for_checkpointing(self.progress, self.schedule)
        if self.average is not None:
            accelerator.register_for_checkpointing(self.average)

    def measured_model(self) -> KhabarModel:
        """The weights that are measured and saved: their moving average where one is kept."""
        module = self.average.module if self.average is not None else self.accelerator.unwrap_model(self.model)
        model: KhabarModel = cast("KhabarModel", module)
        return model

    def go(self, checkpoint: Path | None, *, progress_bar: bool) -> None:
        """Train until the last epoch or until patience ends."""
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
            logger.info("resumed from %s", checkpoint)
        progress = self.progress
        total = self.steps_per_epoch * self.settings.epochs
        with tqdm(
            total=total,
            initial=progress.step,
            unit="step",
            disable=not (progress_bar and self.accelerator.is_main_process),
        ) as bar:
            while progress.epoch < self.settings.epochs and not self._out_of_patience():
                self._epoch(bar)
                self._end_of_epoch(bar)

    def _epoch(self, bar: tqdm[Any]) -> None:
        self.model.train()
        began = time.monotonic()
        progress = self.progress
        for parameter in pretrained_parameters(self.accelerator.unwrap_model(self.model).encoder):
            parameter.requires_grad_(progress.epoch >= self.settings.frozen_epochs)
        for indices in self._batches_to_go():
            batch = collate_examples([self.examples[index] for index in indices], self.windows)
            batch = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            with self.accelerator.autocast():
                loss = self.model(**batch).loss
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update_parameters(self.accelerator.unwrap_model(self.model))
            progress.step += 1
            progress.batch += 1
            progress.losses.append(float(loss.detach()))
            bar.update()
            bar.set_postfix(epoch=progress.epoch + 1, loss=f"{progress.losses[-1]:.3f}", refresh=False)
            every = self.settings.checkpoint_steps
            if every is not None and progress.step % every == 0:
                progress.seconds += time.monotonic() - began
                began = time.monotonic()
                self.checkpoints.save(self.accelerator, progress)
        progress.seconds += time.monotonic() - began

    def _batches_to_go(self) -> Iterator[list[int]]:
        """This process's share of the running epoch's batches, after those already behind it."""
        batches = self.plan.batches(self.progress.epoch)
        # Every process takes the same number of steps; the first batches fill the last round.
        missing = self.steps_per_epoch * self.accelerator.num_processes - len(batches)
        mine = (batches + batches[:missing])[self.accelerator.process_index :: self.accelerator.num_processes]
        yield from mine[self.progress.batch :]

    def _end_of_epoch(self, bar: tqdm[Any]) -> None:
        """Measure on dev, keep the model if it is the best so far, write a checkpoint."""
        progress = self.progress
        entry: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "loss": sum(progress.losses) / max(len(progress.losses), 1),
        }
        if self.dev:
            model = self.measured_model().train(mode=False)
            report = evaluate(Tagger(model, self.tokenizer), self.dev)
            entry["dev"] = selection_score(report)
            best = progress.best_score
            if best is None or entry["dev"]["score"] > best:
                progress.best_score, progress.best_epoch = entry["dev"]["score"], progress.epoch + 1
                progress.best_report = report
                if self.accelerator.is_main_process:
                    save_model(model, self.tokenizer, self.settings.output)
        progress.history.append(entry)
        progress.epoch += 1
        progress.batch = 0
        progress.losses = []
        scores = " ".join(f"{name} {value:.3f}" for name, value in entry.get("dev", {}).items())
        line = f"epoch {entry['epoch']}: loss {entry['loss']:.4f} {scores}".rstrip()
        if bar.disable:
            logger.info(line)
        else:
            bar.write(line, file=sys.stderr)
        self.checkpoints.save(self.accelerator, progress)

    def _out_of_patience(self) -> bool:
        best = self.progress.best_epoch
        return best is not None and self.progress.epoch - best >= self.settings.patience


def _dev_articles(settings: TrainSettings, labels: LabelSet) -> list[Article]:
    if settings.dev is None:
        return []
    corpora = load_corpora((settings.dev,), topics=labels.topics, entity_labels=labels.entity_labels)
    return [article for corpus in corpora for article in as_gold(corpus)]


def _accelerator(settings: TrainSettings) -> Accelerator:
    device = choose_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise KhabarError("precision is 'fp16', which needs a GPU; on this device use fp32 or bf16")
    # Parameters that are frozen for a while have no gradients that processes could wait for.
    sharing = DistributedDataParallelKwargs(find_unused_parameters=settings.frozen_epochs > 0)
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=device.type == "cpu",
        kwargs_handlers=[sharing],
    )


def _build_model(settings: TrainSettings, labels: LabelSet) -> tuple[KhabarModel, PreTrainedTokenizerFast]:
    """Put new heads on the encoder asked for."""
    encoder: PreTrainedModel
    if settings.from_scratch:
        tokenizer = load_tokenizer(settings.encoder)
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(settings.encoder))
    else:
        encoder, tokenizer = load_encoder(settings.encoder)
    encoder.config._name_or_path = ""  # a path of this machine means nothing elsewhere
    limit = getattr(encoder.config, "max_position_embeddings", None) or DEFAULT_WINDOW
    window = settings.window or min(limit, DEFAULT_WINDOW)
    if window > limit:
        raise KhabarError(f"window is {window}, must be at most the encoder's {limit}")
    config = KhabarConfig(
        encoder=encoder.config,
        topics=list(labels.topics),
        entity_labels=list(labels.entity_labels),
        window=window,
        stride=settings.stride or max((window - 2) * 3 // 4, 1),
        max_segment_words=settings.max_segment_words,
        head_dropout=settings.head_dropout,
        name=settings.name,
        version=settings.version,
    )
    return KhabarModel(config, encoder), tokenizer


def _metrics(settings: TrainSettings, labels: LabelSet, examples: list[Example], run: _Run) -> dict[str, Any]:
    progress = run.progress
    metrics = {
        "settings": asdict(settings),
        "labels": asdict(labels),
        "n_articles": len(examples),
        "n_pieces": sum(example.encoded.n_pieces for example in examples),
        "n_parameters": sum(parameter.numel() for parameter in run.measured_model().parameters()),
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "best_epoch": progress.best_epoch,
        "history": progress.history,
        "dev": progress.best_report,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    return json.loads(json.dumps(metrics))  # type: ignore[no-any-return]  # as metrics.json gives it back

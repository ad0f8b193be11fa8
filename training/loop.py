"""The training loop: examples and a new model to the weights of the best epoch.

Steps, measures on dev after each epoch, keeps the best and stops when patience ends. Knows nothing of corpora;
what becomes of the weights afterwards is train.py's matter.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from numpy.typing import NDArray
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from khabar.inference.tagger import Tagger
from khabar.models.article import Article
from khabar.models.batch import WindowSettings
from khabar.models.device import choose_device, choose_precision
from khabar.models.folder import save_model
from khabar.models.model import KhabarModel
from khabar.training.batching import BatchPlan, collate_examples
from khabar.training.checkpoints import Checkpoints, Progress
from khabar.training.evaluate import evaluate, selection_score
from khabar.training.log_lines import LogLines
from khabar.training.optimizer import make_optimizer, make_schedule, moving_average, pretrained_parameters
from khabar.training.processes import on_main
from khabar.training.settings import TrainSettings
from khabar.training.settling import SettledSettings
from khabar.training.store import ExampleStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Told the epoch, counted from 1, and its dev score after each epoch; True ends the run. Asked in the main process.
Watcher = Callable[[int, float], bool]


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """Set up device, precision and processes.

    Raises:
        KhabarError: If the device is not there, or cannot compute in the precision.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    # Parameters that are frozen for a while have no gradients that processes could wait for.
    sharing = DistributedDataParallelKwargs(find_unused_parameters=settings.frozen_epochs > 0)
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        cpu=device.type == "cpu",
        kwargs_handlers=[sharing],
    )


class Run:
    """The state of one training run and its loop."""

    def __init__(
        self,
        settings: SettledSettings,
        accelerator: Accelerator,
        model: KhabarModel,
        tokenizer: PreTrainedTokenizerFast,
        examples: ExampleStore,
        dev: Sequence[Article],
        checkpoints: Checkpoints,
        *,
        keep_last: bool = False,
    ) -> None:
        self.settings, self.accelerator, self.tokenizer = settings, accelerator, tokenizer
        self.examples, self.dev, self.checkpoints = examples, dev, checkpoints
        self.keep_last = keep_last  # of the epochs, whatever dev says
        self.windows = WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
        self.plan = BatchPlan(examples.lengths, batch_pieces=settings.batch_pieces, seed=settings.seed)
        self.steps_per_epoch = self.plan.n_steps(accelerator.num_processes)
        logger.info(
            "%d epochs of %s batches of about %s pieces; learning rate %g",
            settings.epochs,
            f"{self.plan.n_batches:,}",
            f"{settings.batch_pieces:,}",
            settings.learning_rate,
        )
        # What an encoder itself holds fixed stays so, whatever else is frozen for a while.
        self.pretrained = [one for one in pretrained_parameters(model.encoder) if one.requires_grad]
        optimizer = make_optimizer(model, settings)
        n_steps = self.steps_per_epoch * settings.epochs
        schedule = make_schedule(optimizer, n_steps=n_steps, warmup=settings.warmup)
        self.progress = Progress()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.schedule = schedule  # stepped here, once a step, whatever the number of processes
        self.average = (
            AveragedModel(model, multi_avg_fn=moving_average(settings.average_decay))
            if settings.average_decay
            else None
        )
        accelerator.register_for_checkpointing(self.progress, self.schedule)
        if self.average is not None:
            accelerator.register_for_checkpointing(self.average)

    def measured_model(self) -> KhabarModel:
        """The weights that are measured and saved: their moving average where one is kept."""
        module = self.average.module if self.average is not None else self.accelerator.unwrap_model(self.model)
        model = cast("KhabarModel", module)
        model.train(mode=False)
        return model

    def go(self, checkpoint: Path | None, *, watcher: Watcher | None = None, progress_bar: bool = True) -> None:
        """Train until the last epoch, until patience ends or the watcher has seen enough.

        Args:
            checkpoint: Where to go on from; None to begin.
            watcher: Told of every epoch, after a resumption of those behind it too.
            progress_bar: Show a bar on standard error.
        """
        progress = self.progress
        if checkpoint is not None:
            self.accelerator.load_state(str(checkpoint))
            logger.info("resumed from %s", checkpoint)
            if watcher is not None:
                _tell_again(watcher, progress)
        total = self.steps_per_epoch * self.settings.epochs
        with (
            self.checkpoints.resumable(),
            tqdm(
                total=total,
                initial=progress.step,
                unit="step",
                disable=not (progress_bar and self.accelerator.is_main_process),
            ) as bar,
        ):
            while progress.epoch < self.settings.epochs and not progress.stopped and not self._out_of_patience():
                self._epoch(bar)
                self._end_of_epoch(bar, watcher)

    def _epoch(self, bar: tqdm[Any]) -> None:
        self.model.train()
        began = time.monotonic()
        lines = LogLines(logger, shown=bar.disable and self.accelerator.is_main_process)
        progress = self.progress
        for parameter in self.pretrained:
            parameter.requires_grad_(progress.epoch >= self.settings.frozen_epochs)
        for indices in self._batches_to_go():
            batch = collate_examples(self.examples[indices], self.windows)
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
            lines.line(
                "step %d of %d, in epoch %d: loss %.4f",
                progress.step,
                bar.total,
                progress.epoch + 1,
                progress.losses[-1],
            )
            every = self.settings.checkpoint_steps
            if every is not None and progress.step % every == 0:
                progress.seconds += time.monotonic() - began
                began = time.monotonic()
                self.checkpoints.save(self.accelerator, progress)
        progress.seconds += time.monotonic() - began

    def _batches_to_go(self) -> Iterator[NDArray[np.int64]]:
        """This process's share of the running epoch's batches, after those already behind it."""
        batches = self.plan.batches(self.progress.epoch)
        mine = share_of(batches, self.accelerator.process_index, self.accelerator.num_processes)
        yield from mine[self.progress.batch :]

    def _end_of_epoch(self, bar: tqdm[Any], watcher: Watcher | None) -> None:
        """Measure on dev, keep the model if it is the best so far, write a checkpoint."""
        progress = self.progress
        entry: dict[str, Any] = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "loss": sum(progress.losses) / max(len(progress.losses), 1),
        }
        if self.dev:
            entry["dev"], progress.stopped = on_main(lambda: self._measure(entry["epoch"], watcher))
            if self._is_best(entry["dev"]["score"]):
                progress.best_score, progress.best_epoch = entry["dev"]["score"], entry["epoch"]
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

    def _measure(self, epoch: int, watcher: Watcher | None) -> tuple[dict[str, float], bool]:
        """Give dev's headline measures and whether to stop; save the model if it is the best so far."""
        model = self.measured_model()
        scores = selection_score(evaluate(Tagger(model, self.tokenizer), self.dev))
        if self._is_best(scores["score"]):
            save_model(model, self.tokenizer, self.checkpoints.best(epoch))
        return scores, watcher is not None and watcher(epoch, scores["score"])

    def _is_best(self, score: float) -> bool:
        best = self.progress.best_score
        return self.keep_last or best is None or score > best

    def _out_of_patience(self) -> bool:
        best, patience = self.progress.best_epoch, self.settings.patience
        return best is not None and patience is not None and self.progress.epoch - best >= patience


def share_of(batches: Sequence[T], process: int, n_processes: int) -> Sequence[T]:
    """Give one process's batches. Every process takes the same number: the first ones fill the last round."""
    n_all = -(-len(batches) // n_processes) * n_processes
    return [batches[place % len(batches)] for place in range(process, n_all, n_processes)]


def _tell_again(watcher: Watcher, progress: Progress) -> None:
    def tell() -> bool:
        verdicts = [watcher(entry["epoch"], entry["dev"]["score"]) for entry in progress.history]
        return any(verdicts)

    progress.stopped = on_main(tell) or progress.stopped

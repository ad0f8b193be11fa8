"""Keeps a training run's working folder, so that a killed run goes on exactly where it stood.

The folder holds the run's settings, its newest checkpoints, the best model so far and, at the end, the finished
model. Knows folders and accelerate's state; knows nothing of corpora or losses.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from khabar import __version__
from khabar.inference.sinks import FileSink
from khabar.models.errors import KhabarError
from khabar.models.messages import changes

KEPT = 2
_SETTINGS, _ORIGIN = "settings.json", "origin.json"


@dataclass
class Progress:
    """How far a run has come. `step` counts optimizer steps, `epoch` whole passes behind it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of the running epoch behind it
    best_score: float | None = None
    best_epoch: int | None = None
    stopped: bool = False  # by whoever watches the epochs' scores
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)  # of the running epoch
    history: list[dict[str, Any]] = field(default_factory=list)  # one entry an epoch

    def state_dict(self) -> dict[str, Any]:
        """Give everything, for accelerate's checkpoints."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take everything back."""
        for name, value in state.items():
            setattr(self, name, value)


class Checkpoints:
    """The working folder of a run. A checkpoint appears whole or not at all.

    Args:
        folder: The working folder, the run's own.
        settings: The run's settings as plain values; a run only resumes under the same ones.

    Attributes:
        origin: Likewise what else its steps depend on, by name; `confirm` sets it.
        finished: Where the finished model lies until it is moved to its place.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.finished = folder / "finished"
        # Through JSON, so that what is compared later is what was written (tuples become lists).
        self.settings = json.loads(json.dumps({"khabar": __version__} | settings))
        self.origin: dict[str, Any] = {}

    def latest(self) -> Path | None:
        """Find the newest whole checkpoint."""
        return max(self._checkpoints(), key=_step, default=None)

    def best(self, epoch: int) -> Path:
        """Where the model of an epoch lies that was the best so far."""
        return self.folder / f"best-{epoch}"

    def begin(self, *, resume: bool) -> None:
        """See that the folder is this run's, or still empty.

        Raises:
            KhabarError: If there is an earlier run's state and the run is not to resume, or it is of other settings.
        """
        if self.latest() is None and not self.finished.exists():
            return
        if not resume:
            raise KhabarError(
                f"{self.folder} holds checkpoints of an earlier run; go on with --resume, or choose another --output, "
                "or remove that folder to begin anew"
            )
        self._refuse_others(_SETTINGS, self.settings, "under other settings")

    def confirm(self, origin: dict[str, Any]) -> None:
        """See that a run to be resumed, or that is finished, is made from what it was begun with; before it goes on.

        Args:
            origin: What its steps depend on beside the settings: plain values by name.

        Raises:
            KhabarError: If something is not as it was.
        """
        self.origin = json.loads(json.dumps(origin))
        if self.latest() is not None or self.finished.exists():
            self._refuse_others(_ORIGIN, self.origin, "from other material")

    def save(self, accelerator: Accelerator, progress: Progress) -> None:
        """Write a checkpoint, then drop all but the newest few, and what only they needed."""
        target = self.folder / f"step-{progress.step}"
        partial = self.folder / f".partial-{progress.step}"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, values in ((_SETTINGS, self.settings), (_ORIGIN, self.origin)):
                with FileSink(self.folder / name) as sink:
                    sink.write(json.dumps(values, ensure_ascii=False))
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
            for path in sorted(self._checkpoints(), key=_step)[:-KEPT]:
                shutil.rmtree(path)
            # Only from now on is an earlier best model out of use: the newest checkpoint names the best epoch.
            for path in self.folder.glob("best-*"):
                if path.name != f"best-{progress.best_epoch}":
                    shutil.rmtree(path)

    @contextmanager
    def resumable(self) -> Iterator[None]:
        """Tell whoever stops the run meanwhile how it goes on."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as stopped:
            if (latest := self.latest()) is not None:
                stopped.add_note(f"the same command goes on from {latest} with --resume")
            raise

    def clear(self) -> None:
        """Remove everything; the run is complete."""
        remove_working_folder(self.folder)

    def _refuse_others(self, name: str, now: dict[str, Any], how: str) -> None:
        file = self.folder / name
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        refuse_changes(before, now, f"{self.folder}: cannot resume {how}")

    def _checkpoints(self) -> list[Path]:
        return list(self.folder.glob("step-*")) if self.folder.is_dir() else []


def remove_working_folder(folder: Path) -> None:
    """Remove a run's working folder at once: what a kill left of one, a run that goes on would take for whole."""
    done_with = folder.with_name(f".{folder.name}-done")
    shutil.rmtree(done_with, ignore_errors=True)
    folder.replace(done_with)
    shutil.rmtree(done_with, ignore_errors=True)  # the model is saved: what cannot be removed now goes the next time


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], refusal: str) -> None:
    """See that what a run was begun with is what it is to go on with: plain values by name.

    Raises:
        KhabarError: The refusal, and each value that has changed.
    """
    if changed := changes(before, now, _given):
        raise KhabarError(f"{refusal}: {changed}")


def _given(value: object) -> str:
    return "not given" if value is None else repr(value)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))

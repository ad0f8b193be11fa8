"""Writes a training run's state so that a killed run goes on exactly where it stood.

Knows folders and accelerate's state; knows nothing of corpora or losses.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from khabar.models.errors import KhabarError

KEPT = 2


@dataclass
class Progress:
    """How far a run has come. `step` counts optimizer steps, `epoch` whole passes behind it."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of the running epoch behind it
    best_score: float | None = None
    best_epoch: int | None = None
    best_report: dict[str, Any] | None = None  # the best epoch's dev report
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
    """The `checkpoints/` folder of a run's output. A checkpoint appears whole or not at all.

    Args:
        output: The run's output folder.
        settings: The run's settings as plain values; a run only resumes under the same ones.
    """

    def __init__(self, output: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(output) / "checkpoints"
        # Through JSON, so that what is compared later is what was written (tuples become lists).
        self.settings = json.loads(json.dumps(settings))

    def latest(self) -> Path | None:
        """Find the newest whole checkpoint."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else ()
        return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)

    def begin(self, *, resume: bool) -> Path | None:
        """Prepare the folder, and find the checkpoint to resume from, if any.

        Raises:
            KhabarError: If there are checkpoints and the run is not to resume, or they are of other settings.
        """
        latest = self.latest()
        if latest is not None and not resume:
            raise KhabarError(
                f"{self.folder} holds checkpoints of an earlier run; go on with --resume, or choose another --output"
            )
        if latest is not None:
            written = json.loads((latest / "settings.json").read_text(encoding="utf-8"))
            changed = sorted(key for key in {*written, *self.settings} if written.get(key) != self.settings.get(key))
            if changed:
                differences = "; ".join(
                    f"{key} was {written.get(key)!r}, is {self.settings.get(key)!r}" for key in changed
                )
                raise KhabarError(f"{latest}: cannot resume under other settings: {differences}")
        return latest

    def save(self, accelerator: Accelerator, progress: Progress) -> None:
        """Write a checkpoint, then drop all but the newest few."""
        target = self.folder / f"step-{progress.step}"
        partial = self.folder / f".partial-{progress.step}"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / "settings.json").write_text(json.dumps(self.settings, ensure_ascii=False), encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            partial.replace(target)
            old = sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))[:-KEPT]
            for path in old:
                shutil.rmtree(path)

    def clear(self) -> None:
        """Remove all checkpoints; the run is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

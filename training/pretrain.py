"""Plain text -> a pretrained encoder's folder: vocabulary, piece stream, static vectors, objective, report.

Puts the steps of pretraining in order; what each of them does stands in the `pretrain_…` modules beside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray

from khabar.inference.sinks import whole_file, whole_folder
from khabar.models.device import choose_device, choose_precision
from khabar.models.errors import KhabarError
from khabar.models.folder import move_files, save_model
from khabar.models.text import build_tokenizer, load_tokenizer, train_vocabulary
from khabar.training.checkpoints import Checkpoints, Progress
from khabar.training.pretrain_build import Pretraining, build_pretraining
from khabar.training.pretrain_data import PieceBatches, encode_corpus, held_out, read_lines, text_file
from khabar.training.pretrain_loop import run_steps
from khabar.training.pretrain_report import measured_peak_flops, save_loss_curve
from khabar.training.pretrain_settings import PretrainSettings
from khabar.training.processes import join_processes, on_main
from khabar.training.provenance import sha256_of
from khabar.training.train import PAPERS, check_output_folder
from khabar.training.vectors import static_vectors

logger = logging.getLogger(__name__)

_MEASURED_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a finished run gives: the encoder's folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def pretrain(settings: PretrainSettings, *, resume: bool = False, overwrite: bool = False) -> PretrainResult:
    """Pretrain an encoder on plain text and save it to `settings.output`.

    Several processes (torchrun, accelerate launch) share each step's rows. Measurements go to the log.

    Args:
        settings: What to train on and how.
        resume: Go on from the newest checkpoint under `settings.output`, if there is one. On a CPU the
            weights come out as if the run had never stopped.
        overwrite: Replace an earlier model or encoder there.

    Raises:
        KhabarError: If a text, the tokenizer, the device or the output cannot be used, or the processes cannot share
            a step's rows evenly.
    """
    output = Path(settings.output)
    checkpoints = Checkpoints(output / "checkpoints", asdict(settings) | {"output": "", "device": ""})
    going_on = resume and checkpoints.folder.exists()
    check_output_folder(settings.output, going_on=going_on, overwrite=overwrite)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    join_processes(device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    if settings.rows % accelerator.num_processes:
        raise KhabarError(f"rows is {settings.rows}, must be a multiple of the {accelerator.num_processes} processes")
    on_main(lambda: checkpoints.begin(resume=resume))  # refuses before hours of work, not after
    material = _Material(settings, checkpoints.folder / "material")
    tokenizer = material.tokenizer
    read, kept_back = held_out(material.stream, settings.held_out)
    vectors = material.vectors(read)

    texts = {
        f"the content of text {place} ({Path(text).name})": digest[:12]
        for place, (text, digest) in enumerate(zip(settings.texts, material.digests, strict=True), start=1)
    }
    origin = texts | {"pieces": len(material.stream), "processes": accelerator.num_processes}
    on_main(lambda: checkpoints.confirm(origin))
    set_seed(settings.seed)
    batches = PieceBatches(stream=read, rows=settings.rows, length=settings.length, seed=settings.seed)
    counts = np.bincount(read, minlength=len(tokenizer))
    pretraining = build_pretraining(settings, tokenizer, counts, vectors)
    n_steps = max(1, round(settings.passes * batches.steps_a_pass))
    peak = measured_peak_flops(accelerator.device, precision)
    logger.info(
        "%d pieces, %d steps of %d; %.1fM parameters; %d process(es) on %s in %s",
        len(read), n_steps, settings.rows * settings.length, pretraining.n_parameters / 1e6,
        accelerator.num_processes, accelerator.device, precision,
    )  # fmt: skip
    if accelerator.device.type == "cuda":
        pretraining.objective.compile()
    set_seed(settings.seed, device_specific=True)
    progress = run_steps(
        pretraining.objective,
        batches,
        _Measure(pretraining, kept_back, settings, accelerator),
        settings=settings,
        n_steps=n_steps,
        accelerator=accelerator,
        checkpoints=checkpoints,
        flops_a_piece=pretraining.flops_a_piece,
        peak_flops=peak * accelerator.num_processes if peak else None,
        report=_log,
    )
    metrics = _metrics(settings, pretraining, progress, len(read), precision, accelerator)

    def write() -> None:
        leaving = checkpoints.folder / "leaving"
        shutil.rmtree(leaving, ignore_errors=True)
        save_model(pretraining.encoder, tokenizer, leaving)
        text = json.dumps(metrics, ensure_ascii=False, indent=1)
        (leaving / "metrics.json").write_text(text + "\n", encoding="utf-8")
        save_loss_curve(progress.history, leaving / "loss.png", title=f"{settings.chosen_objective} pretraining")
        for name in PAPERS:  # of a model that is replaced
            (output / name).unlink(missing_ok=True)
        move_files(leaving, output)
        checkpoints.clear()

    on_main(write)
    return PretrainResult(folder=output, metrics=metrics)


class _Material:
    """What a run is made from.

    Each part is made in the main process and kept in the folder under a name that says what it was made from, so that
    a run that was killed takes it from there.

    Attributes:
        digests: Of each text, its SHA-256.
        tokenizer: The one that was named, or one with a vocabulary trained on the texts.
        stream: (n_pieces,) the texts' piece ids, read from disk as they are needed.
    """

    def __init__(self, settings: PretrainSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.digests: list[str] = on_main(lambda: [sha256_of(text_file(path)) for path in settings.texts])
        self.tokenizer = load_tokenizer(self._vocabulary() if settings.tokenizer is None else settings.tokenizer)
        self._pieces = self._kept("pieces", [self.digests, self.tokenizer.backend_tokenizer.to_str()], self._encode)
        self.stream: NDArray[np.integer] = np.load(self._pieces, mmap_mode="r")

    def _vocabulary(self) -> Path:
        settings = self.settings

        def make(folder: Path) -> None:
            logger.info("training a vocabulary of %d pieces", settings.vocab_size)
            vocabulary = train_vocabulary(filter(None, read_lines(settings.texts)), settings.vocab_size)
            build_tokenizer(vocabulary).save_pretrained(folder)

        return self._kept("vocabulary", [self.digests, settings.vocab_size], make, whole=whole_folder)

    def _encode(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, encode_corpus(self.settings.texts, self.tokenizer))

    def vectors(self, read: NDArray[np.integer]) -> NDArray[np.float32] | None:
        """Train static vectors on the pieces that will be trained on; None where the encoder starts without."""
        settings = self.settings
        if settings.architecture != "recurrent" or not settings.vector_passes:
            return None

        def make(path: Path) -> None:
            logger.info("training static vectors, %d passes", settings.vector_passes)
            trained = static_vectors(
                read,
                len(self.tokenizer),
                settings.embedding_size,
                epochs=settings.vector_passes,
                seed=settings.seed,
                workers=torch.get_num_threads(),
            )
            with path.open("wb") as file:
                np.save(file, trained)

        made_from = [self._pieces.name, len(read), settings.embedding_size, settings.vector_passes, settings.seed]
        loaded: NDArray[np.float32] = np.load(self._kept("vectors", made_from, make))
        return loaded

    def _kept(
        self,
        kind: str,
        made_from: object,
        make: Callable[[Path], None],
        *,
        whole: Callable[[Path], AbstractContextManager[Path]] = whole_file,
    ) -> Path:
        """Have something made, whole or not at all, unless it is there; give its place."""
        digest = hashlib.sha256(json.dumps(made_from, ensure_ascii=False).encode()).hexdigest()[:16]
        target = self.folder / f"{kind}-{digest}"

        def make_missing() -> None:
            if not target.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                with whole(target) as place:
                    make(place)

        on_main(make_missing)
        return target


class _Measure:
    """The loss on held-out rows, the same rows each time."""

    def __init__(
        self,
        pretraining: Pretraining,
        stream: NDArray[np.integer],
        settings: PretrainSettings,
        accelerator: Accelerator,
    ) -> None:
        length = settings.length
        rows = [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)][:_MEASURED_ROWS]
        self.rows = torch.from_numpy(np.stack(rows).astype(np.int64)) if rows else None
        self.pretraining, self.accelerator = pretraining, accelerator

    def __call__(self) -> float | None:
        """Measure in the main process; None where nothing is held out, and in other processes."""
        if self.rows is None or not self.accelerator.is_main_process:
            return None
        objective = self.pretraining.objective
        objective.eval()
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        # Masks are drawn here too: the same ones each time, without touching the run's own draws.
        with torch.no_grad(), torch.random.fork_rng(devices), self.accelerator.autocast():
            torch.manual_seed(0)
            losses = [
                float(self.pretraining.measured_loss(rows.to(self.accelerator.device))) for rows in self.rows.split(16)
            ]
        objective.train()
        return sum(losses) / len(losses)


def _log(entry: dict[str, Any]) -> None:
    """Log one measurement as a line."""
    shown = [f"step {entry['step']}", f"loss {entry['loss']:.3f}"]
    if entry["held_out"] is not None:
        shown.append(f"held-out {entry['held_out']:.3f}")
    shown += [f"rate {entry['rate']:.2e}", f"{entry['pieces_a_second']:,.0f} pieces/s"]
    if "utilisation" in entry:
        shown.append(f"{entry['utilisation']:.0%} of the matrix peak")
    logger.info("%s", ", ".join(shown))


def _metrics(
    settings: PretrainSettings,
    pretraining: Pretraining,
    progress: Progress,
    n_pieces: int,
    precision: str,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Gather what metrics.json holds."""
    return {
        "settings": asdict(settings),
        "parameters": pretraining.n_parameters,
        "pieces": n_pieces,
        "pieces_read": progress.step * settings.rows * settings.length,
        "seconds": round(progress.seconds, 1),
        "precision": precision,
        "device": str(accelerator.device),
        "processes": accelerator.num_processes,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "history": progress.history,
    }

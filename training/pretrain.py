"""Plain text -> a pretrained encoder's folder: vocabulary, piece stream, static vectors, objective, report.

Puts the steps of pretraining in order; what each of them does stands in the `pretrain_…` modules beside.
"""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from khabar.models.device import choose_device
from khabar.models.folder import save_model
from khabar.models.text import build_tokenizer, load_tokenizer, train_vocabulary
from khabar.training.checkpoints import Checkpoints, Progress
from khabar.training.pretrain_build import Pretraining, build_pretraining
from khabar.training.pretrain_data import PieceBatches, encode_corpus, held_out, read_lines
from khabar.training.pretrain_loop import run_steps
from khabar.training.pretrain_report import measured_peak_flops, save_loss_curve
from khabar.training.pretrain_settings import PretrainSettings
from khabar.training.vectors import static_vectors

logger = logging.getLogger(__name__)

_MEASURED_ROWS = 128


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a finished run gives: the encoder's folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]


def pretrain(settings: PretrainSettings, *, resume: bool = False) -> PretrainResult:
    """Pretrain an encoder on plain text and save it to `settings.output`.

    Several processes (torchrun, accelerate launch) share each step's rows. Measurements go to the log.

    Args:
        settings: What to train on and how.
        resume: Go on from the newest checkpoint under `settings.output`, if there is one. On a CPU the
            weights come out as if the run had never stopped.

    Raises:
        KhabarError: If a text, the tokenizer, the device or the output cannot be used.
    """
    device = choose_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    output = Path(settings.output)
    checkpoints = Checkpoints(output / "checkpoints", asdict(settings) | {"output": "", "device": ""})
    checkpoints.begin(resume=resume)  # refuses before hours of work, not after
    with accelerator.main_process_first():
        tokenizer = _tokenizer(settings, output / "cache")
        stream = encode_corpus(settings.texts, tokenizer, output / "cache")
    read, kept_back = held_out(stream, settings.held_out)
    with accelerator.main_process_first():
        vectors = _vectors(settings, read, len(tokenizer), output / "cache")

    checkpoints.confirm({"pieces": len(stream), "processes": accelerator.num_processes})
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
    if accelerator.is_main_process:
        save_model(pretraining.encoder, tokenizer, output)
        text = json.dumps(metrics, ensure_ascii=False, indent=1)
        (output / "metrics.json").write_text(text + "\n", encoding="utf-8")
        save_loss_curve(progress.history, output / "loss.png", title=f"{settings.chosen_objective} pretraining")
        checkpoints.clear()
    accelerator.wait_for_everyone()
    return PretrainResult(folder=output, metrics=metrics)


def _tokenizer(settings: PretrainSettings, cache: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer that was named, or the one this output trained before, or train one."""
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer)
    if not (cache / "tokenizer.json").is_file():
        logger.info("training a vocabulary of %d pieces", settings.vocab_size)
        vocabulary = train_vocabulary(filter(None, read_lines(settings.texts)), settings.vocab_size)
        build_tokenizer(vocabulary).save_pretrained(cache)
    return load_tokenizer(cache)


def _vectors(
    settings: PretrainSettings, stream: NDArray[np.integer], vocab_size: int, cache: Path
) -> NDArray[np.float32] | None:
    """Train static vectors, or load the ones this output trained before."""
    if settings.architecture != "recurrent" or not settings.vector_passes:
        return None
    path = cache / f"vectors-{vocab_size}x{settings.embedding_size}-{settings.vector_passes}.npy"
    if not path.is_file():
        logger.info("training static vectors, %d passes", settings.vector_passes)
        vectors = static_vectors(
            stream,
            vocab_size,
            settings.embedding_size,
            epochs=settings.vector_passes,
            seed=settings.seed,
            workers=torch.get_num_threads(),
        )
        np.save(path, vectors)
    loaded: NDArray[np.float32] = np.load(path)
    return loaded


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

"""The settings of a training run: a frozen dataclass, read from YAML or JSON, with unknown keys refused.

Knows names, types and ranges; of corpora only which of them names a dev set; nothing of models.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from khabar.models.device import check_whole_device
from khabar.models.errors import KhabarError
from khabar.models.ranges import check_choice, check_range
from khabar.training.corpora import dev_corpus

DEFAULT_ENCODER = "aubmindlab/bert-base-arabertv02"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

_COUNTS = ("epochs", "patience", "batch_pieces", "max_segment_words", "checkpoint_steps", "window", "stride")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides what a training run gives, apart from the machine.

    Attributes:
        corpora: Article files (.jsonl) or corpus descriptions (.yaml) to train on.
        output: Folder for the model; checkpoints go to its `checkpoints/`.
        dev: Articles to measure on after each epoch, or a .yaml that names sources for dev; the best epoch is kept.
            Without it, the last.
        encoder: Hub id or folder of the encoder, or `embedded` for that of the model in the package; None takes
            DEFAULT_ENCODER, or the encoder of `from_model`.
        from_model: A finished khabar model to start from: it keeps the labels that it knows (see growing.py).
        max_drop: Points of F1 (hundredths) that a label of `from_model` may lose on dev.
        allow_drop: Save the model even if a label loses more.
        from_scratch: Use the encoder's configuration and tokenizer with random weights.
        epochs: Passes over the corpora; None takes 10, and more where the corpora are small (see settling.py).
        frozen_epochs: Epochs in which the encoder's pretrained parts stay as they are and only what is new learns:
            cheaper by half, and the new parts' first large steps spoil nothing. Source: Howard and Ruder 2018,
            section 3.3 (gradual unfreezing), here in one step.
        patience: Stop after so many epochs without a better dev score; None does not stop before the last, in which
            the rates have fallen to zero.
        batch_pieces: Pieces in a batch, padding included; None takes 8,192, and fewer where the corpora are small.
        learning_rate: Peak rate of the encoder's last pretrained layer; None takes what the encoder says suits it
            (`fine_tuning_rate` in its config.json), or 5e-5; a fifth of that for a model to start from.
        head_learning_rate: Peak rate of what is new: the heads, and the layers that pretraining leaves untrained.
        layer_decay: Each encoder layer's rate is this share of the rate of the layer above it.
            Source: discriminative fine-tuning, Howard and Ruder 2018, section 3.2.
        weight_decay: AdamW's decay of matrices; vectors are not decayed.
        warmup: Share of the steps in which the rates rise; they then fall linearly to zero.
        max_grad_norm: Gradients are scaled down to this norm.
        head_dropout: Dropout in front of the heads.
        average_decay: Decay of the moving average of the weights that is measured and saved; 0 saves the weights as
            they are. Source: Polyak and Juditsky 1992; as an exponential average, Tarvainen and Valpola 2017.
        seed: Seed of initialisation, order and dropout.
        precision: `auto` (bf16 on a GPU that has it, else fp32), `fp32`, `bf16` or `fp16`.
        device: `auto`, `cpu` or `cuda`.
        window: Window length in pieces; None takes the encoder's limit, 512 at most.
        stride: Widest step between windows in pieces; None takes three quarters of the window.
        max_segment_words: Longest segment where a corpus does not give segments; None takes 160. Of a model to
            start from, None takes all three as they are.
        checkpoint_steps: Steps between checkpoints; None writes one an epoch.
        calibrate: Fit each topic's temperature, threshold and band of uncertainty to dev, where there is one.
        wanted_precision: Choose the lowest thresholds with this precision on dev; None chooses by the best F1.
        name: The model's name.
        version: The model's version.
    """

    corpora: tuple[str, ...]
    output: str
    dev: str | None = None
    encoder: str | None = None
    from_model: str | None = None
    max_drop: float = 2.0
    allow_drop: bool = False
    from_scratch: bool = False
    epochs: int | None = None
    frozen_epochs: int = 0
    patience: int | None = None
    batch_pieces: int | None = None
    learning_rate: float | None = None
    head_learning_rate: float = 1e-3
    layer_decay: float = 0.9
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    head_dropout: float = 0.1
    average_decay: float = 0.0
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"
    window: int | None = None
    stride: int | None = None
    max_segment_words: int | None = None
    checkpoint_steps: int | None = None
    calibrate: bool = True
    wanted_precision: float | None = None
    name: str = "khabar"
    version: str = "1.0"

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            KhabarError: Naming the setting, its value and what is allowed.
        """
        if not self.corpora:
            raise KhabarError("corpora is empty; give at least one .jsonl or .yaml file")
        for name in _COUNTS:
            check_range(name, getattr(self, name), at_least=1)
        if self.window is not None:
            check_range("window", self.window, at_least=3)  # a piece between two special ones
            check_range("stride", self.stride, at_least=1, at_most=self.window - 2)
        for name in ("learning_rate", "head_learning_rate", "max_grad_norm"):
            check_range(name, getattr(self, name), above=0)
        for name in ("warmup", "head_dropout", "average_decay"):
            check_range(name, getattr(self, name), at_least=0, below=1)
        check_range("wanted_precision", self.wanted_precision, above=0, below=1)
        check_range("layer_decay", self.layer_decay, above=0, at_most=1)
        for name in ("weight_decay", "frozen_epochs"):
            check_range(name, getattr(self, name), at_least=0)
        check_range("seed", self.seed, at_least=0, below=2**32)
        check_range("max_drop", self.max_drop, at_least=0, at_most=100)
        check_choice("precision", self.precision, PRECISIONS)
        check_whole_device(self.device)
        if self.from_model is None:
            object.__setattr__(self, "encoder", self.encoder or DEFAULT_ENCODER)
        else:
            self._check_growing()

    def _check_growing(self) -> None:
        if self.encoder is not None or self.from_scratch:
            raise KhabarError(
                f"encoder and tokenizer come from the model {self.from_model}; allowed: neither --encoder nor "
                "--from-scratch beside --from"
            )
        if self.dev is None and not self.allow_drop:
            raise KhabarError(
                f"growing {self.from_model} needs --dev, to see whether known labels get worse; or --allow-drop"
            )
        if Path(self.output).resolve() == Path(str(self.from_model)).resolve():
            raise KhabarError(f"output is {self.output}, the model to start from; allowed: another folder")


def read_settings(file: str | Path | None, given: Mapping[str, Any]) -> TrainSettings:
    """Build settings from a YAML or JSON file and from given values, which win over the file's.

    Raises:
        KhabarError: If the file cannot be read, has a key that is no setting, or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    if file is not None:
        values = _read_mapping(Path(file))
    types = {field.name: str(field.type) for field in fields(TrainSettings)}
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; settings are {', '.join(types)}"
            raise KhabarError(f"{file}: {key} is no setting{hint}")
        values[key] = _checked(file, key, value, types[key])
    values.update(given)
    missing = [name for name in ("corpora", "output") if name not in values]
    if missing:
        raise KhabarError(f"{missing[0]} is missing; give it on the command line or in the settings file")
    if "dev" not in values:
        values["dev"] = dev_corpus(values["corpora"])
    return TrainSettings(**values)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KhabarError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # such as a date that there is not
        raise KhabarError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise KhabarError(f"{path}: must hold settings as `key: value`, holds {type(content).__name__}")
    return content


def _checked(file: str | Path | None, key: str, value: Any, kind: str) -> Any:
    """Check a file's value against the setting's declared type; a whole number may stand for a float."""
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple"):
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return tuple(items)
    elif kind == "bool" or isinstance(value, bool):
        if kind == "bool" and isinstance(value, bool):
            return value
    elif kind.startswith("float"):
        # YAML reads 1e-3 (no dot) as a string.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif (kind.startswith("int") and isinstance(value, int)) or (kind.startswith("str") and isinstance(value, str)):
        return value
    raise KhabarError(f"{file}: {key} is {value!r}, must be {kind}")

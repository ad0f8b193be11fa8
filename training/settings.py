"""The settings of a training run: a frozen dataclass, read from YAML or JSON, with unknown keys refused.

Knows names, types and ranges; knows nothing of corpora or models.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from khabar.models.errors import KhabarError

DEFAULT_ENCODER = "aubmindlab/bert-base-arabertv02"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides what a training run gives, apart from the machine.

    Attributes:
        corpora: Article files (.jsonl) or corpus descriptions (.yaml) to train on.
        output: Folder for the model; checkpoints go to its `checkpoints/`.
        dev: Article file to measure on after each epoch; the best epoch is kept. Without it, the last.
        encoder: Hub id or folder of the encoder.
        from_scratch: Use the encoder's configuration and tokenizer with random weights.
        epochs: Most passes over the corpora.
        frozen_epochs: Epochs in which the encoder's pretrained parts stay as they are and only what is new learns:
            cheaper by half, and the new parts' first large steps spoil nothing. Source: Howard and Ruder 2018,
            section 3.3 (gradual unfreezing), here in one step.
        patience: Stop after so many epochs without a better dev score.
        batch_pieces: Pieces in a batch, padding included.
        learning_rate: Peak rate of the encoder's last pretrained layer.
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
        stride: Step between windows in pieces; None takes three quarters of the window.
        max_segment_words: Longest segment where a corpus does not give segments.
        checkpoint_steps: Steps between checkpoints; None writes one an epoch.
        name: The model's name.
        version: The model's version.
    """

    corpora: tuple[str, ...]
    output: str
    dev: str | None = None
    encoder: str = DEFAULT_ENCODER
    from_scratch: bool = False
    epochs: int = 10
    frozen_epochs: int = 0
    patience: int = 3
    batch_pieces: int = 8192
    learning_rate: float = 5e-5
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
    max_segment_words: int = 160
    checkpoint_steps: int | None = None
    name: str = "khabar"
    version: str = "1.0"

    def __post_init__(self) -> None:
        """Check every range.

        Raises:
            KhabarError: Naming the setting, its value and what is allowed.
        """
        if not self.corpora:
            raise KhabarError("corpora is empty; give at least one .jsonl or .yaml file")
        counts = ("epochs", "patience", "batch_pieces", "max_segment_words", "checkpoint_steps", "window", "stride")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KhabarError(f"{name} is {value}, must be at least 1")
        for name in ("learning_rate", "head_learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise KhabarError(f"{name} is {getattr(self, name)}, must be above 0")
        for name in ("warmup", "head_dropout", "average_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise KhabarError(f"{name} is {getattr(self, name)}, must be in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise KhabarError(f"layer_decay is {self.layer_decay}, must be in (0, 1]")
        for name in ("weight_decay", "frozen_epochs"):
            if getattr(self, name) < 0:
                raise KhabarError(f"{name} is {getattr(self, name)}, must not be negative")
        for name, allowed in (("precision", ("auto", "fp32", "bf16", "fp16")),):
            if getattr(self, name) not in allowed:
                raise KhabarError(f"{name} is {getattr(self, name)!r}, must be one of {', '.join(allowed)}")


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
    return TrainSettings(**values)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KhabarError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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

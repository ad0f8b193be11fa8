"""The settings a khabar model is saved with: its labels, calibration, windows and its encoder's configuration.

Labels are data: nothing else in khabar names a topic or an entity type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from numbers import Real
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from khabar.models.errors import ModelFolderError
from khabar.models.messages import show
from khabar.models.ranges import check_range


def _is_label(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list(value: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(fits, value))


def _is_map(value: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(map(_is_label, value)) and all(map(fits, value.values()))


# config.json may come from anywhere: what each setting must be, and how to say so.
_TYPES: dict[tuple[str, ...], tuple[Callable[[object], bool], str]] = {
    ("topics", "entity_labels"): (
        lambda value: _is_list(value, _is_label),
        "a list of labels, strings that are not blank",
    ),
    ("topic_temperatures", "topic_thresholds"): (lambda value: _is_map(value, _is_number), "an object of numbers"),
    ("topic_bands",): (
        lambda value: _is_map(value, lambda band: _is_list(band, _is_number)),
        "an object of lists of numbers",
    ),
    ("window", "stride", "max_segment_words"): (_is_count, "a whole number"),
    ("head_dropout",): (_is_number, "a number"),
    ("name", "version", "vocabulary"): (lambda value: isinstance(value, str), "a string"),
    ("encoder",): (
        lambda value: value is None or isinstance(value, dict | PreTrainedConfig),
        "an encoder's configuration, an object",
    ),
}


class KhabarConfig(PreTrainedConfig):
    """Configuration of a `KhabarModel`.

    Attributes:
        encoder: Configuration of the encoder; a dict with `model_type` is resolved through AutoConfig.
        topics: Topic labels, in the order of the topic logits.
        entity_labels: Entity labels, in the order of the BIO tags.
        topic_temperatures: What divides each topic's logits before they become probabilities.
        topic_thresholds: The probability from which each topic counts as reported.
        topic_bands: For some topics, [low, high]: probabilities from low up to, not including, high are uncertain.
        window: Window length in pieces, the two special pieces included.
        stride: Widest step between windows in pieces: they share at least window - 2 - stride.
        max_segment_words: Longest segment, in words, where an article's segments are not given.
        head_dropout: Dropout in front of the heads, in training.
        name: The model's name, as results carry it.
        version: The model's version.
        vocabulary: Digest of the tokenizer's vocabulary; empty where nobody has noted it.
    """

    model_type = "khabar"
    sub_configs: ClassVar[dict[str, type]] = {"encoder": AutoConfig}
    has_no_defaults_at_init = True

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    topics: list[str] = field(default_factory=list)
    entity_labels: list[str] = field(default_factory=list)
    topic_temperatures: dict[str, float] = field(default_factory=dict)
    topic_thresholds: dict[str, float] = field(default_factory=dict)
    topic_bands: dict[str, list[float]] = field(default_factory=dict)
    window: int = 512
    stride: int = 384
    max_segment_words: int = 160
    head_dropout: float = 0.1
    name: str = "khabar"
    version: str = "1.0"
    vocabulary: str = ""

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve the encoder's configuration and check that the settings agree with each other.

        Raises:
            ModelFolderError: If a setting is not of its type, a label is listed twice, a topic's temperature,
                threshold or band is missing, of an unknown topic or out of range, or the window is too short for its
                stride.
        """
        self._check_types()
        if isinstance(self.encoder, dict):
            settings = dict(self.encoder)
            if "model_type" not in settings:
                raise ModelFolderError("config.json: encoder has no model_type")
            self.encoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.topics = list(self.topics)
        self.entity_labels = list(self.entity_labels)
        self.topic_temperatures = dict(self.topic_temperatures or dict.fromkeys(self.topics, 1.0))
        self.topic_thresholds = dict(self.topic_thresholds or dict.fromkeys(self.topics, 0.5))
        self.topic_bands = {topic: list(band) for topic, band in self.topic_bands.items()}
        self._check()
        chosen = getattr(self.encoder, "_attn_implementation", None)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if self._attn_implementation is None and self.encoder is not None:
            # transformers hands its own None on to the encoder, which may be a loaded one that has chosen already.
            self.encoder._attn_implementation = chosen

    def _check_types(self) -> None:
        for keys, (fits, allowed) in _TYPES.items():
            for key in keys:
                value = getattr(self, key)
                if not fits(value):
                    raise ModelFolderError(f"config.json: {key} is {show(value)}, must be {allowed}")

    def _check(self) -> None:
        for key, labels in (("topics", self.topics), ("entity_labels", self.entity_labels)):
            repeated = sorted({label for label in labels if labels.count(label) > 1})
            if repeated:
                raise ModelFolderError(f"config.json: {key} lists {', '.join(repeated)} more than once")
        self._check_calibration()
        if not 0 < self.stride <= self.window - 2:
            raise ModelFolderError(
                f"config.json: stride is {self.stride}, must be in [1, window - 2 = {self.window - 2}]"
            )
        check_range("config.json: max_segment_words", self.max_segment_words, at_least=1, error=ModelFolderError)

    def _check_calibration(self) -> None:
        for key in ("topic_temperatures", "topic_thresholds"):
            named = getattr(self, key)
            if set(named) != set(self.topics):
                raise ModelFolderError(
                    f"config.json: {key} has {sorted(named)}, must have exactly the topics {self.topics}"
                )
        for topic, temperature in self.topic_temperatures.items():
            name = f"config.json: topic_temperatures.{topic}"
            check_range(name, temperature, above=0, below=math.inf, error=ModelFolderError)
        for topic, threshold in self.topic_thresholds.items():
            name = f"config.json: topic_thresholds.{topic}"
            check_range(name, threshold, at_least=0, at_most=1, error=ModelFolderError)
        unknown = sorted(set(self.topic_bands) - set(self.topics))
        if unknown:
            raise ModelFolderError(
                f"config.json: topic_bands has {unknown}, must have only some of the topics {self.topics}"
            )
        for topic, band in self.topic_bands.items():
            if len(band) != 2 or not 0.0 <= band[0] < band[1] <= 1.0:
                raise ModelFolderError(
                    f"config.json: topic_bands.{topic} is {band}, must be two rising probabilities in [0, 1]"
                )

    @property
    def full_name(self) -> str:
        """Name and version in one string, as results carry it."""
        return f"{self.name} {self.version}".strip()


AutoConfig.register(KhabarConfig.model_type, KhabarConfig)

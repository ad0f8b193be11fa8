"""The settings a khabar model is saved with: its labels, thresholds, windows and its encoder's configuration.

Labels are data: nothing else in khabar names a topic or an entity type.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from khabar.models.errors import ModelFolderError


class KhabarConfig(PreTrainedConfig):
    """Configuration of a `KhabarModel`.

    Attributes:
        encoder: Configuration of the encoder; a dict with `model_type` is resolved through AutoConfig.
        topics: Topic labels, in the order of the topic logits.
        entity_labels: Entity labels, in the order of the BIO tags.
        topic_thresholds: The probability from which each topic counts as reported.
        window: Window length in pieces, the two special pieces included.
        stride: Step between windows in pieces.
        max_segment_words: Longest segment, in words, where an article's segments are not given.
        head_dropout: Dropout in front of the heads, in training.
        name: The model's name, as results carry it.
        version: The model's version.
    """

    model_type = "khabar"
    sub_configs: ClassVar[dict[str, type]] = {"encoder": AutoConfig}
    has_no_defaults_at_init = True

    encoder: PreTrainedConfig | dict[str, Any] | None = None
    topics: list[str] = field(default_factory=list)
    entity_labels: list[str] = field(default_factory=list)
    topic_thresholds: dict[str, float] = field(default_factory=dict)
    window: int = 512
    stride: int = 384
    max_segment_words: int = 160
    head_dropout: float = 0.1
    name: str = "khabar"
    version: str = "1.0"

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve the encoder's configuration and check that the settings agree with each other.

        Raises:
            ModelFolderError: If a label is listed twice, a threshold is missing, of an unknown topic or
                outside [0, 1], or the window is too short for its stride.
        """
        if isinstance(self.encoder, dict):
            settings = dict(self.encoder)
            if "model_type" not in settings:
                raise ModelFolderError("config.json: encoder has no model_type")
            self.encoder = AutoConfig.for_model(settings.pop("model_type"), **settings)
        self.topics = list(self.topics)
        self.entity_labels = list(self.entity_labels)
        self.topic_thresholds = dict(self.topic_thresholds or dict.fromkeys(self.topics, 0.5))
        self._check()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def _check(self) -> None:
        for key, labels in (("topics", self.topics), ("entity_labels", self.entity_labels)):
            repeated = sorted({label for label in labels if labels.count(label) > 1})
            if repeated:
                raise ModelFolderError(f"config.json: {key} lists {', '.join(repeated)} more than once")
        thresholds = self.topic_thresholds
        if set(thresholds) != set(self.topics):
            raise ModelFolderError(
                f"config.json: topic_thresholds has {sorted(thresholds)}, must have exactly the topics {self.topics}"
            )
        for topic, threshold in thresholds.items():
            if not 0.0 <= threshold <= 1.0:
                raise ModelFolderError(f"config.json: topic_thresholds.{topic} is {threshold}, must be in [0, 1]")
        if not 0 < self.stride <= self.window - 2:
            raise ModelFolderError(
                f"config.json: stride is {self.stride}, must be in [1, window - 2 = {self.window - 2}]"
            )
        if self.max_segment_words < 1:
            raise ModelFolderError(f"config.json: max_segment_words is {self.max_segment_words}, must be at least 1")

    @property
    def full_name(self) -> str:
        """Name and version in one string, as results carry it."""
        return f"{self.name} {self.version}".strip()


AutoConfig.register(KhabarConfig.model_type, KhabarConfig)

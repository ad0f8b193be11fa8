"""Builds the model that a run trains: new heads on an encoder, or a finished model with room for new labels.

Knows encoders, models and settings; knows nothing of articles.
"""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError
from khabar.models.folder import load_encoder, load_model, new_encoder
from khabar.models.model import KhabarModel
from khabar.training.growing import grow_model, stride_in
from khabar.training.settings import TrainSettings
from khabar.training.targets import LabelSet

DEFAULT_WINDOW = 512
DEFAULT_SEGMENT_WORDS = 160


def build_model(settings: TrainSettings, labels: LabelSet) -> tuple[KhabarModel, PreTrainedTokenizerFast]:
    """Build the model to train; what is new in it is random.

    Raises:
        KhabarError: If the encoder or the model to start from cannot be used, or the window is too long for it.
    """
    if settings.from_model is not None:
        old, tokenizer = load_model(settings.from_model)
        model = grow_model(old, labels, settings)
    else:
        encoder, tokenizer = (new_encoder if settings.from_scratch else load_encoder)(str(settings.encoder))
        window = settings.window or min(_limit(encoder), DEFAULT_WINDOW)
        config = KhabarConfig(
            encoder=encoder.config,
            topics=list(labels.topics),
            entity_labels=list(labels.entity_labels),
            window=window,
            stride=stride_in(window, settings.stride),
            max_segment_words=settings.max_segment_words or DEFAULT_SEGMENT_WORDS,
            head_dropout=settings.head_dropout,
            name=settings.name,
            version=settings.version,
        )
        model = KhabarModel(config, encoder)
    if model.config.window > _limit(model.encoder):
        raise KhabarError(f"window is {model.config.window}, must be at most the encoder's {_limit(model.encoder)}")
    model.encoder.config._name_or_path = ""  # a path of this machine means nothing elsewhere
    return model, tokenizer


def _limit(encoder: PreTrainedModel) -> int:
    """The longest row that the encoder takes, in pieces; what has no limit is given a usual one."""
    limit: int | None = getattr(encoder.config, "max_position_embeddings", None)
    return limit or DEFAULT_WINDOW

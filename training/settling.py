"""Settles what a run's settings leave open: the rate by the encoder, batches and epochs by how much there is to read.

Knows settings, an encoder's configuration and the examples' lengths; knows nothing of a model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from khabar.models.errors import KhabarError
from khabar.models.messages import show
from khabar.training.batching import BatchPlan
from khabar.training.settings import TrainSettings

# The rate of an encoder that does not say what suits it. Source: Devlin et al. 2019, section A.3, for BERT.
USUAL_RATE = 5e-5
# Of a finished model's encoder, which is to keep what it knows, the rate is this share (docs/training.md).
GROWING_SHARE = 0.2
# Pieces in a batch: as many as leave an epoch so many steps, within these bounds.
STEPS_AN_EPOCH = 100
LEAST_PIECES, MOST_PIECES = 1024, 8192
# Few articles are read more often: so many steps in all, within these numbers of epochs. With too few, heads and
# encoder do not get far, whatever the rate (docs/training.md has a table).
ENOUGH_STEPS = 400
LEAST_EPOCHS, MOST_EPOCHS = 10, 40


@dataclass(frozen=True, kw_only=True)
class SettledSettings(TrainSettings):
    """Settings that leave nothing of this open."""

    learning_rate: float
    batch_pieces: int
    epochs: int


def settle(
    settings: TrainSettings, encoder: PreTrainedConfig, lengths: NDArray[np.integer], *, n_processes: int = 1
) -> SettledSettings:
    """Fill in what settings leave open.

    Args:
        settings: What they say stands.
        encoder: Its `fine_tuning_rate`, if it has one, is the learning rate; of a model to start from, a share of it.
        lengths: (n_examples,) pieces of each article to train on.
        n_processes: Processes that share each step, a batch each.

    Raises:
        KhabarError: If the encoder's rate is no rate.
    """
    n_pieces = int(lengths.sum(dtype=np.int64))
    fitting = min(max(n_pieces // (STEPS_AN_EPOCH * n_processes), LEAST_PIECES), MOST_PIECES)
    batch_pieces = settings.batch_pieces or fitting
    n_steps = BatchPlan(lengths, batch_pieces=batch_pieces, seed=settings.seed).n_steps(n_processes)
    epochs = settings.epochs or min(max(-(-ENOUGH_STEPS // n_steps), LEAST_EPOCHS), MOST_EPOCHS)
    share = 1.0 if settings.from_model is None else GROWING_SHARE
    rate = settings.learning_rate or share * _fine_tuning_rate(encoder)
    open_ = {"learning_rate": rate, "batch_pieces": batch_pieces, "epochs": epochs}
    return SettledSettings(**{**vars(settings), **open_})


def _fine_tuning_rate(encoder: PreTrainedConfig) -> float:
    rate: Any = getattr(encoder, "fine_tuning_rate", None)
    if rate is None:
        return USUAL_RATE
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1:
        raise KhabarError(
            f"fine_tuning_rate in the encoder's configuration is {show(rate)}; allowed: a number in (0, 1), or none"
        )
    return float(rate)

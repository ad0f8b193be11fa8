"""Settings -> what is trained: a fresh encoder, its objective, and what a step of it costs.

Knows architectures and objectives; knows nothing of files or loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import ModernBertConfig, ModernBertModel, PreTrainedModel, PreTrainedTokenizerFast

from khabar.models.recurrent import RecurrentConfig, RecurrentEncoder
from khabar.training.pretrain_cloze import ClozeObjective
from khabar.training.pretrain_settings import PretrainSettings
from khabar.training.pretrain_transformer import MaskedPieces, ReplacedPieces

# Two operations a weight forward and four back. Source: Kaplan et al. 2020, section 2.1.
OPERATIONS_A_WEIGHT = 6
MAX_POSITIONS = 1024
# What `khabar train` takes for encoders of such a hidden size; a lower one was worse for both kinds (docs/embedded.md).
# Larger ones were not measured.
FINE_TUNING_RATE, SMALL = 1e-3, 512


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """An encoder in its objective.

    Attributes:
        encoder: What is saved in the end.
        objective: (rows, length) piece ids to a scalar loss.
        measured_loss: The loss to watch on held-out rows, comparable between runs.
        flops_a_piece: Floating-point operations that training on one piece takes, forward and back.
    """

    encoder: PreTrainedModel
    objective: nn.Module
    measured_loss: Callable[[Tensor], Tensor]
    flops_a_piece: float

    @property
    def n_parameters(self) -> int:
        """Parameters of the encoder."""
        return sum(parameter.numel() for parameter in self.encoder.parameters())


def build_pretraining(
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    counts: NDArray[np.integer],
    vectors: NDArray[np.float32] | None,
) -> Pretraining:
    """Build a fresh encoder and its objective, on the CPU.

    Args:
        settings: The run's settings.
        tokenizer: Gives the vocabulary's size and the special pieces.
        counts: (vocab_size,) occurrences of each piece.
        vectors: (vocab_size, embedding_size) static vectors to start from, of standard deviation 1.
    """
    if settings.architecture == "transformer":
        built = _transformer(settings, tokenizer)
    else:
        built = _recurrent(settings, tokenizer, counts, vectors)
    if built.encoder.config.hidden_size <= SMALL:
        built.encoder.config.fine_tuning_rate = FINE_TUNING_RATE
    return built


def _recurrent(
    settings: PretrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    counts: NDArray[np.integer],
    vectors: NDArray[np.float32] | None,
) -> Pretraining:
    """Build the recurrent encoder in the cloze objective."""
    config = RecurrentConfig(
        vocab_size=len(tokenizer),
        embedding_size=settings.embedding_size,
        context_size=settings.context_size,
        n_context_layers=settings.context_layers,
        hidden_size=settings.hidden_size,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = RecurrentEncoder(config)
    if vectors is not None:
        with torch.no_grad():
            encoder.embeddings.weight.copy_(torch.from_numpy(vectors) * config.initializer_range)
    objective = ClozeObjective(encoder, counts, n_samples=settings.samples)
    matrices = [*encoder.context.parameters(), *objective.dense.parameters(), *objective.out.parameters()]
    sampled = float(objective.log_chosen.exp().sum()) * settings.embedding_size
    flops = OPERATIONS_A_WEIGHT * (sum(matrix.numel() for matrix in matrices) + sampled)
    return Pretraining(encoder=encoder, objective=objective, measured_loss=objective.full_loss, flops_a_piece=flops)


def _transformer(settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast) -> Pretraining:
    """Build a deep and thin ModernBERT in the objective that was chosen."""
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=max(MAX_POSITIONS, settings.length),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    encoder = ModernBertModel(config)
    special = {"mask_id": tokenizer.mask_token_id, "special_ids": tokenizer.all_special_ids}
    layer_cost = _layer_weights(settings) * settings.layers
    guess_cost = settings.hidden_size * (settings.hidden_size + len(tokenizer))  # a masked piece's head
    objective: MaskedPieces | ReplacedPieces
    if settings.chosen_objective == "masked-lm":
        objective = MaskedPieces(encoder, **special)
        weights = layer_cost + objective.masked_share * guess_cost
    else:
        generator_layers = max(1, settings.layers // 4)
        objective = ReplacedPieces(encoder, generator_layers=generator_layers, **special)
        weights = layer_cost + _layer_weights(settings) * generator_layers
        weights += objective.generator.masked_share * guess_cost
    return Pretraining(
        encoder=encoder,
        objective=objective,
        measured_loss=objective,
        flops_a_piece=OPERATIONS_A_WEIGHT * weights,
    )


def _layer_weights(settings: PretrainSettings) -> int:
    """Weights that one layer multiplies a piece with; attention over its row counts as weights too."""
    attention = 4 * settings.hidden_size**2 + 2 * settings.length * settings.hidden_size
    return attention + 3 * settings.hidden_size * settings.intermediate_size

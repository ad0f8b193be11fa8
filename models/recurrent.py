"""A compact recurrent encoder: piece ids -> one state a piece, through LSTMs that a CPU can pretrain.

Piece vectors feed one stack of LSTM layers a reading direction, pretrained as language models without
seeing each other; a bidirectional layer above them sees both. Knows nothing of text, tags or topics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from khabar.models.ranges import check_range


class RecurrentConfig(PreTrainedConfig):
    """Configuration of a `RecurrentEncoder`.

    Attributes:
        vocab_size: Number of pieces.
        embedding_size: Width of the piece vectors.
        context_size: Width of the pretrained LSTM layers, each direction.
        n_context_layers: Number of pretrained LSTM layers, each direction.
        mix_size: Width to which the piece vectors and both readers' states are mixed for the top layer.
        hidden_size: Width of a piece's state, both directions of the top layer together; even.
        pad_token_id: The piece that fills a batch's short rows.
        piece_dropout: Probability that a piece's vector is dropped as a whole, in training.
        embedding_dropout: Probability that a feature of the vectors is dropped along a row, in training.
        context_dropout: The same for what the top layer reads.
        initializer_range: Standard deviation of new piece vectors.
    """

    model_type = "khabar-recurrent"

    vocab_size: int = 32000
    embedding_size: int = 256
    context_size: int = 512
    n_context_layers: int = 1
    mix_size: int = 384
    hidden_size: int = 512
    pad_token_id: int | None = 0
    piece_dropout: float = 0.05
    embedding_dropout: float = 0.1
    context_dropout: float = 0.3
    initializer_range: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        """Check the sizes.

        Raises:
            ValueError: If a size is not positive, hidden_size is odd, or a dropout is outside [0, 1).
        """
        for name in ("vocab_size", "embedding_size", "context_size", "n_context_layers", "mix_size", "hidden_size"):
            check_range(name, getattr(self, name), at_least=1)
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size is {self.hidden_size}, must be even: half for each direction")
        for name in ("piece_dropout", "embedding_dropout", "context_dropout"):
            check_range(name, getattr(self, name), at_least=0, below=1)
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]


def reversal(attention_mask: Tensor) -> Tensor:
    """Index that reverses each row's real pieces and leaves its padding in place; its own inverse.

    Args:
        attention_mask: (batch, pieces), ones then zeros in each row.

    Returns:
        (batch, pieces) positions for `gather`.

    Raises:
        ValueError: If a row has a piece after padding.
    """
    mask = attention_mask.long()
    if bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError("attention_mask has a piece after padding; a recurrent encoder needs right-padded rows")
    lengths = mask.sum(1, keepdim=True)
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(positions < lengths, lengths - 1 - positions, positions)


def reorder(states: Tensor, index: Tensor) -> Tensor:
    """Take each row's states in another order: (batch, pieces, size) by (batch, pieces)."""
    return states.gather(1, index[..., None].expand_as(states))


class VariationalDropout(nn.Module):
    """Drops the same features at every position of a row.

    Source: variational dropout, Gal and Ghahramani 2016, section 4.1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, states: Tensor) -> Tensor:
        """Drop features of (batch, pieces, size) in training."""
        if not self.training or not self.probability:
            return states
        keep = 1 - self.probability
        return states * states.new_empty(states.shape[0], 1, states.shape[2]).bernoulli_(keep).div_(keep)


class PieceDropout(nn.Module):
    """Drops whole pieces, so that their neighbours must do.

    Source: word embedding dropout, Gal and Ghahramani 2016, section 4.2, here by position, not by type.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, states: Tensor) -> Tensor:
        """Zero rows' pieces of (batch, pieces, size) in training."""
        if not self.training or not self.probability:
            return states
        return states * states.new_empty(*states.shape[:2], 1).bernoulli_(1 - self.probability)


class ContextLSTM(nn.Module):
    """The pretrained readers: an LSTM from the left and one from the right; neither sees the other."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        sizes = (config.embedding_size, config.context_size, config.n_context_layers)
        self.forward_lstm = nn.LSTM(*sizes, batch_first=True)
        self.backward_lstm = nn.LSTM(*sizes, batch_first=True)

    def forward(self, embedded: Tensor, reversed_positions: Tensor) -> tuple[Tensor, Tensor]:
        """Read in both directions.

        Args:
            embedded: (batch, pieces, embedding_size).
            reversed_positions: (batch, pieces), from `reversal`.

        Returns:
            For each piece what the left reader knows after it, and what the right reader knows after it;
            both (batch, pieces, context_size).
        """
        left = self.forward_lstm(embedded)[0]
        right = self.backward_lstm(reorder(embedded, reversed_positions))[0]
        return left, reorder(right, reversed_positions)


class TopLSTM(nn.Module):
    """The bidirectional layer that reads a mix of the piece vectors and both readers' states."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.mix = nn.Linear(config.embedding_size + 2 * config.context_size, config.mix_size)
        self.forward_lstm = nn.LSTM(config.mix_size, config.hidden_size // 2, batch_first=True)
        self.backward_lstm = nn.LSTM(config.mix_size, config.hidden_size // 2, batch_first=True)

    def forward(self, features: Tensor, reversed_positions: Tensor) -> Tensor:
        """Turn (batch, pieces, embedding_size + 2 * context_size) into (batch, pieces, hidden_size)."""
        mixed = self.mix(features)
        left = self.forward_lstm(mixed)[0]
        right = self.backward_lstm(reorder(mixed, reversed_positions))[0]
        return torch.cat([left, reorder(right, reversed_positions)], dim=-1)


class RecurrentEncoder(PreTrainedModel):
    """Piece vectors, two pretrained language-model readers and a bidirectional layer.

    `embeddings` and `context` are pretrained, `top` is new until fine-tuning.

    Source: language-model states as features of a tagger, Peters et al. 2017 and 2018 (ELMo).
    """

    config_class = RecurrentConfig
    base_model_prefix = "encoder"
    new_parts = ("top",)  # what pretraining leaves untrained; fine-tuning treats it like the heads
    main_input_name = "input_ids"
    _input_embed_layer = "embeddings"

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, config.pad_token_id)
        self.embedding_norm = nn.LayerNorm(config.embedding_size)
        self.piece_dropout = PieceDropout(config.piece_dropout)
        self.embedding_dropout = VariationalDropout(config.embedding_dropout)
        self.context = ContextLSTM(config)
        self.context_dropout = VariationalDropout(config.context_dropout)
        self.top = TopLSTM(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise LSTMs as torch does, but with open forget gates; keep the mix at its inputs' scale.

        Source: forget gate bias of one, Jozefowicz et al. 2015, section 2.2; LeCun et al. 1998, section 4.6.
        """
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            bound = module.hidden_size**-0.5
            for name, parameter in module.named_parameters():
                if "weight" in name:
                    init.uniform_(parameter, -bound, bound)
                    continue
                init.zeros_(parameter)
                if "bias_hh" in name and not getattr(parameter, "_is_hf_initialized", False):
                    init.ones_(parameter[module.hidden_size : 2 * module.hidden_size])  # gates lie as i, f, g, o
        else:
            super()._init_weights(module)  # type: ignore[no-untyped-call]

    def embed(self, input_ids: Tensor) -> Tensor:
        """Look up piece vectors, brought to one scale: (batch, pieces) to (…, embedding_size)."""
        vectors: Tensor = self.embedding_norm(self.embeddings(input_ids))
        return vectors

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """Encode pieces.

        Args:
            input_ids: (batch, pieces).
            attention_mask: (batch, pieces), ones then zeros in each row; None means no padding.

        Returns:
            `last_hidden_state` of (batch, pieces, hidden_size); what it holds at padding means nothing.

        Raises:
            ValueError: If a row has a piece after padding.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        reversed_positions = reversal(attention_mask)
        embedded = self.embedding_dropout(self.piece_dropout(self.embed(input_ids)))
        left, right = self.context(embedded, reversed_positions)
        features = self.context_dropout(torch.cat([embedded.to(left.dtype), left, right], dim=-1))
        return BaseModelOutput(last_hidden_state=self.top(features, reversed_positions))


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig)
AutoModel.register(RecurrentConfig, RecurrentEncoder)

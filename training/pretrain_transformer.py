"""Objectives of transformer encoders: masked pieces, and pieces that a small generator replaced.

Take rows of piece ids without padding and give a loss; know nothing of files or loops.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ModernBertConfig, ModernBertModel


def mask_pieces(input_ids: Tensor, special_ids: Tensor, n_masked: int) -> Tensor:
    """Choose the same number of positions in each row; special pieces only when nothing else is left.

    Args:
        input_ids: (rows, length).
        special_ids: (n_special,) ids that are not masked.
        n_masked: Positions a row.

    Returns:
        (rows, n_masked) positions, rising.
    """
    noise = torch.rand(input_ids.shape, device=input_ids.device)
    noise = noise.masked_fill(torch.isin(input_ids, special_ids), -1.0)
    return noise.topk(n_masked, dim=1).indices.sort(dim=1).values


def gather_states(states: Tensor, positions: Tensor) -> Tensor:
    """Take the states at some positions: (rows, length, size) by (rows, n) to (rows, n, size)."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


class MaskedHead(nn.Module):
    """Guesses masked pieces from an encoder's states, with the encoder's own piece vectors as the output.

    Source: the head of ModernBERT (Warner et al. 2024) as transformers builds it.
    """

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        nn.init.normal_(self.dense.weight, std=config.initializer_range)

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Turn (…, hidden_size) states and (vocab_size, hidden_size) vectors into (…, vocab_size) logits."""
        guess: Tensor = self.norm(functional.gelu(self.dense(states)))
        return functional.linear(guess, table, self.bias)


class MaskedPieces(nn.Module):
    """Masked-language-model pretraining.

    Source: Devlin et al. 2019; all chosen pieces become mask pieces, as in ModernBERT (Warner et al. 2024).

    Args:
        encoder: The encoder to pretrain.
        mask_id: The mask piece.
        special_ids: Pieces that are never masked.
        masked_share: Share of a row that is masked. Source: 0.3 in ModernBERT, section 2.2.
    """

    special_ids: Tensor

    def __init__(
        self, encoder: ModernBertModel, *, mask_id: int, special_ids: list[int], masked_share: float = 0.3
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = MaskedHead(encoder.config)
        self.mask_id, self.masked_share = mask_id, masked_share
        self.register_buffer("special_ids", torch.tensor(special_ids), persistent=False)

    def guess(self, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask rows and guess what was there.

        Returns:
            Positions (rows, n_masked), the pieces that stood there, and logits (rows, n_masked, vocab_size).
        """
        n_masked = max(1, round(self.masked_share * input_ids.shape[1]))
        positions = mask_pieces(input_ids, self.special_ids, n_masked)
        masked = input_ids.scatter(1, positions, self.mask_id)
        states = gather_states(self.encoder(input_ids=masked).last_hidden_state, positions)
        logits = self.head(states, self.encoder.get_input_embeddings().weight)
        return positions, input_ids.gather(1, positions), logits

    def forward(self, input_ids: Tensor) -> Tensor:
        """Compute the mean loss of a masked piece: (rows, length) to a scalar, in nats."""
        _, targets, logits = self.guess(input_ids)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class ReplacedPieces(nn.Module):
    """Replaced-token detection: the encoder tells of every piece whether a small generator put it there.

    Source: Clark et al. 2020 (ELECTRA): 15 % masked, weight 50 of the detection loss, shared piece vectors,
    the generator trained by masked pieces alone. Here it is smaller in depth only: its width is the vectors'.

    Args:
        encoder: The encoder to pretrain.
        mask_id: The mask piece.
        special_ids: Pieces that are never replaced.
        generator_layers: Layers of the generator. Source: a quarter to a half of the encoder's, section 3.2.
        masked_share: Share of a row that the generator fills.
        detection_weight: Weight of the detection loss beside the generator's.
    """

    def __init__(
        self,
        encoder: ModernBertModel,
        *,
        mask_id: int,
        special_ids: list[int],
        generator_layers: int,
        masked_share: float = 0.15,
        detection_weight: float = 50.0,
    ) -> None:
        super().__init__()
        config = copy.deepcopy(encoder.config)
        config.num_hidden_layers = generator_layers
        config.layer_types = (config.layer_types or [])[:generator_layers]
        self.encoder = encoder
        self.generator = MaskedPieces(
            ModernBertModel(config), mask_id=mask_id, special_ids=special_ids, masked_share=masked_share
        )
        # One module in two places: DistributedDataParallel and checkpoints know it as one tensor.
        self.generator.encoder.set_input_embeddings(encoder.get_input_embeddings())
        self.detect = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, 1)
        )
        self.detection_weight = detection_weight

    def losses(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the generator's loss in nats a masked piece, and the detection loss in nats a piece."""
        positions, targets, logits = self.generator.guess(input_ids)
        generator_loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        # An exponential race draws from the softmax; Gumbel-max without its double logarithm.
        with torch.no_grad():
            race = torch.empty_like(logits, dtype=torch.float32).exponential_()
            drawn = (logits.float().softmax(-1) / race).argmax(-1)
            read = input_ids.scatter(1, positions, drawn)
        states = self.encoder(input_ids=read).last_hidden_state
        scores = self.detect(states).squeeze(-1).float()
        detection_loss = functional.binary_cross_entropy_with_logits(scores, (read != input_ids).float())
        return generator_loss, detection_loss

    def forward(self, input_ids: Tensor) -> Tensor:
        """Compute the joint loss of a batch: (rows, length) to a scalar."""
        generator_loss, detection_loss = self.losses(input_ids)
        return generator_loss + self.detection_weight * detection_loss

"""The cloze objective: guesses each piece from what one reader knows before it and the other after it.

Trains a recurrent encoder's piece vectors and readers on every position; knows nothing of files or loops.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from khabar.models.recurrent import RecurrentEncoder


class SampledSoftmax(torch.autograd.Function):
    """Cross-entropy against a shared sample of the vocabulary, keeping one matrix for the way back.

    Source: importance-sampled softmax, Bengio and Senecal 2008; Jean et al. 2015, section 3.1. A sampled
    piece stands for 1 / (probability of being in the sample) pieces, so that the partition function's
    estimate is unbiased.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, target_scores: Tensor, columns: Tensor
    ) -> Tensor:
        """Compute each row's loss.

        Args:
            ctx: What the way back needs.
            hidden: (n, size).
            weight: (n_sampled, size), in the dtype of `hidden`.
            bias: (n_sampled,) with the correction for sampling in it.
            target_scores: (n,) float32, the logits of the right pieces.
            columns: (n,) the right piece's place in the sample, or -1.

        Returns:
            (n,) float32.
        """
        logits = torch.addmm(bias.to(hidden.dtype), hidden, weight.t())
        sampled = (columns >= 0).nonzero()[:, 0]
        logits[sampled, columns[sampled]] = float("-inf")  # the right piece counts once
        top = torch.maximum(logits.amax(-1).float(), target_scores)
        odds = logits.sub_(top[:, None].to(logits.dtype)).exp_()
        # `top` is rounded as in the line above, so that sampled and right pieces share one scale.
        top = top.to(logits.dtype).float()
        target_odds = (target_scores - top).exp()
        total = odds.sum(-1, dtype=torch.float32) + target_odds
        ctx.save_for_backward(hidden, weight, odds, target_odds, total)
        return total.log() + top - target_scores

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """Give the gradients of all but `columns`."""
        hidden, weight, odds, target_odds, total = ctx.saved_tensors
        by_logit = odds * (gradient / total)[:, None].to(odds.dtype)
        by_target = gradient * (target_odds / total - 1)
        return by_logit @ weight, by_logit.t() @ hidden, by_logit.sum(0, dtype=torch.float32), by_target, None


class ClozeObjective(nn.Module):
    """An encoder with the head that pretrains it.

    Source: Baevski et al. 2019, "Cloze-driven Pretraining of Self-attention Networks", here with the LSTMs of
    context2vec (Melamud et al. 2016); piece vectors tied to the output, Press and Wolf 2017.

    Args:
        encoder: The encoder to pretrain. Its top layer takes no part.
        counts: (vocab_size,) how often each piece occurs, for sampling.
        n_samples: Draws of the sample a step shares; pieces that are drawn more than once count once.
        exponent: Pieces are drawn by their counts raised to this. Source: Mikolov et al. 2013, section 2.2.
    """

    sampling: Tensor
    log_chosen: Tensor

    def __init__(
        self,
        encoder: RecurrentEncoder,
        counts: NDArray[Any],
        *,
        n_samples: int = 4096,
        exponent: float = 0.75,
    ) -> None:
        super().__init__()
        config = encoder.config
        self.encoder = encoder
        self.n_samples = n_samples
        self.dense = nn.Linear(2 * config.context_size, config.context_size)
        self.out = nn.Linear(config.context_size, config.embedding_size)
        self.norm = nn.LayerNorm(config.embedding_size)
        frequency = torch.from_numpy(counts).double().clamp(min=0.5)
        self.bias = nn.Parameter((frequency / frequency.sum()).log().float())
        sampling = frequency**exponent
        sampling /= sampling.sum()
        self.register_buffer("sampling", sampling.float())
        chosen = -torch.expm1(n_samples * torch.log1p(-sampling))
        self.register_buffer("log_chosen", chosen.log().float())
        encoder.top.requires_grad_(False)

    def predict(self, input_ids: Tensor) -> Tensor:
        """Guess inner pieces from their contexts: (rows, length) to (rows, length - 2, embedding_size)."""
        embedded = self.encoder.embed(input_ids)
        left = self.encoder.context.forward_lstm(embedded)[0]
        right = self.encoder.context.backward_lstm(embedded.flip(1))[0].flip(1)
        contexts = torch.cat([left[:, :-2], right[:, 2:]], dim=-1)
        guess: Tensor = self.norm(self.out(functional.gelu(self.dense(contexts))))
        return guess

    def forward(self, input_ids: Tensor) -> Tensor:
        """Compute the mean loss of a batch: (rows, length) to a scalar, in nats a piece."""
        hidden = self.predict(input_ids).flatten(0, 1)
        targets = input_ids[:, 1:-1].flatten()
        table = self.encoder.embeddings.weight
        sample = torch.multinomial(self.sampling, self.n_samples, replacement=True).unique()
        columns = torch.full((len(table),), -1, device=table.device)
        columns[sample] = torch.arange(len(sample), device=table.device)
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        target_scores = (hidden.float() * table[targets]).sum(-1) + self.bias[targets]
        losses: Tensor = SampledSoftmax.apply(  # type: ignore[no-untyped-call]
            hidden.to(dtype),
            table[sample].to(dtype),
            self.bias[sample] - self.log_chosen[sample],
            target_scores,
            columns[targets],
        )
        return losses.mean()

    @torch.no_grad()
    def full_loss(self, input_ids: Tensor) -> Tensor:
        """Compute the loss against the whole vocabulary, in nats a piece."""
        hidden = self.predict(input_ids).flatten(0, 1).float()
        logits = functional.linear(hidden, self.encoder.embeddings.weight, self.bias)
        return functional.cross_entropy(logits, input_ids[:, 1:-1].flatten())

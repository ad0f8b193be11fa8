"""Linear-chain conditional random field over BIO tags, trained on sets of allowed tags.

Turns per-word tag scores into a loss, the best tag path and the probability of each entity.
Knows nothing of words or encoders. All sequences are right-padded; a padded word changes nothing.

Source: Lafferty et al. 2001, "Conditional Random Fields"; training on tag sets is the marginal
likelihood of Tsuboi et al. 2008, "Training Conditional Random Fields Using Incomplete Annotations".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from khabar.models import tags

# Far below any trained score, yet finite: sums of a few stay exact enough in float32 and gradients stay defined.
IMPOSSIBLE = -1e4


class LinearChainCRF(nn.Module):
    """Scores tag paths with start, transition and end weights; illegal BIO moves are impossible.

    Args:
        n_labels: Number of entity labels; there are 1 + 2 * n_labels tags.
    """

    legal_starts: Tensor
    legal_transitions: Tensor

    def __init__(self, n_labels: int) -> None:
        super().__init__()
        size = tags.n_tags(n_labels)
        self.n_labels = n_labels
        self.start = nn.Parameter(torch.zeros(size))
        self.transition = nn.Parameter(torch.zeros(size, size))  # [previous, next]
        self.end = nn.Parameter(torch.zeros(size))

    def scores(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        """Give start (n_tags,), transition (n_tags, n_tags) and end (n_tags,) with illegal moves impossible."""
        device = self.start.device
        starts = tags.legal_starts(self.n_labels).to(device)
        transitions = tags.legal_transitions(self.n_labels).to(device)
        start = self.start.to(dtype).masked_fill(~starts, IMPOSSIBLE)
        transition = self.transition.to(dtype).masked_fill(~transitions, IMPOSSIBLE)
        return start, transition, self.end.to(dtype)

    def log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Sum over all tag paths.

        Args:
            emissions: (n_sequences, n_words, n_tags).
            mask: (n_sequences, n_words) bool, True for real words.

        Returns:
            (n_sequences,) log of the sum of exponentiated path scores.
        """
        emissions = emissions.float()
        _, _, end = self.scores()
        return torch.logsumexp(self._alphas(emissions, mask)[:, -1] + end, dim=-1)

    def loss(self, emissions: Tensor, mask: Tensor, allowed: Tensor) -> Tensor:
        """Negative log-likelihood of the set of paths that stay within the allowed tags.

        Args:
            emissions: (n_sequences, n_words, n_tags).
            mask: (n_sequences, n_words) bool.
            allowed: (n_sequences, n_words, n_tags) bool; every real word allows at least one tag.

        Returns:
            (n_sequences,) loss; zero where every path is allowed.
        """
        emissions = emissions.float()
        restricted = emissions.masked_fill(~allowed & mask[..., None], IMPOSSIBLE)
        both = self.log_partition(torch.cat([emissions, restricted]), torch.cat([mask, mask]))
        every_path, allowed_paths = both.chunk(2)
        return every_path - allowed_paths

    def viterbi(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Find the best path of each sequence.

        Returns:
            (n_sequences, n_words) tag indices; O at padded words.
        """
        emissions = emissions.float()
        start, transition, end = self.scores()
        n_sequences, n_words, n_tags = emissions.shape
        if n_words == 0:
            return emissions.new_zeros((n_sequences, 0), dtype=torch.long)
        best = start + emissions[:, 0]
        stay = torch.arange(n_tags, device=emissions.device).expand(n_sequences, n_tags)
        back = []
        for position in range(1, n_words):
            # (n_sequences, previous, next) -> best previous tag for each next one
            candidates, previous = (best[:, :, None] + transition).max(dim=1)
            real = mask[:, position, None]
            best = torch.where(real, candidates + emissions[:, position], best)
            back.append(torch.where(real, previous, stay))
        path = [(best + end).argmax(dim=-1)]
        for previous in reversed(back):
            path.append(previous.gather(1, path[-1][:, None]).squeeze(1))
        return torch.stack(path[::-1], dim=1).masked_fill(~mask, tags.OUTSIDE)

    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Probability of each tag at each word, over all paths.

        Returns:
            (n_sequences, n_words, n_tags); each real word sums to one, padded words are zero.
        """
        emissions = emissions.double()  # probabilities are differences of sums as long as the sequence
        alphas, betas = self._alphas(emissions, mask), self._betas(emissions, mask)
        log_partition = torch.logsumexp(alphas[:, -1] + self.scores(torch.double)[2], dim=-1)
        return ((alphas + betas - log_partition[:, None, None]).exp() * mask[..., None]).float()

    def entity_probabilities(self, emissions: Tensor, mask: Tensor, path: Tensor) -> Tensor:
        """Probability that each entity of a path stands exactly so: its label, its first and its last word.

        The entity ending at word j of label k has probability P(B, I, …, I up to j, and no I-k at j + 1).

        Args:
            emissions: (n_sequences, n_words, n_tags).
            mask: (n_sequences, n_words) bool, True for real words.
            path: (n_sequences, n_words) legal tag indices, such as `viterbi` gives.

        Returns:
            (n_sequences, n_words); the value at an entity's first word is the entity's probability,
            every other word is zero.
        """
        emissions = emissions.double()
        _, transition, end = self.scores(torch.double)
        alphas, betas = self._alphas(emissions, mask), self._betas(emissions, mask)
        log_partition = torch.logsumexp(alphas[:, -1] + end, dim=-1)
        n_sequences, n_words, _ = emissions.shape
        result = emissions.new_zeros((n_sequences, n_words))
        spans = [
            (row, first, stop, label)
            for row, row_path in enumerate(path.tolist())
            for first, stop, label in tags.spans_from_tags(row_path)
        ]
        if not spans:
            return result.float()
        row, first, stop, label = torch.tensor(spans, device=emissions.device).T
        begin, inside = 1 + 2 * label, 2 + 2 * label
        # Score of staying inside label k at each word, summed from the left: differences give any span's inner score.
        stay = emissions[..., 2::2] + transition.diagonal()[2::2]
        stay = torch.cat([stay.new_zeros((n_sequences, 1, self.n_labels)), stay], dim=1).cumsum(dim=1)
        inner = stay[row, stop, label] - stay[row, (first + 2).clamp(max=n_words), label]
        second = (first + 1).clamp(max=n_words - 1)
        step_in = emissions[row, second, inside] + transition[begin, inside]
        longer = stop - first > 1
        log_span = alphas[row, first, begin] + torch.where(longer, step_in + inner, 0.0)
        last_tag = torch.where(longer, inside, begin)
        # What follows: the end of the sequence, or any tag but this label's I.
        has_next = (stop < n_words) & mask[row, stop.clamp(max=n_words - 1)]
        following = stop.clamp(max=n_words - 1)
        onward = transition[last_tag] + emissions[row, following] + betas[row, following]
        onward = onward.scatter(1, inside[:, None], IMPOSSIBLE)
        tail = torch.where(has_next, torch.logsumexp(onward, dim=-1), end[last_tag])
        result[row, first] = (log_span + tail - log_partition[row]).exp().clamp(max=1.0)
        return result.float()

    def _alphas(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log-sums over path prefixes that end in each tag: (n_sequences, n_words, n_tags)."""
        start, transition, _ = self.scores(emissions.dtype)
        alpha = start + emissions[:, 0]
        alphas = [alpha]
        for position in range(1, emissions.shape[1]):
            moved = torch.logsumexp(alpha[:, :, None] + transition, dim=1) + emissions[:, position]
            alpha = torch.where(mask[:, position, None], moved, alpha)
            alphas.append(alpha)
        return torch.stack(alphas, dim=1)

    def _betas(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Log-sums over path suffixes that follow each tag: (n_sequences, n_words, n_tags)."""
        _, transition, end = self.scores(emissions.dtype)
        beta = end.expand(emissions.shape[0], -1)
        betas = [beta]
        for position in range(emissions.shape[1] - 1, 0, -1):
            moved = torch.logsumexp(transition + (emissions[:, position] + beta)[:, None, :], dim=-1)
            beta = torch.where(mask[:, position, None], moved, beta)
            betas.append(beta)
        return torch.stack(betas[::-1], dim=1)

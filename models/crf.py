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
# In probabilities of what was read: the least log-odds of a tag at a word, and the least sum over paths.
_LEAST, _NEVER = -230.0, 1e-300


class LinearChainCRF(nn.Module):
    """Scores tag paths with start, transition and end weights; illegal BIO moves are impossible.

    Args:
        n_labels: Number of entity labels; there are 1 + 2 * n_labels tags.
    """

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

    @torch.no_grad()
    def viterbi(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Find the best path of each sequence.

        Returns:
            (n_sequences, n_words) tag indices; O at padded words.
        """
        order, active = _longest_first(mask)
        emissions = emissions.float()[order]
        start, transition, end = self.scores()
        n_sequences, n_words, _ = emissions.shape
        if n_words == 0:
            return emissions.new_zeros((n_sequences, 0), dtype=torch.long)
        into = transition.T.contiguous()  # [next, previous]
        best = start + emissions[:, 0]
        back = []
        for position in range(1, len(active)):
            n = active[position]
            # (n, next, previous) -> best previous tag for each next one
            scores, previous = (best[:n, None, :] + into).max(dim=-1)
            best[:n] = scores + emissions[:n, position]
            back.append(previous)
        tag = (best + end).argmax(dim=-1)
        path = emissions.new_full((n_sequences, n_words), tags.OUTSIDE, dtype=torch.long)
        for position in range(len(active) - 1, 0, -1):
            n = active[position]
            path[:n, position] = tag[:n]
            tag[:n] = back[position - 1].gather(1, tag[:n, None]).squeeze(1)
        path[:, 0] = tag
        return _in_order(path, order).masked_fill(~mask, tags.OUTSIDE)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Probability of each tag at each word, over all paths.

        Returns:
            (n_sequences, n_words, n_tags); each real word sums to one, padded words are zero.
        """
        alphas, betas, log_partition = self._alphas_and_betas(emissions, mask)
        return ((alphas + betas - log_partition[:, None, None]).exp() * mask[..., None]).float()

    @torch.no_grad()
    def entity_probabilities(self, emissions: Tensor, mask: Tensor, spans: Tensor) -> Tensor:
        """Probability that each entity stands exactly so: its label, its first and its last word.

        The entity ending at word j of label k has probability P(B, I, …, I up to j, and no I-k at j + 1).

        Args:
            emissions: (n_sequences, n_words, n_tags).
            mask: (n_sequences, n_words) bool, True for real words.
            spans: (n_spans, 4) sequence, first word, word past the last, label, as `tags.spans_from_paths` gives.

        Returns:
            (n_spans,).
        """
        if not len(spans):
            return emissions.new_zeros(0, dtype=torch.float)
        row, first, stop, label = spans.T
        named, row = row.unique(return_inverse=True)  # most of the work is for sequences that name something
        emissions, mask = emissions[named].double(), mask[named]
        _, transition, end = self.scores(torch.double)
        alphas, betas, log_partition = self._alphas_and_betas(emissions, mask)
        n_sequences, n_words, _ = emissions.shape
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
        return (log_span + tail - log_partition[row]).exp().clamp(max=1.0).float()

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

    def _alphas_and_betas(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-sums over path prefixes up to each tag, over suffixes behind it, and over whole paths.

        In double precision and without gradients; a tag that no path reaches gets a number far below any other.

        Source: the scaled recursions of Rabiner 1989, "A Tutorial on Hidden Markov Models", section V.A.

        Returns:
            Alphas and betas, (n_sequences, n_words, n_tags), of no meaning at padded words; (n_sequences,).
        """
        order, active = _longest_first(mask)
        emissions = emissions.double()[order].transpose(0, 1)  # (n_words, n_sequences, n_tags)
        start, transition, end = (scores.exp() for scores in self.scores(torch.double))
        highest = emissions.max(dim=-1, keepdim=True).values
        weights = (emissions - highest).clamp_min(_LEAST).exp()
        # Each word's sums are brought to one; what they were divided by is added up afterwards, as logs.
        alphas, betas = torch.ones_like(weights), end.expand(weights.shape).clone()
        prefix_scales, suffix_scales = torch.ones_like(highest), torch.ones_like(highest)
        alpha = start.expand(weights.shape[1:])
        for position, n in enumerate(active):
            alpha = (alpha[:n] @ transition if position else alpha[:n]) * weights[position, :n]
            scale = alpha.sum(dim=-1, keepdim=True)
            alpha = alpha / scale
            alphas[position, :n], prefix_scales[position, :n] = alpha, scale
        backward = transition.T.contiguous()
        for position in range(len(active) - 2, -1, -1):
            n = active[position + 1]
            beta = (betas[position + 1, :n] * weights[position + 1, :n]) @ backward
            scale = beta.sum(dim=-1, keepdim=True)
            betas[position, :n], suffix_scales[position, :n] = beta / scale, scale

        real = mask[order].T
        highest = highest.squeeze(-1) * real
        prefixes = (prefix_scales.squeeze(-1).log() + highest).cumsum(dim=0)
        suffixes = suffix_scales.squeeze(-1).log()
        behind = suffixes.sum(dim=0) - suffixes.cumsum(dim=0) + suffixes + highest.sum(dim=0) - highest.cumsum(dim=0)
        last = (real.sum(dim=0) - 1).clamp(min=0), torch.arange(len(order), device=order.device)
        log_partition = (alphas[last] * end).sum(dim=-1).log() + prefixes[-1]
        alphas = alphas.clamp_min(_NEVER).log() + prefixes[..., None]
        betas = betas.clamp_min(_NEVER).log() + behind[..., None]
        return (
            _in_order(alphas.transpose(0, 1), order),
            _in_order(betas.transpose(0, 1), order),
            _in_order(log_partition, order),
        )


def _longest_first(mask: Tensor) -> tuple[Tensor, list[int]]:
    """Sort right-padded sequences so that those with a word at a place are the first ones.

    Returns:
        (n_sequences,) their order, and for each place with a word how many there are, falling.
    """
    lengths = mask.sum(dim=1)
    order = lengths.argsort(descending=True, stable=True)
    return order, [n for n in mask.sum(dim=0).tolist() if n]


def _in_order(values: Tensor, order: Tensor) -> Tensor:
    """Undo `_longest_first`."""
    back = torch.empty_like(values)
    back[order] = values
    return back

"""Linear-chain conditional random field over BIO tags, trained on sets of allowed tags.

Turns per-word tag scores into a loss, the best tag path and the probability of each entity.
Knows nothing of words or encoders. All sequences are right-padded; a padded word changes nothing.

Source: Lafferty et al. 2001, "Conditional Random Fields"; training on tag sets is the marginal
likelihood of Tsuboi et al. 2008, "Training Conditional Random Fields Using Incomplete Annotations".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

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
        words = _Words.of(mask)
        start, transition, end = self.scores()
        into = transition.T.contiguous()  # [next, previous]
        scores = words.gather(emissions).float()
        back = torch.empty_like(scores, dtype=torch.long)
        best = start.expand(len(mask), -1).clone()
        for position, (place, n) in enumerate(words.places()):
            if position:
                # (n, next, previous) -> best previous tag for each next one
                best[:n], back[place] = (best[:n, None, :] + into).max(dim=-1)
            best[:n] += scores[place]
        tag = (best + end).argmax(dim=-1)
        path = torch.empty(len(scores), dtype=torch.long, device=scores.device)
        for place, n in reversed(words.places()):
            path[place] = tag[:n]
            tag[:n] = back[place].gather(1, tag[:n, None]).squeeze(1)  # of a first word without meaning
        return words.scatter(path, tags.OUTSIDE)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Probability of each tag at each word, over all paths.

        Returns:
            (n_sequences, n_words, n_tags); each real word sums to one, padded words are zero.
        """
        words = _Words.of(mask)
        sums = self._sums(words.gather(emissions), words)
        through = sums.alphas * sums.betas
        return words.scatter((through / through.sum(dim=-1, keepdim=True)).float(), 0.0)

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
        emissions, mask = emissions[named], mask[named]
        words = _Words.of(mask)
        sums = self._sums(words.gather(emissions), words)
        _, transition, end = self.scores(torch.double)
        n_sequences, n_words, _ = emissions.shape
        begin, inside = 1 + 2 * label, 2 + 2 * label
        # Score of staying inside label k at each word, summed from the left: differences give any span's inner score.
        stay = emissions[..., 2::2].double() + transition.diagonal()[2::2]
        stay = torch.cat([stay.new_zeros((n_sequences, 1, self.n_labels)), stay], dim=1).cumsum(dim=1)
        inner = stay[row, stop, label] - stay[row, (first + 2).clamp(max=n_words), label]
        second = (first + 1).clamp(max=n_words - 1)
        step_in = emissions[row, second, inside] + transition[begin, inside]
        longer = stop - first > 1
        log_span = sums.log_alphas(row, first).gather(1, begin[:, None]).squeeze(1)
        log_span = log_span + torch.where(longer, step_in + inner, 0.0)
        last_tag = torch.where(longer, inside, begin)
        # What follows: the end of the sequence, or any tag but this label's I.
        following = stop.clamp(max=n_words - 1)
        has_next = (stop < n_words) & mask[row, following]
        following = torch.where(has_next, following, first)  # a word that is there
        onward = transition[last_tag] + emissions[row, following] + sums.log_betas(row, following)
        onward = onward.scatter(1, inside[:, None], IMPOSSIBLE)
        tail = torch.where(has_next, torch.logsumexp(onward, dim=-1), end[last_tag])
        log_partition = torch.logsumexp(sums.log_alphas(row, words.lengths[row] - 1) + end, dim=-1)
        return (log_span + tail - log_partition).exp().clamp(max=1.0).float()

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

    def _sums(self, emissions: Tensor, words: _Words) -> _Sums:
        """Sum over path prefixes up to each tag and over suffixes behind it, in double precision, without gradients.

        Args:
            emissions: (n_real_words, n_tags), as `words` lays them out.
            words: Where they stand.

        Source: the scaled recursions of Rabiner 1989, "A Tutorial on Hidden Markov Models", section V.A.
        """
        emissions = emissions.double()
        start, transition, end = (scores.exp() for scores in self.scores(torch.double))
        highest = emissions.max(dim=-1, keepdim=True).values
        weights = (emissions - highest).clamp_min(_LEAST).exp()
        # Each word's sums are brought to one; what they were divided by is added up afterwards, as logs.
        alphas, betas = torch.empty_like(weights), torch.empty_like(weights)
        prefix_scales, suffix_scales = torch.ones_like(highest), torch.ones_like(highest)
        places = words.places()
        alpha = start.expand(len(words.rank), -1)
        for position, (place, n) in enumerate(places):
            alpha = (alpha[:n] @ transition if position else alpha[:n]) * weights[place]
            prefix_scales[place] = scale = alpha.sum(dim=-1, keepdim=True)
            alphas[place] = alpha = alpha / scale
        backward = transition.T.contiguous()
        betas[:] = end
        for (place, _), (behind, n) in reversed(list(pairwise(places))):
            beta = (betas[behind] * weights[behind]) @ backward
            scale = beta.sum(dim=-1, keepdim=True)
            here = slice(place.start, place.start + n)  # those that go on
            betas[here], suffix_scales[here] = beta / scale, scale

        highest, suffixes = words.by_position(highest), words.by_position(suffix_scales.log())
        return _Sums(
            words=words,
            alphas=alphas,
            betas=betas,
            prefixes=(words.by_position(prefix_scales.log()) + highest).cumsum(dim=0),
            behind=suffixes.flip(0).cumsum(dim=0).flip(0) + highest.sum(dim=0) - highest.cumsum(dim=0),
        )


@dataclass(frozen=True, kw_only=True)
class _Words:
    """The real words of right-padded sequences, end to end: all first ones, all second ones, …; longest sequence first.

    Attributes:
        lengths: (n_sequences,) their words.
        rank: (n_sequences,) each one's place among the sequences, longest first.
        rows: (n_real_words,) the sequence each word is of.
        positions: (n_real_words,) its place there.
        active: For each position that has words, how many, falling.
        n_words: Words of a sequence, padding included.
    """

    lengths: Tensor
    rank: Tensor
    rows: Tensor
    positions: Tensor
    active: list[int]
    n_words: int

    @classmethod
    def of(cls, mask: Tensor) -> _Words:
        """Lay out the words of a mask, (n_sequences, n_words)."""
        lengths = mask.sum(dim=1)
        order = lengths.argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        positions, ranks = mask[order].T.nonzero(as_tuple=True)
        active = [n for n in mask.sum(dim=0).tolist() if n]
        return cls(
            lengths=lengths,
            rank=rank,
            rows=order[ranks],
            positions=positions,
            active=active,
            n_words=mask.shape[1],
        )

    def places(self) -> list[tuple[slice, int]]:
        """Give where the words of each position stand, and how many they are."""
        ends = accumulate(self.active)
        return [(slice(end - n, end), n) for end, n in zip(ends, self.active, strict=True)]

    def index(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Give where words stand."""
        starts = torch.tensor([0, *accumulate(self.active)], device=rows.device)
        return starts[positions] + self.rank[rows]

    def gather(self, values: Tensor) -> Tensor:
        """Take real words' values out of (n_sequences, n_words, …): (n_real_words, …)."""
        return values[self.rows, self.positions]

    def scatter(self, values: Tensor, padding: float) -> Tensor:
        """Put values, (n_real_words, …), back in their sequences' places: (n_sequences, n_words, …)."""
        whole = values.new_full((len(self.rank), self.n_words, *values.shape[1:]), padding)
        whole[self.rows, self.positions] = values
        return whole

    def by_position(self, values: Tensor) -> Tensor:
        """Lay out one value a word, (n_real_words, 1), as (positions, n_sequences), longest first; padding is zero."""
        whole = values.new_zeros((max(len(self.active), 1), len(self.rank)))
        whole[self.positions, self.rank[self.rows]] = values.squeeze(-1)
        return whole


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums over path prefixes and suffixes at each real word, brought to one there, and the logs of what they were.

    A tag that no path reaches gets a number far below any other.

    Attributes:
        words: The words.
        alphas: (n_real_words, n_tags) over prefixes that end in a tag.
        betas: (n_real_words, n_tags) over suffixes behind a tag.
        prefixes: (positions, n_sequences) logs of what alphas were divided by, longest sequence first.
        behind: Likewise for betas.
    """

    words: _Words
    alphas: Tensor
    betas: Tensor
    prefixes: Tensor
    behind: Tensor

    def log_alphas(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Give the logs of words' sums over prefixes: (n, n_tags)."""
        return self._logs(self.alphas, self.prefixes, rows, positions)

    def log_betas(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Give the logs of words' sums over suffixes: (n, n_tags)."""
        return self._logs(self.betas, self.behind, rows, positions)

    def _logs(self, sums: Tensor, scales: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        shares = sums[self.words.index(rows, positions)].clamp_min(_NEVER).log()
        return shares + scales[positions, self.words.rank[rows], None]

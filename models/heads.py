"""The three heads over an encoder's states: topics by multiple instances, entity tags, proclitic length.

Turn piece states into logits; know nothing of text or of how the states came about.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# An article without any segment (an empty text), or a segment without pieces, reports nothing: sigmoid(-20) is 2e-9.
NOTHING_REPORTED = -20.0


class LecunLinear(nn.Linear):
    """A linear layer whose outputs vary as much as its inputs until it is trained, at any width.

    With BERT's spread of 0.02, a narrow topic head's first logits are all alike, and it learns late (docs/training.md).

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.6.
    """


class TopicHead(nn.Module):
    """Scores each segment for each topic from its pieces' mean, maximum and attention-weighted mean.

    Source: attention pooling for multiple-instance learning, Ilse et al. 2018, section 2.4.
    """

    def __init__(self, hidden_size: int, n_topics: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.attention = LecunLinear(hidden_size, 1)
        self.dense = LecunLinear(3 * hidden_size, hidden_size)
        self.out = LecunLinear(hidden_size, n_topics)

    def forward(self, states: Tensor, piece_segments: Tensor, n_segments: int) -> Tensor:
        """Score segments.

        Args:
            states: (n_pieces, hidden_size).
            piece_segments: (n_pieces,) the segment each piece lies in.
            n_segments: Number of segments; one without pieces, such as a line of signs that no tokenizer keeps,
                reports nothing.

        Returns:
            (n_segments, n_topics) logits.
        """
        states = self.dropout(states)
        weights = self._attention_weights(states, piece_segments, n_segments)
        pooled = torch.cat(
            [
                _segment_mean(states, torch.ones_like(states[:, :1]), piece_segments, n_segments),
                _segment_max(states, piece_segments, n_segments),
                _segment_mean(states, weights, piece_segments, n_segments),
            ],
            dim=-1,
        )
        logits: Tensor = self.out(self.dropout(functional.gelu(self.dense(self.dropout(pooled)))))
        empty = torch.ones(n_segments, dtype=torch.bool, device=states.device).index_fill(0, piece_segments, False)
        return logits.masked_fill(empty[:, None], NOTHING_REPORTED)

    def _attention_weights(self, states: Tensor, piece_segments: Tensor, n_segments: int) -> Tensor:
        """Unnormalised softmax weights within each segment, largest one: (n_pieces, 1)."""
        scores = self.attention(states)
        weights: Tensor = (scores - _segment_max(scores, piece_segments, n_segments)[piece_segments]).exp()
        return weights


def article_logits(segment_logits: Tensor, segment_articles: Tensor, n_articles: int) -> Tensor:
    """Combine segments into articles: an article reports what its most certain segment reports.

    Args:
        segment_logits: (n_segments, n_topics).
        segment_articles: (n_segments,) the article each segment belongs to.
        n_articles: Number of articles.

    Returns:
        (n_articles, n_topics) logits.
    """
    empty = segment_logits.new_full((n_articles, segment_logits.shape[1]), NOTHING_REPORTED)
    index = segment_articles[:, None].expand_as(segment_logits)
    return empty.scatter_reduce(0, index, segment_logits, reduce="amax", include_self=False)


class FirstByDefault(nn.Linear):
    """A linear layer that chooses its first output until it is trained."""


class EntityHead(nn.Module):
    """Scores each word for each BIO tag and for the number of proclitic letters in front of a name."""

    def __init__(self, hidden_size: int, n_tags: int, max_proclitics: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.tags = nn.Linear(hidden_size, n_tags)
        # Until a corpus teaches otherwise, a name starts where its word starts.
        self.proclitics = FirstByDefault(hidden_size, max_proclitics + 1)

    def forward(self, word_states: Tensor) -> tuple[Tensor, Tensor]:
        """Score words.

        Args:
            word_states: (n_segments, n_words, hidden_size), the state of each word's first piece.

        Returns:
            Emissions (n_segments, n_words, n_tags) and proclitic logits (n_segments, n_words, max_proclitics + 1).
        """
        word_states = self.dropout(word_states)
        return self.tags(word_states), self.proclitics(word_states)


def _segment_mean(states: Tensor, weights: Tensor, piece_segments: Tensor, n_segments: int) -> Tensor:
    """Weighted mean of each segment's states; zeros for a segment without pieces."""
    weighted = states * weights  # under autocast, weights may be wider than states
    sums = weighted.new_zeros((n_segments, states.shape[1])).index_add(0, piece_segments, weighted)
    totals = weights.new_zeros((n_segments, 1)).index_add(0, piece_segments, weights)
    return sums / totals.clamp(min=1e-6)


def _segment_max(states: Tensor, piece_segments: Tensor, n_segments: int) -> Tensor:
    """Maximum of each segment's states; zeros for a segment without pieces."""
    index = piece_segments[:, None].expand_as(states)
    return states.new_zeros((n_segments, states.shape[1])).scatter_reduce(
        0, index, states, reduce="amax", include_self=False
    )

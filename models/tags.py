"""Turns entity labels into BIO tag indices and tag paths back into word spans.

Knows labels, tags and word positions; knows nothing of text, pieces or scores.
Tag 0 is O; label k has tags 1 + 2k (B) and 2 + 2k (I).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

OUTSIDE = 0


def n_tags(n_labels: int) -> int:
    """Count the BIO tags of `n_labels` entity labels."""
    return 1 + 2 * n_labels


def begin_tag(label: int) -> int:
    """Give the index of label's B tag."""
    return 1 + 2 * label


def inside_tag(label: int) -> int:
    """Give the index of label's I tag."""
    return 2 + 2 * label


def tag_label(tag: int) -> int:
    """Give the label of a B or I tag; only meaningful for tags other than O."""
    return (tag - 1) // 2


def tag_names(entity_labels: Sequence[str]) -> list[str]:
    """Name every tag in index order: O, B-first, I-first, B-second, …"""
    return ["O", *(f"{prefix}-{label}" for label in entity_labels for prefix in "BI")]


def legal_starts(n_labels: int) -> Tensor:
    """Mark the tags a sequence may open with: all but the I tags.

    Returns:
        (n_tags,) bool.
    """
    tags = torch.arange(n_tags(n_labels))
    return (tags == OUTSIDE) | (tags % 2 == 1)


def legal_transitions(n_labels: int) -> Tensor:
    """Mark the pairs of tags that may stand side by side: I follows only B or I of its own label.

    Returns:
        (n_tags, n_tags) bool, [previous, next].
    """
    tags = torch.arange(n_tags(n_labels))
    previous, following = tags[:, None], tags[None, :]
    opens_or_outside = (following == OUTSIDE) | (following % 2 == 1)
    same_label = (previous != OUTSIDE) & ((previous - 1) // 2 == (following - 1) // 2)
    return opens_or_outside | same_label


def spans_from_paths(paths: Tensor) -> Tensor:
    """Read the entities off legal tag paths.

    Args:
        paths: (n_sequences, n_words) tag indices, O at padded words.

    Returns:
        (n_spans, 4) sequence, first word, word past the last, label; by sequence, then by first word.

    Raises:
        ValueError: If an I tag does not continue an entity of its label.
    """
    n_sequences, n_words = paths.shape
    before = torch.cat([paths.new_full((n_sequences, 1), OUTSIDE), paths], dim=1)[:, :n_words]
    inside = (paths != OUTSIDE) & (paths % 2 == 0)
    lost = inside & ((before == OUTSIDE) | ((before - 1) // 2 != (paths - 1) // 2))
    if bool(lost.any()):
        row, position = lost.nonzero()[0].tolist()
        tag = int(paths[row, position])
        raise ValueError(f"tag {tag} at word {position} continues no entity of label {tag_label(tag)}")
    begins = paths % 2 == 1
    # An entity ends where the next word does not stay inside it; both lists are in the same order.
    ends = (paths != OUTSIDE) & ~torch.cat([inside, inside.new_zeros((n_sequences, 1))], dim=1)[:, 1:]
    rows, firsts = begins.nonzero().T
    stops = ends.nonzero()[:, 1] + 1
    return torch.stack([rows, firsts, stops, (paths[rows, firsts] - 1) // 2], dim=1)

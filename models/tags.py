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


def is_begin(tag: int) -> bool:
    """Tell whether a tag opens an entity."""
    return tag % 2 == 1


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


def spans_from_tags(tags: Sequence[int]) -> list[tuple[int, int, int]]:
    """Read the entities off a legal tag path.

    Returns:
        (first word, word past the last, label) for each entity, in order.

    Raises:
        ValueError: If an I tag does not continue an entity of its label.
    """
    spans: list[tuple[int, int, int]] = []
    for position, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        label = tag_label(tag)
        if is_begin(tag):
            spans.append((position, position + 1, label))
        elif spans and spans[-1][1:] == (position, label):
            spans[-1] = (spans[-1][0], position + 1, label)
        else:
            raise ValueError(f"tag {tag} at word {position} continues no entity of label {label}")
    return spans

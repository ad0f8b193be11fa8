"""Cuts a text into words so that labelled spans begin and end with one. Knows nothing of tags, tokenizers or files."""

from collections.abc import Iterable

from khabar.models.words import Span, split_words


def cut_words(text: str, edges: Iterable[int]) -> list[Span]:
    """Split a text into words, and those again at the edges that lie inside them.

    «والجيش» with a name that begins after its first letter becomes «و» and «الجيش».

    Args:
        text: Raw text.
        edges: Offsets where labelled spans begin and end.

    Returns:
        Half-open spans in order; none overlap, none is empty.
    """
    cuts = sorted(set(edges))
    pieces: list[Span] = []
    first = 0
    for start, end in split_words(text):
        while first < len(cuts) and cuts[first] <= start:
            first += 1
        while first < len(cuts) and cuts[first] < end:
            pieces.append((start, cuts[first]))
            start = cuts[first]
            first += 1
        pieces.append((start, end))
    return pieces


def gaps_around(text: str, pieces: list[Span]) -> list[str]:
    """Give what stands before each piece of a text, and behind the last: one more than pieces."""
    ends = [0, *(end for _, end in pieces)]
    starts = [*(start for start, _ in pieces), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]

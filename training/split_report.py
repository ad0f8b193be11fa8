"""Puts into a table what a split came to: articles, groups and labels of each part, and how far they are off.

Turns a CorpusSplit into lines of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from khabar.training.split_files import CorpusSplit

# Of a label on fewer articles one article more or less says nothing about the split.
MIN_ARTICLES = 20

_Row = tuple[str, list[int]]


def describe_split(done: CorpusSplit) -> str:
    """Word a split as a table and remarks, for a terminal of 80 columns or more."""
    parts = done.split.parts
    part_of = {number: part for part, numbers in parts.items() for number in numbers}
    in_groups = Counter(part_of[group[0]] for group in done.groups)
    articles: _Row = ("articles", [len(numbers) for numbers in parts.values()])
    labels = _label_rows(done)
    rows = [articles, ("groups", [in_groups[part] for part in parts]), *labels]
    width = max(len(name) for name, _ in rows)
    lines = [" ".join([" " * width, *(f"{name:>9}" for name in (*parts, "all"))])]
    for name, counts in rows:
        lines.append(" ".join([f"{name:<{width}}", *(f"{n:>9,}" for n in (*counts, sum(counts)))]))
    return "\n".join([*lines, *_remarks(done, articles, labels)])


def _label_rows(done: CorpusSplit) -> list[_Row]:
    """Count the articles of each part that have a label, by kind of label, the commonest first."""
    counted = [
        Counter(label for i in numbers for label in done.entries[i].labels) for numbers in done.split.parts.values()
    ]
    totals = sum(counted, Counter[tuple[str, str]]())
    kinds = {kind: place for place, kind in enumerate(("annotated", "topic", "entity"))}
    ordered = sorted(totals, key=lambda label: (kinds[label[0]], -totals[label], label))
    return [(" ".join(label), [counts[label] for counts in counted]) for label in ordered]


def _remarks(done: CorpusSplit, articles: _Row, labels: Sequence[_Row]) -> Iterator[str]:
    together = [group for group in done.groups if len(group) > 1]
    if together:
        yield (
            f"near-duplicates: {sum(map(len, together)):,} articles in {len(together):,} groups, "
            f"the largest of {max(map(len, together)):,}"
        )
    if done.split.n_straddling:
        yield f"groups on both sides, put in the earlier part whole: {done.split.n_straddling:,}"
    if done.split.shares:
        yield _largest_deviation(done, [articles, *labels])
    for place, part in enumerate(done.split.parts):
        absent = [name for name, counts in labels if not counts[place]]
        if absent:
            yield f"not in {part}: {', '.join(absent)}"


def _largest_deviation(done: CorpusSplit, rows: Sequence[_Row]) -> str:
    off = [
        (abs(n / sum(counts) - done.split.shares[part]), name, part, n, sum(counts))
        for name, counts in rows
        for part, n in zip(done.split.parts, counts, strict=True)
        if sum(counts) >= MIN_ARTICLES or name == rows[0][0]
    ]
    _, name, part, n, total = max(off, key=lambda row: row[0])
    return (
        f"largest deviation from the wanted share: {name} in {part}, {n / total:.1%} of {total:,} articles, "
        f"wanted {done.split.shares[part]:.1%}"
    )

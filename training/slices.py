"""Sorts articles into groups by length, source and date, so that scores can be compared between them.

Knows an article's keys; knows nothing of predictions or measures.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from khabar.models.article import Article
from khabar.training.dates import read_date

MOST_GROUPS = 12
FEWEST_OF_A_SOURCE = 5  # articles; smaller sources are counted together


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """Groups of articles by one of their properties.

    Attributes:
        by: "length", "source" or "date".
        groups: Name and indices of the articles; each article is in at most one group.
        note: What is left out or missing, as a sentence; empty when nothing is.
    """

    by: str
    groups: tuple[tuple[str, tuple[int, ...]], ...]
    note: str = ""


def slice_articles(articles: Sequence[Article]) -> list[Slicing]:
    """Group articles by length, by source and by date."""
    return [_by_length(articles), _by_source(articles), _by_date(articles)]


def _by_length(articles: Sequence[Article]) -> Slicing:
    """Quarters of the articles by length, their edges rounded to two figures."""
    lengths = sorted(len(article.text) for article in articles)
    quartiles = [_rounded(lengths[len(lengths) * k // 4]) for k in (1, 2, 3)]
    edges = [edge for edge in sorted(set(quartiles)) if lengths[0] < edge <= lengths[-1]]
    names = [
        f"under {edges[0]:,} characters" if edges else "all lengths",
        *(f"{low:,} to {high - 1:,}" for low, high in pairwise(edges)),
    ]
    if edges:
        names.append(f"{edges[-1]:,} or more")
    groups: list[list[int]] = [[] for _ in names]
    for index, article in enumerate(articles):
        groups[sum(len(article.text) >= edge for edge in edges)].append(index)
    return Slicing(by="length", groups=_filled(names, groups))


def _by_source(articles: Sequence[Article]) -> Slicing:
    counts = Counter(article.source for article in articles if article.source)
    large = [name for name, n in counts.most_common(MOST_GROUPS - 1) if n >= FEWEST_OF_A_SOURCE]
    groups: dict[str, list[int]] = {name: [] for name in large}
    others: list[int] = []
    for index, article in enumerate(articles):
        if article.source:
            groups.get(article.source, others).append(index)
    n_others = len(counts) - len(large)
    names = [*large, f"{n_others:,} other {'source' if n_others == 1 else 'sources'}"]
    return Slicing(
        by="source",
        groups=_filled(names, [*groups.values(), others]),
        note=_missing(len(articles) - counts.total(), len(articles), "source"),
    )


def _by_date(articles: Sequence[Article]) -> Slicing:
    """Months, quarters, years or decades: the finest that gives few enough groups."""
    found = [read_date(article.date) if article.date else None for article in articles]
    dates = [None if date is None else date[:2] for date in found]
    known = [date for date in dates if date is not None]
    note = _missing(len(dates) - len(known), len(dates), "date that can be read")
    for name in _units(known):
        groups: dict[str, list[int]] = {}
        for index, date in enumerate(dates):
            if date is not None:
                groups.setdefault(name(*date), []).append(index)
        if len(groups) <= MOST_GROUPS:
            break
    else:
        return Slicing(by="date", groups=(), note=note)
    names = sorted(groups)
    return Slicing(by="date", groups=_filled(names, [groups[name] for name in names]), note=note)


def _units(dates: Sequence[tuple[int, int | None]]) -> list[Callable[[int, int | None], str]]:
    if not dates:
        return []
    units: list[Callable[[int, int | None], str]] = [
        lambda year, _: f"{year}",
        lambda year, _: f"{year // 10 * 10}s",
        lambda year, _: f"{year // 100 * 100}s",
    ]
    if all(month is not None for _, month in dates):
        units[:0] = [
            lambda year, month: f"{year}-{month or 0:02}",
            lambda year, month: f"{year} Q{((month or 1) + 2) // 3}",
        ]
    return units


def _missing(n: int, n_articles: int, what: str) -> str:
    if not n:
        return ""
    if n == n_articles:
        return f"no article has a {what}"
    return f"{n:,} of {n_articles:,} articles have no {what}"


def _rounded(length: int) -> int:
    """Round to two figures: 834 to 830."""
    step = int(10 ** max(len(str(length)) - 2, 0))
    return round(length / step) * step


def _filled(names: Sequence[str], groups: Sequence[Sequence[int]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(group)) for name, group in zip(names, groups, strict=True) if group)

"""Deals a corpus's articles out to train, dev and test so that no part knows another's stories.

Turns what is known of each article and groups of near-duplicates into parts: at random with equal shares of every
label, by date or by source. Knows nothing of texts and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from iterstrat.ml_stratifiers import IterativeStratification

from khabar.models.errors import CorpusError, KhabarError, Problem
from khabar.models.messages import nearest, show
from khabar.models.ranges import check_range
from khabar.training.dates import READABLE, day_of

PARTS = ("train", "dev", "test")  # earlier ones first, where dates decide
DEFAULT_SHARE = 0.1
# A group that would fill more of a part than this goes to train: it would be a test of one story.
MOST_OF_A_PART = 0.5

Groups = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How to split.

    Attributes:
        dev: Share of the articles for dev, 0 for none; None means DEFAULT_SHARE, or what `by_date` says.
        test: The same for test; not with `by_date` or `hold_out_sources`, which make the test part.
        seed: Other seeds deal out other articles.
        by_date: From the first day on articles are test; of two days the first begins dev and the second test.
        hold_out_sources: Articles of these sources are test.
        group_duplicates: Keep near-duplicates together.

    Raises:
        KhabarError: If a value is not allowed, or two do not go together.
    """

    dev: float | None = None
    test: float | None = None
    seed: int = 0
    by_date: tuple[date, ...] = ()
    hold_out_sources: tuple[str, ...] = ()
    group_duplicates: bool = True

    def __post_init__(self) -> None:
        check_range("dev", self.dev, at_least=0, below=1)
        check_range("test", self.test, at_least=0, below=1)
        if not 0 <= self.seed < 2**32:
            raise KhabarError(f"seed is {self.seed}, must be in [0, 2**32)")
        if self.by_date and self.hold_out_sources:
            raise KhabarError("by-date and hold-out-source are both given; allowed: one of them")
        if len(self.by_date) > 2 or sorted(set(self.by_date)) != list(self.by_date):
            seen = ", ".join(map(str, self.by_date))
            raise KhabarError(f"by-date is {seen}; allowed: the first day of test, or those of dev and test in order")
        made = ("dev", "test") if len(self.by_date) == 2 else ("test",) if self.holds_out else ()
        for name in made:
            if getattr(self, name) is not None:
                how = "by-date" if self.by_date else "hold-out-source"
                raise KhabarError(f"{name} is given as a share, but {how} decides what is {name}; leave it out")
        total = sum(self.shares.values())
        if not total and not self.holds_out:
            raise KhabarError("dev and test are both 0; allowed: at least one above 0")
        if total >= 1:
            raise KhabarError(f"dev and test together are {total:g}, must be below 1, so that train gets the rest")

    @property
    def holds_out(self) -> bool:
        """Whether dates or sources decide what is test."""
        return bool(self.by_date or self.hold_out_sources)

    @property
    def shares(self) -> dict[str, float]:
        """The parts that are drawn at random and their shares of what dates and sources leave."""
        drawn = () if len(self.by_date) == 2 else ("dev",) if self.holds_out else ("dev", "test")
        given = {name: getattr(self, name) for name in drawn}
        return {name: DEFAULT_SHARE if share is None else share for name, share in given.items() if share != 0}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of an article without its text.

    Attributes:
        file: The file it stands in.
        line: Its line there, from 1.
        labels: What should be found in every part in equal shares, as kind and name: ("topic", "attack").
    """

    file: str
    line: int
    labels: frozenset[tuple[str, str]] = frozenset()
    date: str | None = None
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which article is in which part.

    Attributes:
        parts: Positions of articles, ascending, by part; only the parts asked for.
        shares: The share of all articles that each part was to get, where shares decided.
        n_straddling: Groups with articles on both sides of a date or a source; they went to the earlier part.
    """

    parts: Mapping[str, list[int]]
    shares: Mapping[str, float] = field(default_factory=dict)
    n_straddling: int = 0


def split_entries(entries: Sequence[Entry], groups: Groups, settings: SplitSettings) -> Split:
    """Put each article in one part, and all of a group in the same.

    Args:
        entries: The articles.
        groups: Positions in `entries`, each in one group.
        settings: How.

    Raises:
        CorpusError: If dates decide and articles have none that can be read.
        KhabarError: If a source is unknown, or there are too few articles or groups for the parts asked for.
    """
    if not entries:
        raise KhabarError("there are no articles to split")
    if settings.by_date:
        part_of, n_straddling = _by_date(entries, groups, settings.by_date)
    elif settings.hold_out_sources:
        part_of, n_straddling = _by_source(entries, groups, settings.hold_out_sources)
    else:
        part_of, n_straddling = ["train"] * len(groups), 0
    rest = [number for number, part in enumerate(part_of) if part == "train"]
    drawn = _draw(entries, [groups[number] for number in rest], settings.shares, settings.seed)
    for number, part in zip(rest, drawn, strict=True):
        part_of[number] = part
    parts = {
        name: sorted(i for group, part in zip(groups, part_of, strict=True) if part == name for i in group)
        for name in PARTS
        if name in part_of
    }
    shares = {} if settings.holds_out else {"train": 1 - sum(settings.shares.values()), **settings.shares}
    return Split(parts=parts, shares=shares, n_straddling=n_straddling)


def _by_date(entries: Sequence[Entry], groups: Groups, first_days: Sequence[date]) -> tuple[list[str], int]:
    names = ("train", "dev", "test") if len(first_days) == 2 else ("train", "test")
    days: list[date] = []
    problems: list[Problem] = []
    for entry in entries:
        day = None if entry.date is None else day_of(entry.date)
        if day is None:
            seen = "the article has no date" if entry.date is None else f"date is {show(entry.date)}"
            message = f"{seen}; to split by date, allowed: {READABLE}"
            problems.append(Problem(file=entry.file, line=entry.line, message=message))
        else:
            days.append(day)
    if problems:
        raise CorpusError(problems)
    sides = [sum(day >= first for first in first_days) for day in days]
    earliest = [min(sides[i] for i in group) for group in groups]
    n_straddling = sum(any(sides[i] != side for i in group) for group, side in zip(groups, earliest, strict=True))
    for side, name in enumerate(names):
        if side not in earliest:
            reason = ", with its near-duplicates," if side in sides else ""
            raise KhabarError(
                f"no article{reason} falls in {name}; by-date is {', '.join(map(str, first_days))}, "
                f"the articles' dates go from {min(days)} to {max(days)}"
            )
    return [names[side] for side in earliest], n_straddling


def _by_source(entries: Sequence[Entry], groups: Groups, sources: Sequence[str]) -> tuple[list[str], int]:
    seen = sorted({entry.source for entry in entries if entry.source is not None})
    problems = [f"no article has the source {show(name)}{nearest(name, seen)}" for name in sources if name not in seen]
    if problems:
        raise KhabarError("\n".join(problems))
    held_out = [[entries[i].source in sources for i in group] for group in groups]
    n_straddling = sum(any(group) and not all(group) for group in held_out)
    part_of = ["test" if all(group) else "train" for group in held_out]
    for name, of_it in (("train", "other sources"), ("test", "the sources held out")):
        if name not in part_of:
            raise KhabarError(f"{name} is empty: no articles of {of_it} without near-duplicates of the rest")
    return part_of, n_straddling


def _draw(entries: Sequence[Entry], groups: Groups, shares: Mapping[str, float], seed: int) -> list[str]:
    """Choose a part for each group: those in `shares`, else train.

    Source: Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data (2011).
    """
    part_of = ["train"] * len(groups)
    if not shares:
        return part_of
    n_articles = sum(map(len, groups))
    fewest = min(shares.values()) * n_articles
    free = [number for number, group in enumerate(groups) if len(group) <= max(fewest * MOST_OF_A_PART, 1)]
    names = [*shares, "train"]
    if len(groups) < len(names) or len(free) < len(shares):
        raise KhabarError(
            f"{n_articles:,} articles in {len(groups):,} groups of near-duplicates, {len(free):,} of them small enough "
            f"to hold out, are too few for {', '.join(sorted(names, key=PARTS.index))}; "
            "allowed: at least one group for each"
        )
    random = np.random.RandomState(seed)
    order = random.permutation(free)
    chosen = IterativeStratification(
        labels=_label_matrix(entries, [groups[number] for number in order]),
        r=_wanted_shares([len(groups[number]) for number in order], shares, n_articles),
        random_state=random,
    ).tolist()
    # Rare labels can leave a small part empty: it gets a group of the fullest, of equals train. Train may be left
    # with the large groups alone.
    for part in range(len(names) if len(free) == len(groups) else len(shares)):
        if part not in chosen:
            fullest = max(range(len(names)), key=lambda other: (chosen.count(other), other))
            chosen[chosen.index(fullest)] = part
    for number, part in zip(order, chosen, strict=True):
        part_of[number] = names[part]
    return part_of


def _wanted_shares(sizes: Sequence[int], shares: Mapping[str, float], n_articles: int) -> np.ndarray:
    """The parts' shares of the groups that are dealt out, train's last; at least one group for each part."""
    dealt_out = n_articles / sum(sizes)
    held_out = [max(share * dealt_out, 1 / len(sizes)) for share in shares.values()]
    wanted = np.array([*held_out, max(1 - sum(held_out), 0)])
    wanted /= wanted.sum()
    return wanted


def _label_matrix(entries: Sequence[Entry], groups: Groups) -> np.ndarray:
    """Which group has which label: (n_groups, n_labels), bool. A group's size counts as a label too."""
    labels = [
        {("size", str(len(group).bit_length())) for _ in group[1:]}.union(*(entries[i].labels for i in group))
        for group in groups
    ]
    columns = {label: column for column, label in enumerate(sorted(set().union(*labels)))}
    matrix = np.zeros((len(groups), len(columns)), dtype=bool)
    for row, of_group in enumerate(labels):
        matrix[row, [columns[label] for label in of_group]] = True
    return matrix

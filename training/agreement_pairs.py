"""Puts together the articles that two annotators have both labelled, and refuses those that are not the same.

Turns two lists of articles into pairs. Knows nothing of labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.models.messages import show

MOST_NAMED = 20  # articles in an error


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One article as two annotators have labelled it."""

    first: Article
    second: Article

    @property
    def name(self) -> str:
        """Its id, or how its text begins."""
        return show(self.first.text[:40]) if self.first.id is None else self.first.id


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The articles of two files, put together.

    Attributes:
        pairs: In the order of the first file.
        only_first: How many articles stand in the first file alone.
        only_second: How many stand in the second alone.
    """

    pairs: Sequence[Pair]
    only_first: int
    only_second: int


def match_articles(first: Sequence[Article], second: Sequence[Article]) -> Matched:
    """Put together the articles with one id, and of those without an id the ones with one text.

    Raises:
        KhabarError: If the texts of an id differ, an article without an id has no text of its own, or no article
            stands in both.
    """
    keyed_first, keyed_second = _by_key(first, "the first"), _by_key(second, "the second")
    shared = [key for key in keyed_first if key in keyed_second]
    if not shared:
        ids = [show(next(iter(keyed))[1]) if keyed else "nothing" for keyed in (keyed_first, keyed_second)]
        raise KhabarError(
            f"no article stands in both files, which begin with {' and '.join(ids)}; allowed: files of the same "
            "articles, with the same ids, or without any"
        )
    pairs = [Pair(first=keyed_first[key], second=keyed_second[key]) for key in shared]
    if problems := [_difference(pair) for pair in pairs if pair.first.text != pair.second.text]:
        more = [f"… and {len(problems) - MOST_NAMED:,} more"] if len(problems) > MOST_NAMED else []
        raise KhabarError("\n".join([*problems[:MOST_NAMED], *more]))
    return Matched(pairs=pairs, only_first=len(keyed_first) - len(pairs), only_second=len(keyed_second) - len(pairs))


def _by_key(articles: Iterable[Article], which: str) -> dict[tuple[str, str], Article]:
    keyed: dict[tuple[str, str], Article] = {}
    for article in articles:
        key = ("text", article.text) if article.id is None else ("id", article.id)
        if key in keyed:
            raise KhabarError(f"{which} file has an article {show(key[1])} twice; allowed: each {key[0]} once")
        keyed[key] = article
    return keyed


def _difference(pair: Pair) -> str:
    first, second = pair.first.text, pair.second.text
    unequal = (i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    place = next(unequal, min(len(first), len(second)))
    seen = [show(text[place : place + 20]) if place < len(text) else "the end" for text in (first, second)]
    return (
        f"article {show(pair.first.id)}: the texts differ from character {place} on, {seen[0]} against {seen[1]}; "
        "allowed: the same text"
    )

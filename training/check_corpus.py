"""Checks articles against each other: duplicates and leaks, names and their labels, labels with few examples.

Turns the articles of one or several files into findings. What stands in one article alone is checked elsewhere.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from operator import itemgetter
from typing import TypeVar

from khabar.inference.duplicates import near_duplicates, normalised_words
from khabar.models.article import Article
from khabar.models.errors import MissingExtraError
from khabar.models.messages import show
from khabar.training.check_finding import Finding, PlacedArticle
from khabar.training.dates import READABLE, day_of
from khabar.training.label_checks import lookalikes

T = TypeVar("T")

# A label is taken for a slip where its name has it in so small a share: of 20 times once, of 19 never.
SLIP = 0.05
RARE = 3  # with fewer examples a label is a slip of the pen or of no use
FEW = 20  # with fewer, neither a model nor a measure can be trusted
_SHOWN = 3
_SEPARATORS = re.compile("[,;|،؛]")


def check_corpus(articles: Sequence[PlacedArticle]) -> Iterator[Finding]:
    """Find what is wrong between articles, given in the order of files and lines."""
    yield from _reused_ids(articles)
    yield from _copies(articles)
    yield from _names(articles)
    yield from _labels(articles)
    yield from _dates(articles)


def topics_of(article: Article) -> set[str] | None:
    """The topics of an article and of its segments; None where nobody has looked for any."""
    given = [article.topics, *(segment.topics for segment in article.segments or ())]
    annotated = [topics for topics in given if topics is not None]
    return set().union(*annotated) if annotated else None


def _reused_ids(articles: Iterable[PlacedArticle]) -> Iterator[Finding]:
    first: dict[str, PlacedArticle] = {}
    for placed in articles:
        if (name := placed.article.id) is None:
            continue
        other = first.setdefault(name, placed)
        if other.file != placed.file and other.article.text != placed.article.text:  # in one file it is an error
            yield placed.finding("id-reused", f"{other.file}:{other.line} has this id and another text")


def _copies(articles: Sequence[PlacedArticle]) -> Iterator[Finding]:
    try:
        groups = near_duplicates(placed.article.text for placed in articles)
    except MissingExtraError as error:
        yield Finding(kind="not-compared", message=str(error))
        return
    for group in groups:
        before = _Earlier()
        for number in group:
            placed = articles[number]
            elsewhere = next((other for file, other in before.of_file.items() if file != placed.file), None)
            if elsewhere is not None:
                yield placed.finding(
                    "leak",
                    f"{_likeness(placed, elsewhere)} {elsewhere}; if one file is trained on and the other measured "
                    "on, that flatters the model (khabar data split keeps such articles together)",
                )
            elif (first := before.of_file.get(placed.file)) is not None:
                yield placed.finding("duplicate", f"{_likeness(placed, first)} {first}")
            yield from _conflicts(placed, before.to_compare(placed.article))
            before.add(number, placed)


class _Earlier:
    """The articles of a story so far: of those that say the same of their text, the first stands for all."""

    def __init__(self) -> None:
        self.of_file: dict[str, PlacedArticle] = {}
        self._of_topics: dict[frozenset[str] | None, tuple[int, PlacedArticle]] = {}
        self._of_text: dict[str, dict[object, tuple[int, PlacedArticle]]] = defaultdict(dict)

    def add(self, number: int, placed: PlacedArticle) -> None:
        """Add one, by its number in the order of all."""
        article, found = placed.article, (number, placed)
        topics = _frozen(topics_of(article))
        self.of_file.setdefault(placed.file, placed)
        self._of_topics.setdefault(topics, found)
        self._of_text[article.text].setdefault((topics, _frozen(article.entities)), found)

    def to_compare(self, article: Article) -> Iterator[PlacedArticle]:
        """Give those that an article has to be compared with, in their order: the first that differs is among them."""
        same_text = self._of_text.get(article.text, {}).values()
        return (placed for _, placed in merge(same_text, self._of_topics.values(), key=itemgetter(0)))


def _frozen(values: Iterable[T] | None) -> frozenset[T] | None:
    return None if values is None else frozenset(values)


def _likeness(placed: PlacedArticle, other: PlacedArticle) -> str:
    return "has the text of" if placed.article.text == other.article.text else "is a near-duplicate of"


def _conflicts(placed: PlacedArticle, before: Iterable[PlacedArticle]) -> Iterator[Finding]:
    """Report the first earlier article of the same story that is labelled otherwise."""
    for other in before:
        one, two = other.article, placed.article
        if one.text == two.text:
            if differences := [*_topic_differences(one, two), *_entity_differences(one, two)]:
                more = f"; and {len(differences) - _SHOWN:,} more" if len(differences) > _SHOWN else ""
                message = f"has the text of {other} and other labels: {'; '.join(differences[:_SHOWN])}{more}"
                yield placed.finding("conflict", message)
                return
        elif differences := _topic_differences(one, two):
            message = f"is a near-duplicate of {other} and has other topics: {'; '.join(differences)}"
            same = normalised_words(one.text) == normalised_words(two.text)
            yield placed.finding("conflict" if same else "near-conflict", message)
            return


def _topic_differences(one: Article, two: Article) -> list[str]:
    first, second = topics_of(one), topics_of(two)
    if first is None or second is None:
        return []
    differences = [f"topic {label} there, not here" for label in sorted(first - second)]
    return differences + [f"topic {label} here, not there" for label in sorted(second - first)]


def _entity_differences(one: Article, two: Article) -> list[str]:
    if one.entities is None or two.entities is None:
        return []
    here = set(two.entities)
    differing = sorted(here.symmetric_difference(one.entities), key=lambda entity: (entity.start, entity.end))
    return [
        f"{entity.label} {show(two.text[entity.start : entity.end])} ({entity.start} to {entity.end}) "
        + ("here, not there" if entity in here else "there, not here")
        for entity in differing
    ]


def _names(articles: Sequence[PlacedArticle]) -> Iterator[Finding]:
    """Report each entity whose label its name hardly ever has, and the other names with several labels once."""
    labels_of: dict[str, Counter[str]] = defaultdict(Counter)
    spellings: dict[str, str] = {}
    for name, label, written in (found[:3] for found in _named(articles)):
        labels_of[name][label] += 1
        spellings.setdefault(name, written)
    slips = {name: rare for name, labels in labels_of.items() if (rare := _slips(labels))}
    for name, label, written, placed, span in _named(articles):
        if label in slips.get(name, ()):
            counts = _counts(labels_of[name])
            yield placed.finding("name-labels", f"{label} {show(written)}, but this name is labelled {counts}", span)
    for name, labels in sorted(labels_of.items(), key=lambda item: (-item[1].total(), item[0])):
        if len(labels) - len(slips.get(name, ())) > 1:
            yield Finding(kind="name-split", message=f"{show(spellings[name])} is labelled {_counts(labels)}")


def _named(
    articles: Iterable[PlacedArticle],
) -> Iterator[tuple[str, str, str, PlacedArticle, tuple[int, int]]]:
    """Give each entity's name as it is compared, its label, its text, and where it stands."""
    for placed in articles:
        for entity in placed.article.entities or ():
            written = placed.article.text[entity.start : entity.end]
            if name := " ".join(normalised_words(written)):
                yield name, entity.label, written, placed, (entity.start, entity.end)


def _slips(labels: Mapping[str, int]) -> set[str]:
    total = sum(labels.values())
    return {label for label, n in labels.items() if n <= SLIP * total}


def _counts(labels: Counter[str]) -> str:
    return ", ".join(f"{label} {n:,}" for label, n in labels.most_common())


def _labels(articles: Iterable[PlacedArticle]) -> Iterator[Finding]:
    """Compare labels, and count topics by articles and entity labels by entities, of all files together."""
    topics: Counter[str] = Counter()
    entities: Counter[str] = Counter()
    first: dict[tuple[str, str], PlacedArticle] = {}
    for placed in articles:
        for label in topics_of(placed.article) or ():
            topics[label] += 1
            first.setdefault(("topic", label), placed)
        for entity in placed.article.entities or ():
            entities[entity.label] += 1
            first.setdefault(("entity label", entity.label), placed)
    for what, counts, unit in (("topic", topics, "article"), ("entity label", entities, "entity")):
        for pair in lookalikes(counts):
            rarer, other = sorted(pair, key=lambda label: counts[label])
            message = f"{what} {show(rarer)} ({counts[rarer]:,}) is spelt like {show(other)} ({counts[other]:,})"
            yield first[what, rarer].finding("label-spelling", f"{message}; one label, or two?")
        for label in counts:
            parts = [part.strip() for part in _SEPARATORS.split(label)]
            if len(parts) > 1 and all(part in counts for part in parts):
                message = f"{what} {show(label)} looks like {len(parts)} labels; allowed: each by itself"
                yield first[what, label].finding("label-spelling", message)
        for label, n in sorted(counts.items()):
            number = f"{n} {unit if n == 1 else unit.removesuffix('y') + ('ies' if unit[-1] == 'y' else 's')}"
            if n < RARE:
                message = f"{what} {show(label)} is on {number}; a slip of the pen? allowed: {RARE} or more"
                yield first[what, label].finding("rare-label", message)
            elif n < FEW:
                message = f"{what} {show(label)} is on {number}; below {FEW} it is hardly learned or measured"
                yield Finding(kind="few-examples", message=message)


def _dates(articles: Iterable[PlacedArticle]) -> Iterator[Finding]:
    """Report the dates of a file that cannot be read once: they all come from one writer."""
    unread: dict[str, list[PlacedArticle]] = defaultdict(list)
    for placed in articles:
        if placed.article.date is not None and day_of(placed.article.date) is None:
            unread[placed.file].append(placed)
    for file, found in unread.items():
        first = f"the first {show(found[0].article.date)} on line {found[0].line}"
        message = f"{len(found):,} of its dates cannot be read, {first}; allowed: {READABLE}"
        yield Finding(kind="date", message=message, file=file)

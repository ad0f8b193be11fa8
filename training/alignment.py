"""Pairs gold entities with predicted ones, and says of each what went right or wrong.

Turns two lists of spans into a list of outcomes, and outcomes into a confusion table. Knows nothing of texts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from khabar.training.metrics import Span

Kind = Literal["right", "label", "boundary", "overlap", "missed", "spurious"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a gold entity, a predicted one, or both.

    Attributes:
        kind: "right"; "label": the span is right, its label is not; "boundary": they overlap and the labels agree;
            "overlap": they overlap and the labels differ; "missed": nothing predicted belongs to the gold one;
            "spurious": no gold one belongs to the predicted one.
        gold: Index of the gold entity, if there is one.
        predicted: Index of the predicted entity, if there is one.
    """

    kind: Kind
    gold: int | None = None
    predicted: int | None = None


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often gold labels met predicted ones. Each entity is counted once, by the outcome it is part of.

    Attributes:
        labels: Gold and predicted labels, sorted.
        same_span: (gold label, predicted label) of pairs with one span: on the diagonal, those that are right.
        overlap: (gold label, predicted label) of pairs that only overlap: on the diagonal, boundary errors.
        missed: Gold label of those that nothing predicted belongs to.
        spurious: Predicted label of those that no gold one belongs to.
    """

    labels: tuple[str, ...]
    same_span: Counter[tuple[str, str]]
    overlap: Counter[tuple[str, str]]
    missed: Counter[str]
    spurious: Counter[str]


def align(gold: Sequence[Span], predicted: Sequence[Span]) -> list[Outcome]:
    """Pair each entity with at most one of the other side: equal spans first, then those that share most.

    Pairs that share equally many characters are taken with equal labels first, and then in the text's order.

    Args:
        gold: An article's entities, in order, not overlapping each other.
        predicted: Those that were found in it, likewise.

    Returns:
        Outcomes in the order of the text; each gold and each predicted entity is in one.
    """
    pairs = []
    first = 0  # the first predicted entity that may reach into this gold one or a later one
    for i, (start, end, label) in enumerate(gold):
        while first < len(predicted) and predicted[first][1] <= start:
            first += 1
        for j in range(first, len(predicted)):
            other_start, other_end, other_label = predicted[j]
            if other_start >= end:
                break
            shared = min(end, other_end) - max(start, other_start)
            pairs.append(((start, end) != (other_start, other_end), -shared, label != other_label, i, j))
    found: list[tuple[Span, Outcome]] = []
    used_gold: set[int] = set()
    used_predicted: set[int] = set()
    for _, _, _, i, j in sorted(pairs):
        if i not in used_gold and j not in used_predicted:
            used_gold.add(i)
            used_predicted.add(j)
            found.append((gold[i], Outcome(kind=_kind(gold[i], predicted[j]), gold=i, predicted=j)))
    found += [(span, Outcome(kind="missed", gold=i)) for i, span in enumerate(gold) if i not in used_gold]
    found += [
        (span, Outcome(kind="spurious", predicted=j)) for j, span in enumerate(predicted) if j not in used_predicted
    ]
    return [outcome for _, outcome in sorted(found, key=lambda pair: pair[0])]


def confusion(articles: Iterable[tuple[Sequence[Span], Sequence[Span]]]) -> Confusion:
    """Count the outcomes of articles, each given by its gold and its predicted entities."""
    same_span: Counter[tuple[str, str]] = Counter()
    overlap: Counter[tuple[str, str]] = Counter()
    missed: Counter[str] = Counter()
    spurious: Counter[str] = Counter()
    for gold, predicted in articles:
        for outcome in align(gold, predicted):
            true = None if outcome.gold is None else gold[outcome.gold][2]
            found = None if outcome.predicted is None else predicted[outcome.predicted][2]
            if true is not None and found is not None:
                (same_span if outcome.kind in ("right", "label") else overlap)[true, found] += 1
            elif true is not None:
                missed[true] += 1
            elif found is not None:
                spurious[found] += 1
    labels = {label for pair in (*same_span, *overlap) for label in pair} | missed.keys() | spurious.keys()
    return Confusion(
        labels=tuple(sorted(labels)), same_span=same_span, overlap=overlap, missed=missed, spurious=spurious
    )


def _kind(gold: Span, predicted: Span) -> Kind:
    if gold[:2] == predicted[:2]:
        return "right" if gold[2] == predicted[2] else "label"
    return "boundary" if gold[2] == predicted[2] else "overlap"

"""Picks the errors a model was surest of, each with the sentence it was made in and the marks on it.

Turns predictions into a short list to read. Knows nothing of how it is shown.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from khabar.inference.results import spans_of
from khabar.models.article import Article
from khabar.models.segments import sentence_around
from khabar.training.alignment import Outcome, align
from khabar.training.predictions import Prediction, topic_items

N_ERRORS = 50
# Of each kind, as far as there are so many; what one leaves over goes to the others, in this order.
SHARES: dict["Task", int] = {"topic": 20, "entity": 20, "missed entity": 10}
EXCERPT_CHARACTERS = 320

Task = Literal["topic", "entity", "missed entity"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of an excerpt that is marked alike from end to end."""

    text: str
    gold: bool = False
    predicted: bool = False


@dataclass(frozen=True, kw_only=True)
class WrongItem:
    """One error.

    Attributes:
        task: "topic", "entity", or "missed entity": one that nothing predicted belongs to.
        kind: Topics: "missed" or "spurious"; entities: as an Outcome's.
        article: Id of the article.
        source: Its source.
        gold: The gold label; None for something spurious.
        predicted: The predicted label; None for something missed.
        probability: What the model gave the topic, or the entity that it found; None for a missed entity, of
            which it says nothing.
        confidence: How sure it was of being right, by which errors are ranked; None as probability.
        times: How often this name is missed with this label, over all articles; 1 for other errors.
        excerpt: The sentence, or the segment's beginning, in pieces.
    """

    task: Task
    kind: str
    article: str | None
    source: str | None
    gold: str | None
    predicted: str | None
    probability: float | None
    confidence: float | None
    times: int = 1
    excerpt: tuple[Piece, ...]


def worst_errors(predictions: Sequence[Prediction], *, n_errors: int = N_ERRORS) -> list[WrongItem]:
    """Pick errors: topics and entities that the model was surest of, and names that it misses most often.

    Args:
        predictions: Annotated articles and what a tagger says of them.
        n_errors: Most to pick.

    Returns:
        Topics, entities, missed entities; each most confident, or most frequent, first.
    """
    ranked: dict[Task, list[WrongItem]] = {
        "topic": sorted((error for one in predictions for error in _topic_errors(one)), key=_by_confidence),
        "entity": sorted((error for one in predictions for error in _entity_errors(one)), key=_by_confidence),
        "missed entity": _missed_entities(predictions),
    }
    shares = {task: min(SHARES[task] * n_errors // N_ERRORS, len(errors)) for task, errors in ranked.items()}
    for task, errors in ranked.items():
        shares[task] += min(len(errors) - shares[task], n_errors - sum(shares.values()))
    return [error for task, errors in ranked.items() for error in errors[: shares[task]]]


def excerpt(
    text: str, marks: Sequence[tuple[int, int, bool, bool]], *, within: tuple[int, int], n_characters: int
) -> tuple[Piece, ...]:
    """Cut a stretch out of a text, at spaces, and into pieces at the ends of its marks.

    Args:
        text: The raw text.
        marks: Start, end, whether gold has it, whether it is predicted; those that share a character add up.
        within: The stretch to show; it holds the marks.
        n_characters: About how much of it to show, round the marks, or from its start if there are none.
    """
    start, end = _shortened(text, marks, within, n_characters)
    edges = sorted({start, end, *(edge for mark in marks for edge in mark[:2] if start < edge < end)})
    pieces = []
    for first, last in pairwise(edges):
        inside = [mark for mark in marks if mark[0] <= first and last <= mark[1]]
        pieces.append(
            Piece(
                text=_visible(text[first:last]),
                gold=any(mark[2] for mark in inside),
                predicted=any(mark[3] for mark in inside),
            )
        )
    if start > within[0]:
        pieces.insert(0, Piece(text="… "))
    if end < within[1]:
        pieces.append(Piece(text=" …"))
    return tuple(pieces)


def _by_confidence(error: WrongItem) -> tuple[float, str]:
    return -(error.confidence or 0.0), error.article or ""


def _topic_errors(prediction: Prediction) -> Iterator[WrongItem]:
    """An article's wrong topics; its segments' where it has none of its own."""
    gold, result = prediction.gold, prediction.result
    if gold.topics is not None:
        (item,) = topic_items(prediction, "article")
        for label in item.scores:
            if (label in item.gold) != (label in item.predicted):
                shown = _evidence(prediction, label)
                yield _topic_error(gold, label, item.scores[label], shown, spurious=label in item.predicted)
        return
    for segment, tagged in zip(gold.segments or (), result.segments, strict=False):
        if segment.topics is not None:
            for label, score in tagged.scores.items():
                if (label in segment.topics) != (label in tagged.topics):
                    shown = (segment.start, segment.end)
                    yield _topic_error(gold, label, score, shown, spurious=label in tagged.topics)


def _topic_error(gold: Article, label: str, score: float, shown: tuple[int, int], *, spurious: bool) -> WrongItem:
    return WrongItem(
        task="topic",
        kind="spurious" if spurious else "missed",
        article=gold.id,
        source=gold.source,
        gold=None if spurious else label,
        predicted=label if spurious else None,
        probability=score,
        confidence=score if spurious else 1 - score,
        excerpt=excerpt(gold.text, (), within=shown, n_characters=EXCERPT_CHARACTERS),
    )


def _evidence(prediction: Prediction, label: str) -> tuple[int, int]:
    """Where a topic shows: the likeliest segment, of those that gold says have it if it says so of any."""
    gold, segments = prediction.gold, prediction.result.segments
    if not segments:
        return 0, len(gold.text)
    marked = {(part.start, part.end) for part in gold.segments or () if label in (part.topics or ())}
    among = [segment for segment in segments if (segment.start, segment.end) in marked] or segments
    best = max(among, key=lambda segment: segment.scores[label])
    return best.start, best.end


def _entity_errors(prediction: Prediction) -> Iterator[WrongItem]:
    for outcome in _outcomes(prediction):
        if outcome.kind not in ("right", "missed"):
            yield _entity_error(prediction, outcome, task="entity")


def _missed_entities(predictions: Sequence[Prediction]) -> list[WrongItem]:
    """One error for each name and label that is missed, at its first place, most often missed first."""
    times: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[Prediction, Outcome]] = {}
    for prediction in predictions:
        for outcome in _outcomes(prediction):
            if outcome.kind == "missed" and outcome.gold is not None:
                entity = (prediction.gold.entities or ())[outcome.gold]
                name = prediction.gold.text[entity.start : entity.end], entity.label
                times[name] += 1
                first.setdefault(name, (prediction, outcome))
    return [_entity_error(*first[name], task="missed entity", times=n) for name, n in times.most_common()]


def _outcomes(prediction: Prediction) -> list[Outcome]:
    if prediction.gold.entities is None:
        return []
    return align(spans_of(prediction.gold.entities), spans_of(prediction.result.entities))


def _entity_error(prediction: Prediction, outcome: Outcome, *, task: Task, times: int = 1) -> WrongItem:
    article = prediction.gold
    gold = None if outcome.gold is None else (article.entities or ())[outcome.gold]
    found = None if outcome.predicted is None else prediction.result.entities[outcome.predicted]
    marks = []
    if gold is not None:
        marks.append((gold.start, gold.end, True, False))
    if found is not None:
        marks.append((found.start, found.end, False, True))
    within = sentence_around(article.text, min(mark[0] for mark in marks), max(mark[1] for mark in marks))
    return WrongItem(
        task=task,
        kind=outcome.kind,
        article=article.id,
        source=article.source,
        gold=None if gold is None else gold.label,
        predicted=None if found is None else found.label,
        probability=None if found is None else found.score,
        confidence=None if found is None else found.score,
        times=times,
        excerpt=excerpt(article.text, marks, within=within, n_characters=EXCERPT_CHARACTERS),
    )


def _shortened(
    text: str, marks: Sequence[tuple[int, int, bool, bool]], within: tuple[int, int], n_characters: int
) -> tuple[int, int]:
    """Narrow a stretch to about so many characters round its marks, cut at spaces."""
    start, end = within
    if end - start <= n_characters:
        return within
    first = min((mark[0] for mark in marks), default=start)
    last = max((mark[1] for mark in marks), default=start)
    room = max(n_characters - (last - first), 0)
    low = max(start, min(first - room // 2, end - n_characters))
    high = min(end, max(low + n_characters, last))
    if low > start:
        space = text.find(" ", low, first)
        low = first if space < 0 else space + 1
    if high < end:
        space = text.rfind(" ", last, high)
        high = max(space, last) if marks or space >= 0 else high  # one long word is cut inside
    return low, high


def _visible(text: str) -> str:
    """Give a text without characters that no page may hold, as long as it was."""
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)

"""Checks where the entities and segments of one article start and end, against the words of its text.

Turns an article into findings. Knows nothing of other articles.
"""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter

from khabar.models.article import Entity
from khabar.models.messages import show
from khabar.models.words import Span, proclitic_length, split_words
from khabar.training.check_finding import Finding, PlacedArticle

_OPENING = {"(": ")", "[": "]", "{": "}", "«": "»", "“": "”", "‘": "’", "﴾": "﴿", '"': '"', "'": "'"}
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
# Signs that belong to what they stand at: «#العراق», «@user», «5%».
_PART_OF_A_NAME = frozenset("#@&*%٪‰")


def check_spans(placed: PlacedArticle) -> Iterator[Finding]:
    """Find entities with more or less than whole words, and segments that cut words.

    A span may start inside a word if only joined proclitics stand before it there (`proclitic_length`).
    """
    article = placed.article
    if not article.entities and not article.segments:
        return
    words = split_words(article.text)
    for entity in article.entities or ():
        inside = words_of(words, entity.start, entity.end)
        for kind, seen in _entity_problems(article.text, entity, inside):
            name = f"{entity.label} {show(article.text[entity.start : entity.end])}"
            yield placed.finding(kind, f"{name} {seen}", (entity.start, entity.end))
    for number, segment in enumerate(article.segments or ()):
        for edge, does in ((segment.start, "starts"), (segment.end, "ends")):
            for word in words_of(words, edge, edge):
                seen = show(article.text[slice(*word)])
                message = f"segments[{number}] {does} inside the word {seen}; allowed: between words"
                yield placed.finding("segment-word", message, word)


def words_of(words: Sequence[Span], start: int, end: int) -> Sequence[Span]:
    """Give the words that a span has a part of; of an empty span, the one that it cuts."""
    return words[bisect_right(words, start, key=itemgetter(1)) : bisect_left(words, end, key=itemgetter(0))]


def trimmed(words: Sequence[Span], start: int, end: int) -> Span | None:
    """Take what cannot be seen, spaces above all, off a span's ends; None where nothing is left.

    Args:
        words: Those of the whole text.
        start: The span's first character.
        end: One past its last.
    """
    inside = words_of(words, start, end)
    return (max(start, inside[0][0]), min(end, inside[-1][1])) if inside else None


def _entity_problems(text: str, entity: Entity, words: Sequence[Span]) -> Iterator[tuple[str, str]]:
    """Give the kind and the rest of the sentence of all that is wrong with one; `words` are those it has a part of."""
    if not words:
        yield "span-space", "has nothing that can be seen; allowed: a name"
        return
    (first_start, first_end), (last_start, last_end) = words[0], words[-1]
    edges = [does for wrong, does in ((entity.start < first_start, "starts"), (entity.end > last_end, "ends")) if wrong]
    if edges:
        yield "span-space", f"{' and '.join(edges)} with a space, or another character that cannot be seen"
    if proclitic_length(text, first_start, max(entity.start, first_start)) is None:
        word = show(text[first_start:first_end])
        yield "span-word", f"starts inside the word {word}; allowed: its start, or after joined و ف ب ل ك"
    if entity.end < last_end:
        yield "span-word", f"ends inside the word {show(text[last_start:last_end])}; allowed: its end"
    seen = text[max(entity.start, first_start) : min(entity.end, last_end)]
    marks = [
        f"{does} with {show(seen[place])}"
        for place, does, word in ((0, "starts", words[0]), (-1, "ends", words[-1]))
        if word[1] - word[0] == 1 and _is_stray(seen, place)
    ]
    if marks:
        yield "span-punctuation", f"{' and '.join(marks)}; allowed: the name without it"


def _is_stray(name: str, place: int) -> bool:
    """Tell whether a name's first (place 0) or last (-1) character is punctuation that is no part of it."""
    mark = name[place]
    if unicodedata.category(mark)[0] != "P" or mark in _PART_OF_A_NAME:
        return False
    if mark == "." and place == -1 and len(name) > 1 and name[-2].isalnum():
        return not name[-2].isascii()  # «U.S.»
    partner = (_OPENING, _CLOSING)[place].get(mark)
    if partner is None:
        return True
    inwards = name if place == 0 else name[::-1]
    other = inwards.find(partner, 1)
    # A bracket belongs to the name if its other half is further inside, «شباط (فبراير)», but not around all of it.
    return other in (-1, len(name) - 1)

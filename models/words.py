"""Turns raw text into words, as spans of it, and counts the proclitic letters before a name inside a word.

Independent of any tokenizer, yet never finer than the pre-tokenizer of `khabar.models.text`: none of its
pieces straddles two words. Knows nothing of labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from khabar.models import text as cleaning

# One-letter words written together with the next; of two, the conjunction comes first: «ول» yes, «لو» no.
_CONJUNCTIONS, _PREPOSITIONS = "وف", "بلك"
PROCLITICS: frozenset[str] = frozenset(
    [*_CONJUNCTIONS, *_PREPOSITIONS, *(c + p for c in _CONJUNCTIONS for p in _PREPOSITIONS)]
)
MAX_PROCLITICS = max(map(len, PROCLITICS))

_VISIBLE_MARK = f"{cleaning.MARK}\u0300-\u036f\u20d0-\u20ff\ufe20-\ufe2f"
# Soft hyphen, joiners, variation selectors: unseen, they join the letters around them.
_JOINER = "\u00ad\u200c\u200d\u2060\ufe00-\ufe0f"
# Controls and directional marks: unseen, they part the letters around them.
_INVISIBLE = (
    f"{cleaning.SPACE}{_JOINER}\0-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff"
)
_MARKS = f"[{_VISIBLE_MARK}{_JOINER}]*"
_BEFORE, _AFTER = f"[{_VISIBLE_MARK}]*", f"(?:[{_JOINER}]*[{_VISIBLE_MARK}])*"
_ARABIC, _DIGIT, _ALNUM = f"[{cleaning.ARABIC}]", f"[{cleaning.DIGIT}]", r"[^\W_]"
# A run of letters and digits of any script, parted only between digit and Arabic letter: «2021م», not «F16».
_OTHER = f"(?![{cleaning.ARABIC}{cleaning.DIGIT}]){_ALNUM}"
_INNER = f"(?:{_DIGIT}(?!{_MARKS}{_ARABIC})|{_ARABIC}(?!{_MARKS}{_DIGIT})|{_OTHER})"
# The pieces [رابط] [بريد] [مستخدم] written out in the text, as cleaning sees them once marks are gone and of
# three or more brackets the last two are left.
_GONE = f"[{cleaning.MARK}]*"
_STANDING = (
    f"(?:{'|'.join(_GONE.join(map(re.escape, piece)) for piece in cleaning.STANDING)})"
    rf"(?:(?:{_GONE}\])+(?={_GONE}\]))?"
)
# Most words: Arabic letters alone, with nothing behind that could belong to them. Found twice as fast.
_PLAIN = f"[{cleaning.ARABIC}]+(?=[ \n،.]|$)"
_WORD = re.compile(
    f"{_PLAIN}"
    f"|{_BEFORE}{_STANDING}{_AFTER}"
    f"|{_BEFORE}(?:{_INNER}{_MARKS})*{_ALNUM}{_AFTER}"
    f"|{_BEFORE}[^{_VISIBLE_MARK}{_INVISIBLE}]{_AFTER}"
    f"|[{_VISIBLE_MARK}]{_AFTER}"
)
_MAY_BE_REPLACED = re.compile(r"[&@<]|http|www|://|\.[a-z]{2}")
_ENTITY, _TAG = re.compile(cleaning.ENTITY), re.compile(cleaning.TAG)
_REPLACED = [re.compile(f"{first}[{rest}]+") for _, first, rest in cleaning.REPLACED]
_MARKS_ONLY = re.compile(f"[{_VISIBLE_MARK}{_JOINER}]")
_SKIP_MARKS = re.compile(_MARKS)

Span = tuple[int, int]


def split_words(text: str) -> list[Span]:
    """Split raw text into words that together cover every visible character.

    A word is a run of letters and digits with the marks and tatweels on them (Latin, Arabic and other letters
    written together are one word, «لـCNN»; digits beside Arabic letters are a word of their own), a link, an
    e-mail address, a mention or an HTML entity, or any other visible character alone.

    Returns:
        Half-open spans in code points of text, in order; none overlap.
    """
    if not _MAY_BE_REPLACED.search(text):
        return [match.span() for match in _WORD.finditer(text)]
    whole: list[Span] = []
    # As in the cleaning: each kind is looked for between what earlier kinds have taken.
    gaps = [(0, len(text))]
    gaps = _take(text, gaps, _ENTITY, whole)
    tags: list[Span] = []
    gaps = _take(text, gaps, _TAG, tags)
    for pattern in _REPLACED:
        gaps = _take(text, gaps, pattern, whole)
    for start, end in [*gaps, *tags]:
        whole.extend(_shifted(_WORD, text, start, end))
    return sorted(whole)


def _shifted(pattern: re.Pattern[str], text: str, start: int, end: int) -> Iterator[Span]:
    """Find a pattern in text[start:end] as if nothing stood around it; spans of text."""
    for match in pattern.finditer(text[start:end]):
        yield start + match.start(), start + match.end()


def _take(text: str, gaps: list[Span], pattern: re.Pattern[str], taken: list[Span]) -> list[Span]:
    """Move what a pattern matches inside the gaps to taken; what is left of the gaps is returned."""
    left = []
    for start, end in gaps:
        for first, last in _shifted(pattern, text, start, end):
            taken.append((first, last))
            left.append((start, first))
            start = last
        left.append((start, end))
    return [(start, end) for start, end in left if start < end]


def proclitic_length(text: str, word_start: int, entity_start: int) -> int | None:
    """Count the proclitic letters between a word's start and the start of a name inside that word.

    Marks and tatweels on the proclitic («وَبـ») are not counted.

    Returns:
        0, 1 or 2; None when what stands before the name is no proclitic, so that the span is not explained.
    """
    letters = _MARKS_ONLY.sub("", text[word_start:entity_start])
    if entity_start < word_start or (letters and letters not in PROCLITICS):
        return None
    return len(letters)


def after_proclitics(text: str, word_start: int, n: int) -> int:
    """Find where a name begins in a word whose first n letters are thought to be proclitics.

    The inverse of `proclitic_length`, for predictions: where the word does not begin with n proclitic
    letters, or nothing of it would be left, as many as can be are taken.

    Args:
        text: Raw text.
        word_start: Offset of the word.
        n: Proclitic letters, 0 to 2.

    Returns:
        Offset of the first character after the letters and the marks on them; word_start for none.
    """
    best, letters, end = word_start, "", word_start
    for _ in range(n):
        letter = _skip_marks(text, end)
        letters += text[letter : letter + 1]
        end = _skip_marks(text, letter + 1)
        if letters not in PROCLITICS or not text[end : end + 1].isalnum():
            break
        best = end
    return best


def _skip_marks(text: str, offset: int) -> int:
    match = _SKIP_MARKS.match(text, offset)
    return match.end() if match else offset

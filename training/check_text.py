"""Checks one article's text: letters at all, Arabic ones, and read in the right encoding.

Turns an article into findings. Knows nothing of labels.
"""

import re
from collections.abc import Iterator

from khabar.models.messages import show
from khabar.models.text import ARABIC, MARK
from khabar.training.check_finding import Finding, PlacedArticle

MOSTLY = 0.5  # share of a text's letters that are Arabic

_ARABIC_LETTER, _ARABIC_WORD = re.compile(f"[{ARABIC}]"), re.compile(f"[{ARABIC}{MARK}]+")
_LETTER = re.compile(r"[^\W\d_]")
_FEWEST = 3  # letters in a row of a garbled word: by chance two may look like it
_SHOWN = 20


def _pairs(encoding: str) -> re.Pattern[str]:
    """Match Arabic letters whose two bytes of UTF-8 were read as two characters of another encoding.

    The letters' first bytes are D8 to DB and their second ones 80 to BF (RFC 3629); bytes that the encoding leaves
    undefined come as control characters, as the WHATWG's encodings have it.
    """
    first = "".join(bytes([byte]).decode(encoding) for byte in range(0xD8, 0xDC))
    second = "".join(bytes([byte]).decode(encoding, "ignore") for byte in range(0x80, 0xC0)) + "\x80-\x9f"
    return re.compile(f"(?:[{first}][{second}]){{{_FEWEST},}}")


_UTF8_AS = {encoding: _pairs(encoding) for encoding in ("cp1252", "cp1256")}  # Latin-1 is part of the first
# Arabic letters of cp1256 read as cp1252. No Latin script has four such letters in a row.
_CP1256_AS_CP1252 = re.compile("[À-ÿŒœ]{4,}")
_LOST = re.compile(r"(?:\?{2,}\s+){2,}\?{2,}")  # letters an encoding had no place for


def check_text(placed: PlacedArticle) -> Iterator[Finding]:
    """Find what is wrong with an article's text."""
    text = placed.article.text
    n_letters = len(_LETTER.findall(text))
    if not n_letters:
        yield placed.finding("blank-text", f"text is {show(text)}; allowed: a news article, with letters")
    garbled = next(_garbled(text), None)
    if garbled is not None:
        message, span = garbled
        yield placed.finding("mojibake", message, span)
    elif n_letters:
        n_arabic = len(_ARABIC_LETTER.findall(text))
        if n_arabic < MOSTLY * n_letters:
            seen = f"{n_arabic / n_letters:.0%} of the text's {n_letters:,} letters are Arabic"
            yield placed.finding("not-arabic", f"{seen}; allowed: at least {MOSTLY:.0%}")


def _garbled(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Give what was read in the wrong encoding, with the span of the first such stretch of each kind."""
    if "\ufffd" in text:
        place = text.index("\ufffd")
        yield f"{text.count(chr(0xFFFD)):,} replacement characters (U+FFFD): bytes were lost", (place, place + 1)
    for encoding, pattern in _UTF8_AS.items():
        if found := pattern.search(text):
            right = _as_bytes(found[0], encoding).decode("utf-8", "ignore")
            yield _misread(found[0], right, f"UTF-8 read as {encoding}"), found.span()
    for found in _CP1256_AS_CP1252.finditer(text):
        right = _as_bytes(found[0], "cp1252").decode("cp1256")
        if _ARABIC_WORD.fullmatch(right):
            yield _misread(found[0], right, "cp1256 read as cp1252 or Latin-1"), found.span()
    if found := _LOST.search(text):
        yield f"{show(found[0][:_SHOWN])} looks like letters that an encoding could not hold", found.span()


def _as_bytes(garbled: str, encoding: str) -> bytes:
    return b"".join(
        bytes([ord(letter)]) if ord(letter) in range(0x80, 0xA0) else letter.encode(encoding) for letter in garbled
    )


def _misread(garbled: str, right: str, how: str) -> str:
    return f"{show(garbled[:_SHOWN])} looks like {how}; it should be {show(right[:_SHOWN])}"

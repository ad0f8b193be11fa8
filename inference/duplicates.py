"""Finds articles that are reprints of one another: texts in, groups or story numbers out.

Two texts are near-duplicates when most of the runs of three words of the shorter occur in the longer, whatever
the vowel signs, spelling variants and punctuation. Knows nothing of labels, files or models.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from khabar.models.errors import MissingExtraError

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

    Hashes = npt.NDArray[np.uint32]

SHINGLE_WORDS = 3
# Only so much of a text is compared: time and memory stay bounded whatever its length.
MAX_WORDS = 600
_CHARACTERS_A_WORD = 40  # far above any text's average
# A near-duplicate has this share of the shorter text's runs in common: another header or footer, a changed word.
MIN_CONTAINED = 0.8
# And this share of both texts' runs: an article cut to less than two fifths is another article.
MIN_JACCARD = 0.4
# In fewer runs one changed word can be another story ("killed in Mosul"): such texts must be equal.
MIN_SHINGLES = 20
# Texts are compared if one of so many bands of minimal hashes is equal, of the whole or of the first words, which an
# article keeps when its tail is cut off. Pairs with a Jaccard similarity of 0.67 in whole and beginning (equal
# length, 80 % in common) are found 99 times of 100. Smaller bands would find more and compare more in vain.
BANDS, BAND_SIZE = 12, 4
LEAD_WORDS = 100

_SAME_LETTER = (("أإآٱ", "ا"), ("ىی", "ي"), ("ة", "ه"), ("ک", "ك"))
_SAME_DIGIT = ("٠١٢٣٤٥٦٧٨٩", "۰۱۲۳۴۵۶۷۸۹")
_REPLACED = [
    *((letter, same) for letters, same in _SAME_LETTER for letter in letters),
    *((digit, str(value)) for digits in _SAME_DIGIT for value, digit in enumerate(digits)),
]
_TATWEEL = "\u0640"
_MARKS = "".join(
    chr(code)
    for code in (*range(0x600, 0x900), *range(0x2000, 0x2070))
    if unicodedata.category(chr(code)) in ("Mn", "Cf")
)
_REMOVED = re.compile(f"[{_TATWEEL}{_MARKS}]")
_WORD = re.compile(r"[^\W_]+")


def normalised_words(text: str) -> list[str]:
    """Give a text's first MAX_WORDS words as they are compared.

    Without vowel signs, tatweel, directional marks and punctuation; forms of alef, of ya and of ta marbuta, letter
    cases and digits of several scripts are made one. For comparison only: offsets are lost.
    """
    text = unicodedata.normalize("NFKC", text[: MAX_WORDS * _CHARACTERS_A_WORD])
    text = _REMOVED.sub("", text).casefold()
    for letter, same in _REPLACED:
        text = text.replace(letter, same)
    return _WORD.findall(text)[:MAX_WORDS]


def near_duplicates(texts: Iterable[str]) -> list[list[int]]:
    """Group texts so that near-duplicates are together, also those that are so through others.

    Args:
        texts: Read once, one at a time.

    Returns:
        The positions of all texts, each in one group, ascending; groups in the order of their first texts. A text
        without words is a group of its own.

    Raises:
        MissingExtraError: If the package that finds candidates is not installed.
    """
    index = TextIndex("grouping near-duplicates")
    parents = array("q")

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for number, text in enumerate(texts):
        parents.append(number)
        shingles = shingles_of(text)
        for other in index.candidates(shingles):
            first, own = sorted((root(other), root(number)))
            if first != own and index.is_near(other, shingles):
                parents[own] = first  # the smaller number is the root, so that groups come out in order
        index.add(number, shingles)
    groups: dict[int, list[int]] = {}
    for number in range(len(parents)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


class StoryGrouper:
    """Numbers the stories of a stream of articles; reprints get the number of what they reprint.

    Of each text it keeps 12 KB at most, nearly all in the tables of candidates (measured: 9.8 KB a news article of
    280 words); of a copy of an earlier text, 45 bytes.

    Raises:
        MissingExtraError: If the package that finds candidates is not installed.
    """

    def __init__(self) -> None:
        self._index = TextIndex("grouping duplicates")
        self._stories = array("q")  # of each text added

    def add(self, text: str) -> int:
        """Give the number of the story that a text tells.

        Returns:
            The story of the earliest near-duplicate among the texts added before; for a new story, the text's own
            number. Texts are numbered in the order in which they are added, from 0.
        """
        number = len(self._stories)
        shingles = shingles_of(text)
        first = next(self._index.near(shingles), None)
        story = number if first is None else self._stories[first]
        self._stories.append(story)
        self._index.add(number, shingles)
        return story


@dataclass(frozen=True, kw_only=True)
class Shingles:
    """A text's runs of SHINGLE_WORDS words, as hashes.

    Attributes:
        whole: Sorted, each once.
        lead: Those of the first LEAD_WORDS words, in the order of the text.
    """

    whole: Hashes
    lead: Hashes

    def __len__(self) -> int:
        return len(self.whole)


class TextIndex:
    """Finds the texts that may be near-duplicates of one, by MinHash and locality-sensitive hashing.

    Source: Broder, On the resemblance and containment of documents (1997); Leskovec, Rajaraman, Ullman, Mining of
    Massive Datasets, chapter 3.

    Args:
        needed_for: What is being done, for the error's sentence.

    Raises:
        MissingExtraError: If datasketch is not installed.
    """

    def __init__(self, needed_for: str) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            raise MissingExtraError("duplicates", needed_for) from None
        n_hashes = BANDS * BAND_SIZE
        # Of the whole and of the lead, which is the whole of a short text: other seeds make that another chance.
        # One sketch serves all texts, for the tables keep copies of its bands. Shingles are hashes already.
        self._sketches: list[MinHash] = [MinHash(num_perm=n_hashes, seed=seed, hashfunc=int) for seed in (1, 2)]
        self._tables: list[MinHashLSH] = [
            MinHashLSH(num_perm=n_hashes, params=(BANDS, BAND_SIZE)) for _ in self._sketches
        ]
        self._sketched: Shingles | None = None
        self._hashes: dict[int, Hashes] = {}
        self._copies: dict[bytes, int] = {}  # the first text with these shingles

    def near(self, shingles: Shingles) -> Iterator[int]:
        """Give the numbers of a text's near-duplicates, ascending; of texts with equal shingles, the first alone."""
        return (number for number in self.candidates(shingles) if self.is_near(number, shingles))

    def candidates(self, shingles: Shingles) -> list[int]:
        """Give the numbers of the texts that are worth comparing with one, ascending."""
        if len(shingles) < MIN_SHINGLES:
            copy = self._copies.get(_digest(shingles))
            return [] if copy is None else [copy]
        self._take(shingles)
        pairs = zip(self._tables, self._sketches, strict=True)
        return sorted(set().union(*(tables.query(sketch) for tables, sketch in pairs)))

    def is_near(self, number: int, shingles: Shingles) -> bool:
        """Tell whether a text that was added, and is no copy of an earlier one, is a near-duplicate of another."""
        return are_near(self._hashes[number], shingles.whole)

    def add(self, number: int, shingles: Shingles) -> int:
        """Remember a text, and give the number by which `near` names it: that of its first copy."""
        if not len(shingles):
            return number
        first = self._copies.setdefault(_digest(shingles), number)
        if first != number:
            return first
        self._hashes[number] = shingles.whole
        if len(shingles) >= MIN_SHINGLES:
            self._take(shingles)
            for tables, sketch in zip(self._tables, self._sketches, strict=True):
                tables.insert(number, sketch, check_duplication=False)
        return number

    def _take(self, shingles: Shingles) -> None:
        """Make the sketches those of a text; the one just looked for is most often added next."""
        if self._sketched is not shingles:
            for sketch, hashes in zip(self._sketches, (shingles.whole, shingles.lead), strict=True):
                sketch.clear()
                sketch.update_batch(hashes.tolist())
            self._sketched = shingles


def shingles_of(text: str) -> Shingles:
    """Find a text's runs of words: of one with fewer than SHINGLE_WORDS the whole, of one without words none."""
    words = normalised_words(text)
    n_runs = max(len(words) - SHINGLE_WORDS + 1, min(len(words), 1))
    runs = (" ".join(words[start : start + SHINGLE_WORDS]) for start in range(n_runs))
    hashes = np.fromiter((zlib.crc32(run.encode()) for run in runs), dtype=np.uint32, count=n_runs)
    return Shingles(whole=np.unique(hashes), lead=hashes[: LEAD_WORDS - SHINGLE_WORDS + 1])


def are_near(left: Hashes, right: Hashes) -> bool:
    """Tell whether two texts are near-duplicates, by their whole sets of shingles."""
    shorter, longer = sorted((len(left), len(right)))
    if shorter < MIN_SHINGLES:
        return shorter > 0 and np.array_equal(left, right)
    if shorter < MIN_JACCARD * longer:
        return False  # even if the longer text holds all of the shorter
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common >= MIN_CONTAINED * shorter and common >= MIN_JACCARD * (shorter + longer - common)


def _digest(shingles: Shingles) -> bytes:
    return hashlib.blake2b(shingles.whole.tobytes(), digest_size=16).digest()

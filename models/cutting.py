"""Cuts raw texts into pieces and words, and remembers what it made of each run of characters between spaces.

News repeats itself: of a text's tokens, as such runs are called here, most were met before. Knows a tokenizer and
words; nothing of segments or models.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Token, Tokenizer
from transformers import PreTrainedTokenizerFast

from khabar.models.text import ARABIC, SPACE, cleaning, splitting
from khabar.models.words import split_words

MOST_REMEMBERED = 150_000  # tokens of usual length, which take 36 MB; they are counted by what they take
_OF_A_TOKEN = 10  # what a token takes whatever its length, in characters, of which a usual one has seven
_TOGETHER = 256  # tokens that are cut as one text; the tokenizer's threads share such texts out
_SPACE = re.compile(f"[{SPACE}]")
# Letters that cleaning leaves as they are; of one that stands three times in a row it takes some out.
_PLAIN = re.compile(f"(?:([{ARABIC}])(?!\\1\\1))+")
_BYTES_A_LETTER = 2  # of those in UTF-8, in which the tokenizer's model counts
_CAN_REACH_ACROSS_SPACES = "<"  # an HTML tag: nothing else that is looked for in a text does

Rows = NDArray[np.int32]
_Numbers = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A text's pieces and words, in order. Places are code points of the raw text.

    A word that the tokenizer gives no piece (a lone diacritic, the tail of a link) is not among `words`.
    """

    ids: Rows  # (n_pieces,)
    starts: Rows  # (n_pieces,) where each piece begins
    words: Rows  # (n_words, 2) half-open spans
    word_pieces: Rows  # (n_words,) index of each word's first piece


class Cutter:
    """Cuts texts without special pieces, in the tokenizer's threads; nothing is padded or cut off.

    Where the tokenizer cleans and splits as khabar's do, and has no pieces added to it, each token is cut once, and not
    again until it is forgotten. Several threads may use one cutter.

    Args:
        tokenizer: Any fast tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._made_of = _made_of(tokenizer)
        self._memory = _Memory()

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Cutter:
        """Give the one that was made for a tokenizer, if that is still what it was."""
        cutter = _cutters.get(tokenizer)
        if (
            cutter is None
            or cutter._backend is not tokenizer.backend_tokenizer
            or cutter._made_of != _made_of(tokenizer)
        ):
            cutter = _cutters[tokenizer] = cls(tokenizer)
        return cutter

    def cut(self, texts: Sequence[str]) -> list[Cut]:
        """Cut texts of valid Unicode."""
        by_token = [self._made_of is not None and _CAN_REACH_ACROSS_SPACES not in text for text in texts]
        known = iter(self._cut_by_token([text for text, one in zip(texts, by_token, strict=True) if one]))
        whole = iter(self._cut_whole([text for text, one in zip(texts, by_token, strict=True) if not one]))
        return [next(known if one else whole) for one in by_token]

    def _cut_whole(self, texts: Sequence[str]) -> list[Cut]:
        # The backend, not `__call__`: no padding, no truncation, no warning about length, no copying of lists.
        backend = self._backend
        if backend.padding is not None:  # a call of the tokenizer with padding or truncation leaves both on behind it
            backend.no_padding()
        if backend.truncation is not None:
            backend.no_truncation()
        return list(map(_cut, texts, backend.encode_batch(list(texts), add_special_tokens=False)))

    def _cut_by_token(self, texts: Sequence[str]) -> list[Cut]:
        tokens = [_SPACE.split(text) for text in texts]  # between each two, one character
        all_tokens = [*chain.from_iterable(tokens)]
        memory, entries = self._remembered(all_tokens)
        steps = np.array([*map(len, all_tokens)], dtype=np.int32) + 1
        n_tokens = np.array([*map(len, tokens)], dtype=np.intp)
        starts = _from_each_text_on(steps, n_tokens)

        pieces, n_pieces = memory.pieces.take(entries)
        words, n_words = memory.words.take(entries)
        pieces[:, 1] += np.repeat(starts, n_pieces)
        words[:, :2] += np.repeat(starts, n_words)[:, None]
        words[:, 2] += np.repeat(_from_each_text_on(n_pieces, n_tokens), n_words)
        ends = n_tokens.cumsum()
        piece_ends, word_ends = (np.r_[0, n.cumsum()][ends].tolist() for n in (n_pieces, n_words))
        cuts = []
        piece = word = 0
        for piece_end, word_end in zip(piece_ends, word_ends, strict=True):
            own, own_words = pieces[piece:piece_end], words[word:word_end]
            cuts.append(Cut(ids=own[:, 0], starts=own[:, 1], words=own_words[:, :2], word_pieces=own_words[:, 2]))
            piece, word = piece_end, word_end
        return cuts

    def _remembered(self, tokens: Sequence[str]) -> tuple[_Memory, NDArray[np.intp]]:
        """Give a memory that has all of these tokens, and their numbers in it."""
        if self._memory.size > MOST_REMEMBERED * (_OF_A_TOKEN + 7):
            self._memory = _Memory()
        memory = self._memory  # another thread may begin another one meanwhile
        numbers = [*map(memory.numbers.get, tokens)]
        new = [*dict.fromkeys(token for token, number in zip(tokens, numbers, strict=True) if number is None)]
        if new:
            tokenize = self._backend.model.tokenize
            memory.learn_plain({token: tokenize(token) for token in new if _PLAIN.fullmatch(token)})
            others = [token for token in new if token not in memory.numbers]
            parts = [others[start : start + _TOGETHER] for start in range(0, len(others), _TOGETHER)]
            for part, cut in zip(parts, self._cut_whole([*map(" ".join, parts)]), strict=True):
                memory.learn(part, cut)
            numbers = [*map(memory.numbers.get, tokens)]
        return memory, np.array(numbers, dtype=np.intp)


class _Memory:
    """What was made of tokens.

    Attributes:
        numbers: Each token's own, which `pieces` and `words` know it by.
        pieces: Of each token, ids and where they begin in it.
        words: Of each token, where they begin and end in it, and which of its pieces is their first.
        size: What they take together, in characters.
    """

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.pieces, self.words = _Ragged(2), _Ragged(3)
        self.size = 0
        self._n_tokens = 0
        self._learning = threading.Lock()

    def learn(self, tokens: Sequence[str], cut: Cut) -> None:
        """Remember tokens, of which a text was made with a space between each two, and what that was cut into."""
        steps = np.array([*map(len, tokens)], dtype=np.int32) + 1
        starts = steps.cumsum(dtype=np.int32) - steps
        of_pieces, of_words = (np.searchsorted(starts, at, side="right") - 1 for at in (cut.starts, cut.words[:, 0]))
        n_pieces, n_words = (np.bincount(of, minlength=len(tokens)) for of in (of_pieces, of_words))
        first_pieces = n_pieces.cumsum() - n_pieces
        pieces = np.column_stack([cut.ids, cut.starts - starts[of_pieces]])
        words = np.column_stack([cut.words - starts[of_words][:, None], cut.word_pieces - first_pieces[of_words]])
        self._add(tokens, pieces, n_pieces, words, n_words)

    def learn_plain(self, cut: Mapping[str, Sequence[Token]]) -> None:
        """Remember tokens that are one word each and need no cleaning, and the pieces that the model cuts them into."""
        cut = {token: pieces for token, pieces in cut.items() if pieces}  # not every kind of model has one for all
        rows = [(piece.id, piece.offsets[0] // _BYTES_A_LETTER) for pieces in cut.values() for piece in pieces]
        n_pieces = np.array([*map(len, cut.values())], dtype=np.intp)
        words = np.zeros((len(cut), 3), dtype=np.int32)
        words[:, 1] = [*map(len, cut)]
        self._add([*cut], np.array(rows, dtype=np.int32).reshape(-1, 2), n_pieces, words, np.ones_like(n_pieces))

    def _add(
        self, tokens: Sequence[str], pieces: _Numbers, n_pieces: _Numbers, words: _Numbers, n_words: _Numbers
    ) -> None:
        with self._learning:
            first = self._n_tokens
            self.pieces.put(first, pieces, n_pieces)
            self.words.put(first, words, n_words)
            # In this order: what is interrupted before leaves nothing, and who finds a token finds its rows. What two
            # threads have learnt at once has two entries.
            self._n_tokens += len(tokens)
            self.numbers.update(zip(tokens, range(first, self._n_tokens), strict=True))
            self.size += sum(map(len, tokens)) + _OF_A_TOKEN * len(tokens)


class _Ragged:
    """Entries of some rows each, which are added and never change. Whoever adds some keeps count of them."""

    def __init__(self, n_columns: int) -> None:
        self._stops = np.zeros(1, dtype=np.intp)  # of each entry's rows, behind a zero
        self._rows = np.zeros((0, n_columns), dtype=np.int32)

    def put(self, first: int, rows: _Numbers, counts: _Numbers) -> None:
        """Put entries that have so many rows each behind the first ones, over what was put there and not counted."""
        begin, end, stop = int(self._stops[first]), int(self._stops[first]) + len(rows), first + len(counts)
        # Whoever has taken the old array meanwhile reads on in it.
        self._stops, self._rows = _with_room(self._stops, stop + 1), _with_room(self._rows, end)
        self._rows[begin:end] = rows
        self._stops[first + 1 : stop + 1] = begin + counts.cumsum()

    def take(self, entries: NDArray[np.intp]) -> tuple[Rows, NDArray[np.intp]]:
        """Give a copy of the entries' rows, end to end, and how many rows each has."""
        stops, rows = self._stops, self._rows
        firsts = stops[entries]
        counts = stops[entries + 1] - firsts
        ends = counts.cumsum()
        n_rows = int(ends[-1]) if len(ends) else 0
        return rows[np.arange(n_rows) + np.repeat(firsts - (ends - counts), counts)], counts


def _with_room(array: NDArray[Any], length: int) -> NDArray[Any]:
    """Give an array, or a longer one that begins alike."""
    if length <= len(array):
        return array
    longer = np.zeros((max(length, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def _from_each_text_on(steps: NDArray[np.integer], n_tokens: NDArray[np.intp]) -> Rows:
    """Add up the steps before each token of its text."""
    before = (steps.cumsum() - steps).astype(np.int32)
    first_tokens = n_tokens.cumsum() - n_tokens
    within: Rows = before - np.repeat(before[first_tokens], n_tokens)
    return within


def _cut(text: str, encoding: Encoding) -> Cut:
    starts = np.array([start for start, _ in encoding.offsets], dtype=np.int32)
    words = np.array(split_words(text), dtype=np.int32).reshape(-1, 2)
    piece_words = span_indices(starts, words[:, 0])
    kept, word_pieces = np.unique(piece_words, return_index=True)
    return Cut(
        ids=np.array(encoding.ids, dtype=np.int32),
        starts=starts,
        words=words[kept],
        word_pieces=word_pieces.astype(np.int32),
    )


def span_indices(positions: NDArray[np.integer], starts: NDArray[np.integer]) -> NDArray[np.intp]:
    """Give the index of the span that each position lies in; between spans, the one before; before all, the first."""
    return np.clip(np.searchsorted(starts, positions, side="right") - 1, 0, None)


def _made_of(tokenizer: PreTrainedTokenizerFast) -> tuple[Any, ...] | None:
    """Give what can be changed of a tokenizer that cuts each token alike wherever it stands; None for another.

    Its model is taken as fixed. Special pieces that a text holds are found only where the tokenizer says so.
    """
    backend = tokenizer.backend_tokenizer
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        # The tokenizer sees to this at each call; a copy of it, as in another process, has not been called yet.
        backend.encode_special_tokens = tokenizer.split_special_tokens
    try:
        parts = tuple(part.__getstate__() for part in (backend.normalizer, backend.pre_tokenizer))
    except Exception:  # what `tokenizers` raises for a part that is written in Python
        return None
    added = backend.get_added_tokens_decoder()
    only_special = backend.encode_special_tokens and all(one.special for one in added.values())
    if parts != _khabars_parts() or not only_special:
        return None
    return len(tokenizer), repr(added)


@cache
def _khabars_parts() -> tuple[bytes, bytes]:
    normalizer, splitter = (part.__getstate__() for part in (cleaning(), splitting()))
    return normalizer, splitter


_cutters: WeakKeyDictionary[PreTrainedTokenizerFast, Cutter] = WeakKeyDictionary()

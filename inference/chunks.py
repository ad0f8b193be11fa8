"""Scores rows chunk by chunk, the same chunks whenever the rows are the same, and tells how far it has come.

Turns placed rows into chunks of results and bad rows. Knows a tagger by map_chunks; writes nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, Protocol, TypeVar

from khabar.inference.part import Done
from khabar.inference.planning import LOOK_AHEAD, LookAhead, in_chunks
from khabar.inference.results import TaggedArticle
from khabar.inference.sources import BadRow, PlacedRow
from khabar.models.article import Article
from khabar.models.errors import KhabarError

T = TypeVar("T")

MAX_CHARACTERS = 300_000  # tagging as many takes about 2 GB of memory


class ChunkTagger(Protocol):
    """Whatever tags lists of articles, each by itself, in order; khabar's Tagger is one."""

    @property
    def device(self) -> str:
        """Kind of device, by which rows are cut into chunks: `cpu` or `cuda`."""
        ...

    def map_chunks(
        self, function: Callable[[TaggedArticle], T], chunks: Iterable[Sequence[Article]], /
    ) -> Generator[list[T | KhabarError], None, None]:
        """Give a list for each list of articles: what the function makes of each result."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoredChunk(Generic[T]):
    """What came of some rows.

    Attributes:
        results: What was made of the results, in the rows' order.
        stories: For each, the id of the first article that tells the same story; None where nobody asked.
        bad_rows: The rows that could not be scored, in their order.
        done: All rows so far, these included; the lengths of files are not known here.
    """

    results: Sequence[T]
    stories: Sequence[str | None]
    bad_rows: Sequence[BadRow]
    done: Done


def score_chunks(
    tagger: ChunkTagger,
    function: Callable[[TaggedArticle], T],
    rows: Iterable[PlacedRow],
    *,
    done: Done,
    max_characters: int = MAX_CHARACTERS,
    group_duplicates: bool = False,
    strict: bool = False,
) -> Generator[ScoredChunk[T], None, None]:
    """Score rows, without those that are done.

    Args:
        tagger: Gives the results.
        function: What to make of each.
        rows: What `read_placed_rows` yields, from the first row on.
        done: How far an earlier run over the same rows has come; `Done()` for not at all.
        max_characters: Longest text; a longer one is a bad row.
        group_duplicates: Find the story each article tells.
        strict: Stop at the first bad row.

    Raises:
        KhabarError: At the first bad row, if `strict`; or if the rows are others than those that were done.
        MissingExtraError: If grouping needs a package that is not installed.
    """
    look_ahead = LOOK_AHEAD[tagger.device]
    cut = partial(cut_rows, look_ahead=look_ahead, max_characters=max_characters, strict=strict)
    reader = _Reader(done, cut, group_duplicates=group_duplicates, strict=strict)
    with closing(tagger.map_chunks(function, reader.articles(rows))) as tagged:
        for results in tagged:
            chunk = reader.scored(results)
            done = replace(
                chunk.done,
                n_articles=done.n_articles + len(chunk.results),
                n_bad_rows=done.n_bad_rows + len(chunk.bad_rows),
            )
            yield replace(chunk, done=done)


def cut_rows(
    rows: Iterable[PlacedRow], *, look_ahead: LookAhead, max_characters: int = MAX_CHARACTERS, strict: bool = False
) -> Iterator[list[PlacedRow]]:
    """Cut rows into the chunks they are scored in. Rows from where a chunk begins are cut in the same places.

    Args:
        rows: What `read_placed_rows` yields.
        look_ahead: How many together.
        max_characters: Longest text; a longer one becomes a bad row.
        strict: Stop at the first bad row.

    Raises:
        KhabarError: At the first bad row, if `strict`.
    """

    def checked() -> Iterator[PlacedRow]:
        for placed in rows:
            placed = _checked(placed, max_characters)
            if strict and isinstance(placed.row, BadRow):
                raise KhabarError(str(placed.row))
            yield placed

    return in_chunks(checked(), _n_characters, look_ahead)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A chunk of rows whose articles are on their way through the tagger."""

    rows: Sequence[PlacedRow]
    stories: Sequence[str | None]
    done: Done


class _Reader:
    """Reads rows into chunks and keeps what else belongs to each until its results are there."""

    def __init__(
        self,
        done: Done,
        cut: Callable[[Iterable[PlacedRow]], Iterator[list[PlacedRow]]],
        *,
        group_duplicates: bool,
        strict: bool,
    ) -> None:
        self._done = done
        self._cut = cut
        self._strict = strict
        self._stories = _Stories() if group_duplicates else None
        self._waiting: deque[_Read] = deque()

    def articles(self, rows: Iterable[PlacedRow]) -> Iterator[list[Article]]:
        """Give each chunk's articles, from the first row that is not done."""
        before, n_rows, digest = self._done, 0, ""
        for chunk in self._cut(rows):
            # Done rows are read again, as cheaply as can be: to see that they are the same, and for their stories.
            n_rows, digest = n_rows + len(chunk), _digest(digest, chunk)
            stories = [self._story(placed.row) for placed in chunk]
            if n_rows - len(chunk) < before.n_rows < n_rows:
                raise KhabarError(
                    f"the {before.n_rows:,} rows that were scored before end inside a chunk of this run: they were "
                    "cut otherwise, as for another kind of device; go on with that, or remove the part files"
                )
            if n_rows > before.n_rows:
                self._waiting.append(_Read(rows=chunk, stories=stories, done=Done(n_rows=n_rows, rows_digest=digest)))
                yield [placed.row for placed in chunk if isinstance(placed.row, Article)]
            elif n_rows == before.n_rows and digest != before.rows_digest:
                raise _other_rows(before)
        if n_rows < before.n_rows:
            raise _other_rows(before)

    def scored(self, results: Sequence[T | KhabarError]) -> ScoredChunk[T]:
        """Put the oldest waiting chunk together with its results."""
        read = self._waiting.popleft()
        tagged: list[tuple[T, str | None]] = []
        bad_rows: list[BadRow] = []
        left = iter(results)
        for placed, story in zip(read.rows, read.stories, strict=True):
            outcome = placed.row if isinstance(placed.row, BadRow) else next(left)
            if isinstance(outcome, KhabarError):
                outcome = BadRow(file=placed.file, line=placed.line, reason=str(outcome))
                if self._strict:
                    raise KhabarError(str(outcome))
            if isinstance(outcome, BadRow):
                bad_rows.append(outcome)
            else:
                tagged.append((outcome, story))
        return ScoredChunk(
            results=[result for result, _ in tagged],
            stories=[story for _, story in tagged],
            bad_rows=bad_rows,
            done=read.done,
        )

    def _story(self, row: Article | BadRow) -> str | None:
        # All that is read counts, also what the tagger then fails on: a resumed run does not know of that.
        return None if self._stories is None or isinstance(row, BadRow) else self._stories.of(row)


class _Stories:
    """Tells the story of each article by the id of the first that told it."""

    def __init__(self) -> None:
        from khabar.inference.duplicates import StoryGrouper

        self._grouper = StoryGrouper()
        self._first_ids: dict[int, str | None] = {}

    def of(self, article: Article) -> str | None:
        return self._first_ids.setdefault(self._grouper.add(article.text), article.id)


def _checked(placed: PlacedRow, max_characters: int) -> PlacedRow:
    """Make a bad row of a text that is too long."""
    if isinstance(placed.row, BadRow) or len(placed.row.text) <= max_characters:
        return placed
    reason = f"text has {len(placed.row.text):,} characters; allowed: at most {max_characters:,} (--max-characters)"
    return placed._replace(row=BadRow(file=placed.file, line=placed.line, reason=reason))


def _n_characters(placed: PlacedRow) -> int:
    return 0 if isinstance(placed.row, BadRow) else len(placed.row.text)


def _digest(before: str, rows: Iterable[PlacedRow]) -> str:
    """Digest rows behind those of a digest."""
    digest = hashlib.blake2b(before.encode(), digest_size=16)
    for placed in rows:
        text = ""
        if isinstance(placed.row, Article):  # whose text is as long as all else is short, and slow to represent
            text, placed = placed.row.text, placed._replace(row=replace(placed.row, text=""))
        digest.update(f"{placed!r}{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _other_rows(done: Done) -> KhabarError:
    return KhabarError(
        f"the first {done.n_rows:,} rows are not those that were scored before; give the same input, or remove "
        "the part files to start over"
    )

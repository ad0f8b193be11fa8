"""Reads column files of tagged tokens (CoNLL, BIO) as articles, one sentence an article.

Turns a token a line into text and character spans with the source's own labels. Knows nothing of the
model's labels; what the labels mean is a corpus's Annotation.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from khabar.models.article import Article, Entity
from khabar.models.article_reader import read_lines
from khabar.models.errors import MOST_KEPT, CorpusError, Problem
from khabar.models.messages import not_utf8, show
from khabar.training.convert.spacing import is_spacing, read_gaps, single_spaces

logger = logging.getLogger(__name__)

EVEN_SHARE = 0.99  # of lines; where more than that have as many columns, others may be slips
NESTED = "entities nested in another one, which is kept"

_TAG = re.compile(r"O|[BI]-\S+")
_BLANKS = re.compile(r"[ \t]+")
_SAYS_NOTHING = "_"
# Phrases of CoNLL-2000: a column of these, beside one of entities, is no layer of entities.
_PHRASES = frozenset(["ADJP", "ADVP", "CONJP", "INTJ", "LST", "NP", "PP", "PRT", "SBAR", "UCP", "VP"])


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    columns: list[str]


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What a file's columns are, besides the token in the first and a tag in the last."""

    is_nested: bool  # all after the first are tags, the outermost entity's first
    has_spacing: bool  # the second says what stands between the tokens
    width: int  # columns of most lines; where it is not nested, of all
    is_even: bool  # all but a few lines have as many


def iter_conll(
    path: str | Path,
    *,
    ignore: Collection[str] = (),
    gaps: Callable[[Sequence[str]], list[str]] = single_spaces,
    left_out: Counter[str] | None = None,
) -> Iterator[Article]:
    """Read a file of one token a line: token first, BIO tag last, blank line between sentences.

    Columns are separated by a tab or, on lines without a tab, by spaces. A sentence's text is its tokens with `gaps`
    between them, unless the second column says what stands there (see spacing.py), and its id is "file:line" of its
    first token. `I-X` that continues no X begins an entity, as in seqeval and conlleval.

    A file whose columns after the token are all tags, on most lines that have several, is nested: columns from the
    outermost entity inwards. Lines of a nested file may have more or fewer; if nearly all have as many, a warning says
    what they were taken for. Phrases (NP, VP, …) are no entities: their column is passed over. A token of a nested file
    counts for the outermost entity whose label is not in `ignore`, so that a name inside an ignored phrase is not lost.

    The file is read twice: what its columns are is known at its end.

    Args:
        path: The file, UTF-8.
        ignore: Labels that yield to an entity nested in them.
        gaps: Tokens to what stands before each and behind the last.
        left_out: Counts, under NESTED, the entities of a nested file that are not kept.

    Yields:
        A sentence at a time. Those around a wrong line are no use.

    Raises:
        CorpusError: After the last sentence, if a line has no tag, a tag is not O, B-X or I-X, or a line of a file that
            is not nested has other columns than most: its `problems` list all such lines (see MOST_KEPT).
        KhabarError: If the file cannot be read.
    """
    layout = _layout(_rows(path, _Problems(path)))
    if layout.is_nested and layout.is_even:
        logger.warning("%s: what stands in several columns is taken for entities in one another, outermost first", path)
    problems = _Problems(path)
    for sentence in _sentences(_rows(path, problems)):
        tokens, tags = [row.columns[0] for row in sentence], []
        for row in sentence:
            candidates = row.columns[1:] if layout.is_nested else row.columns[-1:]
            if not layout.is_nested and len(row.columns) != layout.width:
                n = len(row.columns)
                problems.add(row.line, f"{n} columns; allowed: {layout.width}, as on most lines of the file")
            else:
                for tag in candidates:
                    if not is_tag(tag):
                        message = f"the tag of {show(row.columns[0])} is {show(tag)}; allowed: O, B-LABEL, I-LABEL"
                        problems.add(row.line, message)
            tags.append(_outermost(candidates, ignore))
        if layout.is_nested and left_out is not None:
            left_out[NESTED] += _n_entities(sentence) - len(bio_spans(tags))
        between = read_gaps([row.columns[1] for row in sentence]) if layout.has_spacing else gaps(tokens)
        yield tagged_article(tokens, between, tags, f"{Path(path).name}:{sentence[0].line}")
    problems.raise_any()


def says_spacing(path: str | Path) -> bool:
    """Whether a file has a column that says what stands between its tokens.

    Raises:
        KhabarError: If it cannot be read.
    """
    return _layout(_rows(path, _Problems(path))).has_spacing


def bio_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Find the entities of a BIO sequence as half-open token spans with labels.

    `I-X` that continues no X begins an entity.

    Source: seqeval's default mode, which follows conlleval.
    """
    spans: list[tuple[int, int, str]] = []
    start, label = 0, ""
    for i, tag in enumerate([*tags, "O"]):
        if label and tag != f"I-{label}":
            spans.append((start, i, label))
            label = ""
        if not label and tag != "O":
            start, label = i, tag[2:]
    return spans


def tagged_article(tokens: Sequence[str], gaps: Sequence[str], tags: Sequence[str], name: str | None) -> Article:
    """Put tokens and the gaps around them together to a text, and BIO tags to entities of it.

    Args:
        tokens: The tokens.
        gaps: What stands before each token, and behind the last: one more than tokens.
        tags: A BIO tag for each token.
        name: The article's id.
    """
    text = gaps[0]
    spans: list[tuple[int, int]] = []
    for token, gap in zip(tokens, gaps[1:], strict=True):
        spans.append((len(text), len(text) + len(token)))
        text += token + gap
    entities = tuple(
        Entity(start=spans[first][0], end=spans[last - 1][1], label=label) for first, last, label in bio_spans(tags)
    )
    return Article(text=text, id=name, entities=entities)


def is_tag(tag: str) -> bool:
    """Whether a string is a BIO tag."""
    return _TAG.fullmatch(tag) is not None


class _Problems:
    """What is wrong with a file; beyond MOST_KEPT lines, how many more."""

    def __init__(self, path: str | Path) -> None:
        self._file = str(path)
        self._found: list[Problem] = []
        self._n_more = 0

    def add(self, line: int, message: str) -> None:
        if len(self._found) < MOST_KEPT:
            self._found.append(Problem(file=self._file, line=line, message=message))
        else:
            self._n_more += 1

    def raise_any(self) -> None:
        if self._found:
            # A line without a tag is seen before the sentence around it is.
            raise CorpusError(sorted(self._found, key=lambda problem: problem.line or 0), n_more=self._n_more)


def _rows(path: str | Path, problems: _Problems) -> Iterator[_Row]:
    """Split a file into rows; a row without columns is a blank line."""
    for number, raw in read_lines(path, keep_blank=True):
        try:
            line = raw.decode("utf-8").strip(" \t\r\n")
        except UnicodeDecodeError as error:
            problems.add(number, f"{not_utf8(error)} of the line")
            continue
        columns = [column.strip(" ") for column in line.split("\t")] if "\t" in line else _BLANKS.split(line)
        if columns[0] == "-DOCSTART-":
            continue
        if line and len(columns) < 2:
            problems.add(number, f"{show(line)} has no tag; allowed: a token and its tag, separated by a tab or spaces")
        else:
            yield _Row(line=number, columns=columns if line else [])


def _layout(rows: Iterable[_Row]) -> _Layout:
    widths: Counter[int] = Counter()
    labels: defaultdict[int, set[str]] = defaultdict(set)  # of each column but a line's last
    n_of_tags = 0  # lines with several columns after the token, all of them tags
    all_spacing, some_spacing = True, False
    for row in rows:
        if not row.columns:
            continue
        _, *rest = row.columns
        widths[len(row.columns)] += 1
        if len(rest) > 1 and all(map(is_tag, rest)):
            n_of_tags += 1
            for place, tag in enumerate(rest[:-1]):
                labels[place] |= {tag[2:]} - {""}
        all_spacing = all_spacing and len(rest) > 1 and is_spacing(rest[0])
        some_spacing = some_spacing or rest[0] != _SAYS_NOTHING
    n_several = sum(n for width, n in widths.items() if width > 2)
    has_phrases = any(found and found <= _PHRASES for found in labels.values())
    return _Layout(
        is_nested=not all_spacing and not has_phrases and 2 * n_of_tags > n_several,
        has_spacing=all_spacing and some_spacing,
        width=max(widths, key=lambda width: widths[width], default=0),
        is_even=max(widths.values(), default=0) > EVEN_SHARE * widths.total(),
    )


def _sentences(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    sentence: list[_Row] = []
    for row in rows:
        if row.columns:
            sentence.append(row)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _outermost(tags: Sequence[str], ignore: Collection[str]) -> str:
    entities = [tag for tag in tags if tag != "O"]
    kept = [tag for tag in entities if tag[2:] not in ignore]
    return next(iter(kept or entities), "O")


def _n_entities(sentence: Sequence[_Row]) -> int:
    """Count a nested sentence's entities over all its columns, each row having as many as it has tags."""
    depth = max(len(row.columns) for row in sentence)
    padded = [[*row.columns[1:], *["O"] * (depth - len(row.columns))] for row in sentence]
    return sum(len(bio_spans(tags)) for tags in zip(*padded, strict=True))

"""Reads a file of articles, JSON Lines in UTF-8, strictly: all articles, or an error listing every problem.

Knows the file's lines and their JSON; what an article may hold is article.py's matter.
"""

import codecs
import json
import os
import stat
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from khabar.models.article import Article, parse_article
from khabar.models.errors import MOST_KEPT, CorpusError, KhabarError, Problem
from khabar.models.messages import not_utf8, show

UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
HEAD_BYTES = 4096  # of a file, by which its kind is known
# Arabic in Windows-1256 is nearly all Arabic where it is not ASCII; ISO 8859-6 or broken UTF-8, read as that, is not.
_CP1256_CHARACTERS, _CP1256_SHARE = 20, 0.9


def read_articles(path: str | Path) -> list[Article]:
    """Read every article of a JSON Lines file, as `iter_articles` does, into a list."""
    return list(iter_articles(path))


def iter_articles(path: str | Path) -> Iterator[Article]:
    """Read a JSON Lines file one article at a time, as `iter_numbered_articles` does, without the numbers."""
    return (article for _, article in iter_numbered_articles(path))


def iter_numbered_articles(path: str | Path) -> Iterator[tuple[int, Article]]:
    """Read a JSON Lines file one article at a time; what is wrong with it is raised at its end.

    Blank lines are skipped, and so is a byte order mark before the first line. Beside the article, an id takes 16
    bytes of memory; a file with repeated ids is read a second time.

    Args:
        path: The file.

    Yields:
        The articles that nothing is wrong with by themselves, each with its line, counted from 1.

    Raises:
        CorpusError: After the last article, if any line is not an article or an id stands twice: its `problems`
            hold all that is wrong in the file (see MOST_KEPT).
        KhabarError: If the file cannot be read at all.
    """
    problems: list[Problem] = []
    n_more = 0
    ids = _Ids()
    for number, line in read_lines(path):
        row, messages = None, []
        try:
            row = parse_json(line)
        except ValueError as error:
            messages.append(str(error))
        else:
            article, messages = parse_article(row)
            if article is not None:
                yield number, article
        # An id is compared even when its article is wrong elsewhere: one reading shows all.
        if (name := _id_of(row)) is not None:
            ids.add(name, number)
        room = MOST_KEPT - len(problems)
        problems += [Problem(file=str(path), line=number, message=message) for message in messages[:room]]
        n_more += len(messages[room:])
    repeats, n_more_repeats = ids.repeats(path)
    if problems or repeats:
        in_order = sorted([*problems, *repeats], key=attrgetter("line"))
        raise CorpusError(in_order, n_more=n_more + n_more_repeats)


def read_lines(path: str | Path, *, keep_blank: bool = False) -> Iterator[tuple[int, bytes]]:
    """Read a UTF-8 file's lines with their numbers, counted from 1; a byte order mark is left out.

    Args:
        path: The file.
        keep_blank: Whether to give blank lines too, where they mean something; where not, the file is JSON Lines.

    Raises:
        KhabarError: If there is no such file, or it is no plain file, cannot be read, is in another encoding as
            a whole, or is one JSON list where it should be JSON Lines.
    """
    with open_plain(path) as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        refuse_encoding(path, head)
        if not keep_blank:
            refuse_list(path, head)
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if keep_blank or line.strip():
                yield number, line.removesuffix(b"\n")


def other_encoding(head: bytes) -> str | None:
    """Say by a file's first bytes which encoding other than UTF-8 it seems to be in; None where they show none."""
    if head.startswith(UTF16_BOMS):
        return "in UTF-16; allowed: UTF-8"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # which may end in the midst of a character
    except UnicodeDecodeError:
        characters = [character for character in head.decode("cp1256") if not character.isascii()]
        n_arabic = sum("\u0600" <= character <= "\u06ff" for character in characters)
        if len(characters) >= _CP1256_CHARACTERS and n_arabic >= _CP1256_SHARE * len(characters):
            return "not in UTF-8 and looks like Windows-1256; allowed: UTF-8 (iconv -f cp1256 -t utf-8)"
    return None


def refuse_encoding(name: str | Path, head: bytes) -> None:
    """Refuse a file that is in another encoding as a whole: each of its lines would be an error of its own.

    Args:
        name: The file, for the message.
        head: Its first bytes.

    Raises:
        KhabarError: If they show another encoding than UTF-8.
    """
    if found := other_encoding(head):
        raise KhabarError(f"{name} is {found}")


def refuse_list(name: str | Path, head: bytes) -> None:
    """Refuse a file that is one JSON list where lines are read: each line would be an error of its own.

    Args:
        name: The file, for the message.
        head: Its first bytes.

    Raises:
        KhabarError: If they begin a list.
    """
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        raise KhabarError(
            f"{name} is one JSON list; allowed: JSON Lines, one article as an object a line, which "
            "`khabar data convert` makes of other formats"
        )


@contextmanager
def open_plain(path: str | Path) -> Iterator[BinaryIO]:
    """Open a corpus file to read it; one that can be read again from its start.

    Raises:
        KhabarError: If there is no such file, or it is no plain file or cannot be read; the message names it.
    """
    try:
        with Path(path).open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                allowed = "a file on disk, for a corpus is read more than once"
                raise KhabarError(f"{path} is no plain file; allowed: {allowed}")
            yield stream
    except FileNotFoundError:
        raise KhabarError(f"{path}: no such file") from None
    except OSError as error:
        raise KhabarError(f"{path} cannot be read: {error.strerror}") from None


def read_bytes(path: str | Path) -> bytes:
    """Read a corpus file whole.

    Raises:
        KhabarError: As `open_plain` does.
    """
    with open_plain(path) as stream:
        return stream.read()


def parse_json(line: bytes) -> object:
    """Read one line as strict JSON.

    Stricter than the standard library, which takes NaN and lets the last of two equal keys win.

    Raises:
        ValueError: With a one-line reason, if the line is not UTF-8 or not JSON.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{not_utf8(error)} of the line") from None
    try:
        return json.loads(
            text.rstrip("\r\n"), parse_constant=_refuse_constant, parse_int=read_int, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        seen = show(text[error.pos : error.pos + 20]) if error.pos < len(text.rstrip()) else "the line's end"
        raise ValueError(f"not JSON: {error.msg} at column {error.pos + 1}, at {seen}") from None
    except RecursionError:
        raise ValueError("not an article: JSON nested too deep") from None


def read_int(digits: str) -> int:
    """Read a JSON number without a fraction.

    Raises:
        ValueError: If it is longer than Python takes.
    """
    try:
        return int(digits)
    except ValueError:
        raise ValueError(f"not JSON that can be used: a number of {len(digits):,} digits") from None


class _Ids:
    """The ids of a file's articles, as 8 bytes of hash and a line number each."""

    def __init__(self) -> None:
        self._hashes, self._lines = array("q"), array("q")

    def add(self, name: str, line: int) -> None:
        self._hashes.append(hash(name))
        self._lines.append(line)

    def repeats(self, path: str | Path) -> tuple[list[Problem], int]:
        """Name the lines whose id an earlier line has; and count those beyond MOST_KEPT, by their hashes."""
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]) + 1
        if not len(again):
            return [], 0
        # In the order of the file; a hash is no proof, so the ids themselves are compared.
        later = np.sort(order[again])
        alike = np.isin(hashes, hashes[later[:MOST_KEPT]])
        suspects = set(np.frombuffer(self._lines, dtype=np.int64)[alike].tolist())
        first_line: dict[str, int] = {}
        problems: list[Problem] = []
        for number, line in read_lines(path):
            if number in suspects and len(problems) < MOST_KEPT:
                name = _id_of(parse_json(line))
                if name is not None and (first := first_line.setdefault(name, number)) != number:
                    message = f"id is {show(name)}, the id of line {first} too; allowed: each id once"
                    problems.append(Problem(file=str(path), line=number, message=message))
        return problems, max(len(later) - MOST_KEPT, 0)


def _id_of(row: object) -> str | None:
    name = row.get("id") if isinstance(row, dict) else None
    return name if isinstance(name, str) else None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"not JSON: {name}; allowed: JSON's own numbers, true, false, null")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = sorted(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"key {', '.join(map(show, twice))} stands twice in one object; allowed: once")
    return row

"""The errors a user of khabar can meet: each message names the place, the value seen and what is allowed.

Knows nothing of files or models; the command line prints these as ``error: …`` and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MOST_SHOWN = 50  # problems in a message
MOST_KEPT = 10_000  # problems of a file that are kept; the rest are counted, so that memory stays bounded


class KhabarError(ValueError):
    """Something the user gave cannot be used as it is; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with one place of an input file.

    Attributes:
        file: Path of the file, as the user wrote it.
        line: Line number counted from 1, or None when the whole file is meant.
        message: What was seen and what is allowed.
    """

    file: str
    line: int | None = None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


class CorpusError(KhabarError):
    """A corpus has problems; all of them are listed, not only the first.

    Attributes:
        problems: Every problem found, in the order of the file; the message shows the first MOST_SHOWN.
        n_more: How many further ones were found and not kept.
    """

    def __init__(self, problems: Iterable[Problem], *, n_more: int = 0) -> None:
        self.problems = list(problems)
        self.n_more = n_more
        shown = [str(problem) for problem in self.problems[:MOST_SHOWN]]
        n_hidden = len(self.problems) - len(shown) + n_more
        if n_hidden:
            shown.append(f"… and {n_hidden:,} more problems")
        super().__init__("\n".join(shown))


class ModelFolderError(KhabarError):
    """A model folder or id cannot be loaded: missing, incomplete, damaged, or of another kind."""


class DeviceError(KhabarError):
    """The device asked for is not there."""


class MissingExtraError(KhabarError):
    """An optional part of khabar is not installed.

    Args:
        extra: Name of the extra, such as ``train``.
        needed_for: What the user wanted to do, as the sentence's subject: "training a model".
    """

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(f"{needed_for} needs an optional part of khabar: pip install 'khabar[{extra}]'")

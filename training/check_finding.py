"""What a check of labelled articles can find: the kinds of findings, how grave each is, and a finding's place.

Knows nothing of how anything is found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from khabar.models.article import Article
from khabar.models.messages import show

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

# An error cannot be read; a warning is nearly always a mistake; a note is worth a look.
KINDS: Mapping[str, tuple[Severity, str]] = {
    "format": ("error", "not an article, or offsets or ids that cannot be"),
    "blank-text": ("warning", "a text without a letter"),
    "mojibake": ("warning", "a text read in the wrong encoding"),
    "not-arabic": ("warning", "a text mostly in other letters than Arabic"),
    "span-space": ("warning", "an entity with spaces at its ends"),
    "span-punctuation": ("warning", "an entity with punctuation at its ends"),
    "span-word": ("warning", "an entity that starts or ends inside a word, other than after joined و ف ب ل ك"),
    "segment-word": ("warning", "a segment that starts or ends inside a word"),
    "conflict": ("warning", "equal texts with different labels"),
    "leak": ("warning", "a text that stands, or nearly so, in another file too"),
    "id-reused": ("warning", "one id for different texts of two files"),
    "name-labels": ("warning", "a name that nearly always has another label"),
    "label-spelling": ("warning", "a label that is spelt like another, or like several"),
    "rare-label": ("warning", "a label on one or two examples"),
    "near-conflict": ("note", "texts that are nearly equal with different topics"),
    "duplicate": ("note", "a text that stands, or nearly so, earlier in its file"),
    "name-split": ("note", "a name that has several labels"),
    "few-examples": ("note", "a label with too few examples to be learned or measured well"),
    "date": ("note", "a date that cannot be read"),
    "not-compared": ("note", "duplicates and leaks were not looked for"),
}


@dataclass(frozen=True, kw_only=True)
class PlacedArticle:
    """An article and the file and line where it stands."""

    file: str
    line: int
    article: Article

    def __str__(self) -> str:
        name = "" if self.article.id is None else f" ({self.article.id})"
        return f"{self.file}:{self.line}{name}"

    def finding(self, kind: str, message: str, span: tuple[int, int] | None = None) -> "Finding":
        """Report something of this article."""
        return Finding(kind=kind, message=message, file=self.file, line=self.line, id=self.article.id, span=span)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to put right or to look at.

    Attributes:
        kind: One of KINDS.
        message: What was seen, and what is allowed or how to put it right.
        file: The file; None where it is about several.
        line: Line there, from 1; None where the whole file is meant.
        id: The article's id, where it has one.
        span: Half-open offsets into the article's text, where it is about a stretch of it.
    """

    kind: str
    message: str
    file: str | None = None
    line: int | None = None
    id: str | None = None
    span: tuple[int, int] | None = None

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return KINDS[self.kind][0]

    @property
    def place(self) -> str:
        """File, line, article and offsets, as far as they are known."""
        place = "" if self.file is None else self.file if self.line is None else f"{self.file}:{self.line}"
        article = [] if self.id is None else [f"article {show(self.id)}"]
        span = [] if self.span is None else [f"{self.span[0]} to {self.span[1]}"]
        return ": ".join(part for part in (place, ", ".join([*article, *span])) if part)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.severity, self.place, self.message) if part) + f" [{self.kind}]"

"""Writes what a check found as one HTML page: the counts, the problems, and the articles with their labels.

Turns Checked and Summary into a file that needs nothing else, and no script. Judges nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from khabar.inference.sinks import check_output, whole_file
from khabar.models.article import Article, Segment
from khabar.models.words import Span
from khabar.training.check import Checked
from khabar.training.check_corpus import topics_of
from khabar.training.check_finding import KINDS, SEVERITIES, Finding, PlacedArticle, Severity
from khabar.training.check_summary import Summary
from khabar.training.page import template

MOST_SHOWN = 500  # articles: a browser lays out so many in a second or two
N_COLOURS = 8


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of text that is all of one entity or none, and all of one finding or none.

    Attributes:
        label: The entity's label.
        closes: Whether the entity ends here.
        severity: That of the gravest finding about it.
    """

    text: str
    label: str | None = None
    closes: bool = False
    severity: Severity | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """A segment of an article, or what stands between two, with `topics` None."""

    topics: Sequence[str] | None
    pieces: Sequence[Piece]


def write_page(checked: Checked, summary: Summary, path: str | Path) -> None:
    """Write the page; it appears whole.

    Raises:
        KhabarError: If it cannot be written there, or is no .html, as no file of articles is.
    """
    check_output(path, ending=".html")
    content = render_check(checked, summary)
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8")


def render_check(checked: Checked, summary: Summary, *, most: int = MOST_SHOWN) -> str:
    """Lay it out, articles with the gravest findings first, and of all no more than `most`."""
    of_article: dict[tuple[str, int], list[Finding]] = {(placed.file, placed.line): [] for placed in checked.articles}
    general: list[Finding] = []
    for finding in checked.findings:  # the gravest first
        own = of_article.get((finding.file or "", finding.line or 0))
        (general if own is None else own).append(finding)
    cards = [(placed, of_article[placed.file, placed.line]) for placed in checked.articles]
    cards.sort(key=lambda card: SEVERITIES.index(card[1][0].severity) if card[1] else len(SEVERITIES))
    shown = [_card(placed, findings) for placed, findings in cards[:most]]
    topics, entities = ({label for card in shown for label in card[kind]} for kind in ("topics", "entities"))
    return template("check.html.j2").render(
        files=checked.files,
        totals=checked.totals(),
        kinds=_kinds(checked.findings),
        summary=summary,
        general=general,
        cards=shown,
        n_hidden=len(cards) - len(shown),
        n_with_findings=sum(bool(card["findings"]) for card in shown),
        shown_kinds=Counter(kind for card in shown for kind in card["kinds"]),
        # A label's place in these lists is its name in the page's classes, and an entity's gives its colour.
        topics=sorted(topics),
        entities=sorted(entities),
        n_colours=N_COLOURS,
    )


def blocks(article: Article, findings: Iterable[Finding] = ()) -> list[Block]:
    """Cut a text into its segments and what stands between them, and those where entities and findings start and end.

    All pieces together are the text, but for blank stretches between segments.
    """
    made: list[Block] = []
    segments = list(article.segments or ())
    edges = [0, *(edge for part in segments for edge in (part.start, part.end)), len(article.text)]
    own = {(part.start, part.end): part for part in segments}
    spans = [(finding.span, finding.severity) for finding in findings if finding.span is not None]
    for start, end in pairwise(edges):
        part: Segment | None = own.get((start, end))
        if part is not None or article.text[start:end].strip():
            topics = None if part is None else part.topics
            made.append(Block(topics=topics, pieces=_pieces(article, spans, start, end)))
    return made


def _pieces(article: Article, findings: Sequence[tuple[Span, Severity]], start: int, end: int) -> list[Piece]:
    entities = [entity for entity in article.entities or () if entity.start < end and entity.end > start]
    spans = [(entity.start, entity.end) for entity in entities] + [span for span, _ in findings]
    edges = sorted({start, end, *(edge for span in spans for edge in span if start < edge < end)})
    pieces = []
    for first, last in pairwise(edges):
        entity = next((entity for entity in entities if entity.start <= first < entity.end), None)
        severities = [severity for span, severity in findings if span[0] <= first < span[1]]
        pieces.append(
            Piece(
                text=article.text[first:last],
                label=None if entity is None else entity.label,
                closes=entity is not None and entity.end == last,
                severity=min(severities, key=SEVERITIES.index, default=None),
            )
        )
    return pieces


def _card(placed: PlacedArticle, findings: Sequence[Finding]) -> dict[str, Any]:
    article = placed.article
    return {
        "placed": placed,
        "findings": findings,
        "kinds": {finding.kind for finding in findings},
        "topics": topics_of(article) or set(),
        "entities": {entity.label for entity in article.entities or ()},
        "blocks": blocks(article, findings),
    }


def _kinds(findings: Iterable[Finding]) -> list[tuple[str, Severity, str, int]]:
    """Kind, severity, meaning and number of the kinds that were found, the gravest first."""
    counts = Counter(finding.kind for finding in findings)
    return [(kind, severity, what, counts[kind]) for kind, (severity, what) in KINDS.items() if counts[kind]]

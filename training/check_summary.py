"""Sums up files of labelled articles: articles, lengths, labels, sources and dates.

Turns articles into a table of counts, a column a file, and remarks. Judges nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from khabar.training.check_corpus import topics_of
from khabar.training.check_finding import PlacedArticle
from khabar.training.dates import day_of
from khabar.training.figures import text_table

MOST_COLUMNS = 6  # of more files only the sum is shown
_SOURCES_SHOWN = 8
_P95 = 95


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What files hold.

    Attributes:
        columns: The files, and "all" where there are several.
        rows: Name and a count for each column.
        remarks: Sentences on sources and dates.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[int]]]
    remarks: Sequence[str]

    def __str__(self) -> str:
        header = ["", *(f"{column:>9}" for column in self.columns)]  # room for 9,999,999
        rows = [[name, *(f"{n:,}" for n in counts)] for name, counts in self.rows]
        return "\n".join([*text_table([header, *rows]), *self.remarks])


def summarise(files: Sequence[str], articles: Sequence[PlacedArticle]) -> Summary:
    """Count what the articles of files hold, the commonest labels first.

    A topic is counted by articles, of which the article as a whole or a segment has it, and by segments; an entity
    label by entities. Words are what spaces part.
    """
    columns = {file: [placed for placed in articles if placed.file == file] for file in files}
    if len(files) > 1:
        columns = (columns if len(files) <= MOST_COLUMNS else {}) | {"all": list(articles)}
    counted = [_count(of_file) for of_file in columns.values()]
    total = _count(articles)
    # In the order of the kinds; labels, which are those with a count of all, by how common they are.
    rows = [(name, [counts[name] for counts in counted]) for name in total]
    names = [Path(column).name for column in columns]
    short = names if len(set(names)) == len(names) else list(columns)
    return Summary(columns=short, rows=rows, remarks=[*_sources(articles), *_dates(articles)])


def _count(articles: Sequence[PlacedArticle]) -> Counter[str]:
    texts = [placed.article for placed in articles]
    lengths = [len(article.text.split()) for article in texts]
    segments = [part.topics for article in texts for part in article.segments or () if part.topics is not None]
    topics = [found for article in texts if (found := topics_of(article)) is not None]
    named = [article.entities for article in texts if article.entities is not None]
    counts: Counter[str] = Counter()
    counts["articles"] = len(texts)
    counts["characters"] = sum(len(article.text) for article in texts)
    low, median, p95, high = np.percentile(lengths, [0, 50, _P95, 100]).astype(int).tolist() if lengths else [0] * 4
    counts.update({"words, least": low, "words, median": median, "words, 95th percentile": p95, "words, most": high})
    counts["articles with topics annotated"] = len(topics)
    _add_labels(counts, "  topic", (label for found in topics for label in found))
    counts["segments with topics annotated"] = len(segments)
    _add_labels(counts, "  in segments,", (label for found in segments for label in found))
    counts["articles with entities annotated"] = len(named)
    _add_labels(counts, "  entity", (entity.label for found in named for entity in found))
    return counts


def _add_labels(counts: Counter[str], kind: str, labels: Iterable[str]) -> None:
    for label, n in Counter(sorted(labels)).most_common():
        counts[f"{kind} {label}"] = n


def _sources(articles: Iterable[PlacedArticle]) -> list[str]:
    sources = Counter(placed.article.source for placed in articles)
    without = sources.pop(None, 0)
    if not sources:
        return []
    shown = [f"{name} {n:,}" for name, n in sources.most_common(_SOURCES_SHOWN)]
    more = [f"{len(sources) - len(shown):,} more sources"] if len(sources) > len(shown) else []
    return [f"sources: {', '.join([*shown, *more])}" + (f"; none given {without:,}" if without else "")]


def _dates(articles: Sequence[PlacedArticle]) -> list[str]:
    dates = [placed.article.date for placed in articles]
    days = [day for date in dates if date is not None and (day := day_of(date)) is not None]
    if not days:
        return []
    without = len(dates) - len(days)
    return [f"dates: {min(days)} to {max(days)}" + (f"; none, or not readable, {without:,}" if without else "")]

"""`khabar data`: looks at labelled articles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Annotated

import typer

from khabar.cli_common import one_line_errors

if TYPE_CHECKING:
    from khabar.models.article import Article


@one_line_errors
def check(
    files: Annotated[list[str], typer.Argument(help="Files of articles, JSON Lines.")],
) -> None:
    """Check files of articles: list everything that is wrong (exit code 2), or count what they hold."""
    from khabar.models.article_reader import read_articles
    from khabar.models.errors import CorpusError, KhabarError, Problem

    problems: list[Problem] = []
    checked: dict[str, list[Article]] = {}
    for file in files:
        try:
            articles = read_articles(file)
        except CorpusError as error:
            problems += error.problems
        except KhabarError as error:
            problems.append(Problem(file=file, message=str(error).removeprefix(f"{file}: ")))
        else:
            typer.echo(_summary(file, articles))
            checked[file] = articles
    if problems:
        raise CorpusError(problems)
    for note in _leaks(checked):
        typer.echo(note)


def _leaks(checked: dict[str, list[Article]]) -> Iterator[str]:
    """Say which articles of one file stand in another too, where that can be found out."""
    if len(checked) < 2:
        return
    from khabar.models.errors import MissingExtraError

    try:
        from khabar.training.leaks import describe_leaks, find_leaks

        for (train, train_articles), (dev, dev_articles) in combinations(checked.items(), 2):
            if leaks := find_leaks(train_articles, dev_articles):
                yield f"note: {describe_leaks(leaks, train, dev)}"
    except MissingExtraError as error:
        yield f"note: {error}"


def _summary(file: str, articles: list[Article]) -> str:
    lines = [f"{file}: {len(articles):,} articles, {sum(len(a.text) for a in articles):,} characters"]
    segments = [segment for article in articles for segment in article.segments or ()]
    annotated = [article for article in articles if article.topics is not None]
    lines += _counts(f"topics of {len(annotated):,} articles", (topic for a in annotated for topic in a.topics or ()))
    labelled = [segment for segment in segments if segment.topics is not None]
    lines += _counts(f"topics of {len(labelled):,} segments", (topic for s in labelled for topic in s.topics or ()))
    named = [article for article in articles if article.entities is not None]
    lines += _counts(
        f"entities of {len(named):,} articles", (entity.label for a in named for entity in a.entities or ())
    )
    return "\n".join(lines)


def _counts(title: str, labels: Iterable[str]) -> list[str]:
    counts = Counter(labels).most_common()
    return [f"  {title}: {', '.join(f'{label} {n:,}' for label, n in counts) or 'none'}"]

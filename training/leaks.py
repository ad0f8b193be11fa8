"""Finds articles of train that stand, reprinted, in dev: what is learned by heart there looks like skill.

Turns two collections of articles into pairs of near-duplicates, and tells a file that a model was trained on. Holds
dev's alone; reads train once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from khabar.inference.duplicates import TextIndex, shingles_of
from khabar.models.article import Article
from khabar.models.errors import MissingExtraError
from khabar.models.folder import named_folder
from khabar.training.corpora import Corpus
from khabar.training.provenance import sha256_of

logger = logging.getLogger(__name__)

# Of a larger corpus so many articles are looked at, half a minute's work; leaks come in numbers.
MOST_COMPARED = 50_000
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Leak:
    """An article of train and its near-duplicate in dev, by their ids, or "article 17" where they have none."""

    train: str
    dev: str


def find_leaks(
    train_articles: Iterable[Article], dev_articles: Iterable[Article], *, most: int = MOST_COMPARED
) -> list[Leak]:
    """Find the near-duplicates between two corpora.

    Args:
        train_articles: Read once, one at a time, and no further than `most`.
        dev_articles: The same; in memory they take about 10 KB each.
        most: How many articles of each are compared.

    Returns:
        Every pair, in the order of train. Several articles of train may leak into the same one of dev.

    Raises:
        MissingExtraError: If the package that finds candidates is not installed.
    """
    index = TextIndex("looking for leaks")
    names: list[str] = []
    copies: dict[int, list[int]] = {}
    for number, article in enumerate(islice(dev_articles, most)):
        shingles = shingles_of(article.text)
        names.append(_name(article, number))
        copies.setdefault(index.add(number, shingles), []).append(number)
    leaks: list[Leak] = []
    if not names:
        return leaks
    for number, article in enumerate(islice(train_articles, most)):
        shingles = shingles_of(article.text)
        for first in index.near(shingles):
            leaks += [Leak(train=_name(article, number), dev=names[other]) for other in copies[first]]
    return leaks


def warn_of_leaks(train_articles: Iterable[Article], dev_articles: Iterable[Article]) -> None:
    """Log a warning if articles of train are in dev, with their number and the first few pairs."""
    try:
        leaks = find_leaks(train_articles, dev_articles)
    except MissingExtraError as error:
        logger.info("%s", error)
        return
    if leaks:
        logger.warning("%s", describe_leaks(leaks, "train", "dev"))


def describe_leaks(leaks: list[Leak], train: str, dev: str) -> str:
    """Word leaks between two named corpora in a line."""
    pairs = ", ".join(f"{leak.train} = {leak.dev}" for leak in leaks[:_SHOWN])
    more = ", …" if len(leaks) > _SHOWN else ""
    n_dev = len({leak.dev for leak in leaks})
    leaked = f"1 article of {dev} has" if n_dev == 1 else f"{n_dev:,} articles of {dev} have"
    return (
        f"{leaked} near-duplicates in {train}: {pairs}{more}; "
        "measures on them flatter the model (khabar data split keeps such articles together)"
    )


def warn_of_training_files(model: str, corpora: Iterable[Corpus]) -> None:
    """Log a warning for each file that a model was trained on, as its metrics.json tells by their digests.

    Args:
        model: A folder, or `embedded`. Of a model on a hub, an exported one, and what the model that another was grown
            from was trained on, it is not known.
        corpora: What the model is to be measured on, or calibrated to.
    """
    try:
        metrics = json.loads((Path(named_folder(model)) / "metrics.json").read_text(encoding="utf-8"))
        trained_on = {source["sha256"] for source in metrics["data"]["train"]}
    except (OSError, ValueError, LookupError, TypeError):  # not a model of khabar's own training
        return
    for corpus in corpora:
        if sha256_of(Path(corpus.name)) in trained_on:
            logger.warning("%s was trained on %s: what is measured on it flatters the model", model, corpus.name)


def _name(article: Article, number: int) -> str:
    return f"article {number + 1}" if article.id is None else article.id

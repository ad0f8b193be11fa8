"""Writes results as a flat table for a spreadsheet: a row an article, a column a topic and an entity label.

Offsets, segments and the probabilities of names are left out: the other formats hold them.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SEPARATOR = "; "
# A spreadsheet takes a cell that begins like this for a formula, and runs it.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
_LONGEST_CELL = 32_767  # characters; Excel breaks longer ones


def write_csv(articles: Iterable[dict[str, Any]], path: Path) -> None:
    """Write results in UTF-8 with a byte order mark, without which Excel shows Arabic as noise.

    Args:
        articles: Objects as `TaggedArticle.to_json` gives them. They are gone through twice: the columns
            depend on the labels they hold.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    topics: dict[str, None] = {}  # in the model's order
    labels: set[str] = set()
    for article in articles:
        topics.update(dict.fromkeys(article["topic_scores"]))
        labels.update(entity["label"] for entity in article["entities"])
    entity_labels = sorted(labels)
    header = [
        *("id", "story", "topics", "uncertain"),
        *(f"score_{topic}" for topic in topics),
        "n_entities",
        *(f"entities_{label}" for label in entity_labels),
        *("characters", "characters_read", "model"),
    ]
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(_row(article, topics, entity_labels) for article in articles)


def _row(article: dict[str, Any], topics: Iterable[str], entity_labels: Iterable[str]) -> list[object]:
    names: dict[str, dict[str, None]] = {label: {} for label in entity_labels}
    for entity in article["entities"]:
        names[entity["label"]][" ".join(entity["text"].split())] = None
    return [
        _cell([article["id"] or ""]),
        _cell([article.get("story") or ""]),
        _cell(topic["label"] for topic in article["topics"]),
        _cell(article.get("uncertain") or ()),
        *(article["topic_scores"].get(topic) for topic in topics),
        len(article["entities"]),
        *map(_cell, names.values()),
        article["characters"],
        article["characters_read"],
        _cell([article["model"]]),
    ]


def _cell(values: Iterable[str]) -> str:
    """Join values to a cell that no spreadsheet runs, and that none breaks for its length."""
    safe = [f"'{value}" if value.startswith(_FORMULA_STARTS) else value for value in values]
    cell = SEPARATOR.join(safe)
    if len(cell) > _LONGEST_CELL:
        cell = cell[: _LONGEST_CELL - 1].rsplit(SEPARATOR, 1)[0] + "…"
    return cell

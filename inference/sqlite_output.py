"""Writes results as an SQLite database: tables of articles, topics, segments and entities, joined by row numbers.

A row number, not the id, is an article's key: users' ids may repeat or be missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

# Tables are made before the rows, indexes after them: one sort each instead of an insertion a row.
_TABLES = """
CREATE TABLE articles (
    article INTEGER PRIMARY KEY,  -- number of the result, from 1
    id TEXT,
    story TEXT,
    characters INTEGER NOT NULL,
    characters_read INTEGER NOT NULL,
    model TEXT NOT NULL
);
CREATE TABLE topics (  -- what articles report
    article INTEGER NOT NULL REFERENCES articles,
    label TEXT NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (article, label)
) WITHOUT ROWID;
CREATE TABLE topic_scores (  -- the probability of every topic, reported or not
    article INTEGER NOT NULL REFERENCES articles,
    label TEXT NOT NULL,
    score REAL NOT NULL,
    uncertain INTEGER NOT NULL CHECK (uncertain IN (0, 1)),
    PRIMARY KEY (article, label)
) WITHOUT ROWID;
CREATE TABLE segments (
    article INTEGER NOT NULL REFERENCES articles,
    segment INTEGER NOT NULL,  -- from 0
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    PRIMARY KEY (article, segment)
) WITHOUT ROWID;
CREATE TABLE segment_topics (  -- which segments show a topic
    article INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    label TEXT NOT NULL,
    PRIMARY KEY (article, segment, label),
    FOREIGN KEY (article, segment) REFERENCES segments
) WITHOUT ROWID;
CREATE TABLE entities (
    entity INTEGER PRIMARY KEY,
    article INTEGER NOT NULL REFERENCES articles,
    label TEXT NOT NULL,
    start INTEGER NOT NULL,
    end INTEGER NOT NULL,
    text TEXT NOT NULL,
    score REAL NOT NULL
);
"""
_INDEXES = """
CREATE INDEX articles_id ON articles (id);
CREATE INDEX articles_story ON articles (story) WHERE story IS NOT NULL;
CREATE INDEX topics_label ON topics (label);
CREATE INDEX segment_topics_label ON segment_topics (label);
CREATE INDEX entities_article ON entities (article);
CREATE INDEX entities_text ON entities (text, label);
CREATE INDEX entities_label ON entities (label);
"""
_ROWS_AT_ONCE = 20_000


def write_sqlite(articles: Iterable[dict[str, Any]], path: Path) -> None:
    """Write results into a new database, all rows in one transaction.

    Args:
        articles: Objects as `TaggedArticle.to_json` gives them.
        path: The file; one that is there is replaced.

    Raises:
        OSError: If it cannot be written.
    """
    path.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            # Nothing reads the file before it is whole, and one that is not is thrown away.
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.executescript(_TABLES)
            database.execute("BEGIN")
            for statement, rows in _batches(articles):
                database.executemany(statement, rows)
            database.execute("COMMIT")
            database.executescript(_INDEXES)
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


def _batches(articles: Iterable[dict[str, Any]]) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """Statements, each with as many rows as are held at once."""
    tables: dict[str, list[tuple[object, ...]]] = {}
    n_rows = 0
    for number, article in enumerate(articles, start=1):
        for table, row in _rows(number, article):
            tables.setdefault(table, []).append(row)
            n_rows += 1
        if n_rows >= _ROWS_AT_ONCE:
            yield from _insertions(tables)
            tables, n_rows = {}, 0
    yield from _insertions(tables)


def _insertions(tables: dict[str, list[tuple[object, ...]]]) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    for table, rows in tables.items():
        places = ", ".join("?" * len(rows[0]))
        yield f"INSERT INTO {table} VALUES ({places})", rows  # noqa: S608  (names of our own tables)


def _rows(number: int, article: dict[str, Any]) -> Iterator[tuple[str, tuple[object, ...]]]:
    uncertain = set(article.get("uncertain") or ())
    lengths = article["characters"], article["characters_read"]
    yield "articles", (number, article["id"], article.get("story"), *lengths, article["model"])
    for topic in article["topics"]:
        yield "topics", (number, topic["label"], topic["score"])
    for label, score in article["topic_scores"].items():
        yield "topic_scores", (number, label, score, label in uncertain)
    for index, segment in enumerate(article["segments"]):
        yield "segments", (number, index, segment["start"], segment["end"])
        for label in segment["topics"]:
            yield "segment_topics", (number, index, label)
    for entity in article["entities"]:
        values = (entity[key] for key in ("label", "start", "end", "text", "score"))
        yield "entities", (None, number, *values)

"""Articles with their topics as CSV, and back: a row an article.

Turns a `topics` cell into topics: names with semicolons between them, `-` for none, empty where nobody has looked.
Knows nothing of entities and segments, for which a table has no place.
"""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path

from khabar.inference.csv_rows import csv_rows
from khabar.inference.fields import FieldNames
from khabar.models.article import Article
from khabar.models.article_reader import HEAD_BYTES, open_plain, refuse_encoding
from khabar.models.errors import KhabarError
from khabar.models.messages import did_you_mean, show
from khabar.training.convert.gathering import ORIGIN_KEYS, Gatherer, Losses

COLUMNS = ("id", "text", "topics", "date", "source", "lang")
_BETWEEN, _NONE = ";", "-"


def write(articles: Sequence[Article], path: Path, losses: Losses) -> None:
    """Write a table in UTF-8 with a byte order mark, without which spreadsheets show Arabic as noise.

    Raises:
        KhabarError: If a topic cannot stand in a cell.
    """
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for article in articles:
            losses["origins that are empty strings, read back as not known"] += sum(
                getattr(article, key) == "" for key in ORIGIN_KEYS
            )
            row = article.to_json()
            writer.writerow([_cell(article.topics) if key == "topics" else row.get(key, "") for key in COLUMNS])


def read(path: Path, losses: Losses, fields: FieldNames | None = None) -> list[Article]:
    """Read a table with a header; of its columns only that of the text must be there, and unknown ones are left out.

    Args:
        path: The file.
        losses: Counts what is left out.
        fields: The columns of text and id, None for `text` and `id`; the others are called as in COLUMNS.

    Raises:
        CorpusError: Listing every row that cannot be used.
        KhabarError: If the file cannot be read, is in another encoding as a whole, has no such header, or has unknown
            columns and none with topics.
    """
    fields = fields or FieldNames()
    column_of = {key: key for key in COLUMNS} | {"text": fields.text, "id": fields.id}
    gatherer = Gatherer(path, losses)
    with open_plain(path) as stream:
        refuse_encoding(path, stream.read(HEAD_BYTES))
        stream.seek(0)
        for line, cells in csv_rows(str(path), stream, fields, all_columns=True):
            if isinstance(cells, ValueError):
                gatherer.wrong(line, str(cells))
                continue
            _check_topics(path, cells, column_of.values())
            gatherer.leave_out_keys(cells, column_of.values())
            row: dict[str, object] = {key: cells[column_of[key]] for key in ORIGIN_KEYS if cells.get(column_of[key])}
            if topics := cells.get("topics", "").strip():
                row["topics"] = [] if topics == _NONE else [topic.strip() for topic in topics.split(_BETWEEN)]
            gatherer.add(line, row | {"text": cells[fields.text]})
    return gatherer.articles()


def _check_topics(path: Path, columns: Collection[str], known: Collection[str]) -> None:
    """Refuse a table whose labels would all be left out; one without unknown columns may well have none."""
    if "topics" in columns or set(columns) <= set(known):
        return
    raise KhabarError(
        f'{path}:1: the columns are {", ".join(map(show, columns))}; needed: "topics", with a table\'s labels (empty '
        f"where nobody has looked){did_you_mean('topics', columns)}"
    )


def _cell(topics: Sequence[str] | None) -> str:
    for topic in topics or ():
        if _BETWEEN in topic or topic in (_NONE, "") or topic != topic.strip():
            allowed = "no ; in it, no space at its ends, and not - alone"
            raise KhabarError(f"the topic {show(topic)} cannot stand in a table's cell; allowed: {allowed}")
    return "" if topics is None else f"{_BETWEEN} ".join(topics) or _NONE

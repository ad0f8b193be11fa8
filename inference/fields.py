"""The names under which a user's rows hold what scoring needs, and the choice of just that from a row.

Turns a row of any table into the object that `parse_article` reads. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from khabar.models.errors import KhabarError
from khabar.models.messages import show

SEGMENTS = "segments"


@dataclass(frozen=True, kw_only=True)
class FieldNames:
    """Where a row holds its text and its id: keys of JSON objects, columns of tables.

    Attributes:
        text: Every row must have it.
        id: Rows may do without `id`; a field of another name has been asked for and must be there.
    """

    text: str = "text"
    id: str = "id"

    def __post_init__(self) -> None:
        for name in (self.text, self.id):
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise KhabarError(f"a field is called {name!a}, which is not UTF-8; allowed: names that are")
        if not self.text or not self.id or len({self.text, self.id, SEGMENTS}) < 3:
            raise KhabarError(
                f"the fields of text and id are {show(self.text)} and {show(self.id)}; allowed: two different names, "
                f"neither blank nor {show(SEGMENTS)}"
            )

    @property
    def wanted(self) -> tuple[str, ...]:
        """The fields that must be there."""
        return (self.text,) if self.id == FieldNames.id else (self.text, self.id)

    def missing(self, seen: Iterable[str]) -> list[str]:
        """The fields that must be there and are not."""
        seen = set(seen)
        return [name for name in self.wanted if name not in seen]

    def check_columns(self, place: str, columns: Sequence[str], *more: str) -> None:
        """See that a table has the columns it needs, and each that is read once.

        Args:
            place: Where the columns' names stand, for the message.
            columns: Their names.
            more: Columns that are read besides those of text and id, where they are there.

        Raises:
            KhabarError: With the names of all columns.
        """
        wrong = self.missing(columns) or [name for name in (self.text, self.id, *more) if columns.count(name) > 1]
        if wrong:
            raise KhabarError(
                f"{place}: the columns are {', '.join(map(show, columns)) or 'none'}; needed: "
                f"{' and '.join(map(show, wrong))}, once (--text-field and --id-field name others)"
            )


def needed(row: object, fields: FieldNames, number: int) -> object:
    """Keep what scoring reads of a row: users' rows carry much else, in any form.

    Args:
        row: A JSON value, or the error that says why there is none.
        fields: The names of the row's fields.
        number: The row's id where it has none.

    Returns:
        A value for `parse_article`, or the error that says why the row is no article.
    """
    if not isinstance(row, dict):
        return row
    if missing := fields.missing(row):
        lacks = f"{' and '.join(map(_name, missing))} {'is' if len(missing) == 1 else 'are'} missing"
        return ValueError(f"{lacks}; the row has {', '.join(map(show, row)) or 'no keys'}")
    text, article_id, segments = row[fields.text], row.get(fields.id), row.get(SEGMENTS)
    if isinstance(article_id, int) and not isinstance(article_id, bool):
        article_id = str(article_id)  # database keys
    if article_id in (None, ""):
        article_id = str(number)
    for name, value in ((fields.text, text), (fields.id, article_id)):
        if not isinstance(value, str):
            return ValueError(f"{_name(name)} is {show(value)}; allowed: a string")
    kept = {"text": text, "id": article_id}
    if isinstance(segments, list):
        kept[SEGMENTS] = [
            {key: item[key] for key in ("start", "end") if key in item} if isinstance(item, dict) else item
            for item in segments
        ]
    elif segments is not None:
        kept[SEGMENTS] = segments
    return kept


def _name(field: str) -> str:
    return field if field.isidentifier() else show(field)

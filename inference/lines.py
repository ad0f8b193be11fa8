"""Turns results and bad rows into the lines that stand for them in a file.

Knows a result's JSON form and its view for people; knows nothing of files.
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

from khabar.inference.render import render
from khabar.inference.results import TaggedArticle

ResultFormat = Literal["json", "text"]


class ResultLine(NamedTuple):
    """A result's line in two halves, between which its story goes: that is known elsewhere than the result.

    A view for people is all tail, and has no story.
    """

    head: bytes
    tail: bytes

    def whole(self, story: str | None = None) -> bytes:
        """Give the line, its end included."""
        middle = b"" if story is None else f', "story": {_dumps(story)}'.encode()
        return self.head + middle + self.tail


def result_line(result: TaggedArticle, result_format: ResultFormat = "json") -> ResultLine:
    """Lay a result out: its JSON object, or its view for people with an empty line behind."""
    if result_format == "text":
        return ResultLine(head=b"", tail=f"{render(result)}\n\n".encode())
    row = result.to_json()
    head = _dumps({"id": row.pop("id")})[:-1].encode()
    return ResultLine(head=head, tail=f", {_dumps(row)[1:]}\n".encode())


def json_line(row: object) -> bytes:
    """Give a JSON value as a line."""
    return f"{_dumps(row)}\n".encode()


def _dumps(row: object) -> str:
    return json.dumps(row, ensure_ascii=False)

"""Articles as Prodigy's JSON Lines, and back: entities as `spans`, topics as the options in `accept`.

Its offsets count code points: they are those of spaCy's tokens, made in Python. Knows nothing of its recipes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from khabar.models.article import Article
from khabar.models.messages import show
from khabar.training.convert.gathering import ORIGIN_KEYS, Gatherer, Losses, json_lines, origin, write_json_lines

_SPAN_KEYS = ("start", "end", "label")
# What carries no labels: the page's settings and what the tool works out itself; `_…` beside these.
_TOOL_KEYS = ("text", "meta", "spans", "accept", "answer", "segments", "tokens", "options", "config")


def write(articles: Sequence[Article], path: Path, _losses: Losses) -> None:
    """Write answered tasks; what is not annotated has no key. Prodigy carries segments along, and shows `meta`."""
    topics = list(dict.fromkeys(topic for article in articles for topic in article.topics or ()))
    options = [{"id": topic, "text": topic} for topic in topics]
    write_json_lines((_to_task(article, options) for article in articles), path)


def read(path: Path, losses: Losses) -> list[Article]:
    """Read what `prodigy db-out` gives of manual recipes; rejected and ignored tasks are left out.

    Raises:
        CorpusError: Listing everything that is wrong in the file.
        KhabarError: If it cannot be read.
    """
    gatherer = Gatherer(path, losses)
    for line, task in json_lines(path, gatherer):
        answer, meta, spans = task.get("answer", "accept"), task.get("meta") or {}, task.get("spans")
        if answer != "accept":
            losses[f"tasks answered with {show(answer)}"] += 1
            continue
        if "label" in task:
            binary = "a binary answer about one label says nothing of the others"
            gatherer.wrong(line, f"label is {show(task['label'])}; allowed: spans and accept, for {binary}")
            continue
        if not isinstance(meta, dict):
            gatherer.wrong(line, f"meta is {show(meta)}; allowed: an object")
            continue
        gatherer.leave_out_keys(meta, ORIGIN_KEYS, "meta.")
        gatherer.leave_out_keys({key: task[key] for key in task if not key.startswith("_")}, _TOOL_KEYS)
        row: dict[str, Any] = {key: task[key] for key in ("text", "segments") if key in task} | origin(meta)
        names = []
        if spans is not None:
            names = [span.get("text") for span in spans if isinstance(span, dict)] if isinstance(spans, list) else []
            row["entities"] = [_entity(span) for span in spans] if isinstance(spans, list) else spans
        if task.get("accept") is not None:
            row["topics"] = task["accept"]
        gatherer.add(line, row, names=names)
    return gatherer.articles()


def _to_task(article: Article, options: list[dict[str, str]]) -> dict[str, Any]:
    row = article.to_json()
    task: dict[str, Any] = {"text": article.text}
    if meta := origin(row):
        task["meta"] = meta
    if article.entities is not None:
        task["spans"] = row["entities"]
    if article.topics is not None:
        task |= {"options": options, "accept": row["topics"]}
    if article.segments is not None:
        task["segments"] = row["segments"]
    return task | {"answer": "accept"}


def _entity(span: object) -> object:
    return {key: span[key] for key in _SPAN_KEYS if key in span} if isinstance(span, dict) else span

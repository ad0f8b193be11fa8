"""Articles as tasks of Label Studio, and back: names as labelled regions, topics as choices, segments as regions.

Turns an Article into a task's `data` and `result`, and an export in Label Studio's JSON into articles. Knows nothing of
models or of the labelling configuration, whose controls must have the names that stand here.

Offsets in its Text tag count code points, as ours do. Versions before 2022 counted UTF-16 units (issues 1008 and 1347
of HumanSignal/label-studio): the names that stand beside the offsets show such an export up.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.models.messages import show
from khabar.training.convert.gathering import ORIGIN_KEYS, Gatherer, Losses, json_list, origin

Kind = Literal["topics", "entities", "segments", "segment_topics"]
KINDS: tuple[Kind, ...] = ("topics", "entities", "segments", "segment_topics")

# The names of a labelling configuration's controls (`from_name`) and of the text they are about (`to_name`).
ENTITIES: Kind = "entities"  # <Labels>: names with their labels
TOPICS: Kind = "topics"  # <Choices choice="multiple">: what the article reports
SEGMENTS: Kind = "segments"  # <Labels> with the one label SEGMENT: stretches of the text
SEGMENT_TOPICS: Kind = "segment_topics"  # <Choices choice="multiple" perRegion="true">: what a segment reports
TEXT = "text"  # <Text name="text" value="$text">
SEGMENT = "segment"

# The key of a task's `data` that says which kinds an annotator is asked for: what they leave empty is then none, not
# unknown. Label Studio itself keeps no trace of a choice that nobody made.
ANNOTATES = "annotates"


def annotated_kinds(article: Article) -> list[Kind]:
    """Say which kinds of labels an article has, be it that there are none of the kind."""
    parts = article.segments or ()
    return [
        kind
        for kind, known in (
            (TOPICS, article.topics is not None),
            (ENTITIES, article.entities is not None),
            (SEGMENTS, article.segments is not None),
            (SEGMENT_TOPICS, bool(parts) and all(part.topics is not None for part in parts)),
        )
        if known
    ]


def task_data(article: Article, annotates: Sequence[Kind]) -> dict[str, Any]:
    """Give a task's `data`: the text, what is known of its origin, and what an annotator is asked for."""
    return {"text": article.text, **origin(article.to_json()), ANNOTATES: list(annotates)}


def task_result(article: Article) -> list[dict[str, Any]]:
    """Give an article's labels as the `result` of an annotation or of a prediction.

    Entities come first, in the article's order, then topics, then segments, each followed by its topics.
    """
    text = article.text
    items = [
        _region(f"e{i}", ENTITIES, "labels", entity.start, entity.end, text, [entity.label])
        for i, entity in enumerate(article.entities or ())
    ]
    if article.topics is not None:
        value = {"choices": list(article.topics)}
        items.append({"id": "t0", "from_name": TOPICS, "to_name": TEXT, "type": "choices", "value": value})
    for i, part in enumerate(article.segments or ()):
        items.append(_region(f"s{i}", SEGMENTS, "labels", part.start, part.end, text, [SEGMENT]))
        if part.topics is not None:
            # What is chosen for a region has that region's id.
            choices = list(part.topics)
            items.append(_region(f"s{i}", SEGMENT_TOPICS, "choices", part.start, part.end, text, choices))
    return items


def write(articles: Sequence[Article], path: Path, _losses: Losses) -> None:
    """Write annotated tasks, ready to be imported; an article without any labels becomes a task to annotate."""
    tasks = []
    for article in articles:
        kinds = annotated_kinds(article)
        annotations = [{"result": task_result(article)}] if kinds else []
        tasks.append({"data": task_data(article, kinds), "annotations": annotations})
    path.write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read(path: Path, losses: Losses, annotator: str | None = None) -> list[Article]:
    """Read an export in Label Studio's JSON format (not JSON-MIN).

    Of a task with several annotations the one marked as ground truth is taken, else the last; skipped ones and
    predictions never are. Controls may have names of their own, as long as segments have ours. Which kinds were asked
    for is in `data`, or else every kind that occurs anywhere in the file. An article's topics take in its segments'.

    Args:
        path: The file.
        losses: Counts what is left out.
        annotator: Number or e-mail address of the one whose annotations are taken (`completed_by`); None takes all.

    Raises:
        CorpusError: Listing everything that is wrong in the file.
        KhabarError: If it cannot be read, is JSON-MIN, or has nothing by the annotator.
    """
    gatherer = Gatherer(path, losses)
    tasks = list(_tasks(path, gatherer, annotator))
    if annotator is not None and not any(annotator in task.annotators for task in tasks):
        seen = sorted({one for task in tasks for one in task.annotators})
        raise KhabarError(f"{path} has no annotation by {show(annotator)}; allowed: {', '.join(seen) or 'none'}")
    asked_somewhere = {kind for task in tasks for kind in task.answer.kinds}
    for task in tasks:
        kinds = task.asked or asked_somewhere if task.is_annotated else set()
        gatherer.add(task.line, task.row | task.answer.labels(kinds), names=task.answer.names)
    return gatherer.articles()


def _region(name: str, control: Kind, kind: str, start: int, end: int, text: str, values: list[str]) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text[start:end], kind: values}
    return {"id": name, "from_name": control, "to_name": TEXT, "type": kind, "value": value}


@dataclass(kw_only=True)
class _Answer:
    """What one annotation says, in the article's JSON form."""

    entities: list[dict[str, Any]] = field(default_factory=list)
    names: list[object] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    regions: dict[str, dict[str, Any]] = field(default_factory=dict)
    region_topics: dict[str, list[str]] = field(default_factory=dict)
    kinds: set[Kind] = field(default_factory=set)

    def labels(self, asked: set[Kind]) -> dict[str, Any]:
        """Give the labels: a kind that was asked for and is not there is none, any other unknown."""
        row: dict[str, Any] = {}
        kinds = asked | self.kinds
        if ENTITIES in kinds:
            row["entities"] = self.entities
        if SEGMENTS in kinds:
            for name, region in self.regions.items():
                if name in self.region_topics or SEGMENT_TOPICS in asked:
                    region["topics"] = self.region_topics.get(name, [])
            row["segments"] = sorted(self.regions.values(), key=lambda region: _number(region["start"]))
        if TOPICS in kinds:
            of_segments = [topic for region in self.regions.values() for topic in region.get("topics", ())]
            row["topics"] = list(dict.fromkeys([*self.topics, *of_segments]))
        return row


@dataclass(frozen=True, kw_only=True)
class _Task:
    line: int
    row: dict[str, Any]
    asked: set[Kind]
    is_annotated: bool
    annotators: set[str]
    answer: _Answer


def _tasks(path: Path, gatherer: Gatherer, annotator: str | None) -> Iterator[_Task]:
    for line, task in json_list(path, gatherer):
        if "data" not in task and "annotator" in task:
            raise KhabarError(f"{path} is Label Studio's export JSON-MIN; allowed: its export JSON")
        data = task.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("text"), str):
            seen = ", ".join(map(show, data)) if isinstance(data, dict) else show(data)
            gatherer.wrong(line, f"the task's data holds {seen}; allowed: an object with the article's text as {TEXT}")
            continue
        gatherer.leave_out_keys(data, ("text", *ORIGIN_KEYS, ANNOTATES), "data.")
        annotations = [one for one in _items(task, "annotations") if isinstance(one, dict)]
        chosen = _choose(annotations, annotator, gatherer.losses)
        if chosen is None and task.get("predictions"):
            gatherer.losses["tasks with predictions and no annotation, taken as not annotated"] += 1
        answer = _Answer()
        for item in _items(chosen or {}, "result"):
            if message := _take(item, answer, gatherer.losses):
                gatherer.wrong(line, message)
        yield _Task(
            line=line,
            row={"text": data["text"], **origin({"id": task.get("id")} | data)},
            asked={kind for kind in KINDS if kind in _items(data, ANNOTATES)},
            is_annotated=chosen is not None,
            annotators={name for one in annotations for name in _annotators(one)},
            answer=answer,
        )


def _items(row: dict[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _annotators(annotation: dict[str, Any]) -> list[str]:
    """Name who made an annotation, in every way that an export can: a number, an e-mail address, or both."""
    who = annotation.get("completed_by")
    names = [who.get("id"), who.get("email")] if isinstance(who, dict) else [who]
    return [str(name) for name in names if name is not None]


def _choose(annotations: list[dict[str, Any]], annotator: str | None, losses: Losses) -> dict[str, Any] | None:
    if annotator is not None:
        annotations = [one for one in annotations if annotator in _annotators(one)]
    done = [one for one in annotations if not one.get("was_cancelled")]
    losses["annotations that were skipped (cancelled)"] += len(annotations) - len(done)
    if not done:
        return None
    losses["further annotations of a task (the ground truth is taken, else the last)"] += len(done) - 1
    return next((one for one in done if one.get("ground_truth")), done[-1])


def _take(item: Any, answer: _Answer, losses: Losses) -> str | None:
    """Take one item of an annotation's result; a message if it cannot be understood."""
    kind = item.get("type") if isinstance(item, dict) else None
    if kind not in ("labels", "choices"):
        losses[f"results of the type {show(kind)}"] += 1
        return None
    value, control = item.get("value"), item.get("from_name")
    values = value.get(kind, []) if isinstance(value, dict) else None
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        return f"a result of {show(control)} is {show(value)}; allowed: an object with a list of {kind}, all strings"
    region = {"start": value.get("start"), "end": value.get("end")}
    if control in (SEGMENTS, SEGMENT_TOPICS):
        name = str([item.get("id"), region])
        answer.regions.setdefault(name, region)
        answer.kinds.add(SEGMENTS)
        if control == SEGMENT_TOPICS:
            answer.region_topics[name] = values
    elif kind == "labels":
        answer.entities += [{**region, "label": label} for label in values]
        answer.names += [value.get("text")] * len(values)
        answer.kinds.add(ENTITIES)
        losses["regions without a label"] += not values
    elif "start" in value:
        losses[f"choices for single regions by the control {show(control)}"] += 1
    else:
        answer.topics += values
        answer.kinds.add(TOPICS)
    return None


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0

"""Writes sampled articles for people to label: tasks of Label Studio with its configuration, or articles as JSON Lines.

Turns a Sample into files. How an article becomes a task is convert/label_studio.py's matter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

from khabar.inference.part import errors_path
from khabar.inference.sinks import FileSink, check_output
from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.training.convert import label_studio
from khabar.training.sampling_pool import Sample, SampledArticle

TopicLevel = Literal["segment", "article"]
SAMPLED = "sampled"  # the key of a task's `data` that holds why its article was picked

# Light, so that black text can be read on them; labels take them in turn.
_COLOURS = ("#ffd166", "#9bd1ff", "#b5e48c", "#ffadad", "#d0bfff", "#a0e7e5", "#ffc6ff", "#e6ccb2")
_SEGMENT_COLOUR = "#e9ecef"


@dataclass(frozen=True, kw_only=True)
class LabelRequest:
    """What annotators are asked for.

    Attributes:
        topics: The topics to choose from; empty to ask for none.
        entity_labels: The labels of names, likewise.
        topic_level: Whether topics are asked for by segment, an article's being all of its segments', or by article.
        blank_random: Whether articles of the random share come without the model's labels.
        model: Name of the model whose labels are shown.
    """

    topics: Sequence[str]
    entity_labels: Sequence[str]
    topic_level: TopicLevel = "segment"
    blank_random: bool = False
    model: str = ""

    @property
    def kinds(self) -> list[label_studio.Kind]:
        """The kinds of labels that are asked for; each is said in one place only."""
        kinds: list[label_studio.Kind] = [label_studio.ENTITIES] if self.entity_labels else []
        if self.topics:
            kinds.append(label_studio.TOPICS)
            if self.topic_level == "segment":
                kinds += [label_studio.SEGMENTS, label_studio.SEGMENT_TOPICS]
        return kinds


def output_files(output: str | Path) -> list[Path]:
    """Say which files a sample is written to, the one that was asked for first.

    Raises:
        KhabarError: If its ending is not known.
    """
    path = Path(output)
    if path.suffix.lower() == ".json":
        return [path, path.with_suffix(".xml")]
    if path.suffix.lower() == ".jsonl":
        return [path, path.with_name(f"{path.stem}.random{path.suffix}")]
    raise KhabarError(f"{output}: allowed: .json (tasks of Label Studio) or .jsonl (articles)")


def check_label_files(output: str | Path, inputs: Sequence[str | Path], *, overwrite: bool) -> None:
    """See, before long work, that the files can be written.

    Raises:
        KhabarError: If the ending is not known, the folder is missing or closed to writing, a file is there already,
            or one of the inputs would be overwritten.
    """
    files = output_files(output)
    for file in files:
        check_output(file)
    resolved = {Path(one).resolve() for one in inputs}
    for file in files:
        if file.resolve() in resolved:
            raise KhabarError(f"{file} is an input too, which would be overwritten; give another output")
    there = [str(file) for file in files if file.exists()]
    if there and not overwrite:
        raise KhabarError(f"there already: {', '.join(there)}; give another output, or --overwrite")


def write_label_files(sample: Sample, output: str | Path, request: LabelRequest) -> Path | None:
    """Write a sample; each file appears when it is whole, the one that was asked for last.

    `.json` gets tasks to import into Label Studio, `.xml` beside it the project's labelling configuration. `.jsonl`
    gets articles; as these have no place for why they were picked, the random share goes to `NAME.random.jsonl`.
    Rows of the pool that could not be used go to `OUTPUT.errors.jsonl`, which is there exactly when there are some.

    Returns:
        The file of such rows, where there is one.

    Raises:
        KhabarError: If the output's ending is not known.
    """
    main, beside = output_files(output)
    if main.suffix.lower() == ".json":
        tasks = [_task(sampled, request) for sampled in sample.articles]
        texts = {beside: [labelling_configuration(request)], main: [json.dumps(tasks, ensure_ascii=False, indent=1)]}
    else:
        texts = {beside: [], main: []}
        for sampled in sample.articles:
            article = asked_article(sampled, request)
            row = json.dumps(article.to_json(), ensure_ascii=False)
            texts[beside if sampled.reason == "random" else main].append(row)
    errors = errors_path(output)
    if sample.bad_rows:
        texts = {errors: [json.dumps(row.to_json(), ensure_ascii=False) for row in sample.bad_rows], **texts}
    else:
        errors.unlink(missing_ok=True)
    with ExitStack() as files:
        # What is opened last is closed, and so in its place, first.
        sinks = {path: files.enter_context(FileSink(path)) for path in reversed(texts)}
        for path, lines in texts.items():
            for line in lines:
                sinks[path].write(line)
    return errors if sample.bad_rows else None


def asked_article(sampled: SampledArticle, request: LabelRequest) -> Article:
    """Give an article with the labels an annotator starts from, of those kinds that are asked for."""
    article = sampled.article
    if label_studio.SEGMENTS not in request.kinds:
        article = replace(article, segments=None)
    if request.blank_random and sampled.reason == "random":
        # How a text is cut into segments is no opinion of the model.
        segments = article.segments and tuple(replace(part, topics=None) for part in article.segments)
        article = replace(article, segments=segments, topics=None, entities=None)
    return article


def labelling_configuration(request: LabelRequest) -> str:
    """Give the XML of a Label Studio project: one control for each kind of label, right to left.

    Names may begin inside a word, behind a joined و or ب, so selection goes by character. White space is shown as it
    is: Label Studio would else save names without it.
    """
    view = ET.Element("View", style="direction: rtl; text-align: right")
    style = ET.SubElement(view, "Style")
    style.text = ".htx-text { white-space: pre-wrap; direction: rtl; text-align: right; line-height: 2 }"
    text = label_studio.TEXT
    if label_studio.ENTITIES in request.kinds:
        labels = ET.SubElement(view, "Labels", name=label_studio.ENTITIES, toName=text)
        for i, label in enumerate(request.entity_labels):
            ET.SubElement(labels, "Label", value=label, background=_COLOURS[i % len(_COLOURS)])
    if label_studio.SEGMENTS in request.kinds:
        segments = ET.SubElement(view, "Labels", name=label_studio.SEGMENTS, toName=text)
        ET.SubElement(segments, "Label", value=label_studio.SEGMENT, background=_SEGMENT_COLOUR)
        only = {"perRegion": "true", "whenLabelValue": label_studio.SEGMENT}
        _add_choices(view, label_studio.SEGMENT_TOPICS, request.topics, **only)
    elif label_studio.TOPICS in request.kinds:
        _add_choices(view, label_studio.TOPICS, request.topics)
    ET.SubElement(view, "Text", name=text, value=f"${text}", granularity="symbol")
    ET.indent(view)
    return ET.tostring(view, encoding="unicode")


def _add_choices(view: ET.Element, name: str, topics: Sequence[str], **more: str) -> None:
    given = {"name": name, "toName": label_studio.TEXT, "choice": "multiple", "showInline": "true", **more}
    choices = ET.SubElement(view, "Choices", given)
    for topic in topics:
        ET.SubElement(choices, "Choice", value=topic)


def _task(sampled: SampledArticle, request: LabelRequest) -> dict[str, Any]:
    article = asked_article(sampled, request)
    data = label_studio.task_data(article, request.kinds) | {SAMPLED: sampled.reason}
    # Of an article whose topics are asked for by segment, they follow from its segments' when they come back.
    shown = replace(article, topics=None) if request.topic_level == "segment" else article
    if not label_studio.annotated_kinds(shown):
        return {"data": data}
    score = round(1.0 - sampled.uncertainty, 4)
    prediction = {"model_version": request.model, "score": score, "result": label_studio.task_result(shown)}
    return {"data": data, "predictions": [prediction]}

"""Grows a finished model by new labels: known ones keep what their heads have learned, new ones begin afresh.

Turns a model and the corpora's labels into a larger model and into corpora that teach nothing of labels they
never mark; and two evaluations into the known labels that have become worse.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from khabar.models import tags
from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError
from khabar.models.model import KhabarModel
from khabar.models.ranges import check_range
from khabar.training.corpora import Corpus
from khabar.training.evaluate import parts_of
from khabar.training.settings import TrainSettings
from khabar.training.targets import LabelSet

logger = logging.getLogger(__name__)

_PARTS = {"article": "topic {}, by article", "segment": "topic {}, by segment", "entities": "entity label {}"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """How well a known label is found, before and after.

    Attributes:
        label: The label and where it is measured, in words.
        before: F1 of the model that was started from, in [0, 1].
        after: F1 of the grown one.
    """

    label: str
    before: float
    after: float

    @property
    def drop(self) -> float:
        """Points of F1 (hundredths) lost."""
        return 100 * (self.before - self.after)


def grown_labels(known: LabelSet, found: LabelSet) -> LabelSet:
    """Put the corpora's new labels behind the known ones, which keep their order."""
    return LabelSet(
        topics=tuple(dict.fromkeys((*known.topics, *found.topics))),
        entity_labels=tuple(dict.fromkeys((*known.entity_labels, *found.entity_labels))),
    )


def mask_absent(corpora: Sequence[Corpus], labels: LabelSet) -> list[Corpus]:
    """Let each source say nothing of the labels that it never has.

    Old corpora were labelled before the new labels were there, and new ones often for those alone: that a label
    does not occur in a source is no sign that the source's annotators looked for it. What a source does annotate
    and merely happens not to have, its label map can name.
    """
    masked = []
    for corpus in corpora:
        annotation = corpus.annotation
        has = {*corpus.topics}, {*corpus.entity_labels}
        topics = [topic for topic in labels.topics if topic not in has[0]]
        entity_labels = [label for label in labels.entity_labels if label not in has[1]]
        listed = [
            f"{kind} {', '.join(names)}"
            for kind, names in (("topics", topics), ("entity labels", entity_labels))
            if names
        ]
        if listed:
            logger.info("%s: taken as not annotated, since they never occur: %s", corpus.name, "; ".join(listed))
        annotation = replace(
            annotation,
            unannotated=annotation.unannotated | set(entity_labels),
            unannotated_topics=annotation.unannotated_topics | set(topics),
        )
        masked.append(replace(corpus, annotation=annotation))
    return masked


def grow_model(old: KhabarModel, labels: LabelSet, settings: TrainSettings) -> KhabarModel:
    """Put the old model's encoder under heads for all labels, the known ones' rows and transitions as they were.

    Args:
        old: The model to start from; its encoder goes over to the new one.
        labels: The grown label set.
        settings: Window and segments where they are given, head dropout, name and version are taken from here.
    """
    was = old.config
    window = settings.window or was.window
    config = KhabarConfig(
        encoder=was.encoder,
        topics=list(labels.topics),
        entity_labels=list(labels.entity_labels),
        topic_temperatures={topic: was.topic_temperatures.get(topic, 1.0) for topic in labels.topics},
        topic_thresholds={topic: was.topic_thresholds.get(topic, 0.5) for topic in labels.topics},
        topic_bands=was.topic_bands,
        window=window,
        stride=stride_in(window, settings.stride or (was.stride if window == was.window else None)),
        max_segment_words=settings.max_segment_words or was.max_segment_words,
        head_dropout=settings.head_dropout,
        name=settings.name,
        version=settings.version,
    )
    model = KhabarModel(config, old.encoder)
    topics = [labels.topics.index(topic) for topic in was.topics]
    places = [tags.OUTSIDE]
    for label in was.entity_labels:
        place = labels.entity_labels.index(label)
        places += [tags.begin_tag(place), tags.inside_tag(place)]
    with torch.no_grad():
        if old.topic_head is not None and model.topic_head is not None:
            model.topic_head.attention.load_state_dict(old.topic_head.attention.state_dict())
            model.topic_head.dense.load_state_dict(old.topic_head.dense.state_dict())
            _copy_rows(old.topic_head.out, model.topic_head.out, topics)
        model.entity_head.proclitics.load_state_dict(old.entity_head.proclitics.state_dict())
        _copy_rows(old.entity_head.tags, model.entity_head.tags, places)
        model.crf.start[places] = old.crf.start
        model.crf.end[places] = old.crf.end
        model.crf.transition[torch.tensor(places)[:, None], torch.tensor(places)] = old.crf.transition
    return model


def stride_in(window: int, stride: int | None) -> int:
    """Give a window's stride: the one given, or three quarters of what it holds beside its two special pieces.

    Raises:
        KhabarError: If the one given is too wide: pieces between two windows would not be read.
    """
    check_range("stride", stride, at_least=1, at_most=window - 2)
    return stride or max((window - 2) * 3 // 4, 1)


def compare_known(before: Mapping[str, Any], after: Mapping[str, Any], known: LabelSet) -> list[Change]:
    """Compare reports of `evaluate` on the same articles, for the known labels that these have in their gold."""
    old, new = parts_of(before), parts_of(after)
    return [
        Change(label=words.format(label), before=old[part]["labels"][label]["f1"], after=row["f1"])
        for part, words in _PARTS.items()
        if part in new
        for label, row in new[part]["labels"].items()
        if row["support"] and label in (known.entity_labels if part == "entities" else known.topics)
    ]


def refuse_drops(changes: Sequence[Change], *, max_drop: float, kept_in: str) -> None:
    """Refuse a model that has become worse at what it knew.

    Args:
        changes: All known labels that were measured.
        max_drop: Points of F1 that a label may lose.
        kept_in: Where the model is, for the message.

    Raises:
        KhabarError: If a label has lost more; lists every such label.
    """
    worse = sorted((change for change in changes if change.drop > max_drop), key=lambda change: -change.drop)
    if worse:
        lines = [f"  {one.label}: F1 {100 * one.before:.1f} before, {100 * one.after:.1f} after" for one in worse]
        raise KhabarError(
            "\n".join(
                [
                    f"not saved: on dev, known labels lost more than {max_drop:g} points of F1:",
                    *lines,
                    f"the model is kept in {kept_in}; --allow-drop saves it all the same, --max-drop allows more",
                ]
            )
        )


def _copy_rows(old: nn.Linear, new: nn.Linear, places: Sequence[int]) -> None:
    new.weight[list(places)] = old.weight
    new.bias[list(places)] = old.bias

"""Reads what runs are made from, once for all of them: corpora, their labels, dev articles and examples.

Turns settings into material; knows models only by the labels that one to start from has.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from khabar.models.errors import KhabarError
from khabar.models.folder import read_config
from khabar.training.check_corpus import topics_of
from khabar.training.corpora import Corpus, as_gold, load_corpora
from khabar.training.data import collect_labels, describe_reading, open_examples, teacher_digests
from khabar.training.growing import grown_labels, mask_absent
from khabar.training.leaks import warn_of_leaks
from khabar.training.predictions import is_annotated
from khabar.training.processes import on_main
from khabar.training.provenance import describe_source
from khabar.training.settings import TrainSettings
from khabar.training.store import ExampleStore
from khabar.training.targets import LabelSet

logger = logging.getLogger(__name__)


class Material:
    """What runs are made from, read once for all of them.

    Args:
        settings: Of the first run; the others may differ in what does not concern corpora, labels and encoder.

    Attributes:
        labels: What the models are to know; `known`, what the model to start from knows already.
        dev: Gold to measure on; empty where there is none.
        dev_can_choose: Whether it can tell which epoch is best: not where labels that a finished model is to learn are
            missing from it, for then the best epoch would be the one that has learned least of them.
        facts: The sources, for metrics.json and the card.
        origin: What was read, by name, each with a digest: two runs with equal ones see the same.
    """

    def __init__(self, settings: TrainSettings) -> None:
        known = _known_labels(settings)
        more = {"more_topics": known.topics, "more_entity_labels": known.entity_labels} if known else {}
        corpora = on_main(lambda: load_corpora(settings.corpora, split="train", **more))
        labels = collect_labels(corpora)
        if known is not None:
            labels = grown_labels(known, labels)
            corpora = mask_absent(corpora, labels)
        self.corpora, self.labels, self.known = corpora, labels, known
        held_out: list[Corpus] = []
        if settings.dev is not None:
            every = {"topics": labels.topics, "entity_labels": labels.entity_labels}
            held_out = on_main(lambda: load_corpora((str(settings.dev),), split="dev", **every))
        self.dev = [article for corpus in held_out for article in as_gold(corpus)]
        if held_out and not any(map(is_annotated, self.dev)):
            raise KhabarError(f"{settings.dev} has nothing to measure on: no article has topics or entities")
        self.dev_can_choose = not self.dev or self._dev_can_choose()
        on_main(lambda: warn_of_leaks((article for corpus in corpora for article in corpus.articles), self.dev))
        self.facts = on_main(
            lambda: {name: list(map(describe_source, group)) for name, group in (("train", corpora), ("dev", held_out))}
        )
        self._teachers = on_main(lambda: teacher_digests(corpora))
        self.origin = {
            **_digests(self.facts),
            **describe_reading(corpora, held_out, labels),
            **{f"teacher {name}": digest for name, digest in self._teachers.items()},
        }
        logger.info(
            "topics: %s; entities: %s", ", ".join(labels.topics) or "none", ", ".join(labels.entity_labels) or "none"
        )
        self._cache, self._device = examples_folder(settings), settings.device
        self._examples: ExampleStore | None = None

    def _dev_can_choose(self) -> bool:
        """Say which labels dev has no example of, and whether they leave it a judge."""
        topics = {topic for article in self.dev for topic in topics_of(article) or ()}
        entity_labels = {entity.label for article in self.dev for entity in article.entities or ()}
        lacking = {
            "topics": [topic for topic in self.labels.topics if topic not in topics],
            "entity labels": [label for label in self.labels.entity_labels if label not in entity_labels],
        }
        listed = "; ".join(f"{kind} {', '.join(labels)}" for kind, labels in lacking.items() if labels)
        if not listed:
            return True
        new = self.known is not None and not (
            {*lacking["topics"]} <= {*self.known.topics} and {*lacking["entity labels"]} <= {*self.known.entity_labels}
        )
        logger.warning(
            "dev has no example of %s: how well they are found is not measured%s",
            listed,
            "; some are new to the model, so the last epoch is kept, not the best on dev" if new else "",
        )
        return not new

    def examples(self, tokenizer: PreTrainedTokenizerFast, *, max_segment_words: int) -> ExampleStore:
        """Give the training examples, encoded for the first run and kept on disk for the others."""
        if self._examples is None:
            self._examples = open_examples(
                self.corpora,
                tokenizer,
                self.labels,
                max_segment_words=max_segment_words,
                teachers=self._teachers,
                folder=self._cache,
                device=self._device,
            )
            logger.info("%d articles; %s", len(self._examples), self._examples.lost)
        return self._examples


def refuse_poor_judge(material: Material, option: str) -> None:
    """Refuse to compare runs on dev where it cannot tell which is best.

    Raises:
        KhabarError: If it cannot.
    """
    if not material.dev_can_choose:
        raise KhabarError(f"{option} compares runs on dev; allowed: a dev set with examples of all new labels")


def _digests(facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    return {
        f"the content of {split} source {place} ({source['name']})": source["sha256"][:12]
        for split, sources in facts.items()
        for place, source in enumerate(sources)
    }


def examples_folder(settings: TrainSettings) -> Path:
    """Where the encoded examples lie until the run is complete."""
    return Path(settings.output) / "cache"


def _known_labels(settings: TrainSettings) -> LabelSet | None:
    if settings.from_model is None:
        return None
    config = read_config(settings.from_model)
    return LabelSet(topics=tuple(config.topics), entity_labels=tuple(config.entity_labels))

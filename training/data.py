"""Turns corpora into training examples under one label set, on disk.

Knows corpora, the tokenizer and targets; knows nothing of models or batches.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from khabar import __version__
from khabar.inference.run_identity import model_digest
from khabar.models.article import Article
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.models.folder import read_config
from khabar.training.batching import Example
from khabar.training.corpora import Corpus
from khabar.training.example_table import SCHEMA
from khabar.training.log_lines import LogLines
from khabar.training.processes import on_main
from khabar.training.store import ExampleStore, remove_stores, write_store
from khabar.training.targets import LabelSet, LostEntities, make_targets
from khabar.training.teaching import Teachers

logger = logging.getLogger(__name__)

# Encoded together, whichever comes first.
_MOST_ARTICLES, _MOST_CHARACTERS = 512, 500_000


def collect_labels(corpora: Sequence[Corpus]) -> LabelSet:
    """Gather every topic and entity label that occurs in the corpora, in alphabetical order.

    Where no corpus has any, the labels are those of the corpora's teachers.

    Raises:
        KhabarError: If there is none.
    """
    topics: set[str] = set()
    entity_labels: set[str] = set()
    for corpus in corpora:
        topics.update(corpus.counts.topics)
        entity_labels.update(
            label for source in corpus.counts.entities for label in corpus.annotation.labels_of(source)
        )
    if not topics and not entity_labels:
        for name, corpus in _teachers(corpora).items():
            with _said_where(corpus):
                config = read_config(name)
            topics.update(config.topics)
            entity_labels.update(config.entity_labels)
    if not topics and not entity_labels:
        raise KhabarError("the corpora hold no topic and no entity: there is nothing to learn")
    return LabelSet(topics=tuple(sorted(topics)), entity_labels=tuple(sorted(entity_labels)))


def open_examples(
    corpora: Sequence[Corpus],
    tokenizer: PreTrainedTokenizerFast,
    labels: LabelSet,
    *,
    max_segment_words: int,
    teachers: Mapping[str, str],
    folder: Path,
    device: str = "auto",
) -> ExampleStore:
    """Encode every article and work out its targets, or open what an earlier run left of just that.

    The main process of a run writes; the others wait and open.

    Args:
        corpora: What to train on.
        tokenizer: The model's.
        labels: The model's, in the order of its logits.
        max_segment_words: Longest segment where an article does not give segments.
        teachers: The corpora's, as `teacher_digests` gives them.
        folder: Holds the examples, about as large as the corpora. Examples of other corpora,
            labels, teachers or settings that lie there are removed.
        device: Where the corpora's teachers run.

    Returns:
        The examples in the corpora's order.

    Raises:
        KhabarError: If a corpus has changed since it was loaded, a teacher cannot be used, or the folder cannot
            be written.
    """
    here = folder / _fingerprint(corpora, tokenizer, labels, max_segment_words, teachers)

    def write() -> None:
        if here.exists():
            return
        remove_stores(folder)
        lost = LostEntities()
        n_articles = sum(corpus.counts.articles for corpus in corpora)
        with tqdm(total=n_articles, desc="encoding", unit=" articles", leave=False, disable=None, delay=2) as bar:
            batches = encode_corpora(
                corpora, tokenizer, labels, max_segment_words=max_segment_words, lost=lost, device=device
            )
            write_store(here, _counted(batches, bar), lost)

    on_main(write)
    return ExampleStore(here, labels)


def encode_corpora(
    corpora: Sequence[Corpus],
    tokenizer: PreTrainedTokenizerFast,
    labels: LabelSet,
    *,
    max_segment_words: int,
    lost: LostEntities,
    device: str = "auto",
) -> Iterator[list[Example]]:
    """Encode every article and work out its targets, some articles at a time.

    Args:
        corpora: Read once, as streams.
        tokenizer: As in `open_examples`, like the two that follow.
        labels: Likewise.
        max_segment_words: Likewise.
        lost: Entities that words cannot express are added here.
        device: Where the corpora's teachers run.
    """
    for corpus in corpora:
        with _said_where(corpus):
            names = corpus.articles.spec.teachers
            teachers = Teachers(names, labels, device=device) if names else None
        for articles in _groups(corpus.articles):
            texts = [article.text for article in articles]
            encoded = encode_articles(
                texts,
                tokenizer,
                max_segment_words=max_segment_words,
                segments=[article.segment_spans for article in articles],
            )
            targets = [
                make_targets(article, one, corpus.annotation, labels, lost)
                for article, one in zip(articles, encoded, strict=True)
            ]
            if teachers is not None:
                targets = teachers.complete(texts, encoded, targets)
            yield [Example(encoded=one, targets=target) for one, target in zip(encoded, targets, strict=True)]


@contextmanager
def _said_where(corpus: Corpus) -> Iterator[None]:
    """Add to an error about a source's teachers where they are named."""
    try:
        yield
    except KhabarError as error:
        spec = corpus.articles.spec
        raise KhabarError(f"{spec.declared_in}:{spec.line}: teacher: {error}") from error


def teacher_digests(corpora: Sequence[Corpus]) -> dict[str, str]:
    """Digest each of the corpora's teachers once.

    Raises:
        KhabarError: If there is no such model; names the source.
    """
    digests = {}
    for name, corpus in _teachers(corpora).items():
        with _said_where(corpus):
            digests[name] = model_digest(name)
    return digests


def _teachers(corpora: Sequence[Corpus]) -> dict[str, Corpus]:
    """Gather the teachers, each with the first source that names it."""
    named: dict[str, Corpus] = {}
    for corpus in corpora:
        for name in corpus.articles.spec.teachers:
            named.setdefault(name, corpus)
    return named


def _groups(articles: Iterable[Article]) -> Iterator[list[Article]]:
    group: list[Article] = []
    n_characters = 0
    for article in articles:
        group.append(article)
        n_characters += len(article.text)
        if len(group) == _MOST_ARTICLES or n_characters >= _MOST_CHARACTERS:
            yield group
            group, n_characters = [], 0
    if group:
        yield group


def _counted(batches: Iterable[list[Example]], bar: tqdm[None]) -> Iterator[list[Example]]:
    lines = LogLines(logger, shown=bar.disable)
    n_articles = 0
    for batch in batches:
        yield batch
        n_articles += len(batch)
        bar.update(len(batch))
        lines.line("encoded %s of %s articles", f"{n_articles:,}", f"{bar.total:,}")


def describe_reading(train: Sequence[Corpus], dev: Sequence[Corpus], labels: LabelSet) -> dict[str, str]:
    """Give a digest, by name, of how corpora are read: the labels with their maps."""
    maps = [asdict(corpus.annotation) for corpus in (*train, *dev)]
    return {"labels and their maps": _digest({"labels": asdict(labels), "maps": maps})}


def _fingerprint(
    corpora: Sequence[Corpus],
    tokenizer: PreTrainedTokenizerFast,
    labels: LabelSet,
    max_segment_words: int,
    teachers: Mapping[str, str],
) -> str:
    """Name everything that the examples depend on; of the corpora's files their sizes and times of change."""
    return _digest(
        {
            "format": [__version__, str(SCHEMA)],
            "sources": [
                [corpus.articles.spec.path.resolve(), asdict(corpus.articles), asdict(corpus.annotation)]
                for corpus in corpora
            ],
            "teachers": dict(teachers),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "labels": asdict(labels),
            "max_segment_words": max_segment_words,
        }
    )


def _digest(facts: dict[str, Any]) -> str:
    text = json.dumps(
        facts, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, frozenset) else str(value)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]

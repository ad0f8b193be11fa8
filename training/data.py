"""Turns corpora into training examples under one label set.

Knows corpora, the tokenizer and targets; knows nothing of models or batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.training.batching import Example
from khabar.training.corpora import Corpus
from khabar.training.targets import LabelSet, LostEntities, make_targets

ENCODED_TOGETHER = 1024


def collect_labels(corpora: Sequence[Corpus]) -> LabelSet:
    """Gather every topic and entity label that the corpora can teach, in alphabetical order.

    Raises:
        KhabarError: If there is none.
    """
    topics: set[str] = set()
    entity_labels: set[str] = set()
    for corpus in corpora:
        topics.update(corpus.topics)
        found = {entity.label for article in corpus.articles for entity in article.entities or ()}
        entity_labels.update(label for source in found for label in corpus.annotation.labels_of(source))
    if not topics and not entity_labels:
        raise KhabarError("the corpora hold no topic and no entity: there is nothing to learn")
    return LabelSet(topics=tuple(sorted(topics)), entity_labels=tuple(sorted(entity_labels)))


def make_examples(
    corpora: Sequence[Corpus], tokenizer: PreTrainedTokenizerFast, labels: LabelSet, *, max_segment_words: int
) -> tuple[list[Example], LostEntities]:
    """Encode every article and work out its targets.

    Returns:
        The examples in the corpora's order, and the account of entities that words cannot express.
    """
    lost = LostEntities()
    examples = []
    for corpus in corpora:
        for first in range(0, len(corpus.articles), ENCODED_TOGETHER):
            articles = corpus.articles[first : first + ENCODED_TOGETHER]
            encoded = encode_articles(
                [article.text for article in articles],
                tokenizer,
                max_segment_words=max_segment_words,
                segments=[article.segment_spans for article in articles],
            )
            examples += [
                Example(encoded=one, targets=make_targets(article, one, corpus.annotation, labels, lost))
                for article, one in zip(articles, encoded, strict=True)
            ]
    return examples, lost

"""Turns a batch's logits into topics, evidence segments and entity spans of the raw text.

Knows model outputs and encoded articles; knows nothing of how they were batched for speed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.models.batch import Batch
from khabar.models.config import KhabarConfig
from khabar.models.crf import LinearChainCRF
from khabar.models.encoding import EncodedArticle
from khabar.models.model import KhabarOutput
from khabar.models.tags import spans_from_paths
from khabar.models.words import after_proclitics, proclitic_length


def decode(
    texts: Sequence[str],
    ids: Sequence[str | None],
    encoded: Sequence[EncodedArticle],
    batch: Batch,
    output: KhabarOutput,
    crf: LinearChainCRF,
    config: KhabarConfig,
) -> list[TaggedArticle]:
    """Read the results of one forward pass.

    Args:
        texts: Raw texts of the batch's articles.
        ids: Their ids.
        encoded: The articles that `batch` was collated from, in the same order.
        batch: The batch, on the output's device.
        output: What the model gave for it.
        crf: The model's CRF.
        config: The model's labels, temperatures, thresholds and bands.
    """
    labels = _Labels.of(config)
    # A topic's segments and article share a temperature: the article's score stays that of its best segment.
    temperatures = output.segment_topic_logits.new_tensor([config.topic_temperatures[topic] for topic in labels.topics])
    segment_scores = (output.segment_topic_logits / temperatures).sigmoid().tolist()
    article_scores = (output.article_topic_logits / temperatures).sigmoid().tolist()
    spans = spans_from_paths(crf.viterbi(output.emissions, batch.word_mask))
    probabilities = crf.entity_probabilities(output.emissions, batch.word_mask, spans)
    # (n_spans, lengths) of the proclitics on each entity's first word, most probable first.
    proclitics = output.proclitic_logits[spans[:, 0], spans[:, 1]].argsort(dim=-1, descending=True)
    found = _FoundEntities(
        spans=spans.tolist(), probabilities=probabilities.tolist(), proclitics=proclitics.tolist(), labels=labels
    )
    results = []
    first = 0  # row of the article's first segment
    for text, id_, article, article_row in zip(texts, ids, encoded, article_scores, strict=True):
        stop = first + len(article.segments)
        segments = _segments(article, segment_scores[first:stop], labels)
        scores = dict(zip(labels.topics, article_row, strict=True))
        results.append(
            TaggedArticle(
                id=id_,
                text=text,
                topics=_topics(scores, segments, labels),
                uncertain=_uncertain(scores, labels),
                topic_scores=scores,
                segments=segments,
                entities=found.of(text, article, first),
                characters_read=article.n_characters,
                model=labels.model,
            )
        )
        first = stop
    return results


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """What decoding needs of a config. Each look into a transformers config costs microseconds."""

    topics: Sequence[str]
    thresholds: Mapping[str, float]
    bands: Mapping[str, Sequence[float]]
    entities: Sequence[str]
    model: str

    @classmethod
    def of(cls, config: KhabarConfig) -> _Labels:
        return cls(
            topics=config.topics,
            thresholds=config.topic_thresholds,
            bands=config.topic_bands,
            entities=config.entity_labels,
            model=config.full_name,
        )


def _reported(scores: Mapping[str, float], labels: _Labels) -> list[str]:
    """Topics at or above their thresholds, most probable first."""
    reported = [label for label, score in scores.items() if score >= labels.thresholds[label]]
    return sorted(reported, key=lambda label: -scores[label])


def _uncertain(scores: Mapping[str, float], labels: _Labels) -> tuple[str, ...]:
    """Topics whose probability is inside their band, most probable first."""
    inside = [label for label, (low, high) in labels.bands.items() if low <= scores[label] < high]
    return tuple(sorted(inside, key=lambda label: -scores[label]))


def _segments(article: EncodedArticle, rows: Sequence[Sequence[float]], labels: _Labels) -> tuple[Segment, ...]:
    segments = []
    for (start, end), row in zip(article.segments, rows, strict=True):
        scores = dict(zip(labels.topics, row, strict=True))
        segments.append(Segment(start=start, end=end, topics=tuple(_reported(scores, labels)), scores=scores))
    return tuple(segments)


def _topics(scores: Mapping[str, float], segments: Sequence[Segment], labels: _Labels) -> tuple[Topic, ...]:
    # An article's score is its best segment's: whatever reaches the threshold has a segment that shows it.
    return tuple(
        Topic(
            label=label,
            score=scores[label],
            segments=tuple(index for index, segment in enumerate(segments) if label in segment.topics),
        )
        for label in _reported(scores, labels)
    )


@dataclass(frozen=True, kw_only=True)
class _FoundEntities:
    """The entities of a batch, one after the other, by segment and word."""

    spans: Sequence[Sequence[int]]  # segment row, first word, word past the last, label
    probabilities: Sequence[float]
    proclitics: Sequence[Sequence[int]]
    labels: _Labels

    def of(self, text: str, article: EncodedArticle, first_row: int) -> tuple[Entity, ...]:
        """Give those of an article whose first segment has a row, joined proclitics cut off their first words."""
        stop_row = first_row + len(article.segments)
        begin = bisect_left(self.spans, first_row, key=itemgetter(0))
        end = bisect_left(self.spans, stop_row, begin, key=itemgetter(0))
        # Where each segment's words begin among the article's.
        first_words = np.searchsorted(article.word_segments, np.arange(len(article.segments))).tolist()
        entities = []
        for index in range(begin, end):
            row, first, stop, label = self.spans[index]
            before = first_words[row - first_row]
            last = article.words[before + stop - 1][1]
            start = _without_proclitics(text, article.words[before + first], self.proclitics[index])
            entities.append(
                Entity(
                    label=self.labels.entities[label],
                    start=start,
                    end=last,
                    text=text[start:last],
                    score=self.probabilities[index],
                )
            )
        return tuple(entities)


def _without_proclitics(text: str, word: tuple[int, int], lengths: Sequence[int]) -> int:
    """Where the name starts in its first word: behind the most probable number of letters that may stand there."""
    start, end = word
    for n_letters in lengths:
        if n_letters == 0:
            return start
        behind = after_proclitics(text, start, n_letters)
        if behind < end and proclitic_length(text, start, behind) == n_letters:
            return behind
    return start

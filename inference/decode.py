"""Turns a batch's logits into topics, evidence segments and entity spans of the raw text.

Knows model outputs and encoded articles; knows nothing of batches or devices.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.models.article import Article
from khabar.models.config import KhabarConfig
from khabar.models.crf import LinearChainCRF
from khabar.models.encoding import EncodedArticle
from khabar.models.model import KhabarOutput
from khabar.models.tags import spans_from_paths
from khabar.models.words import after_proclitics, proclitic_length


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What reading results needs of a model's config.

    Attributes:
        topics: Topics, in the order of their logits.
        temperatures: What each topic's logit is divided by, in that order.
        thresholds: Probability from which a topic is reported.
        bands: Topics' bands of uncertainty, low and high.
        entities: Entity labels, in the order of their tags.
        model: Name and version of the model.
    """

    topics: Sequence[str]
    temperatures: Sequence[float]
    thresholds: Mapping[str, float]
    bands: Mapping[str, Sequence[float]]
    entities: Sequence[str]
    model: str

    @classmethod
    def of(cls, config: KhabarConfig) -> Labels:
        """Take them from a config. Each look into a transformers config costs microseconds: once is enough."""
        return cls(
            topics=list(config.topics),
            temperatures=[config.topic_temperatures[topic] for topic in config.topics],
            thresholds=dict(config.topic_thresholds),
            bands=dict(config.topic_bands),
            entities=list(config.entity_labels),
            model=config.full_name,
        )


_OF_WORDS = ("emissions", "proclitics")


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What one forward pass gives, in the computer's own memory, as arrays that processes can send to one another.

    Shapes as in `KhabarOutput`; the mask is (n_segments, n_words) bool, True for real words. Between processes only
    what is said of real words travels: segments differ much in length, and half of what is computed is padding.
    """

    segment_topics: NDArray[np.float32]
    article_topics: NDArray[np.float32]
    emissions: NDArray[np.float32]
    proclitics: NDArray[np.float32]
    word_mask: NDArray[np.bool_]

    def __getstate__(self) -> dict[str, NDArray[Any]]:
        """Give what is pickled."""
        return vars(self) | {name: getattr(self, name)[self.word_mask] for name in _OF_WORDS}

    def __setstate__(self, state: dict[str, NDArray[Any]]) -> None:
        """Lay words out again; padding becomes zeros."""
        mask = state["word_mask"]
        for name in _OF_WORDS:
            of_words = np.zeros((*mask.shape, state[name].shape[-1]), dtype=state[name].dtype)
            of_words[mask] = state[name]
            state[name] = of_words
        vars(self).update(state)

    def topic_probabilities(self, temperatures: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Give the topics' probabilities of segments and of articles, shapes as the logits'.

        A topic's segments and article share a temperature: the article's score stays that of its best segment.
        """
        divisors = torch.tensor(temperatures)
        segments, articles = torch.from_numpy(self.segment_topics), torch.from_numpy(self.article_topics)
        return (segments / divisors).sigmoid(), (articles / divisors).sigmoid()

    @classmethod
    def of(cls, output: KhabarOutput, word_mask: Tensor) -> Logits:
        """Take a model's output and a batch's mask, both on the CPU; nothing is copied but bfloat16."""
        return cls(
            segment_topics=output.segment_topic_logits.float().numpy(),
            article_topics=output.article_topic_logits.float().numpy(),
            emissions=output.emissions.float().numpy(),
            proclitics=output.proclitic_logits.float().numpy(),
            word_mask=word_mask.numpy(),
        )


def decode(
    articles: Sequence[Article],
    encoded: Sequence[EncodedArticle],
    logits: Logits,
    crf: LinearChainCRF,
    labels: Labels,
) -> list[TaggedArticle]:
    """Read the results of one forward pass.

    Args:
        articles: The batch's articles.
        encoded: The same, as they were collated.
        logits: What the model gave for them.
        crf: The model's CRF, on the CPU.
        labels: The model's labels, temperatures, thresholds and bands.
    """
    segment_scores, article_scores = (
        scores.numpy().tolist() for scores in logits.topic_probabilities(labels.temperatures)
    )
    emissions, mask = torch.from_numpy(logits.emissions), torch.from_numpy(logits.word_mask)
    spans = spans_from_paths(crf.viterbi(emissions, mask))
    probabilities = crf.entity_probabilities(emissions, mask, spans)
    # (n_spans, lengths) of the proclitics on each entity's first word, most probable first.
    proclitics = torch.from_numpy(logits.proclitics)[spans[:, 0], spans[:, 1]].argsort(dim=-1, descending=True)
    found = _FoundEntities(
        spans=spans.tolist(), probabilities=probabilities.tolist(), proclitics=proclitics.tolist(), labels=labels
    )
    results = []
    first = 0  # row of the article's first segment
    for article, places, article_row in zip(articles, encoded, article_scores, strict=True):
        stop = first + len(places.segments)
        segments = _segments(places, segment_scores[first:stop], labels)
        scores = dict(zip(labels.topics, article_row, strict=True))
        results.append(
            TaggedArticle(
                id=article.id,
                text=article.text,
                topics=_topics(scores, segments, labels),
                uncertain=_uncertain(scores, labels),
                topic_scores=scores,
                segments=segments,
                entities=found.of(article.text, places, first),
                characters_read=places.n_characters,
                model=labels.model,
            )
        )
        first = stop
    return results


def _reported(scores: Mapping[str, float], labels: Labels) -> list[str]:
    """Topics at or above their thresholds, most probable first."""
    reported = [label for label, score in scores.items() if score >= labels.thresholds[label]]
    return sorted(reported, key=lambda label: -scores[label])


def _uncertain(scores: Mapping[str, float], labels: Labels) -> tuple[str, ...]:
    """Topics whose probability is inside their band, most probable first."""
    inside = [label for label, (low, high) in labels.bands.items() if low <= scores[label] < high]
    return tuple(sorted(inside, key=lambda label: -scores[label]))


def _segments(places: EncodedArticle, rows: Sequence[Sequence[float]], labels: Labels) -> tuple[Segment, ...]:
    segments = []
    for (start, end), row in zip(places.segments, rows, strict=True):
        scores = dict(zip(labels.topics, row, strict=True))
        segments.append(Segment(start=start, end=end, topics=tuple(_reported(scores, labels)), scores=scores))
    return tuple(segments)


def _topics(scores: Mapping[str, float], segments: Sequence[Segment], labels: Labels) -> tuple[Topic, ...]:
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
    labels: Labels

    def of(self, text: str, places: EncodedArticle, first_row: int) -> tuple[Entity, ...]:
        """Give those of an article whose first segment has a row, joined proclitics cut off their first words."""
        stop_row = first_row + len(places.segments)
        begin = bisect_left(self.spans, first_row, key=itemgetter(0))
        end = bisect_left(self.spans, stop_row, begin, key=itemgetter(0))
        # Where each segment's words begin among the article's.
        first_words = np.searchsorted(places.word_segments, np.arange(len(places.segments))).tolist()
        words = places.words.tolist()
        entities = []
        for index in range(begin, end):
            row, first, stop, label = self.spans[index]
            before = first_words[row - first_row]
            start = _without_proclitics(text, words[before + first], self.proclitics[index])
            last = words[before + stop - 1][1]
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


def _without_proclitics(text: str, word: Sequence[int], lengths: Sequence[int]) -> int:
    """Where the name starts in its first word: behind the most probable number of letters that may stand there."""
    start, end = word
    for n_letters in lengths:
        if n_letters == 0:
            return start
        behind = after_proclitics(text, start, n_letters)
        if behind < end and proclitic_length(text, start, behind) == n_letters:
            return behind
    return start

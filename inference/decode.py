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
    """What one forward pass gives, in the computer's own memory.

    Shapes as in `KhabarOutput`; the mask is (n_segments, n_words) bool, True for real words. What is said of words is
    in bfloat16 where it was computed so. Between processes only real words travel, as arrays: segments differ much in
    length, and half of what is computed is padding.
    """

    segment_topics: Tensor
    article_topics: Tensor
    emissions: Tensor
    proclitics: Tensor
    word_mask: Tensor

    @classmethod
    def of(cls, output: KhabarOutput, word_mask: Tensor, *, bf16: bool = False) -> Logits:
        """Take a model's output; from a GPU it is then on its way.

        Args:
            output: On any device.
            word_mask: The batch's, on the CPU.
            bf16: Whether the model computed in bfloat16: that holds what is said of words, without loss.
        """
        words = torch.bfloat16 if bf16 else torch.float32
        return cls(
            segment_topics=output.segment_topic_logits.float().to("cpu", non_blocking=True),
            article_topics=output.article_topic_logits.float().to("cpu", non_blocking=True),
            emissions=output.emissions.to(words).to("cpu", non_blocking=True),
            proclitics=output.proclitic_logits.to(words).to("cpu", non_blocking=True),
            word_mask=word_mask,
        )

    def __getstate__(self) -> dict[str, NDArray[Any]]:
        """Give what is pickled: bfloat16, which numpy does not know, as integers."""
        tensors: dict[str, Tensor] = vars(self) | {name: getattr(self, name)[self.word_mask] for name in _OF_WORDS}
        return {
            name: (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
            for name, tensor in tensors.items()
        }

    def __setstate__(self, state: dict[str, NDArray[Any]]) -> None:
        """Lay words out again; padding becomes zeros."""
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        mask = tensors["word_mask"]
        for name in _OF_WORDS:
            of_words = tensors[name]
            tensors[name] = of_words.new_zeros((*mask.shape, of_words.shape[-1]))
            tensors[name][mask] = of_words
            if of_words.dtype == torch.int16:
                tensors[name] = tensors[name].view(torch.bfloat16)
        vars(self).update(tensors)

    def topic_probabilities(self, temperatures: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Give the topics' probabilities of segments and of articles, shapes as the logits'.

        A topic's segments and article share a temperature: the article's score stays that of its best segment.
        """
        divisors = torch.tensor(temperatures)
        return (self.segment_topics / divisors).sigmoid(), (self.article_topics / divisors).sigmoid()


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
    spans = spans_from_paths(crf.viterbi(logits.emissions, logits.word_mask))
    probabilities = crf.entity_probabilities(logits.emissions, logits.word_mask, spans)
    # (n_spans, lengths) of the proclitics on each entity's first word, most probable first.
    proclitics = logits.proclitics[spans[:, 0], spans[:, 1]].float().argsort(dim=-1, descending=True)
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

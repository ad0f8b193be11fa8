"""Turns a batch's logits into topics, evidence segments and entity spans of the raw text.

Knows model outputs and encoded articles; knows nothing of how they were batched for speed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.models.batch import Batch
from khabar.models.config import KhabarConfig
from khabar.models.crf import LinearChainCRF
from khabar.models.encoding import EncodedArticle
from khabar.models.model import KhabarOutput
from khabar.models.tags import spans_from_tags
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
    # A topic's segments and article share a temperature: the article's score stays that of its best segment.
    temperatures = output.segment_topic_logits.new_tensor([config.topic_temperatures[topic] for topic in config.topics])
    segment_scores = (output.segment_topic_logits / temperatures).sigmoid().cpu()
    article_scores = (output.article_topic_logits / temperatures).sigmoid().cpu()
    paths = crf.viterbi(output.emissions, batch.word_mask)
    probabilities = crf.entity_probabilities(output.emissions, batch.word_mask, paths).cpu()
    paths, proclitics = paths.cpu(), output.proclitic_logits.cpu()
    results = []
    first = 0  # row of the article's first segment
    for row, (text, id_, article) in enumerate(zip(texts, ids, encoded, strict=True)):
        rows = slice(first, first + len(article.segments))
        first = rows.stop
        segments = _segments(article, segment_scores[rows], config)
        scores = dict(zip(config.topics, article_scores[row].tolist(), strict=True))
        results.append(
            TaggedArticle(
                id=id_,
                text=text,
                topics=_topics(scores, segments, config),
                uncertain=_uncertain(scores, config),
                topic_scores=scores,
                segments=segments,
                entities=_entities(text, article, paths[rows], probabilities[rows], proclitics[rows], config),
                characters_read=article.n_characters,
                model=config.full_name,
            )
        )
    return results


def _reported(scores: dict[str, float], config: KhabarConfig) -> list[str]:
    """Topics at or above their thresholds, most probable first."""
    reported = [label for label, score in scores.items() if score >= config.topic_thresholds[label]]
    return sorted(reported, key=lambda label: -scores[label])


def _uncertain(scores: dict[str, float], config: KhabarConfig) -> tuple[str, ...]:
    """Topics whose probability is inside their band, most probable first."""
    inside = [label for label, (low, high) in config.topic_bands.items() if low <= scores[label] < high]
    return tuple(sorted(inside, key=lambda label: -scores[label]))


def _segments(article: EncodedArticle, segment_scores: Tensor, config: KhabarConfig) -> tuple[Segment, ...]:
    segments = []
    for (start, end), row in zip(article.segments, segment_scores.tolist(), strict=True):
        scores = dict(zip(config.topics, row, strict=True))
        segments.append(Segment(start=start, end=end, topics=tuple(_reported(scores, config)), scores=scores))
    return tuple(segments)


def _topics(scores: dict[str, float], segments: Sequence[Segment], config: KhabarConfig) -> tuple[Topic, ...]:
    # An article's score is its best segment's: whatever reaches the threshold has a segment that shows it.
    return tuple(
        Topic(
            label=label,
            score=scores[label],
            segments=tuple(index for index, segment in enumerate(segments) if label in segment.topics),
        )
        for label in _reported(scores, config)
    )


def _entities(
    text: str,
    article: EncodedArticle,
    paths: Tensor,
    probabilities: Tensor,
    proclitics: Tensor,
    config: KhabarConfig,
) -> tuple[Entity, ...]:
    """Read an article's entities, segment by segment, and cut joined proclitics off their first words."""
    entities = []
    words = iter(article.words)
    counts = [0] * len(article.segments)
    for segment in article.word_segments.tolist():
        counts[segment] += 1
    for row, n_words in enumerate(counts):
        spans = [next(words) for _ in range(n_words)]
        for first, stop, label in spans_from_tags(paths[row, :n_words].tolist()):
            start = _without_proclitics(text, spans[first], proclitics[row, first])
            end = spans[stop - 1][1]
            entities.append(
                Entity(
                    label=config.entity_labels[label],
                    start=start,
                    end=end,
                    text=text[start:end],
                    score=float(probabilities[row, first]),
                )
            )
    return tuple(entities)


def _without_proclitics(text: str, word: tuple[int, int], logits: Tensor) -> int:
    """Where the name starts in its first word: behind the most probable number of letters that may stand there."""
    start, end = word
    for n_letters in logits.argsort(descending=True).tolist():
        if n_letters == 0:
            return start
        behind = after_proclitics(text, start, n_letters)
        if behind < end and proclitic_length(text, start, behind) == n_letters:
            return behind
    return start

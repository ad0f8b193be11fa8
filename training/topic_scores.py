"""Gathers a tagger's topic logits and the gold topics of annotated articles as arrays, per article and per segment.

Knows of the tagger what it tags and its topics and temperatures; knows nothing of what is fitted to the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from khabar.inference.tagger import Tagger
from khabar.models.article import Article
from khabar.training.predictions import LEVELS, predict, topic_items

# In single precision a probability is 1 from a logit of about 17: what lies beyond is not told apart.
_LARGEST_LOGIT = 17.0
_SMALLEST = 1.0 / (1.0 + np.exp(_LARGEST_LOGIT))


@dataclass(frozen=True, kw_only=True)
class Level:
    """All annotated articles, or all annotated segments.

    Attributes:
        logits: (n, n_topics), before any temperature.
        gold: (n, n_topics).
        owner: (n,) number of the article that each is, or belongs to.
    """

    logits: NDArray[np.float64]
    gold: NDArray[np.bool_]
    owner: NDArray[np.int64]

    def of(self, articles: NDArray[np.bool_]) -> Level:
        """Keep what belongs to some of the articles: a mask, (n_articles,)."""
        kept = articles[self.owner]
        return Level(logits=self.logits[kept], gold=self.gold[kept], owner=self.owner[kept])


@dataclass(frozen=True, kw_only=True)
class TopicScores:
    """Scores and gold of a list of articles.

    Attributes:
        article: Articles whose own topics are annotated.
        segment: Segments whose topics are annotated.
        n_articles: Length of the list.
    """

    article: Level
    segment: Level
    n_articles: int

    @property
    def decisions(self) -> Level:
        """What thresholds are for: articles, and the segments of those that have no topics of their own annotated."""
        lone = np.ones(self.n_articles, dtype=np.bool_)
        lone[self.article.owner] = False
        segments = self.segment.of(lone)
        return Level(
            logits=np.concatenate([self.article.logits, segments.logits]),
            gold=np.concatenate([self.article.gold, segments.gold]),
            owner=np.concatenate([self.article.owner, segments.owner]),
        )

    def of(self, articles: NDArray[np.bool_]) -> TopicScores:
        """Keep what belongs to some of the articles: a mask, (n_articles,). The articles keep their numbers."""
        return TopicScores(
            article=self.article.of(articles), segment=self.segment.of(articles), n_articles=self.n_articles
        )


def has_topic_gold(article: Article) -> bool:
    """Tell whether anything of an article is annotated for topics."""
    return article.topics is not None or any(segment.topics is not None for segment in article.segments or ())


def collect_scores(
    tagger: Tagger, articles: Sequence[Article], *, progress: Callable[[], object] = lambda: None
) -> TopicScores:
    """Tag articles and take the probabilities back to the logits that they came from.

    Args:
        tagger: A tagger with at least one topic.
        articles: Articles for which `has_topic_gold` holds.
        progress: Called after each.
    """
    topics = tagger.topics
    temperatures = np.array([tagger.model.config.topic_temperatures[topic] for topic in topics])
    predictions = predict(tagger, articles, progress=progress)
    levels = {}
    for level in LEVELS:
        items = [(k, item) for k, prediction in enumerate(predictions) for item in topic_items(prediction, level)]
        shape = len(items), len(topics)  # also when there are none
        scores = np.array([[item.scores[topic] for topic in topics] for _, item in items], dtype=np.float64)
        scores = scores.reshape(shape).clip(_SMALLEST, 1.0 - _SMALLEST)
        gold = np.array([[topic in item.gold for topic in topics] for _, item in items], dtype=np.bool_)
        levels[level] = Level(
            logits=(np.log(scores / (1.0 - scores)) * temperatures).clip(-_LARGEST_LOGIT, _LARGEST_LOGIT),
            gold=gold.reshape(shape),
            owner=np.array([k for k, _ in items], dtype=np.int64),
        )
    return TopicScores(article=levels["article"], segment=levels["segment"], n_articles=len(articles))

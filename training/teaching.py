"""Lets finished models say what a source's own labels leave open: topics, likely tags, joined proclitics.

Turns encoded articles and their targets into fuller targets. Knows models and labels; knows nothing of corpora.

Source: topics are learned from a teacher's probabilities as in Hinton et al. 2015, "Distilling the Knowledge in a
Neural Network"; texts without any label as in Yarowsky 1995 (self-training) and Xie et al. 2020, "Self-training with
Noisy Student improves ImageNet classification". A word learns the set of tags that its teachers hold likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from khabar.inference.decode import Labels
from khabar.inference.tagger import Tagger, load
from khabar.models import tags
from khabar.models.batch import word_places
from khabar.models.encoding import EncodedArticle, encode_articles
from khabar.models.errors import KhabarError
from khabar.models.model import NOT_ANNOTATED
from khabar.training.targets import LabelSet, Targets

# A tag is likely for a word if it has this share of the likeliest tag's probability, or if this share of the teachers
# have it on their best paths: two or more are left where they are torn. Far lower, and "outside" would be left to most
# names: a student that finds none would be right. Three sure teachers leave a fourth one a third: it is overruled.
LIKELY_SHARE = 0.4
# From here on, the teachers are sure how many letters stand joined before a name.
SURE_PROCLITICS = 0.9


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one teacher, or the mean of several, says of an article; labels in the taught model's order.

    Attributes:
        segment_topics: (n_segments, n_topics) probabilities; NaN for a topic that the teachers do not know.
        article_topics: (n_topics,) likewise.
        tags: (n_words, n_tags) probabilities; NaN for a label, or at a word, that the teachers do not know.
        best: (n_words, n_tags) share of the teachers on whose best path the word has the tag.
        proclitics: (n_words, MAX_PROCLITICS + 1) probabilities; NaN at a word that the teachers do not know.
    """

    segment_topics: NDArray[np.float32]
    article_topics: NDArray[np.float32]
    tags: NDArray[np.float32]
    best: NDArray[np.float32]
    proclitics: NDArray[np.float32]


class Teachers:
    """Finished models that answer together: their probabilities are averaged.

    Args:
        names: Folders, hub ids or `embedded`; at least one.
        labels: Those of the model that is taught.
        device: As in `khabar.load`.

    Raises:
        KhabarError: If a teacher cannot be loaded, if their labels differ, or if they know none of the model's.
    """

    def __init__(self, names: Sequence[str], labels: LabelSet, *, device: str = "auto") -> None:
        taggers = [load(name, device=device) for name in names]
        first = _label_set(taggers[0])
        for name, tagger in zip(names, taggers, strict=True):
            if _label_set(tagger) != first:
                raise KhabarError(
                    f"the teachers {names[0]} and {name} have different labels ({', '.join(sorted(first))}; "
                    f"{', '.join(sorted(_label_set(tagger)))}); allowed: teachers of a source with the same ones"
                )
        wanted = {*labels.topics, *labels.entity_labels}
        if not first & wanted:
            raise KhabarError(
                f"the teacher {names[0]} knows none of the labels to learn ({', '.join(sorted(wanted))}); "
                f"its own are {', '.join(sorted(first))}"
            )
        self._teachers = [_Teacher(tagger, labels) for tagger in taggers]

    def complete(
        self, texts: Sequence[str], encoded: Sequence[EncodedArticle], targets: Sequence[Targets]
    ) -> list[Targets]:
        """Fill in what targets leave open.

        Args:
            texts: The articles' texts.
            encoded: The articles as the model to train reads them; the teachers are given its segments.
            targets: What the articles' source says; that stands as it is.
        """
        answers = [teacher.answers(texts, encoded) for teacher in self._teachers]
        return [
            _completed(one, target, _mean(together))
            for one, target, together in zip(encoded, targets, zip(*answers, strict=True), strict=True)
        ]


class _Teacher:
    """One model, and how its labels lie among those of the model that is taught."""

    def __init__(self, tagger: Tagger, labels: LabelSet) -> None:
        self._tagger, self._model = tagger, tagger.model
        config = tagger.model.config
        self._temperatures = Labels.of(config).temperatures
        self._passes = tagger.passes()
        self._n_topics, self._n_tags = len(labels.topics), tags.n_tags(len(labels.entity_labels))
        # Of each topic and tag of the teacher, the model's; a label that the model lacks is outside to it.
        common = [topic for topic in config.topics if topic in labels.topics]
        self._topics = (
            [config.topics.index(topic) for topic in common],
            [labels.topics.index(topic) for topic in common],
        )
        self._tags = np.zeros(tags.n_tags(len(config.entity_labels)), dtype=np.int64)
        for place, label in enumerate(config.entity_labels):
            if label in labels.entity_labels:
                to = labels.entity_labels.index(label)
                self._tags[[tags.begin_tag(place), tags.inside_tag(place)]] = tags.begin_tag(to), tags.inside_tag(to)
        self._unknown = np.setdiff1d(np.arange(self._n_tags), self._tags)

    @torch.inference_mode()
    def answers(self, texts: Sequence[str], encoded: Sequence[EncodedArticle]) -> list[Answer]:
        """Answer for articles, which are run in batches of like length."""
        own = encode_articles(
            texts,
            self._tagger.tokenizer,
            max_segment_words=self._model.config.max_segment_words,
            segments=[one.segments for one in encoded],
        )
        answers: dict[int, Answer] = {}
        for done in chain.from_iterable(map(self._passes.run, self._passes.plan(own))):
            logits = done.logits()
            if logits is None:
                (index,) = done.work.indices
                raise self._passes.too_long(texts[index])
            emissions, mask = logits.emissions, logits.word_mask
            by_segment, by_article = (topics.numpy() for topics in logits.topic_probabilities(self._temperatures))
            by_word = [
                self._tagger.crf.marginals(emissions, mask).numpy(),
                self._tagger.crf.viterbi(emissions, mask).numpy(),
                logits.proclitics.float().softmax(dim=-1).numpy(),
            ]
            first = 0  # row of the article's first segment
            for index, topics in zip(done.work.indices, by_article, strict=True):
                rows, columns = word_places(own[index])
                stop = first + len(own[index].segments)
                words = [values[rows + first, columns] for values in by_word]
                answers[index] = self._answer(encoded[index], own[index], by_segment[first:stop], topics, *words)
                first = stop
        return [answers[index] for index in range(len(texts))]

    def _answer(
        self,
        encoded: EncodedArticle,
        own: EncodedArticle,
        by_segment: NDArray[np.float32],
        by_article: NDArray[np.float32],
        marginals: NDArray[np.float32],
        path: NDArray[np.int64],
        proclitics: NDArray[np.float32],
    ) -> Answer:
        """Lay one article's outputs out in the order of the model's labels and words."""
        theirs, ours = self._topics
        segment_topics = np.full((len(encoded.segments), self._n_topics), np.nan, dtype=np.float32)
        article_topics = np.full(self._n_topics, np.nan, dtype=np.float32)
        segment_topics[:, ours], article_topics[ours] = by_segment[:, theirs], by_article[theirs]

        # The two tokenizers may differ in which words have no piece.
        place_of = {start: place for place, start in enumerate(own.words[:, 0].tolist())}
        places = np.array([place_of.get(start, -1) for start in encoded.words[:, 0].tolist()], dtype=np.int64)
        read = places >= 0
        known, best = (np.zeros((len(places), self._n_tags), dtype=np.float32) for _ in range(2))
        known_rows = np.flatnonzero(read)
        np.add.at(known, (known_rows[:, None], self._tags[None, :]), marginals[places[read]])
        known[:, self._unknown] = np.nan
        known[~read] = np.nan
        best[known_rows, self._tags[path[places[read]]]] = 1.0
        joined = np.full((len(places), proclitics.shape[-1]), np.nan, dtype=np.float32)
        joined[read] = proclitics[places[read]]
        return Answer(
            segment_topics=segment_topics, article_topics=article_topics, tags=known, best=best, proclitics=joined
        )


def _label_set(tagger: Tagger) -> set[str]:
    return {*tagger.topics, *tagger.entity_labels}


def _mean(answers: Sequence[Answer]) -> Answer:
    names = [field.name for field in fields(Answer)]
    return Answer(**{name: np.mean([getattr(answer, name) for answer in answers], axis=0) for name in names})


def _completed(encoded: EncodedArticle, targets: Targets, answer: Answer) -> Targets:
    """Let a source's targets stand, and put the teachers' answer where they leave something open."""
    article_topics = _by_segments(targets)
    article_topics = np.where(np.isnan(article_topics), answer.article_topics, article_topics)
    segment_topics = np.where(np.isnan(targets.segment_topics), answer.segment_topics, targets.segment_topics)
    segment_topics[:, article_topics == 0] = 0  # no segment shows what the article does not report
    allowed = likely_tags(encoded, targets.allowed_tags, answer)
    names_begin = allowed[:, 1::2].any(axis=1) & ~allowed[:, tags.OUTSIDE] & ~allowed[:, 2::2].any(axis=1)
    sure = names_begin & (answer.proclitics.max(axis=1, initial=0) >= SURE_PROCLITICS)
    open_ = sure & (targets.proclitics == NOT_ANNOTATED)
    return replace(
        targets,
        segment_topics=segment_topics,
        article_topics=article_topics,
        allowed_tags=allowed,
        proclitics=np.where(open_, answer.proclitics.argmax(axis=1), targets.proclitics),
    )


def _by_segments(targets: Targets) -> NDArray[np.float32]:
    """Give the article's topics, (n_topics,), also where only its segments say them; NaN where both leave it open."""
    if not len(targets.segment_topics):
        return targets.article_topics
    highest = targets.segment_topics.max(axis=0)  # NaN where one segment is open
    shown = (targets.segment_topics == 1).any(axis=0)
    return np.where(np.isnan(targets.article_topics), np.where(shown, np.float32(1), highest), targets.article_topics)


def likely_tags(encoded: EncodedArticle, allowed: NDArray[np.bool_], answer: Answer) -> NDArray[np.bool_]:
    """Of the tags that a source allows, keep those that the teachers hold likely, where a path is left.

    Args:
        encoded: The article.
        allowed: (n_words, n_tags) what its source allows.
        answer: The mean of the teachers' answers.

    Returns:
        (n_words, n_tags); of every segment a legal sequence of tags, if its source leaves one.
    """
    highest = np.nan_to_num(answer.tags).max(axis=1, keepdims=True, initial=0)
    likely = np.isnan(answer.tags) | (answer.tags >= LIKELY_SHARE * highest) | (answer.best >= LIKELY_SHARE)
    both = allowed & likely
    both = np.where(both.any(axis=1, keepdims=True), both, allowed)
    n_labels = (allowed.shape[1] - 1) // 2
    starts, moves = tags.legal_starts(n_labels).numpy(), tags.legal_transitions(n_labels).numpy()
    for segment in range(len(encoded.segments)):
        words = slice(*np.searchsorted(encoded.word_segments, [segment, segment + 1]))
        reached = starts
        for row in both[words]:
            reached = reached & row
            if not reached.any():
                both[words] = allowed[words]
                break
            reached = moves[reached].any(axis=0)
    return both

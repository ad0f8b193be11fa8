"""Compares ways to choose what to label next: what a small model learns from as many articles of each.

    python benchmarks/sampling.py [--seeds 6]

Starts from 60 random articles of gold train and adds 60 three times, each way choosing by what its own model is unsure
of; measures on gold dev after each. The models are linear and quick: a logistic regression a topic over the segments'
TF-IDF, and one over features of words for entities, each word by itself. Prints F1 in percent, mean and standard
deviation over starts, and the words that had to be read. About two minutes on one core.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from baselines import word_features
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import f1_score

from khabar.inference.duplicates import normalised_words
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.words import split_words
from khabar.training.sampling import (
    SampleSettings,
    entity_uncertainty,
    joint_uncertainty,
    pick_articles,
    topic_uncertainty,
)

GOLD = Path(__file__).resolve().parents[2] / "shared" / "data" / "gold"
START, STEP, ROUNDS = 60, 60, 3
OUTSIDE = 0

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Features:
    """Articles as what linear models read; rows of segments and words name their article in `…_owner`."""

    articles: Sequence[Article]
    segments: sparse.csr_matrix
    segment_owner: Ints
    segment_topics: Bools  # (n_segments, n_topics)
    words: sparse.csr_matrix
    word_owner: Ints
    word_labels: Ints  # (n_words,) OUTSIDE, or the entity label's number from 1


@dataclass(frozen=True, kw_only=True)
class Opinion:
    """What the models say of articles.

    Attributes:
        topics: (n_articles, n_topics) probabilities; an article's is that of its best segment.
        word_labels: (n_words,) the most probable.
        word_scores: (n_words,) its probability.
    """

    topics: Floats
    word_labels: Ints
    word_scores: Floats


class Labels:
    """The topics and entity labels of a corpus, and its texts as features."""

    def __init__(self, train: Sequence[Article]) -> None:
        self.topics = sorted({topic for article in train for topic in article.topics or ()})
        self.entity_labels = sorted({entity.label for article in train for entity in article.entities or ()})
        self._tfidf = TfidfVectorizer(analyzer=normalised_words, sublinear_tf=True, min_df=2)
        self._tfidf.fit(text for article in train for text in _segment_texts(article))
        self._hasher = FeatureHasher(2**17, input_type="string", alternate_sign=False, dtype=np.float32)

    def features(self, articles: Sequence[Article]) -> Features:
        """Describe articles."""
        words = [split_words(article.text) for article in articles]
        rows = (word_features([a.text[s:e] for s, e in spans]) for a, spans in zip(articles, words, strict=True))
        parts = [part for article in articles for part in article.segments or ()]
        return Features(
            articles=articles,
            segments=self._tfidf.transform([text for article in articles for text in _segment_texts(article)]),
            segment_owner=np.repeat(np.arange(len(articles)), [len(article.segments or ()) for article in articles]),
            segment_topics=np.array([[topic in (part.topics or ()) for topic in self.topics] for part in parts]),
            words=sparse.vstack([self._hasher.transform(row) for row in rows]).tocsr(),
            word_owner=np.repeat(np.arange(len(articles)), [len(spans) for spans in words]),
            word_labels=np.concatenate([self._word_labels(a, spans) for a, spans in zip(articles, words, strict=True)]),
        )

    def _word_labels(self, article: Article, words: Sequence[tuple[int, int]]) -> Ints:
        labels = np.zeros(len(words), dtype=np.int64)
        for entity in article.entities or ():
            inside = [i for i, (start, end) in enumerate(words) if start < entity.end and entity.start < end]
            labels[inside] = 1 + self.entity_labels.index(entity.label)
        return labels


class LinearModels:
    """Learns from some of the articles."""

    def __init__(self, data: Features, labelled: Ints) -> None:
        rows = np.isin(data.segment_owner, labelled)
        self._topics = [
            LogisticRegression(C=10, class_weight="balanced", solver="liblinear").fit(data.segments[rows], column[rows])
            if column[rows].any()
            else None
            for column in data.segment_topics.T
        ]
        rows = np.isin(data.word_owner, labelled)
        self._words = SGDClassifier(loss="log_loss", alpha=1e-5, max_iter=12, tol=None, random_state=0)
        self._words.fit(data.words[rows], data.word_labels[rows])

    def opinion(self, data: Features) -> Opinion:
        """Score articles."""
        topics = np.zeros((len(data.articles), len(self._topics)))
        for k, model in enumerate(self._topics):
            if model is not None:
                np.maximum.at(topics[:, k], data.segment_owner, model.predict_proba(data.segments)[:, 1])
        scores = self._words.predict_proba(data.words)
        best = scores.argmax(axis=1)
        return Opinion(topics=topics, word_labels=self._words.classes_[best], word_scores=scores.max(axis=1))


def uncertainty(opinion: Opinion, data: Features) -> Floats:
    """Say how uncertain each article is, by khabar's own measures."""
    names = [str(k) for k in range(opinion.topics.shape[1])]
    by_topics = [
        topic_uncertainty(dict(zip(names, row, strict=True)), dict.fromkeys(names, 0.5)) for row in opinion.topics
    ]
    # Neighbouring words of one label are one entity, as certain as its least certain word.
    labels, owner = opinion.word_labels, data.word_owner
    first = np.flatnonzero(np.r_[True, (labels[1:] != labels[:-1]) | (owner[1:] != owner[:-1])])
    scores = np.minimum.reduceat(opinion.word_scores, first)
    named = labels[first] != OUTSIDE
    entities = np.split(scores[named], np.searchsorted(owner[first][named], range(1, len(data.articles))))
    by_entities = [
        entity_uncertainty(found.tolist(), len(article.text))
        for found, article in zip(entities, data.articles, strict=True)
    ]
    return joint_uncertainty(by_topics, by_entities)


def measure(opinion: Opinion, data: Features) -> tuple[float, float]:
    """Give the articles' topics' macro-F1, and the words' micro-F1 over entity labels."""
    gold = np.zeros(opinion.topics.shape, dtype=bool)
    np.logical_or.at(gold, data.segment_owner, data.segment_topics)
    labels = range(1, 1 + int(data.word_labels.max()))
    topics = f1_score(gold, opinion.topics >= 0.5, average="macro", zero_division=0)
    return topics, f1_score(data.word_labels, opinion.word_labels, labels=labels, average="micro")


# The pool's uncertainty, its texts by number, and a seed -> STEP numbers.
Way = Callable[[Floats, Callable[[int], str], int], Sequence[int]]


def _most_uncertain(values: Floats, _text_of: Callable[[int], str], _seed: int) -> Sequence[int]:
    return [int(number) for number in np.argsort(-values, kind="stable")[:STEP]]


def _sampled(random_share: float) -> Way:
    def way(values: Floats, text_of: Callable[[int], str], seed: int) -> Sequence[int]:
        settings = SampleSettings(number=STEP, random_share=random_share, seed=seed)
        return [pick.number for pick in pick_articles(values, text_of, settings)]

    return way


WAYS: dict[str, Way] = {
    "random": _sampled(1.0),
    "uncertain": _most_uncertain,
    "uncertain and diverse": _sampled(0.0),
    "khabar data sample: that, and 20 % random": _sampled(0.2),
}


def run(way: Way, train: Features, dev: Features, seed: int) -> tuple[list[tuple[float, float]], int]:
    """Label, learn, choose again: the measures after each round, and the words labelled in all."""
    n = len(train.articles)
    labelled = np.random.default_rng(seed).permutation(n)[:START]
    measures = []
    for done in range(ROUNDS + 1):
        models = LinearModels(train, labelled)
        measures.append(measure(models.opinion(dev), dev))
        if done < ROUNDS:
            pool = np.setdiff1d(np.arange(n), labelled)
            values = uncertainty(models.opinion(train), train)[pool]
            chosen = way(values, lambda k, pool=pool: train.articles[pool[k]].text, seed * ROUNDS + done)  # type: ignore[misc]
            labelled = np.concatenate([labelled, pool[list(chosen)]])
    return measures, int(np.isin(train.word_owner, labelled).sum())


def main() -> None:
    """Try every way from several starts, and print the table."""
    parser = argparse.ArgumentParser(description="Compare ways to choose what to label next; F1 in percent.")
    parser.add_argument("--data", type=Path, default=GOLD, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--seeds", type=int, default=6, help="starts to average over, two or more")
    options = parser.parse_args()
    articles = read_articles(options.data / "train.jsonl")
    labels = Labels(articles)
    train, dev = labels.features(articles), labels.features(read_articles(options.data / "dev.jsonl"))
    sizes = [START + STEP * k for k in range(ROUNDS + 1)]
    print(f"| articles | {' | '.join(f'{size} topics' for size in sizes)} | {sizes[-1]} entities | words |")
    print("|---" * (len(sizes) + 3) + "|")
    for name, way in WAYS.items():
        results = [run(way, train, dev, seed) for seed in range(options.seeds)]
        found = 100 * np.array([measures for measures, _ in results])  # (n_seeds, n_sizes, 2)
        cells = [f"{mean:.1f}" for mean in found[:, :-1, 0].mean(axis=0)]
        cells += [f"{found[:, -1, k].mean():.1f} ± {found[:, -1, k].std(ddof=1):.1f}" for k in (0, 1)]
        print(f"| {name} | {' | '.join(cells)} | {np.mean([words for _, words in results]):,.0f} |", flush=True)


def _segment_texts(article: Article) -> list[str]:
    return [article.text[part.start : part.end] for part in article.segments or ()]


if __name__ == "__main__":
    main()

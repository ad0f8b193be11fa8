"""Picks what to label next: of each article its uncertainty and its text in, numbers of articles out.

A share is drawn at random, to measure on; the rest is where a model is unsure, spread over what there is to read.
Knows nothing of models, files or labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from khabar.inference.duplicates import TextIndex, normalised_words, shingles_of
from khabar.models.ranges import check_range

Reason = Literal["random", "uncertain"]
Floats = NDArray[np.float64]

# So many times the articles wanted, the most uncertain ones, are clustered. More is more diverse and less uncertain.
CANDIDATES = 3
N_WORD_HASHES = 2**16
N_DIRECTIONS = 100  # of the texts' TF-IDF that distances are measured in


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """How to pick.

    Attributes:
        number: Articles to pick; of a smaller pool, all.
        random_share: Of those, the share drawn at random from the whole pool, from 0 to 1.
        seed: The same pool and seed give the same pick.

    Raises:
        KhabarError: If a value is out of range.
    """

    number: int
    random_share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("number", self.number, at_least=1)
        check_range("random share", self.random_share, at_least=0, at_most=1)
        check_range("seed", self.seed, at_least=0, below=2**32)


@dataclass(frozen=True, kw_only=True)
class Pick:
    """An article that was picked: its number in the pool, and why."""

    number: int
    reason: Reason


def topic_uncertainty(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> float:
    """Say how doubtful an article's topics are: the entropy of each being reported, summed over topics.

    A topic is most doubtful at its threshold, wherever that is: probabilities are stretched so that it comes to
    stand at one half.

    Source: Settles 2009, "Active Learning Literature Survey", section 3.1 (uncertainty sampling by entropy).

    Args:
        scores: Probability of each topic.
        thresholds: From which each counts as reported.

    Returns:
        Bits: for each topic 1 at its threshold, 0 where its probability is 0 or 1.
    """
    return sum(_doubt(score, thresholds[topic]) for topic, score in scores.items())


def entity_uncertainty(scores: Sequence[float], n_characters: int) -> float:
    """Say how doubtful the entities found in an article are: how many are likely to be wrong, for its length.

    The number alone would take the longest articles, which take longest to label; the number per character takes the
    shortest, which teach least (benchmarks/sampling.py). Between them stands the root of the length.

    Args:
        scores: Probability of each entity.
        n_characters: Length of the text.
    """
    return (len(scores) - sum(scores)) / math.sqrt(max(n_characters, 1))


def joint_uncertainty(*kinds: Sequence[float]) -> Floats:
    """Put kinds of uncertainty on one scale: by each the pool is ranked, and an article's ranks are averaged.

    Args:
        kinds: One value an article, each kind on a scale of its own.

    Returns:
        (n_articles,) in (0, 1], the most uncertain highest.
    """
    ranks: Floats = np.mean([rankdata(values) / max(len(values), 1) for values in kinds], axis=0)
    return ranks


def pick_articles(
    uncertainty: Floats, text_of: Callable[[int], str], settings: SampleSettings, labelled: Iterable[str] = ()
) -> list[Pick]:
    """Pick articles to label, none a near-duplicate of another or of one that is labelled.

    The random share is drawn first, so that it does not depend on a model. For the rest, the most uncertain
    articles, CANDIDATES times as many as wanted, are clustered by their words, uncertain ones weighing more, and
    of each cluster the most uncertain one is taken.

    Source: Zhdanov 2019, "Diverse mini-batch Active Learning", section 3 (prefiltering, weighted k-means); there the
    most central one of a cluster is taken, which taught a little less here (benchmarks/sampling.py).

    Args:
        uncertainty: (n_articles,) of the pool, each above 0.
        text_of: Gives the text of an article by its number.
        settings: How many of which.
        labelled: Texts that need no labels any more.

    Returns:
        The picks, in an order that does not tell why they were picked; fewer than asked where the pool has no more.

    Raises:
        MissingExtraError: If the package that finds near-duplicates is not installed.
    """
    distinct = _Distinct(text_of, labelled)
    rng = np.random.default_rng(settings.seed)
    n_random = round(settings.number * settings.random_share)
    drawn = distinct.take(rng.permutation(len(uncertainty)), n_random)
    n_uncertain = settings.number - n_random
    by_uncertainty = np.argsort(-uncertainty, kind="stable")
    candidates = distinct.take(by_uncertainty[~np.isin(by_uncertainty, drawn)], CANDIDATES * n_uncertain)
    chosen = [
        candidates[place]
        for place in _spread(uncertainty[candidates], [text_of(n) for n in candidates], n_uncertain, settings.seed)
    ]
    picks = [Pick(number=number, reason="random") for number in drawn]
    picks += [Pick(number=number, reason="uncertain") for number in chosen]
    return [picks[place] for place in rng.permutation(len(picks))]


class _Distinct:
    """Takes articles that are near-duplicates of none taken before."""

    def __init__(self, text_of: Callable[[int], str], labelled: Iterable[str]) -> None:
        self._text_of = text_of
        self._index = TextIndex("picking articles to label")
        self._n_texts = 0
        for text in labelled:
            self._is_new(text)

    def take(self, numbers: Iterable[int], most: int) -> list[int]:
        """Take the first of some articles, at most so many."""
        taken: list[int] = []
        for number in map(int, numbers):
            if len(taken) == most:
                break
            if self._is_new(self._text_of(number)):
                taken.append(number)
        return taken

    def _is_new(self, text: str) -> bool:
        shingles = shingles_of(text)
        if next(self._index.near(shingles), None) is not None:
            return False
        self._index.add(self._n_texts, shingles)
        self._n_texts += 1
        return True


def _spread(weights: Floats, texts: Sequence[str], n: int, seed: int) -> list[int]:
    """Choose n texts far from each other; texts come with the heaviest first."""
    if len(texts) <= n:
        return list(range(len(texts)))
    if n == 0:
        return []
    vectors = _vectors(texts, seed)
    clusters = KMeans(n_clusters=n, n_init=1, random_state=seed).fit(vectors, sample_weight=weights)
    heaviest: dict[int, int] = {}
    for place, cluster in enumerate(clusters.labels_.tolist()):
        heaviest.setdefault(cluster, place)
    # Texts of the same words leave clusters empty; the heaviest of the others fill up.
    return list(dict.fromkeys([*heaviest.values(), *range(len(texts))]))[:n]


def _vectors(texts: Sequence[str], seed: int) -> Floats:
    """Place texts by their words: (n_texts, at most N_DIRECTIONS), of length 1 or, without words, 0."""
    # Hashes, for a vocabulary would be empty where no text has a word.
    words = HashingVectorizer(n_features=N_WORD_HASHES, analyzer=normalised_words, norm=None, alternate_sign=False)
    directions = TruncatedSVD(min(N_DIRECTIONS, len(texts)), random_state=seed)
    vectors: Floats = make_pipeline(words, TfidfTransformer(sublinear_tf=True), directions, Normalizer()).fit_transform(
        texts
    )
    return vectors


def _doubt(score: float, threshold: float) -> float:
    """Entropy in bits of a probability that is stretched until its threshold stands at one half."""
    if score == threshold:
        return 1.0
    share = score / threshold if score < threshold else (1.0 - score) / (1.0 - threshold)
    return sum(-part * math.log2(part) for part in (share / 2, 1.0 - share / 2) if part > 0)

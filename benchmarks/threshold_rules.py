"""Compares ways to choose topic thresholds, by macro-F1 on articles that the choice was not made on.

    python benchmarks/threshold_rules.py [--model embedded] [--data FOLDER] [--repeats 4]

Prints a table: rules against sets of scores, in percent. Knows gold articles and scores; trains only TF-IDF models.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from khabar.inference.tagger import load
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.outcomes import Outcome, macro_f1
from khabar.training.thresholds import Bools, Fitted, Floats, fit_temperature, fit_threshold, sigmoid
from khabar.training.topic_scores import Level, TopicScores, collect_scores

ROOT = Path(__file__).resolve().parents[1]
N_FOLDS = 5
N_RESAMPLES = 30
# Regularisation, class weights, and how many articles one is taken of: TF-IDF models that are off in various ways.
TFIDF = {
    "TF-IDF": (1.0, None, 1),
    "TF-IDF, C=20": (20.0, None, 1),
    "TF-IDF, 1/6": (5.0, None, 6),
    "TF-IDF, balanced, 1/3": (2.0, "balanced", 3),
}
SHIFTS = (2.0, -2.0, 1.0, -1.0, 3.0, -3.0)

Rule = Callable[[Floats, Bools], float]  # calibrated logits and gold of one topic to a threshold


def _curve(logits: Floats, gold: Bools) -> tuple[Floats, Floats]:
    """F1 of thresholds between neighbouring probabilities: edges (n + 1,), and F1 between each two (n,)."""
    scores = np.unique(sigmoid(logits))
    edges = np.concatenate([[0.0], scores, [1.0]])
    decided = sigmoid(logits)[None, :] >= ((edges[1:] + edges[:-1]) / 2)[:, None]
    return edges, 2 * (decided & gold).sum(axis=1) / np.maximum(decided.sum(axis=1) + gold.sum(), 1)


def _best(logits: Floats, gold: Bools) -> float:
    edges, f1 = _curve(logits, gold)
    k = int(np.argmax(f1))
    return float(edges[k] + edges[k + 1]) / 2


def _plateau(tolerance: float) -> Rule:
    def rule(logits: Floats, gold: Bools) -> float:
        edges, f1 = _curve(logits, gold)
        good = np.flatnonzero(f1 >= f1.max() - tolerance)
        stretches = np.split(good, np.flatnonzero(np.diff(good) > 1) + 1)
        widest = max(stretches, key=lambda stretch: float(edges[stretch[-1] + 1] - edges[stretch[0]]))
        return float(edges[widest[0]] + edges[widest[-1] + 1]) / 2

    return rule


def _resampled(logits: Floats, gold: Bools) -> float:
    random = np.random.default_rng(0)
    draws = [random.integers(0, len(gold), len(gold)) for _ in range(N_RESAMPLES)]
    return float(np.median([_best(logits[draw], gold[draw]) for draw in draws]))


RULES: dict[str, Rule] = {
    "0.5": lambda _logits, _gold: 0.5,
    "best F1": _best,
    "widest stretch within a point": _plateau(0.01),
    "widest stretch within two": _plateau(0.02),
    "median of the best of resamples": _resampled,
    "half the best F1": lambda logits, gold: float(_curve(logits, gold)[1].max()) / 2,
    "smoothed, 0.5 within a standard error (khabar's)": lambda logits, gold: fit_threshold(logits, gold)[0],
}
SHARED = "one for all topics"


def held_out(scores: TopicScores, repeats: int) -> dict[str, float]:
    """Mean macro-F1 of each rule, cross-fitted."""
    articles, n_topics = scores.article, scores.article.gold.shape[1]
    found: dict[str, list[float]] = {name: [] for name in [*RULES, SHARED]}
    for seed in range(repeats):
        fold_of = np.random.default_rng(seed).permutation(scores.n_articles) % N_FOLDS
        fits: dict[str, list[list[Fitted]]] = {name: [] for name in found}
        for fold in range(N_FOLDS):
            part = scores.of(fold_of != fold)
            columns = [np.concatenate([part.article.logits[:, k], part.segment.logits[:, k]]) for k in range(n_topics)]
            golds = [np.concatenate([part.article.gold[:, k], part.segment.gold[:, k]]) for k in range(n_topics)]
            temperatures = [fit_temperature(logits, gold) for logits, gold in zip(columns, golds, strict=True)]
            logits, gold = part.article.logits / np.array(temperatures), part.article.gold
            chosen = {name: [rule(logits[:, k], gold[:, k]) for k in range(n_topics)] for name, rule in RULES.items()}
            chosen[SHARED] = [_plateau(0.01)(logits.ravel(), gold.ravel())] * n_topics
            for name, thresholds in chosen.items():
                fits[name].append(
                    [Fitted(temperature=t, threshold=cut) for t, cut in zip(temperatures, thresholds, strict=True)]
                )
        for name, by_fold in fits.items():
            outcome = Outcome.by_fold(articles.logits, by_fold, fold_of[articles.owner])
            found[name].append(macro_f1(articles.gold, outcome) or 0.0)
    return {name: 100 * float(np.mean(values)) for name, values in found.items()}


def tfidf_scores(
    train: Sequence[Article],
    like: TopicScores,
    dev: Sequence[Article],
    topics: Sequence[str],
    strength: float,
    class_weight: str | None,
) -> TopicScores:
    """Score dev's segments by logistic regressions on words; an article takes its best segment's score."""
    parts = [(article, segment) for article in train for segment in article.segments or ()]
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    features = vectorizer.fit_transform([article.text[part.start : part.end] for article, part in parts])
    new = vectorizer.transform([a.text[part.start : part.end] for a in dev for part in a.segments or ()])
    columns = []
    for topic in topics:
        model = LogisticRegression(C=strength, class_weight=class_weight, max_iter=300)
        model.fit(features, [topic in (part.topics or ()) for _, part in parts])
        columns.append(model.decision_function(new))
    logits = np.stack(columns, axis=1)
    best = np.stack([logits[like.segment.owner == k].max(axis=0) for k in like.article.owner])
    return TopicScores(
        article=replace(like.article, logits=best),
        segment=replace(like.segment, logits=logits),
        n_articles=like.n_articles,
    )


def _shifted(level: Level) -> Level:
    return replace(level, logits=level.logits + np.resize(SHIFTS, level.logits.shape[1]))


def main() -> None:
    """Gather the scores, try the rules, print the table."""
    parser = argparse.ArgumentParser(description="Compare ways to choose thresholds; macro-F1 in percent.")
    parser.add_argument("--model", default="embedded", help="folder, hub id or embedded")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the corpora")
    parser.add_argument("--repeats", type=int, default=4, help="choices of folds to average over")
    options = parser.parse_args()
    tagger = load(options.model)
    train = list(read_articles(options.data / "gold" / "train.jsonl"))
    dev = list(read_articles(options.data / "gold" / "dev.jsonl"))
    own = collect_scores(tagger, dev)
    every_other = np.arange(len(dev)) % 2 == 0
    sets = {
        "model": own,
        "half of dev": collect_scores(
            tagger, [article for article, kept in zip(dev, every_other, strict=True) if kept]
        ),
        "shifted": replace(own, article=_shifted(own.article), segment=_shifted(own.segment)),
        "train, 1/5": collect_scores(tagger, train[::5]),
    }
    for name, (strength, class_weight, step) in TFIDF.items():
        sets[name] = tfidf_scores(train[::step], own, dev, tagger.topics, strength, class_weight)
    results = {name: held_out(scores, options.repeats) for name, scores in sets.items()}
    print("| rule | mean | " + " | ".join(results) + " |")
    print("|---" * (len(results) + 2) + "|")
    for rule in [*RULES, SHARED]:
        values = [result[rule] for result in results.values()]
        print(f"| {rule} | " + " | ".join(f"{value:.1f}" for value in [np.mean(values), *values]) + " |")


if __name__ == "__main__":
    try:
        main()
    except KhabarError as error:
        sys.exit(f"error: {error}")

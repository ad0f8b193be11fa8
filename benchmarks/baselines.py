"""Feature baselines for the quality table: what linear models reach on the same splits.

Turns annotated articles into a CRF over hand-made word features (entities) and one logistic regression
a topic over TF-IDF (topics). Knows nothing of khabar's own model, and shares only its words with it.
"""

import re
from collections.abc import Sequence

import numpy as np
import sklearn_crfsuite
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union

from khabar.models.article import Article
from khabar.models.words import after_proclitics, proclitic_length, split_words
from khabar.training.conll import bio_spans
from khabar.training.metrics import Span

Features = list[str]
Word = tuple[int, int]  # a word's character span

_MARKS = re.compile("[\u0640\u064b-\u0652\u0670]")  # tatweel and vowel marks
_PREFIX_LENGTHS = (1, 2, 3, 4, 5)
_SUFFIX_LENGTHS = (1, 2, 3, 4)
# Longest first. What is left must be at least three letters, or the letters are taken as the word's own.
_PROCLITICS = ("وال", "فال", "بال", "كال", "ولل", "لل", "ال", "و", "ف", "ب", "ل", "ك")


def word_features(words: Sequence[str]) -> list[Features]:
    """Describe each word by itself, its affixes, its shape, and its two neighbours on either side.

    The affixes of neighbours are left out: so it was better on the last tenth of ANERcorp's train split, held out.
    """
    own = [_own_features(_MARKS.sub("", word)) for word in words]
    padded = [["<s2>"], ["<s1>"], *own, ["</s1>"], ["</s2>"]]
    rows: list[Features] = []
    for i in range(len(own)):
        before2, before, here, after, after2 = padded[i : i + 5]
        rows.append(
            [
                "bias",
                *here,
                f"-1:{before[0]}",
                f"+1:{after[0]}",
                f"-2:{before2[0]}",
                f"+2:{after2[0]}",
                f"-1|0:{before[0]}|{here[0]}",
                f"0|+1:{here[0]}|{after[0]}",
            ]
        )
    return rows


def _own_features(word: str) -> Features:
    return [
        f"w={word}",
        f"stem={_stem(word)}",
        *(f"p{n}={word[:n]}" for n in _PREFIX_LENGTHS if len(word) > n),
        *(f"s{n}={word[-n:]}" for n in _SUFFIX_LENGTHS if len(word) > n),
        f"shape={_shape(word)}",
    ]


def _stem(word: str) -> str:
    cut = next((p for p in _PROCLITICS if word.startswith(p) and len(word) - len(p) >= 3), "")
    return word[len(cut) :]


def _shape(word: str) -> str:
    if word.isdigit():
        return f"digits{min(len(word), 5)}"
    if word.isascii() and word.isalpha():
        return "latin"
    if not any(character.isalnum() for character in word):
        return "sign"
    return f"letters{min(len(word), 8)}"


class CrfEntities:
    """A linear-chain CRF over `word_features`, trained with L-BFGS and elastic-net regularisation.

    A first word's proclitic length is part of its tag (B1-LOCATION), so that spans are exact in characters.
    """

    def __init__(self) -> None:
        self._crf = sklearn_crfsuite.CRF(
            algorithm="lbfgs", c1=0.05, c2=0.05, max_iterations=100, all_possible_transitions=True
        )

    def fit(self, articles: Sequence[Article]) -> "CrfEntities":
        """Learn from the entities of articles, segment by segment."""
        rows, tags = [], []
        for article in articles:
            for words in _sentences(article):
                rows.append(_features_of(article, words))
                tags.append(_tags(article, words))
        self._crf.fit(rows, tags)
        return self

    def predict(self, article: Article) -> list[Span]:
        """Give an article's entities as character spans."""
        sentences = _sentences(article)
        paths = self._crf.predict([_features_of(article, words) for words in sentences])
        return [
            span
            for words, tags in zip(sentences, paths, strict=True)
            for span in _spans(article.text, words, list(tags))
        ]


def _sentences(article: Article) -> list[list[Word]]:
    """Split the words of each segment; of the whole text where there are no segments."""
    bounds = [(segment.start, segment.end) for segment in article.segments or ()] or [(0, len(article.text))]
    return [
        [(start + first, start + stop) for first, stop in split_words(article.text[start:end])] for start, end in bounds
    ]


def _features_of(article: Article, words: Sequence[Word]) -> list[Features]:
    return word_features([article.text[start:end] for start, end in words])


def _tags(article: Article, words: Sequence[Word]) -> list[str]:
    tags = ["O"] * len(words)
    for entity in article.entities or ():
        inside = [i for i, (start, end) in enumerate(words) if start < entity.end and entity.start < end]
        if inside:
            cut = proclitic_length(article.text, words[inside[0]][0], entity.start) or ""
            for i in inside:
                tags[i] = f"I-{entity.label}"
            tags[inside[0]] = f"B{cut}-{entity.label}"
    return tags


def _spans(text: str, words: Sequence[Word], tags: Sequence[str]) -> list[Span]:
    spans = []
    for first, stop, label in bio_spans([re.sub(r"^B\d", "B", tag) for tag in tags]):
        cut = tags[first].partition("-")[0][1:]
        start = after_proclitics(text, words[first][0], int(cut or 0))
        spans.append((start, words[stop - 1][1], label))
    return spans


class TfidfTopics:
    """TF-IDF over words and characters, and one logistic regression a topic, on single segments.

    C was chosen on a tenth of gold train, held out.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = list(topics)
        self._features = make_union(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"\w+"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True),
        )
        regression = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
        self._classifier = OneVsRestClassifier(regression)

    def fit(self, articles: Sequence[Article]) -> "TfidfTopics":
        """Learn from every segment whose topics are annotated."""
        texts, targets = [], []
        for article in articles:
            for segment in article.segments or ():
                if segment.topics is not None:
                    texts.append(article.text[segment.start : segment.end])
                    targets.append([topic in segment.topics for topic in self.topics])
        self._classifier.fit(self._features.fit_transform(texts), np.array(targets, dtype=int))
        return self

    def segment_scores(self, article: Article) -> NDArray[np.float64]:
        """Score each segment for each topic: (n_segments, n_topics), in [0, 1]."""
        texts = [article.text[segment.start : segment.end] for segment in article.segments or ()]
        scores: NDArray[np.float64] = self._classifier.predict_proba(self._features.transform(texts))
        return scores

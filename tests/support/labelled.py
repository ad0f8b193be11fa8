"""Hypothesis strategies for labelled articles: texts as hard as Arabic news gets, and every way to be annotated."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import strategies as st

from khabar.models.article import Article, Entity, Segment

# Words with joined proclitics, diacritics, tatweel, an emoji of several code points, digits, Latin; what stands between
# words; and single characters, some outside the basic plane, some unseen.
_PIECES = [
    *("والجيش", "ببغداد", "وَزِيرُ", "الـدفاع", "👩🏽‍🚒", "😀", "١٢", "2021م", "لـCNN"),
    *("(د", ")", "،", ".", '"', "O", "#"),
    *(" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u200f", "\u2028", "\ufeff", "\x85"),
    *("ً", "ّ", "ـ", "\u200d", "𞸀", "|", "\\", "\\n", ";", "-", "=", "-DOCSTART-", "https://a.example/x?y=1", "<br>"),
]
texts = st.lists(st.sampled_from(_PIECES), max_size=12).map("".join)
LABELS = ["PERSON", "LOC-1", "ORG_2"]
ARABIC_LABELS = [*LABELS, "منظمة"]
TOPICS = ["attack", "اجتماع", "protest march"]


def optional(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


origins = optional(st.sampled_from(["2021-12-06", "وكالة", "ar", "x, y", '"']))
topic_lists = st.lists(st.sampled_from(TOPICS), unique=True, max_size=3).map(tuple)


@st.composite
def spans(draw: st.DrawFn, text: str) -> list[tuple[int, int]]:
    """Spans in order that do not overlap, some touching, anywhere in a text."""
    edges = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    return [pair for pair in pairwise(edges) if draw(st.booleans())]


@st.composite
def articles(draw: st.DrawFn, labels: list[str] = ARABIC_LABELS) -> Article:
    text = draw(texts)
    entities = segments = topics = None
    if draw(st.booleans()):
        entities = tuple(
            Entity(start=start, end=end, label=draw(st.sampled_from(labels))) for start, end in draw(spans(text))
        )
    if draw(st.booleans()):
        segments = tuple(
            Segment(start=start, end=end, topics=draw(optional(topic_lists))) for start, end in draw(spans(text))
        )
    if draw(st.booleans()):
        of_segments = [topic for part in segments or () for topic in part.topics or ()]
        topics = tuple(dict.fromkeys([*draw(topic_lists), *of_segments]))
    return Article(
        text=text,
        date=draw(origins),
        source=draw(origins),
        lang=draw(origins),
        segments=segments,
        topics=topics,
        entities=entities,
    )


def corpora(labels: list[str] = ARABIC_LABELS) -> st.SearchStrategy[list[Article]]:
    """One to four articles, each with an id or without."""

    def with_ids(given: tuple[list[Article], list[bool]]) -> list[Article]:
        return [
            replace(article, id=f"م{i}" if named else None)
            for i, (article, named) in enumerate(zip(*given, strict=False))
        ]

    return st.tuples(
        st.lists(articles(labels), min_size=1, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4)
    ).map(with_ids)

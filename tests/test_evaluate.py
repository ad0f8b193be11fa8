"""Evaluation with a tagger that answers from a list: what is measured, what is left out, how it is shown."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from khabar.inference import results
from khabar.models.article import Article, Entity, Segment
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.evaluate import evaluate, render, selection_score

SAMPLE = Path(__file__).parent / "data" / "articles.jsonl"
TOPICS = ("attack", "protest", "statement")


def result(
    article: Article,
    topics: dict[str, float],
    segment_topics: list[dict[str, float]],
    entities: list[tuple[int, int, str]],
    *,
    n_unread: int = 0,
) -> results.TaggedArticle:
    """A result in which a topic is predicted when it scores 0.5 or more."""
    spans = [(segment.start, segment.end) for segment in article.segments or ()]
    return results.TaggedArticle(
        id=article.id,
        text=article.text,
        topics=tuple(
            results.Topic(label=label, score=score, segments=(0,)) for label, score in topics.items() if score >= 0.5
        ),
        topic_scores=topics,
        segments=tuple(
            results.Segment(
                start=start,
                end=end,
                topics=tuple(label for label, score in scores.items() if score >= 0.5),
                scores=scores,
            )
            for (start, end), scores in zip(spans, segment_topics, strict=True)
        ),
        entities=tuple(
            results.Entity(label=label, start=start, end=end, text=article.text[start:end], score=0.9)
            for start, end, label in entities
        ),
        characters_read=len(article.text) - n_unread,
        model="fake 1.0",
    )


class ListTagger:
    """Gives the results it was made with, one an article, whatever the articles."""

    def __init__(self, *answers: results.TaggedArticle) -> None:
        self.answers = answers
        self.seen: list[Article] = []

    def tag_many(self, articles: Iterable[Article], /) -> Iterator[results.TaggedArticle]:
        self.seen = list(articles)
        yield from self.answers


class GoldTagger:
    """Answers with the gold itself."""

    def tag_many(self, articles: Iterable[Article], /) -> Iterator[results.TaggedArticle]:
        for article in articles:
            scores = [
                {topic: float(topic in (segment.topics or ())) for topic in TOPICS}
                for segment in article.segments or ()
            ]
            topics = {topic: float(topic in (article.topics or ())) for topic in TOPICS}
            spans = [(entity.start, entity.end, entity.label) for entity in article.entities or ()]
            yield result(article, topics, scores, spans)


# Two segments of 12 and 13 characters with a line break between.
TEXT = "قصف في مدينة\nوبيان للنقابة"
ARTICLE = Article(
    text=TEXT,
    id="a",
    segments=(Segment(start=0, end=12, topics=("attack",)), Segment(start=13, end=26, topics=("statement",))),
    topics=("attack", "statement"),
    entities=(Entity(start=19, end=26, label="ORGANIZATION"),),
)
SCORES = {"attack": 0.9, "protest": 0.6, "statement": 0.2}
SEGMENT_SCORES = [
    {"attack": 0.8, "protest": 0.1, "statement": 0.1},
    {"attack": 0.7, "protest": 0.1, "statement": 0.9},
]
ANSWER = result(ARTICLE, SCORES, SEGMENT_SCORES, [(19, 26, "ORGANIZATION"), (7, 12, "LOCATION")])


def test_every_annotated_part_is_measured():
    report = evaluate(ListTagger(ANSWER), [ARTICLE])
    assert report["articles"] == 1
    assert report["topics"]["article"]["micro"]["precision"] == 0.5
    assert report["topics"]["article"]["micro"]["recall"] == 0.5
    assert report["topics"]["segment"]["n"] == 2
    assert report["topics"]["segment"]["labels"]["attack"]["precision"] == 0.5
    assert report["topics"]["segment"]["labels"]["statement"]["f1"] == 1.0
    assert report["topics"]["segment"]["without_gold"] == ["protest"]
    assert report["entities"]["micro"]["precision"] == 0.5
    assert report["entities"]["labels"]["ORGANIZATION"]["f1"] == 1.0


def test_average_precision_uses_the_scores_not_the_decisions():
    low = result(ARTICLE, SCORES, [{"statement": 0.1, "attack": 0.3}, {"statement": 0.2, "attack": 0.1}], [])
    segments = evaluate(ListTagger(low), [ARTICLE])["topics"]["segment"]
    assert segments["macro"]["f1"] == 0.0
    assert segments["macro"]["average_precision"] == 1.0


def test_gold_scores_perfectly():
    articles = [
        replace(
            article,
            topics=None if article.topics is None else tuple(t for t in article.topics if t in TOPICS),
            segments=article.segments
            and tuple(
                replace(segment, topics=tuple(t for t in segment.topics if t in TOPICS)) for segment in article.segments
            ),
        )
        for article in read_articles(SAMPLE)
    ]
    report = evaluate(GoldTagger(), articles)
    assert report["articles"] == 6
    assert report["topics"]["article"]["n"] == 5
    assert report["topics"]["segment"]["n"] == 10
    assert report["entities"]["n"] == 5
    assert selection_score(report) == {
        "score": 1.0,
        "article_macro_f1": 1.0,
        "segment_micro_f1": 1.0,
        "entity_micro_f1": 1.0,
    }


def test_the_tagger_is_given_the_gold_segments():
    tagger = ListTagger(ANSWER)
    evaluate(tagger, iter([ARTICLE]))
    assert tagger.seen == [ARTICLE]


@pytest.mark.parametrize(
    ("kept", "parts"),
    [
        ("topics", {"topics"}),
        ("segments", {"topics"}),
        ("entities", {"entities"}),
    ],
)
def test_only_what_is_annotated_is_measured(kept, parts):
    article = replace(ARTICLE, **{key: None for key in ("topics", "segments", "entities") if key != kept})
    answer = result(article, SCORES, SEGMENT_SCORES[: len(article.segments or ())], [])
    report = evaluate(ListTagger(answer), [article])
    assert report.keys() - {"articles", "characters", "characters_read"} == parts
    if "topics" in parts:
        assert list(report["topics"]) == ["article" if kept == "topics" else "segment"]
    assert selection_score(report)["score"] == selection_score(report)[selection_names(report)]


def selection_names(report: dict) -> str:
    (name,) = selection_score(report).keys() - {"score"}
    return name


def test_segments_without_topics_are_left_out():
    first, second = ARTICLE.segments
    article = replace(ARTICLE, segments=(first, replace(second, topics=None)))
    assert evaluate(ListTagger(ANSWER), [article])["topics"]["segment"]["n"] == 1


def test_articles_without_annotation_are_not_tagged():
    tagger = ListTagger(ANSWER)
    report = evaluate(tagger, [Article(text="نص"), ARTICLE])
    assert report["articles"] == 1
    assert tagger.seen == [ARTICLE]


def test_a_gold_topic_that_the_tagger_does_not_know_counts_as_missed():
    article = replace(ARTICLE, topics=("attack", "summit"), segments=None)
    report = evaluate(ListTagger(result(article, SCORES, [], [])), [article])["topics"]["article"]
    assert list(report["labels"]) == [*TOPICS, "summit"]
    assert report["labels"]["summit"]["recall"] == 0.0


def test_nothing_annotated_is_an_error():
    with pytest.raises(KhabarError, match="nothing to evaluate: no article has topics"):
        evaluate(ListTagger(), [Article(text="نص", segments=(Segment(start=0, end=2),))])


def test_other_segments_than_given_are_an_error():
    moved = replace(ANSWER, segments=(ANSWER.segments[0], replace(ANSWER.segments[1], start=14)))
    with pytest.raises(ValueError, match="article a: the tagger was given segments"):
        evaluate(ListTagger(moved), [ARTICLE])


def test_fewer_results_than_articles_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        evaluate(ListTagger(ANSWER), [ARTICLE, ARTICLE])


def test_selection_score_weighs_topics_and_entities_alike():
    report = {
        "topics": {"article": {"macro": {"f1": 0.8}}, "segment": {"micro": {"f1": 0.6}}},
        "entities": {"micro": {"f1": 0.9}},
    }
    assert selection_score(report)["score"] == pytest.approx((0.7 + 0.9) / 2)
    report["entities"]["micro"]["f1"] = None
    assert selection_score(report)["score"] == pytest.approx(0.7)


def test_the_table_lines_up():
    shown = render(evaluate(ListTagger(ANSWER), [ARTICLE]))
    assert shown == "\n".join(
        [
            "topics, per article (1 article)",
            "           precision  recall     F1     AP  support  predicted",
            "attack         100.0   100.0  100.0  100.0        1          1",
            "protest            -       -      -      -        0          1",
            "statement        0.0     0.0    0.0  100.0        1          0",
            "",
            "micro           50.0    50.0   50.0   83.3        2          2",
            "macro           50.0    50.0   50.0  100.0        2          2",
            "no gold, so not in macro: protest",
            "",
            "topics, per segment (2 segments)",
            "           precision  recall     F1     AP  support  predicted",
            "attack          50.0   100.0   66.7  100.0        1          2",
            "protest            -       -      -      -        0          0",
            "statement      100.0   100.0  100.0  100.0        1          1",
            "",
            "micro           66.7   100.0   80.0  100.0        2          3",
            "macro           75.0   100.0   83.3  100.0        2          3",
            "no gold, so not in macro: protest",
            "",
            "entities, exact span and label (1 article)",
            "              precision  recall     F1  support  predicted",
            "LOCATION              -       -      -        0          1",
            "ORGANIZATION      100.0   100.0  100.0        1          1",
            "",
            "micro              50.0   100.0   66.7        1          2",
            "macro             100.0   100.0  100.0        1          2",
            "no gold, so not in macro: LOCATION",
        ]
    )


def test_the_table_says_what_was_not_read():
    short = result(ARTICLE, SCORES, SEGMENT_SCORES, [], n_unread=6)
    assert render(evaluate(ListTagger(short), [ARTICLE])).endswith("6 of 26 characters were not read")

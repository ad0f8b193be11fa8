"""The report's parts: entities paired, curves, groups of articles, errors in their sentences, charts, tables."""

from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from khabar.inference import results
from khabar.models.article import Article, Entity, Segment
from khabar.models.segments import sentence_around
from khabar.training.alignment import Outcome, align, confusion
from khabar.training.charts import curve_chart, interval_bar, reliability_chart
from khabar.training.curves import MOST_POINTS, precision_recall, reliability
from khabar.training.figures import text_table
from khabar.training.predictions import Prediction
from khabar.training.slices import slice_articles
from khabar.training.worst import Piece, excerpt, worst_errors

# --- entities paired


def kinds(gold, predicted):
    return [outcome.kind for outcome in align(gold, predicted)]


def test_every_outcome():
    gold = [(0, 3, "P"), (5, 8, "P"), (10, 15, "L"), (20, 25, "L"), (30, 33, "O")]
    predicted = [(0, 3, "P"), (5, 8, "L"), (10, 14, "L"), (21, 25, "P"), (40, 44, "O")]
    assert kinds(gold, predicted) == ["right", "label", "boundary", "overlap", "missed", "spurious"]
    table = confusion([(gold, predicted), ([(0, 3, "P")], [(0, 3, "P")])])
    assert table.labels == ("L", "O", "P")
    assert table.same_span == {("P", "P"): 2, ("P", "L"): 1}
    assert table.overlap == {("L", "L"): 1, ("L", "P"): 1}
    assert (table.missed, table.spurious) == ({"O": 1}, {"O": 1})


def test_an_entity_is_paired_once_with_what_shares_most():
    # One long gold name, cut in two: the longer part is its partner, the other one is spurious.
    assert align([(0, 10, "O")], [(0, 3, "O"), (4, 10, "L")]) == [
        Outcome(kind="spurious", predicted=0),
        Outcome(kind="overlap", gold=0, predicted=1),
    ]
    # An exact span wins over a longer overlap of its neighbour's.
    assert kinds([(0, 4, "P"), (4, 6, "P")], [(0, 4, "P"), (4, 6, "P")]) == ["right", "right"]
    # Equal shares: the equal label wins.
    assert align([(0, 4, "O")], [(0, 2, "L"), (2, 4, "O")])[-1].kind == "boundary"
    assert kinds([], []) == []
    assert kinds([(0, 4, "P")], [(4, 6, "P")]) == ["missed", "spurious"]  # they touch, and share nothing


gaps = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from("LOP")), max_size=6)


def laid_out(parts):
    spans, position = [], 0
    for gap, length, label in parts:
        spans.append((position + gap, position + gap + length, label))
        position += gap + length
    return spans


@given(gaps.map(laid_out), gaps.map(laid_out))
def test_each_entity_is_in_one_outcome(gold, predicted):
    outcomes = align(gold, predicted)
    assert sorted(one.gold for one in outcomes if one.gold is not None) == list(range(len(gold)))
    assert sorted(one.predicted for one in outcomes if one.predicted is not None) == list(range(len(predicted)))
    assert sum(one.kind == "right" for one in outcomes) == len(set(gold) & set(predicted))
    left_gold = [gold[one.gold] for one in outcomes if one.kind == "missed"]
    left = [predicted[one.predicted] for one in outcomes if one.kind == "spurious"]
    assert not any(min(a[1], b[1]) > max(a[0], b[0]) for a in left_gold for b in left), "what overlaps is paired"


# --- curves


def test_curve_by_hand():
    curve = precision_recall(np.array([True, False, True, True]), np.array([0.9, 0.7, 0.7, 0.2]), n_gold=4)
    assert curve.thresholds == (0.9, 0.7, 0.2)
    assert curve.precision == pytest.approx((1, 2 / 3, 3 / 4))
    assert curve.recall == pytest.approx((1 / 4, 2 / 4, 3 / 4))
    empty = precision_recall(np.zeros(0, dtype=bool), np.zeros(0), n_gold=2)
    assert empty.recall == ()


def test_curve_is_scikit_learns():
    generator = np.random.default_rng(0)
    truth, scores = generator.random(300) < 0.3, generator.random(300).round(2)
    curve = precision_recall(truth, scores, n_gold=int(truth.sum()))
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    assert curve.thresholds == pytest.approx(thresholds[::-1])
    assert curve.precision == pytest.approx(precision[-2::-1])
    assert curve.recall == pytest.approx(recall[-2::-1])


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    scores = np.arange(5000) / 5000
    curve = precision_recall(scores > 0.5, scores, n_gold=2499)
    assert len(curve.recall) == MOST_POINTS
    assert (curve.recall[0], curve.recall[-1]) == (1 / 2499, 1.0)


def test_reliability_by_hand():
    found = reliability(np.array([False, True, True, True, False]), np.array([0.0, 0.04, 0.6, 0.95, 1.0]))
    assert [(one.low, one.n, one.share) for one in found.bins] == [(0.0, 2, 0.5), (0.6, 1, 1.0), (0.9, 2, 0.5)]
    assert [one.mean for one in found.bins] == pytest.approx([0.02, 0.6, 0.975])
    assert found.error == pytest.approx((2 * 0.48 + 1 * 0.4 + 2 * 0.475) / 5)


def test_charts_are_well_formed_and_escape_their_titles():
    curve = precision_recall(np.array([True, False]), np.array([0.9, 0.2]), n_gold=1)
    found = reliability(np.array([True, False]), np.array([0.9, 0.2]))
    for chart in (
        curve_chart(curve, point=(1.0, 0.5), title="<script>"),
        reliability_chart(found, title='a & "b"'),
        interval_bar(0.1, (-0.2, 0.3), low=-0.5, high=0.5),
        interval_bar(2.0, None),  # what lies outside is drawn at the end
    ):
        root = ET.fromstring(chart)
        assert root.tag == "svg"
    line = ET.fromstring(curve_chart(curve, point=None, title="t")).find("polyline[@class='curve']")
    # Recall 0 and then 1 at precision 1, and down to one right of two.
    assert line.get("points") == "42,10 188,10 188,85"


# --- groups of articles


def groups(articles):
    return {one.by: (dict(one.groups), one.note) for one in slice_articles(articles)}


def test_lengths_are_quarters_with_round_edges():
    found, note = groups([Article(text="س" * n) for n in (11, 123, 456, 789, 1234, 2345, 3456, 5000)])["length"]
    assert found == {
        "under 460 characters": (0, 1, 2),
        "460 to 1,199": (3,),
        "1,200 to 3,499": (4, 5, 6),
        "3,500 or more": (7,),
    }
    assert note == ""
    assert groups([Article(text="س" * 50)] * 3)["length"][0] == {"all lengths": (0, 1, 2)}
    assert groups([Article(text="")])["length"][0] == {"all lengths": (0,)}


def test_small_sources_are_counted_together():
    names = [*["one"] * 5, *["two"] * 6, "three", "four", None]
    found, note = groups([Article(text="", source=name) for name in names])["source"]
    assert list(found) == ["two", "one", "2 other sources"]
    assert found["2 other sources"] == (11, 12)
    assert note == "1 of 14 articles have no source"


def test_dates_are_grouped_as_finely_as_few_groups_allow():
    def found(*dates):
        return list(groups([Article(text="", date=date) for date in dates])["date"][0])

    assert found("2021-03-01", "2021-01-09", "2021-03-07") == ["2021-01", "2021-03"]
    assert found(*(f"20{20 + k // 12}-{k % 12 + 1:02}" for k in range(24)))[:2] == ["2020 Q1", "2020 Q2"]
    assert found(*(f"{2000 + k}-{m:02}" for k in range(9) for m in (2, 5, 8, 11)))[:2] == ["2000", "2001"]
    assert found("2021-03-01", "2020") == ["2020", "2021"]
    assert found(*map(str, range(1990, 2020))) == ["1990s", "2000s", "2010s"]


def test_what_the_corpus_lacks_is_said():
    found = groups([Article(text="نص", date="أمس")])
    assert found["source"] == ({}, "no article has a source")
    assert found["date"] == ({}, "no article has a date that can be read")


# --- errors in their sentences

TEXT = "عنوان الخبر\nقال أحمد إن الجيش وصل. ثم زار بغداد يوم الأحد! وغادرها."


def test_a_stretch_is_widened_to_its_sentence():
    def around(words):
        start = TEXT.index(words)
        first, last = sentence_around(TEXT, start, start + len(words))
        return TEXT[first:last]

    assert around("الخبر") == "عنوان الخبر"
    assert around("أحمد") == "قال أحمد إن الجيش وصل."
    assert around("بغداد") == "ثم زار بغداد يوم الأحد!"
    assert around("وصل. ثم") == "قال أحمد إن الجيش وصل. ثم زار بغداد يوم الأحد!"
    assert around("وغادرها.") == "وغادرها."
    assert around(TEXT) == TEXT


@given(st.text(alphabet="اب .!\n", min_size=1, max_size=30), st.data())
def test_a_sentence_holds_what_it_is_round(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    first, last = sentence_around(text, start, end)
    assert 0 <= first <= start < end <= last <= len(text)


def test_marks_cut_an_excerpt_into_pieces():
    pieces = excerpt("ابجدهوز", [(1, 4, True, False), (2, 6, False, True)], within=(0, 7), n_characters=50)
    assert pieces == (
        Piece(text="ا"),
        Piece(text="ب", gold=True),
        Piece(text="جد", gold=True, predicted=True),
        Piece(text="هو", predicted=True),
        Piece(text="ز"),
    )
    assert excerpt("", (), within=(0, 0), n_characters=50) == ()


@given(
    st.text(alphabet="اب ", min_size=1, max_size=60),
    st.integers(1, 20),
    st.booleans(),
    st.data(),
)
def test_an_excerpt_is_short_and_keeps_its_marks(text, n_characters, marked, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    marks = [(start, end, True, False)] if marked else []
    pieces = excerpt(text, marks, within=(0, len(text)), n_characters=n_characters)
    assert "".join(piece.text for piece in pieces if piece.gold) == (text[start:end] if marked else "")
    shown = [piece.text for piece in pieces if piece.text not in ("… ", " …")]
    assert "".join(shown) in text
    assert len("".join(shown)) <= max(n_characters, end - start if marked else 0)


def test_control_characters_are_not_shown():
    assert excerpt("ا\x00\nب", (), within=(0, 4), n_characters=9) == (Piece(text="ا  ب"),)


def tagged(article, *, topics=(), scores=None, segment_scores=(), entities=()):
    """Topics are predicted from 0.5 on; entities are (start, end, label, score)."""
    return Prediction(
        gold=article,
        result=results.TaggedArticle(
            id=article.id,
            text=article.text,
            topics=tuple(results.Topic(label=label, score=scores[label], segments=(0,)) for label in topics),
            topic_scores=scores or {},
            segments=tuple(
                results.Segment(
                    start=part.start,
                    end=part.end,
                    topics=tuple(label for label, score in given.items() if score >= 0.5),
                    scores=given,
                )
                for part, given in zip(article.segments or (), segment_scores, strict=True)
            ),
            entities=tuple(
                results.Entity(start=start, end=end, label=label, text=article.text[start:end], score=score)
                for start, end, label, score in entities
            ),
            characters_read=len(article.text),
            model="fake 1.0",
        ),
    )


def span(words, label, text=TEXT):
    start = text.index(words)
    return start, start + len(words), label


def joined(error):
    return "".join(piece.text for piece in error.excerpt)


def test_topic_errors_show_the_segment_that_speaks_for_them():
    segments = (
        Segment(start=0, end=11, topics=("visit",)),
        Segment(start=12, end=35, topics=()),
        Segment(start=36, end=len(TEXT), topics=("visit",)),
    )
    article = Article(id="a", text=TEXT, segments=segments, topics=("visit",))
    given = [{"visit": 0.1, "war": 0.2}, {"visit": 0.4, "war": 0.9}, {"visit": 0.3, "war": 0.2}]
    errors = worst_errors([tagged(article, topics=["war"], scores={"visit": 0.4, "war": 0.9}, segment_scores=given)])
    assert [(error.kind, error.gold, error.predicted) for error in errors] == [
        ("spurious", None, "war"),
        ("missed", "visit", None),
    ]
    assert [error.confidence for error in errors] == pytest.approx([0.9, 0.6])
    assert joined(errors[0]) == TEXT[12:35]  # the segment with most of it
    assert joined(errors[1]) == TEXT[36:]  # the likelier of the two that gold names


def test_segments_speak_where_the_article_has_no_topics():
    article = Article(text=TEXT, segments=(Segment(start=0, end=11, topics=("visit",)),))
    (error,) = worst_errors([tagged(article, segment_scores=[{"visit": 0.2}])])
    assert (error.kind, error.confidence, joined(error)) == ("missed", 0.8, "عنوان الخبر")


def test_a_topic_that_the_model_does_not_know_is_no_error_of_confidence():
    article = Article(text=TEXT, topics=("summit",))
    assert worst_errors([tagged(article, scores={"visit": 0.1})]) == []


def test_entity_errors_are_ranked_by_probability_and_missed_ones_by_number():
    gold = [span("أحمد", "PERSON"), span("الجيش", "MILITARY"), span("بغداد", "LOCATION")]
    entities = tuple(Entity(start=start, end=end, label=label) for start, end, label in gold)
    article = Article(id="a", source="s", text=TEXT, entities=entities)
    first = tagged(article, entities=[(*span("الجيش", "PERSON"), 0.7), (*span("الأحد", "DATE"), 0.95)])
    again = tagged(article, entities=[(*span("أحمد", "PERSON"), 0.7), (*span("الجيش", "MILITARY"), 0.7)])
    errors = worst_errors([first, again])
    assert [(error.task, error.kind, error.gold, error.predicted, error.times) for error in errors] == [
        ("entity", "spurious", None, "DATE", 1),
        ("entity", "label", "MILITARY", "PERSON", 1),
        ("missed entity", "missed", "LOCATION", None, 2),
        ("missed entity", "missed", "PERSON", None, 1),
    ]
    assert [error.probability for error in errors] == [0.95, 0.7, None, None]
    assert joined(errors[0]) == "ثم زار بغداد يوم الأحد!"
    assert [piece for piece in errors[1].excerpt if piece.gold] == [Piece(text="الجيش", gold=True, predicted=True)]


def test_fifty_errors_at_most_and_room_goes_to_where_there_are_more():
    article = Article(text=TEXT, topics=(), entities=())
    wrong = tagged(article, topics=["visit"], scores={"visit": 0.9})
    assert len(worst_errors([wrong] * 80)) == 50
    with_entity = tagged(article, topics=["visit"], scores={"visit": 0.9}, entities=[(*span("أحمد", "P"), 0.8)])
    tasks = [error.task for error in worst_errors([with_entity] * 80)]
    assert (tasks.count("topic"), tasks.count("entity")) == (30, 20)
    assert len(worst_errors([with_entity] * 80, n_errors=10)) == 10


# --- tables


def test_a_table_has_its_first_columns_left_and_the_others_right():
    rows = [["", "F1", "gold"], ["economy", "81.3", "7"], ["all", "-", ""]]
    assert text_table(rows) == ["           F1  gold", "economy  81.3     7", "all         -"]
    assert text_table(rows, n_left=0) == ["           F1  gold", "economy  81.3     7", "    all     -"]
    assert text_table([]) == []
    with pytest.raises(ValueError, match="shorter"):
        text_table([["", "F1"], ["all"]])

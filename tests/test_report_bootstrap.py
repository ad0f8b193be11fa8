"""Bootstrap: counts by hand, intervals against a slow resampler and a known case, the paired test's two ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khabar.inference import results
from khabar.models.article import Article, Entity, Segment
from khabar.models.errors import KhabarError
from khabar.training.bootstrap import (
    FEWEST_ARTICLES,
    count_entities,
    count_topics,
    intervals,
    measures,
    n_articles_with,
    paired_test,
    resample,
)
from khabar.training.metrics import topic_report
from khabar.training.predictions import Prediction


def prediction(gold, predicted, *, segments=((), ()), entities=(None, ())):
    """An article of 20 characters; gold and predicted topics of itself and of its segments, 5 characters each."""
    gold_segments, predicted_segments = segments
    article = Article(
        text="س" * 20,
        topics=gold,
        segments=tuple(Segment(start=5 * i, end=5 * i + 5, topics=topics) for i, topics in enumerate(gold_segments)),
        entities=None
        if entities[0] is None
        else tuple(Entity(start=start, end=end, label=label) for start, end, label in entities[0]),
    )
    result = results.TaggedArticle(
        id=None,
        text=article.text,
        topics=tuple(results.Topic(label=label, score=0.9, segments=(0,)) for label in predicted),
        topic_scores=dict.fromkeys(predicted, 0.9),
        segments=tuple(
            results.Segment(start=5 * i, end=5 * i + 5, topics=topics, scores={})
            for i, topics in enumerate(predicted_segments)
        ),
        entities=tuple(
            results.Entity(start=start, end=end, label=label, text="", score=0.9) for start, end, label in entities[1]
        ),
        characters_read=20,
        model="fake 1.0",
    )
    return Prediction(gold=article, result=result)


def test_topics_are_counted_article_by_article():
    articles = [
        prediction(("a",), ("a", "b")),
        prediction((), ("b",)),
        prediction(None, ("a",)),  # not annotated: counts nothing
    ]
    assert count_topics(articles, "article", ["a", "b"]).tolist() == [
        [[1, 1, 1], [0, 1, 0]],
        [[0, 0, 0], [0, 1, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


def test_an_articles_segments_are_counted_together():
    one = prediction(None, (), segments=((("a",), ("a",), None), (("a",), ("b",), ("a",))))
    assert count_topics([one], "segment", ["a", "b"]).tolist() == [[[1, 1, 2], [0, 1, 0]]]


def test_entities_are_counted_by_span_and_label():
    one = prediction(None, (), entities=([(0, 3, "P"), (5, 9, "L")], [(0, 3, "P"), (5, 8, "L"), (10, 12, "L")]))
    other = prediction(None, (), entities=(None, [(0, 3, "P")]))
    assert count_entities([one, other], ["L", "P"]).tolist() == [
        [[0, 2, 1], [1, 1, 1]],
        [[0, 0, 0], [0, 0, 0]],
    ]


def test_measures_of_counts_by_hand():
    # Label 1: 3 right of 4 predicted, 6 gold. Label 2: never predicted, 2 gold. Label 3: no gold, 2 predicted.
    found = measures(np.array([[3, 4, 6], [0, 0, 2], [0, 2, 0]], dtype=float))
    assert found[0] == pytest.approx([0.75, 0.5, 0.6])
    assert found[1] == pytest.approx([0, 0, 0])
    assert np.isnan(found[2]).all()
    assert found[3] == pytest.approx([3 / 6, 3 / 8, 6 / 14])  # micro
    assert found[4] == pytest.approx([0.375, 0.25, 0.3])  # macro, over the two labels with gold
    assert np.isnan(measures(np.zeros((2, 3)))).all()


LABELS = ["a", "b", "c"]
label_sets = st.sets(st.sampled_from(LABELS)).map(lambda labels: tuple(sorted(labels)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(label_sets, label_sets), min_size=1, max_size=8))
def test_measures_are_those_of_the_tables(items):
    counts = count_topics([prediction(gold, predicted) for gold, predicted in items], "article", LABELS)
    found = measures(counts.sum(axis=0).astype(float))
    gold, predicted = [one for one, _ in items], [other for _, other in items]
    report = topic_report(gold, predicted, [{} for _ in items], LABELS)
    rows = [*report["labels"].values(), report["micro"], report["macro"]]
    expected = [[np.nan if row[key] is None else row[key] for key in ("precision", "recall", "f1")] for row in rows]
    np.testing.assert_allclose(found, expected)


def test_resamples_are_sums_over_articles_drawn_with_replacement():
    counts = np.arange(5 * 2 * 3).reshape(5, 2, 3)
    totals = resample({"part": counts}, resamples=200, seed=7)["part"]
    generator = np.random.default_rng(7)
    for total in totals:
        drawn = generator.integers(5, size=5)
        assert total.tolist() == sum(counts[k] for k in drawn).tolist()


def test_parts_share_their_draws_and_the_seed_gives_them_again():
    counts = np.random.default_rng(0).integers(9, size=(12, 2, 3))
    both = resample({"one": counts, "twice": 2 * counts[:, :1]}, resamples=100, seed=3)
    assert (both["twice"] == 2 * both["one"][:, :1]).all()
    assert (resample({"alone": counts}, resamples=100, seed=3)["alone"] == both["one"]).all()
    assert (resample({"alone": counts}, resamples=100, seed=4)["alone"] != both["one"]).any()


def test_many_articles_are_drawn_in_blocks_alike(monkeypatch):
    counts = np.random.default_rng(0).integers(9, size=(30, 1, 3))
    whole = resample({"part": counts}, resamples=150, seed=1)["part"]
    monkeypatch.setattr("khabar.training.bootstrap._BLOCK", 70)
    assert (resample({"part": counts}, resamples=150, seed=1)["part"] == whole).all()


def test_intervals_are_those_of_a_slow_resampler():
    generator = np.random.default_rng(5)
    gold = generator.random((40, 2)) < [0.5, 0.2]
    guess = gold ^ (generator.random((40, 2)) < 0.25)
    counts = np.stack([gold & guess, guess, gold], axis=-1).astype(np.int64)
    found = intervals(resample({"part": counts}, resamples=300, seed=11)["part"])

    draw = np.random.default_rng(11)
    f1 = []
    for _ in range(300):
        drawn = draw.integers(40, size=40).tolist()
        right = sum(bool(gold[i, 1] and guess[i, 1]) for i in drawn)
        f1.append(2 * right / (sum(map(bool, gold[drawn, 1])) + sum(map(bool, guess[drawn, 1]))))
    f1.sort()
    # The 2.5th percentile of 300 values lies between the 8th and the 9th: 0.025 * 299 = 7.475.
    assert found[1, 2].tolist() == pytest.approx(
        [f1[7] + 0.475 * (f1[8] - f1[7]), f1[291] + 0.525 * (f1[292] - f1[291])]
    )


def test_an_interval_has_the_width_that_theory_gives():
    # 400 articles with one decision each, 80 % right: recall's standard error is sqrt(0.8 * 0.2 / 400) = 0.02.
    right = np.arange(400) < 320
    counts = np.stack([right, np.ones(400), np.ones(400)], axis=-1)[:, None].astype(np.int64)
    low, high = intervals(resample({"part": counts}, resamples=4000, seed=0)["part"])[0, 1]
    assert low == pytest.approx(0.8 - 1.96 * 0.02, abs=0.004)
    assert high == pytest.approx(0.8 + 1.96 * 0.02, abs=0.004)


def test_resamples_without_gold_are_left_out_of_an_interval():
    counts = np.zeros((3, 1, 3), dtype=np.int64)
    counts[0] = [[1, 1, 1]]
    assert intervals(resample({"part": counts}, resamples=100, seed=0)["part"])[0].tolist() == [[1.0, 1.0]] * 3
    assert np.isnan(intervals(np.zeros((100, 1, 3)))).all()


def test_articles_with_a_label_are_counted():
    counts = np.zeros((6, 2, 3), dtype=np.int64)
    counts[:4, 0, 2] = 3
    counts[3:5, 1, 2] = 1
    assert n_articles_with(counts).tolist() == [4, 2, 5, 5]
    assert FEWEST_ARTICLES == 5


def test_p_value_by_hand():
    # Moved to be around zero the resampled differences are -2, -1, 0, 1, 2 (in hundredths): observed is 1.
    resampled = np.array([-0.01, 0.0, 0.01, 0.02, 0.03])
    test = paired_test(0.01, resampled)
    assert test.p_value == (4 + 1) / (5 + 1)
    assert (test.low, test.high) == pytest.approx((-0.009, 0.029))
    assert test.difference == 0.01


def test_equal_models_do_not_differ_and_a_clear_difference_shows():
    assert paired_test(0.0, np.zeros(999)).p_value == 1.0
    far = paired_test(0.2, np.random.default_rng(0).normal(0.2, 0.02, 999))
    assert far.p_value == 1 / 1000
    assert 0 < far.low < 0.2 < far.high
    both_ways = paired_test(-0.2, np.random.default_rng(0).normal(-0.2, 0.02, 999))
    assert both_ways.p_value == 1 / 1000


def test_p_values_are_even_when_there_is_no_difference():
    """A test that rejects at 5 % must reject true nulls in about one case of twenty."""
    generator = np.random.default_rng(0)
    rejected = 0
    for seed in range(200):
        gold = generator.random(80) < 0.5
        one, other = (gold ^ (generator.random(80) < 0.2) for _ in range(2))
        counts = {
            name: np.stack([gold & guess, guess, gold], axis=-1)[:, None].astype(np.int64)
            for name, guess in (("one", one), ("other", other))
        }
        totals = resample(counts, resamples=200, seed=seed)
        observed = [measures(counts[name].sum(axis=0).astype(float))[0, 2] for name in ("one", "other")]
        drawn = measures(totals["one"])[:, 0, 2] - measures(totals["other"])[:, 0, 2]
        rejected += paired_test(float(observed[0] - observed[1]), drawn).p_value <= 0.05
    assert 3 <= rejected <= 20  # 10 expected, standard deviation 3


@pytest.mark.parametrize(
    ("resamples", "seed", "message"),
    [(99, 0, "resamples is 99; allowed: 100 or more"), (100, -1, "seed is -1; allowed: 0 or more")],
)
def test_what_cannot_be_drawn_is_an_error(resamples, seed, message):
    with pytest.raises(KhabarError, match=message):
        resample({"part": np.zeros((1, 1, 3), dtype=np.int64)}, resamples=resamples, seed=seed)

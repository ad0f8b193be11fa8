"""Measures: topics against scikit-learn's own averages, entities against seqeval, and the edges of both."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from khabar.training.conll import bio_spans
from khabar.training.metrics import entity_metrics, topic_report

TOPICS = ["attack", "protest", "statement"]
GOLD = [["attack"], ["attack", "statement"], [], ["statement"]]
SCORES = [
    {"attack": 0.9, "protest": 0.1, "statement": 0.5},
    {"attack": 0.4, "protest": 0.7, "statement": 0.8},
    {"attack": 0.2, "protest": 0.2, "statement": 0.1},
    {"attack": 0.6, "protest": 0.0, "statement": 0.9},
]


def report_at_a_half(gold, scores):
    predicted = [{label for label, score in item.items() if score >= 0.5} for item in scores]
    return topic_report(gold, predicted, scores, TOPICS)


def test_topics_per_label():
    report = report_at_a_half(GOLD, SCORES)
    assert report["n"] == 4
    assert list(report["labels"]) == TOPICS
    attack = report["labels"]["attack"]
    assert (attack["precision"], attack["recall"], attack["f1"]) == (0.5, 0.5, 0.5)
    assert (attack["support"], attack["predicted"]) == (2, 2)
    # Ranked by score the gold is right, wrong, right: the mean of precisions 1/1 and 2/3.
    assert attack["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    statement = report["labels"]["statement"]
    assert (statement["precision"], statement["recall"]) == (pytest.approx(2 / 3), 1.0)


def test_a_topic_without_gold_is_null_and_counts_in_micro_only():
    report = report_at_a_half(GOLD, SCORES)
    assert report["without_gold"] == ["protest"]
    protest = report["labels"]["protest"]
    assert [protest[key] for key in ("precision", "recall", "f1", "average_precision")] == [None] * 4
    assert (protest["support"], protest["predicted"]) == (0, 1)
    others = [report["labels"][label]["f1"] for label in ("attack", "statement")]
    assert report["macro"]["f1"] == pytest.approx(sum(others) / 2)
    assert report["micro"]["precision"] == pytest.approx(3 / 6)  # the wrong protest is one of six


def test_a_topic_never_predicted_scores_zero_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = topic_report([["attack"]], [[]], [{"attack": 0.1}], ["attack"])
    assert report["labels"]["attack"]["precision"] == 0.0
    assert report["macro"]["f1"] == 0.0


@pytest.mark.parametrize(("gold", "labels"), [([], []), ([], TOPICS), ([[], []], TOPICS), ([[], []], [])])
def test_nothing_to_find_gives_nulls(gold, labels):
    report = topic_report(gold, [[] for _ in gold], [{} for _ in gold], labels)
    assert report["n"] == len(gold)
    assert report["micro"]["f1"] is None
    assert report["macro"]["f1"] is None
    assert report["without_gold"] == labels


def test_lists_that_do_not_align_are_errors():
    with pytest.raises(ValueError, match="must align, got 1, 2 and 1"):
        topic_report([[]], [[], []], [{}], [])
    with pytest.raises(ValueError, match="must align, got 1 and 0"):
        entity_metrics([[]], [])


# A first call into scikit-learn or seqeval takes long, whatever the example: no deadline.
@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(TOPICS)), st.lists(st.sampled_from([0.1, 0.4, 0.6, 0.9]), min_size=3)),
        min_size=1,
        max_size=12,
    )
)
def test_topic_averages_are_scikit_learns(items):
    gold = [item for item, _ in items]
    scores = [dict(zip(TOPICS, numbers, strict=False)) for _, numbers in items]
    report = report_at_a_half(gold, scores)
    kept = [label for label in TOPICS if label not in report["without_gold"]]
    truth = np.array([[label in item for label in TOPICS] for item in gold])
    ranking = np.array([[item[label] for label in TOPICS] for item in scores])
    columns = [TOPICS.index(label) for label in kept]
    if not kept:
        assert report["macro"]["f1"] is None
        return
    for average, over in (("micro", [0, 1, 2]), ("macro", columns)):
        expected = precision_recall_fscore_support(
            truth, ranking >= 0.5, labels=over, average=average, zero_division=0.0
        )
        got = [report[average][key] for key in ("precision", "recall", "f1")]
        assert got == pytest.approx(expected[:3])
    micro = average_precision_score(truth, ranking, average="micro")
    assert report["micro"]["average_precision"] == pytest.approx(micro)
    macro = np.mean([average_precision_score(truth[:, k], ranking[:, k]) for k in columns])
    assert report["macro"]["average_precision"] == pytest.approx(macro)


def test_entities_are_right_only_with_exact_span_and_label():
    gold = [[(0, 5, "PERSON"), (10, 15, "LOCATION")], [(0, 5, "PERSON")]]
    predicted = [[(0, 5, "PERSON"), (10, 14, "LOCATION")], [(0, 5, "LOCATION"), (0, 5, "PERSON")]]
    report = entity_metrics(gold, predicted)
    assert report["labels"]["PERSON"]["f1"] == 1.0
    assert report["labels"]["LOCATION"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 1,
        "predicted": 2,
    }
    assert report["micro"]["precision"] == pytest.approx(2 / 4)
    assert report["micro"]["recall"] == pytest.approx(2 / 3)
    assert report["macro"]["f1"] == 0.5


def test_a_span_is_not_right_in_another_article():
    assert entity_metrics([[(0, 5, "PERSON")], []], [[], [(0, 5, "PERSON")]])["micro"]["f1"] == 0.0


def test_entity_labels_without_gold_are_null():
    report = entity_metrics([[(0, 5, "PERSON")]], [[(0, 5, "PERSON"), (6, 9, "WEAPON")]])
    assert report["without_gold"] == ["WEAPON"]
    assert report["labels"]["WEAPON"]["f1"] is None
    assert report["macro"]["f1"] == 1.0
    assert report["micro"]["f1"] == pytest.approx(2 / 3)
    assert entity_metrics([[]], [[]])["micro"]["f1"] is None


tag = st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"])
sentence = st.lists(st.tuples(tag, tag), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(sentence, min_size=1, max_size=6))
def test_entities_are_measured_as_seqeval_does(sentences):
    gold = [[pair[0] for pair in words] for words in sentences]
    predicted = [[pair[1] for pair in words] for words in sentences]
    report = entity_metrics([bio_spans(tags) for tags in gold], [bio_spans(tags) for tags in predicted])
    if not any(word.startswith(("B-", "I-")) for tags in (*gold, *predicted) for word in tags):
        assert report["labels"] == {}
        return
    expected = classification_report(gold, predicted, output_dict=True, zero_division=0)
    assert set(report["labels"]) == expected.keys() - {"micro avg", "macro avg", "weighted avg"}
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    kept = [label for label in report["labels"] if label not in report["without_gold"]]
    for label, row in report["labels"].items():
        assert row["support"] == expected[label]["support"]
        if label in kept:
            assert [row[name] for name in names] == pytest.approx([expected[label][k] for k in names.values()])
    if not kept:
        assert report["micro"]["f1"] is None
        return
    micro = [expected["micro avg"][name] for name in names.values()]
    assert [report["micro"][name] for name in names] == pytest.approx(micro)
    # seqeval's macro takes a label without gold as 0; ours leaves it out.
    macro = [np.mean([expected[label][name] for label in kept]) for name in names.values()]
    assert [report["macro"][name] for name in names] == pytest.approx(macro)
    if not report["without_gold"]:
        assert macro == pytest.approx([expected["macro avg"][name] for name in names.values()])

"""Agreement of two annotators, against numbers worked out by hand."""

import json

import pytest
from typer.testing import CliRunner

from khabar.cli import app
from khabar.models.article import Article, Entity, Segment
from khabar.models.errors import KhabarError
from khabar.training.agreement import EntityRow, TopicRow, measure_agreement
from khabar.training.agreement_pairs import match_articles
from khabar.training.agreement_table import describe_agreement, list_disagreements

TEXT = "زار أحمد بغداد أمس"


def article(number, topics=None, *, segments=None, entities=None, text=TEXT):
    return Article(
        id=None if number is None else f"a{number}",
        text=text,
        topics=topics,
        segments=None if segments is None else tuple(Segment(start=s, end=e, topics=t) for s, e, t in segments),
        entities=None if entities is None else tuple(Entity(start=s, end=e, label=x) for s, e, x in entities),
    )


def measured(first, second):
    return measure_agreement(match_articles(first, second))


def test_kappa_of_a_topic_by_hand():
    # Both yes 4, both no 3, A alone 2, B alone 1: observed 0.7, by chance 0.6 * 0.5 + 0.4 * 0.5 = 0.5.
    answers = [(1, 1)] * 4 + [(0, 0)] * 3 + [(1, 0)] * 2 + [(0, 1)]
    given = {1: ("x",), 0: ()}
    found = measured(
        [article(k, given[a]) for k, (a, _) in enumerate(answers)],
        [article(k, given[b]) for k, (_, b) in enumerate(answers)],
    )
    row = found.article_topics["x"]
    assert row == TopicRow(n=10, first=6, second=5, both=4, kappa=pytest.approx(0.4))
    assert row.observed == pytest.approx(0.7)
    assert [(one.article, one.first, one.second) for one in found.disagreements] == [
        ("a7", "x", None),
        ("a8", "x", None),
        ("a9", None, "x"),
    ]


def test_kappa_is_not_defined_without_variety(recwarn):
    found = measured([article(k, ("x",)) for k in range(3)], [article(k, ("x",)) for k in range(3)])
    assert found.article_topics["x"] == TopicRow(n=3, first=3, second=3, both=3, kappa=None)
    assert not recwarn.list


def test_what_one_was_not_asked_for_is_not_counted():
    first = [article(0, ("x",)), article(1, ()), article(2, None), article(3, ("x",), entities=[(4, 8, "P")])]
    second = [article(0, ("x",)), article(1, ("x",)), article(2, ("x",)), article(3, None, entities=None)]
    found = measured(first, second)
    assert found.article_topics == {"x": TopicRow(n=2, first=1, second=2, both=1, kappa=0.0)}
    assert (found.n_with_topics, found.n_with_entities, found.entities) == (2, 0, {})
    assert len(found.disagreements) == 1


def test_segments_are_compared_where_both_have_them():
    first = [article(0, segments=[(0, 8, ("x", "y")), (9, 14, ()), (15, 18, ("x",))])]
    second = [article(0, segments=[(0, 8, ("x",)), (9, 14, ("y",)), (15, 17, ("x",))])]
    found = measured(first, second)
    assert found.segment_topics == {
        "x": TopicRow(n=2, first=1, second=1, both=1, kappa=1.0),
        # Never the same: observed 0, by chance 0.5.
        "y": TopicRow(n=2, first=1, second=1, both=0, kappa=-1.0),
    }
    assert found.segments_apart == 2
    assert [(one.start, one.end, one.first, one.second, one.text) for one in found.disagreements] == [
        (0, 8, "y", None, "زار أحمد"),
        (9, 14, None, "y", "بغداد"),
    ]
    # One who gave no segment topics was not asked for them.
    assert measured(first, [article(0, segments=[(0, 8, None)])]).segments_apart == 0
    assert measured(first, [article(0, segments=[(0, 8, None)])]).n_segments == 0


def test_spans_by_hand():
    first = [
        article(0, entities=[(4, 8, "P"), (9, 14, "L"), (15, 18, "D")]),
        article(1, entities=[(0, 8, "P")]),
        article(2, entities=[]),
    ]
    second = [
        article(0, entities=[(4, 8, "P"), (9, 14, "O")]),  # the same, another label, and one missed
        article(1, entities=[(4, 8, "P")]),  # overlapping
        article(2, entities=[(9, 14, "L")]),
    ]
    found = measured(first, second)
    assert found.entities == {
        "D": EntityRow(first=1, second=0, exact=0, overlapping=0),
        "L": EntityRow(first=1, second=1, exact=0, overlapping=0),
        "O": EntityRow(first=0, second=1, exact=0, overlapping=0),
        "P": EntityRow(first=2, second=2, exact=1, overlapping=2),
    }
    assert (found.entities["P"].exact_f1, found.entities["P"].overlapping_f1) == (0.5, 1.0)
    assert found.all_entities == EntityRow(first=4, second=4, exact=1, overlapping=2)
    assert found.all_entities.exact_f1 == 0.25
    assert list(list_disagreements(found.disagreements)) == [
        'a0, 9 to 14: A L "بغداد", B O "بغداد": بغداد',
        'a0, 15 to 18: A D "أمس", B nothing: أمس',
        'a1, 0 to 8: A P "زار أحمد", B P "أحمد": زار أحمد',
        'a2, 9 to 14: A nothing, B L "بغداد": بغداد',
    ]


def test_an_entity_overlaps_one_of_its_label_beside_another_that_shares_more():
    found = measured([article(0, entities=[(0, 14, "O")])], [article(0, entities=[(0, 8, "L"), (9, 14, "O")])])
    assert found.entities["O"] == EntityRow(first=1, second=1, exact=0, overlapping=1)
    assert found.entities["L"] == EntityRow(first=0, second=1, exact=0, overlapping=0)


def test_the_two_can_change_places():
    first = [article(0, ("x",), entities=[(4, 8, "P"), (9, 14, "L")]), article(1, ())]
    second = [article(0, (), entities=[(4, 14, "P")]), article(1, ())]
    one, other = measured(first, second), measured(second, first)
    assert one.article_topics["x"].kappa == other.article_topics["x"].kappa
    assert one.all_entities.exact_f1 == other.all_entities.exact_f1
    assert one.all_entities.overlapping_f1 == other.all_entities.overlapping_f1


# --- which articles


def test_articles_match_by_id_in_any_order_or_else_by_text():
    matched = match_articles(
        [article(1), article(2), article(None, text="نص")], [article(None, text="نص"), article(9), article(2)]
    )
    assert [pair.name for pair in matched.pairs] == ["a2", '"نص"']
    assert (matched.only_first, matched.only_second) == (1, 1)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            [article(1, text="زار أحمد بغداد")],
            [article(1, text="زار أحمد دمشق")],
            'article "a1": the texts differ from character 9 on, "بغداد" against "دمشق"; allowed: the same text',
        ),
        ([article(1, text="زار")], [article(1, text="زا")], 'from character 2 on, "ر" against the end'),
        ([article(1)], [article(2)], 'no article stands in both files, which begin with "a1" and "a2"'),
        ([article(1)], [], 'which begin with "a1" and nothing'),
        ([article(None), article(None)], [article(None)], "the first file has an article .* twice; allowed: each text"),
    ],
)
def test_articles_that_are_not_the_same_are_refused(first, second, said):
    with pytest.raises(KhabarError, match=said):
        match_articles(first, second)


def test_of_many_differing_texts_some_are_named():
    with pytest.raises(KhabarError) as raised:
        match_articles([article(k) for k in range(30)], [article(k, text="نص") for k in range(30)])
    assert len(str(raised.value).splitlines()) == 21
    assert str(raised.value).endswith("… and 10 more")


# --- the command


def write(path, articles):
    path.write_text("".join(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in articles), encoding="utf-8")
    return str(path)


def test_the_command_shows_tables_and_lists_on_demand(tmp_path):
    a = write(tmp_path / "a.jsonl", [article(0, ("هجوم",), entities=[(4, 8, "P")]), article(1, ()), article(2)])
    b = write(tmp_path / "b.jsonl", [article(0, ("هجوم",), entities=[(4, 7, "P")]), article(1, ())])
    done = CliRunner().invoke(app, ["data", "agreement", a, b])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"A = {a}, B = {b}: 2 articles in both",
        "1 only in A, not compared",
        "",
        "topics of 2 articles",
        "        kappa  agree  A  B  both",
        "  هجوم  1.000  100.0  1  1     1",
        "",
        "entities of 1 articles",
        "       exact F1  overlap F1  A  B  exact  overlap",
        "  P         0.0       100.0  1  1      0        1",
        "  all       0.0       100.0  1  1      0        1",
        "",
        "1 disagreement; --list shows them",
    ]
    listed = CliRunner().invoke(app, ["data", "agreement", a, b, "--list"])
    assert listed.stdout.splitlines()[-1] == 'a0, 4 to 8: A P "أحمد", B P "أحم": أحمد'


def test_nothing_in_common_to_compare_is_said():
    found = measured([article(0, ("x",))], [article(0, entities=[])])
    assert describe_agreement(found, "a", "b").endswith("\nnothing in them was labelled by both")
    none_given = measured([article(0, ())], [article(0, ())])
    assert describe_agreement(none_given, "a", "b").endswith("\ntopics of 1 articles\n  none")


def test_other_formats_are_one_error(tmp_path):
    (tmp_path / "a.bio").write_text("بغداد B-LOC\n" * 9, encoding="utf-8")
    done = CliRunner().invoke(app, ["data", "agreement", str(tmp_path / "a.bio"), str(tmp_path / "b.jsonl")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "`khabar data convert` makes of other formats" in done.stderr


def test_files_that_cannot_be_read_are_errors(tmp_path):
    good = write(tmp_path / "a.jsonl", [article(0)])
    done = CliRunner().invoke(app, ["data", "agreement", good, str(tmp_path / "absent.jsonl")])
    assert done.exit_code == 2
    assert "absent.jsonl: no such file" in done.stderr

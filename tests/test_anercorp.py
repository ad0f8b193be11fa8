"""The quality benchmark's ANERcorp: joined sentences are cut apart again, and the measure counts whole tokens."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from khabar.models.article import Entity

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TRAIN = "زار O\nأنور B-PERS\nت I-PERS\n. O\n\nالسالم B-PERS\nبغداد B-LOC\n. O\n\nوعاد O\n. O\n"
TEST = "قالت O\nوبغداد B-LOC\n. O\n\nرحب O\nسالم B-PERS\nالحداد I-PERS\n. O\n"


class Parrot:
    """Answers with the very entities of the articles it is given, and notes their texts."""

    def tag_many(self, articles):
        self.texts = []
        for article in articles:
            self.texts.append(article.text)
            yield SimpleNamespace(entities=article.entities)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Call it with the words to join to."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    anercorp = pytest.importorskip("anercorp", reason="needs the checkout's benchmarks")
    (tmp_path / "train.bio").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "test.bio").write_text(TEST, encoding="utf-8")
    return lambda join: anercorp.Anercorp(tmp_path, join)


@pytest.mark.parametrize(("join", "texts"), [(0, 2), (4, 2), (7, 1)])
def test_what_is_read_joined_is_measured_by_sentence(corpus, join, texts):
    one, parrot = corpus(join), Parrot()
    assert one.tag(parrot) == one.tag(Parrot()) == [[(5, 11, "LOC")], [(4, 15, "PERS")]]
    assert len(parrot.texts) == texts
    figures = one.measure(one.tag(parrot))
    assert (figures["anercorp_micro"], figures["anercorp_macro"]) == (1.0, 1.0)


def test_an_entity_across_sentences_is_cut_between_them(corpus):
    class Across:
        def tag_many(self, articles):
            for article in articles:
                yield SimpleNamespace(entities=[Entity(start=5, end=article.text.index("رحب") + 3, label="LOC")])

    assert corpus(7).tag(Across()) == [[(5, 13, "LOC")], [(0, 3, "LOC")]]


def test_a_span_is_widened_to_the_tokens_it_touches(corpus):
    figures = corpus(0).measure([[(6, 11, "LOC")], [(4, 8, "PERS")]])  # without the joined letter; half of a name
    assert figures["anercorp_LOC"] == 1.0
    assert figures["anercorp_PERS"] == 0.0
    assert figures["anercorp_micro"] == pytest.approx(0.5)


def test_training_articles_hold_as_many_words_as_may_be(corpus, tmp_path):
    assert corpus(0).training_file(tmp_path) == tmp_path / "train.bio"
    rows = [json.loads(line) for line in corpus(7).training_file(tmp_path).read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["زار أنور ت . السالم بغداد .", "وعاد ."]
    names = [(row["text"][one["start"] : one["end"]], one["label"]) for row in rows for one in row["entities"]]
    assert names == [("أنور ت", "PERS"), ("السالم", "PERS"), ("بغداد", "LOC")]

"""Examples on disk: equal to those in memory, made once, made anew when anything that they depend on changes."""

import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khabar.models.article import Article, Entity, Segment
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.training.batching import Example
from khabar.training.corpora import Annotation, load_corpora
from khabar.training.data import collect_labels, encode_corpora, open_examples
from khabar.training.example_table import from_table, to_table
from khabar.training.store import ExampleStore, remove_stores, write_store
from khabar.training.targets import LabelSet, LostEntities, make_targets

TEXTS = ["قتل شخصان في بغداد.\nوقال المتحدث إن التحقيق بدأ.", "", "ًً", "عاجل", "شهدت تونس مظاهرة كبيرة. " * 30]


def assert_equal(one: Example, other: Example) -> None:
    for part in ("encoded", "targets"):
        mine, yours = getattr(one, part), getattr(other, part)
        for field in fields(mine):
            value, again = getattr(mine, field.name), getattr(yours, field.name)
            np.testing.assert_array_equal(value, again, err_msg=field.name)
            assert getattr(value, "dtype", None) == getattr(again, "dtype", None), field.name
            assert type(value) is type(again), field.name


def example_of(article, tokenizer, annotation, labels):
    spans = [article.segment_spans]
    (encoded,) = encode_articles([article.text], tokenizer, max_segment_words=24, segments=spans)
    return Example(encoded=encoded, targets=make_targets(article, encoded, annotation, labels, LostEntities()))


@pytest.mark.parametrize(("n_topics", "n_labels"), [(0, 1), (3, 0), (2, 4), (9, 20)])
def test_examples_come_back_as_they_were(tokenizer, n_topics, n_labels):
    labels = LabelSet(
        topics=tuple(f"t{k}" for k in range(n_topics)), entity_labels=tuple(f"نوع {k}" for k in range(n_labels))
    )
    annotation = Annotation(
        entity_map={label: (label, labels.entity_labels[0]) for label in labels.entity_labels},
        unannotated=frozenset(labels.entity_labels[-1:]),
        unannotated_topics=frozenset(labels.topics[:1]),
        weight=0.3,
    )
    articles = [Article(text=text) for text in TEXTS]
    articles += [Article(text=text, topics=labels.topics[1:2], entities=()) for text in TEXTS]
    text = TEXTS[0]
    articles.append(
        Article(
            text=text,
            segments=(Segment(start=0, end=19, topics=labels.topics[:2]), Segment(start=20, end=len(text))),
            entities=tuple(Entity(start=13, end=18, label=label) for label in labels.entity_labels[:1]),
        )
    )
    examples = [example_of(article, tokenizer, annotation, labels) for article in articles]
    for one, other in zip(examples, from_table(to_table(examples), labels), strict=True):
        assert_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet="قال في ببغداد.\n123 abcًـ", max_size=60), min_size=1, max_size=5))
def test_any_text_comes_back(tokenizer, texts):
    labels = LabelSet(topics=("a",), entity_labels=("X",))
    examples = [example_of(Article(text=text, topics=("a",)), tokenizer, Annotation(), labels) for text in texts]
    for one, other in zip(examples, from_table(to_table(examples), labels), strict=True):
        assert_equal(one, other)


@pytest.fixture
def loaded(corpus):
    corpora = load_corpora([corpus])
    return corpora, collect_labels(corpora)


def stored(loaded, tokenizer, folder, *, max_segment_words=24):
    corpora, labels = loaded
    return open_examples(corpora, tokenizer, labels, max_segment_words=max_segment_words, teachers={}, folder=folder)


def test_a_store_gives_any_examples_in_any_order(loaded, tokenizer, tmp_path):
    store = stored(loaded, tokenizer, tmp_path / "cache")
    lost = LostEntities()
    batches = encode_corpora(*loaded[:1], tokenizer, loaded[1], max_segment_words=24, lost=lost)
    examples = [example for batch in batches for example in batch]
    assert len(store) == len(examples) == 24
    assert store.lengths.tolist() == [example.encoded.n_pieces for example in examples]
    assert store.lost == lost
    indices = np.array([23, 0, 7, 7])
    for index, example in zip(indices, store[indices], strict=True):
        assert_equal(examples[index], example)
    assert store[[]] == []
    with pytest.raises(IndexError, match=r"must be in \[0, 24\), got 3 to 24"):
        store[[3, 24]]
    with pytest.raises(IndexError, match="got -1"):
        store[[-1]]


def test_examples_of_several_units_of_writing_are_one_sequence(loaded, tokenizer, tmp_path, monkeypatch):
    whole = stored(loaded, tokenizer, tmp_path / "whole")
    monkeypatch.setattr("khabar.training.data._MOST_ARTICLES", 5)
    pieces = stored(loaded, tokenizer, tmp_path / "pieces")
    assert whole.lengths.tolist() == pieces.lengths.tolist()
    for one, other in zip(whole[range(24)], pieces[range(24)], strict=True):
        assert_equal(one, other)


def test_what_is_there_is_used_again_until_something_changes(corpus, loaded, tokenizer, tmp_path):
    folder = tmp_path / "cache"
    stored(loaded, tokenizer, folder)
    (first,) = folder.iterdir()
    written = (first / "examples.arrow").stat().st_mtime_ns
    stored(loaded, tokenizer, folder)
    assert [*folder.iterdir()] == [first]
    assert (first / "examples.arrow").stat().st_mtime_ns == written

    stored(loaded, tokenizer, folder, max_segment_words=3)
    (second,) = folder.iterdir()
    corpora, labels = loaded
    heavy = [replace(one, annotation=replace(one.annotation, weight=2.0)) for one in corpora]
    stored((heavy, labels), tokenizer, folder)
    (third,) = folder.iterdir()
    stored((corpora, replace(labels, topics=labels.topics[::-1])), tokenizer, folder)
    (fourth,) = folder.iterdir()
    os.utime(corpus, ns=(1, 1))
    stored((load_corpora([corpus]), labels), tokenizer, folder)
    (fifth,) = folder.iterdir()
    assert len({first.name, second.name, third.name, fourth.name, fifth.name}) == 5


def test_a_corpus_that_changes_after_it_was_counted_is_refused(corpus, loaded, tokenizer, tmp_path):
    with corpus.open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps({"text": "عاجل"}))
    with pytest.raises(KhabarError, match=r"train\.jsonl has changed since it was first read; start again"):
        stored(loaded, tokenizer, tmp_path / "cache")
    assert not [*(tmp_path / "cache").glob("*")]


def test_a_store_appears_whole_or_not_at_all(tmp_path, tokenizer):
    labels = LabelSet(topics=("a",), entity_labels=())
    example = example_of(Article(text="عاجل"), tokenizer, Annotation(), labels)

    def batches():
        yield [example]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "store", batches(), LostEntities())
    assert not [*tmp_path.iterdir()]
    write_store(tmp_path / "store", [[example], [], [example]], LostEntities(n_entities=3))
    store = ExampleStore(tmp_path / "store", labels)
    assert (len(store), store.lost) == (2, LostEntities(n_entities=3))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KhabarError, match=r"file/store cannot be written: Not a directory"):
        write_store(tmp_path / "file" / "store", [], LostEntities())


def test_only_stores_are_removed(loaded, tokenizer, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "mine").mkdir()
    stored(loaded, tokenizer, folder)
    (folder / ".partial-0").mkdir()
    (folder / ".partial-0" / "examples.arrow").touch()
    remove_stores(folder)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "mine"}
    remove_stores(tmp_path / "nowhere")

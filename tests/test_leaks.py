"""Articles of train that are in dev are found, named, and told of before training."""

import logging
from itertools import count

import pytest

from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.training.leaks import Leak, describe_leaks, find_leaks, warn_of_leaks

pytest.importorskip("datasketch", reason="needs khabar[duplicates]")


@pytest.fixture(scope="module")
def articles(examples):
    return read_articles(examples / "corpus" / "train.jsonl")


def reprint(article, article_id=None):
    return Article(id=article_id, text="وكالة الساحل - خاص\n" + article.text.replace("ة", "ه").replace("،", ""))


def test_pairs_are_named_by_id_or_by_place(articles):
    dev = [articles[3], reprint(articles[5]), Article(text="خبر قصير")]
    train = [articles[0], articles[3], reprint(articles[3], "again"), articles[5], Article(text="")]
    assert find_leaks(train, dev) == [
        Leak(train=articles[3].id, dev=articles[3].id),
        Leak(train="again", dev=articles[3].id),
        Leak(train=articles[5].id, dev="article 2"),
    ]


def test_each_copy_in_dev_is_a_leak(articles):
    dev = [articles[3], Article(id="copy", text=articles[3].text + " ...")]
    assert [leak.dev for leak in find_leaks(articles, dev)] == [articles[3].id, "copy"]


def test_different_corpora_have_none(articles, examples):
    assert find_leaks(articles, read_articles(examples / "corpus" / "dev.jsonl")) == []
    assert find_leaks(articles, []) == []


def test_a_large_corpus_is_read_no_further_than_the_limit(articles):
    endless = (articles[n % len(articles)] for n in count())
    assert len(find_leaks(endless, articles[:1], most=len(articles) * 3)) == 3


def test_the_warning_counts_and_shows_the_first(articles, caplog):
    with caplog.at_level(logging.WARNING, logger="khabar"):
        warn_of_leaks(articles[:5], articles[8:])
        assert not caplog.records
        warn_of_leaks(articles, articles[:7])
    (record,) = caplog.records
    assert record.message.startswith("7 articles of dev have near-duplicates in train: ")
    assert record.message.count(" = ") == 5
    assert ", …" in record.message


def test_one_leak_is_worded_as_one():
    assert describe_leaks([Leak(train="a", dev="b")], "old.jsonl", "new.jsonl").startswith(
        "1 article of new.jsonl has near-duplicates in old.jsonl: a = b; "
    )


@pytest.mark.slow
def test_the_gold_has_no_leaks(shared_data):
    train, dev = (read_articles(shared_data / "gold" / f"{name}.jsonl") for name in ("train", "dev"))
    assert find_leaks(train, dev) == []

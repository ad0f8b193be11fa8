"""Articles in every format and back: what a format can hold comes back exactly, what it cannot is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from labelled import LABELS, corpora

from khabar.models.article import Article
from khabar.models.errors import KhabarError
from khabar.models.words import split_words
from khabar.training.convert.formats import FORMATS
from khabar.training.convert.gathering import Losses

FULL = ["jsonl", "label-studio", "doccano", "prodigy", "datasets", "spacy"]
few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def there_and_back(name: str, given: list[Article]) -> tuple[list[Article], Losses]:
    """Write articles in a format and read them again; with what both counted as left out."""
    losses = Losses()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "corpus"
        FORMATS[name].write(given, path, losses)
        return FORMATS[name].read(path, losses), +losses


@pytest.mark.parametrize("name", FULL)
@few
@given(corpora())
def test_these_formats_hold_all_of_an_article(name, given):
    assert there_and_back(name, given) == (given, {})


@few
@given(corpora())
def test_tagged_tokens_hold_texts_and_entities_of_visible_characters(given):
    kept = [article for article in given if article.entities is not None and split_words(article.text)]
    if not kept:
        with pytest.raises(KhabarError, match="nothing can be written"):
            there_and_back("conll", given)
        return
    back, losses = there_and_back("conll", given)
    assert [article.text for article in back] == [article.text for article in kept]
    n_left_out = 0
    for article, other in zip(kept, back, strict=True):
        words = split_words(article.text)
        expected = []
        for entity in article.entities:
            parts = [
                (max(a, entity.start), min(b, entity.end)) for a, b in words if a < entity.end and b > entity.start
            ]
            if parts:
                expected.append((parts[0][0], parts[-1][1], entity.label))
        assert [(entity.start, entity.end, entity.label) for entity in other.entities] == expected
        n_left_out += len(article.entities) - len(expected)
    assert losses["entities without a visible character"] == n_left_out
    assert sum(n for what, n in losses.items() if what.startswith("articles")) == len(given) - len(kept)


@few
@given(corpora(LABELS))
def test_brat_holds_ids_texts_and_entities(given):
    given = [replace(article, id=f"article_{i}") for i, article in enumerate(given)]
    back, losses = there_and_back("brat", given)
    assert [(article.id, article.text) for article in back] == [(article.id, article.text) for article in given]
    for article, other in zip(given, back, strict=True):
        assert (article.entities is None) == (other.entities is None)
        if not losses:
            assert article.entities == other.entities
        for entity in other.entities or ():
            assert any(
                one.label == entity.label and one.start <= entity.start and entity.end <= one.end
                for one in article.entities
            )
    n_lost = sum(len(a.entities or ()) - len(b.entities or ()) for a, b in zip(given, back, strict=True))
    assert losses["entities of line breaks alone"] == n_lost


@few
@given(corpora())
def test_a_table_holds_topics_and_origin(given):
    back, losses = there_and_back("csv", given)
    assert back == [replace(article, segments=None, entities=None) for article in given]
    assert not losses

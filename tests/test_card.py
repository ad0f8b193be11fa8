"""The model card: valid front matter, whole tables, and no claim that the run cannot back."""

import hashlib
from dataclasses import asdict

import pytest
from huggingface_hub import ModelCard

from khabar.training.card import render_card
from khabar.training.provenance import describe_source, public_settings, versions
from khabar.training.settings import TrainSettings


def row(f1, support):
    return {
        "precision": f1, "recall": f1, "f1": f1, "support": support, "predicted": support,
        "intervals": None if support < 5 else {"f1": [f1 - 0.1, f1 + 0.1]},
    }  # fmt: skip


@pytest.fixture
def metrics():
    settings = TrainSettings(
        corpora=("/home/someone/secret/train.jsonl",), dev="dev.jsonl", output="/data/m", encoder="org/encoder"
    )
    source = {
        "name": "train.jsonl", "sha256": "ab" * 32, "licence": "CC BY 4.0", "teachers": [],
        "articles": 1200, "with_topics": 1200, "with_segment_topics": 0, "with_entities": 3,
        "topics": {"رياضة": 70, "a|b": 7}, "entities": {"X": 90},
    }  # fmt: skip
    return {
        "model": "خبر 1.0",
        "settings": public_settings(settings),
        "labels": {"topics": ["رياضة", "a|b"], "entity_labels": ["X"]},
        "data": {"train": [source], "dev": [source | {"name": "dev.jsonl", "licence": None, "articles": 30}]},
        "entities_lost": {"n_without_pieces": 0, "n_inside_words": 2, "n_across_segments": 0},
        "n_parameters": 1000,
        "encoder": "bert",
        "topic_temperatures": {"رياضة": 1.5, "a|b": 1.0},
        "topic_thresholds": {"رياضة": 0.4, "a|b": 0.5},
        "topic_bands": {"رياضة": [0.3, 0.6]},
        "processes": 1,
        "steps": 10,
        "seconds": 3.0,
        "calibration": None,
        "growth": [],
        "dev": {
            "articles": 30,
            "bootstrap": {"resamples": 1000},
            "entities": {"labels": {"X": row(0.5, 90)}, "micro": row(0.5, 90), "macro": row(0.5, 90)},
            "topics": {
                "article": {
                    "labels": {"رياضة": row(0.8, 20), "a|b": row(None, 0)},
                    "micro": row(0.8, 20), "macro": row(0.8, 20),
                },
            },
        },
        "versions": versions(),
    }  # fmt: skip


def test_the_front_matter_is_one_that_the_hub_reads(metrics):
    data = ModelCard(render_card(metrics)).data
    assert data.language == "ar"
    assert data.library_name == "khabar"
    assert {"arabic", "named-entity-recognition", "topic-classification"} <= set(data.tags)
    assert data.base_model == "org/encoder"


def test_it_says_what_went_in_and_what_came_out(metrics):
    card = render_card(metrics)
    assert "| رياضة | 20 | 80.0 | 80.0 | 80.0 | 70.0 to 90.0 |" in card
    assert "| a\\|b | 0 | - | - | - | - |" in card, "a label's own bar does not end its cell"
    assert "| train.jsonl | train | 1,200 | 1,200 | 0 | 3 | CC BY 4.0 |" in card
    assert "| dev.jsonl | dev | 30 | 1,200 | 0 | 3 | not stated |" in card
    assert f"sha256 `{'ab' * 32}`" in card
    assert "| رياضة | 1.50 | 0.40 | 0.30 to 0.60 | - | - |" in card
    assert "Thresholds are not fitted" in card
    assert "fewer than 50 examples under their own name: `a|b` (7)." in card
    assert "Not measured, since dev has none of it: `a|b`." in card
    assert "2 start or end inside a word" in card
    assert "khabar train --config settings.yaml --output NEW\n" in card
    assert "secret" not in card
    assert "/data" not in card


def test_without_a_dev_set_it_claims_no_scores(metrics):
    metrics["dev"], metrics["data"]["dev"] = None, []
    metrics["settings"] |= {"dev": None, "encoder": "encoder"}
    card = render_card(metrics)
    assert "Not measured: the run had no dev set." in card
    assert "95 %" not in card
    assert ModelCard(card).data.base_model is None


def test_a_source_is_counted_as_its_annotators_left_it(corpus):
    from khabar.training.corpora import load_corpus

    (source,) = load_corpus(corpus)
    facts = describe_source(source)
    assert facts.pop("sha256") == hashlib.sha256(corpus.read_bytes()).hexdigest()
    assert facts == {
        "name": "train.jsonl", "licence": None, "teachers": [], "articles": 24, "with_topics": 24,
        "with_segment_topics": 24, "with_entities": 24,
        "topics": {"attack": 16, "statement": 16}, "entities": {"LOCATION": 48},
    }  # fmt: skip


def test_settings_are_all_there():
    settings = TrainSettings(corpora=("a",), output="o")
    assert public_settings(settings) == asdict(settings) | {"corpora": ["a"]}

"""The model in the package does khabar's job on real and on our own articles, with no network."""

import json
from dataclasses import replace

import pytest

import khabar
from khabar.models.article_reader import read_articles
from khabar.models.folder import EMBEDDED
from khabar.training.evaluate import evaluate

TOPICS = {"attack", "military_meeting", "political_meeting", "protest", "security_operation", "statement"}
ENTITY_LABELS = {"ARMED_GROUP", "DATE", "LOCATION", "MILITARY", "ORGANIZATION", "PERSON", "WEAPON"}


@pytest.fixture(scope="module")
def tagger():
    return khabar.load(device="cpu")


def test_it_knows_the_default_labels_and_fits_its_size(tagger):
    assert set(tagger.topics) == TOPICS
    assert set(tagger.entity_labels) == ENTITY_LABELS
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 40e6
    assert sum(parameter.numel() for parameter in tagger.model.encoder.parameters()) <= 20e6


def test_it_reads_the_example_articles_well(tagger, examples):
    """Far above chance on articles that nothing was trained on; the model card has the measured scores."""
    articles = [a for part in ("dev", "test") for a in read_articles(examples / "corpus" / f"{part}.jsonl")]
    report = evaluate(tagger, articles)
    assert report["topics"]["article"]["micro"]["f1"] > 0.7
    assert report["entities"]["micro"]["f1"] > 0.6


def test_it_scores_a_text_with_or_without_the_articles_segments(tagger, examples):
    article = read_articles(examples / "corpus" / "dev.jsonl")[0]
    with_segments, without = tagger.tag(article), tagger.tag(replace(article, segments=None))
    assert {topic.label for topic in with_segments.topics} & {topic.label for topic in without.topics}
    assert json.loads(json.dumps(without.to_json())) == without.to_json()


def test_it_reads_the_article_the_project_began_with(tagger, shared_data):
    """A military meeting, told through a statement, with an attack at the end."""
    text = (shared_data / "shafaq_article.txt").read_text(encoding="utf-8")
    result = tagger.tag(text)
    evidence = {topic.label: {text[result.segments[i].start :][:20] for i in topic.segments} for topic in result.topics}
    assert {"military_meeting", "attack", "statement"} <= evidence.keys()
    assert 'وذكر البيان ان "رئيس'[:20] in evidence["military_meeting"]
    assert {"ويوم امس الاحد اعلنت", "وذكرت الوزارة في بيا"[:20]} <= evidence["attack"]
    assert "وقال بارزاني في بيان" in evidence["statement"]
    names = {entity.text for entity in result.entities}
    assert {"نيجيرفان بارزاني", "داعش", "البيشمركة", "كركوك"} <= names
    assert result.characters_read == len(text)

"""Corpora that annotate different things train together: each teaches what it annotates, and nothing else."""

import json
from dataclasses import replace

import pytest
import torch

from khabar.inference.tagger import load
from khabar.models.article import parse_article
from khabar.models.batch import WindowSettings
from khabar.models.errors import CorpusError, KhabarError
from khabar.training.batching import collate_examples
from khabar.training.corpora import as_gold, choose_split, load_corpora, load_corpus
from khabar.training.data import collect_labels, encode_corpora
from khabar.training.evaluate import evaluate
from khabar.training.settings import read_settings
from khabar.training.targets import LostEntities
from khabar.training.train import train

PEOPLE = ("شخصان", "مسلحون", "المتحدث", "مشتبه")


def write_rows(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def write_yaml(path, *sources):
    path.write_text(json.dumps({"sources": list(sources)}), encoding="utf-8")  # JSON is YAML
    return path


def people(row):
    """Add PERSON entities to a row's."""
    text = row["text"]
    found = [
        {"start": start, "end": start + len(word), "label": "PERSON"}
        for word in PEOPLE
        for start in range(len(text))
        if text.startswith(word, start)
    ]
    return row | {"entities": sorted([*row["entities"], *found], key=lambda entity: entity["start"])}


def bio(row):
    """Write a row's PERSON entities as tagged tokens."""
    starts = {entity["start"] for entity in row["entities"] if entity["label"] == "PERSON"}
    lines, position = [], 0
    for token in row["text"].split():
        position = row["text"].index(token, position)
        lines.append(f"{token} {'B-PER' if position in starts else 'O'}")
        position += len(token)
    return "\n".join(lines)


@pytest.fixture
def mixed(tmp_path, news_rows):
    """Five sources over the same kind of text: four that annotate one thing each, and a dev set with all of it."""
    rows = [people(row) for row in news_rows(30)]
    gold, rows = rows[24:], rows[:24]
    write_rows(
        tmp_path / "by-article.jsonl",
        [
            {"text": row["text"], "topics": ["violence", "weather"] if "attack" in row["topics"] else ["weather"]}
            for row in rows
        ],
    )
    write_rows(
        tmp_path / "by-segment.jsonl",
        [
            {
                "text": row["text"],
                "segments": [
                    part | {"topics": [topic for topic in part["topics"] if topic == "statement"]}
                    for part in row["segments"]
                ],
            }
            for row in rows
        ],
    )
    write_rows(
        tmp_path / "places.jsonl",
        [
            {"text": row["text"], "entities": [one for one in row["entities"] if one["label"] == "LOCATION"]}
            for row in rows
        ],
    )
    (tmp_path / "people.bio").write_text("\n\n".join(map(bio, rows)), encoding="utf-8")
    write_rows(tmp_path / "dev.jsonl", gold)
    return write_yaml(
        tmp_path / "corpora.yaml",
        {
            "path": "by-article.jsonl",
            "topics": {"violence": "attack"},
            "ignore_topics": ["weather"],
            "unannotated_topics": ["statement"],
        },
        {"path": "by-segment.jsonl", "unannotated_topics": ["attack"]},
        {"path": "places.jsonl", "unannotated": ["PERSON"]},
        {"path": "people.bio", "entities": {"PER": "PERSON"}, "unannotated": ["LOCATION"], "split": "train"},
        {"path": "dev.jsonl", "split": "dev"},
    )


def test_four_corpora_that_annotate_one_thing_each_teach_all_four(mixed, train_settings):
    given = {"corpora": (str(mixed),), "encoder": train_settings.encoder, "output": train_settings.output}
    settings = read_settings(None, given)
    assert settings.dev == str(mixed)
    settings = replace(train_settings, corpora=settings.corpora, dev=settings.dev, epochs=25, batch_pieces=512)
    result = train(settings, progress_bar=False)
    assert result.metrics["n_articles"] == 4 * 24
    assert [source["name"] for source in result.metrics["data"]["dev"]] == ["dev.jsonl"]
    (dev,) = load_corpus(mixed, split="dev")
    report = evaluate(load(result.folder, device="cpu"), as_gold(dev))
    for part in (report["topics"]["article"], report["topics"]["segment"], report["entities"]):
        for label, row in part["labels"].items():
            assert row["f1"] > 0.85, (label, row)


def test_each_source_is_silent_about_what_it_does_not_annotate(mixed, tokenizer):
    corpora = load_corpora([mixed], split="train")
    labels = collect_labels(corpora)
    assert (labels.topics, labels.entity_labels) == (("attack", "statement"), ("LOCATION", "PERSON"))
    said = []
    for corpus in corpora:
        (examples,) = encode_corpora([corpus], tokenizer, labels, max_segment_words=50, lost=LostEntities())
        targets = [example.targets for example in examples]
        said.append(
            [
                [any((~torch.tensor(rows[..., k]).isnan()).any() for rows in part) for k in (0, 1)]
                for part in ([one.article_topics for one in targets], [one.segment_topics for one in targets])
            ]
            + [[not all(one.allowed_tags[:, 1 + 2 * k : 3 + 2 * k].all() for one in targets) for k in (0, 1)]]
        )
    nothing, both = [False, False], [True, True]
    # Article topics, segment topics, entities. An article without topics has no segment with any; a place is no
    # person, and a person no place, whoever marks it.
    assert said == [
        [[True, False], [True, False], nothing],
        [nothing, [False, True], nothing],
        [nothing, nothing, both],
        [nothing, nothing, both],
    ]


def test_a_weight_of_two_pulls_as_hard_as_every_article_given_twice(mixed, tokenizer, tiny_model):
    """In the sum of the losses, that is; their mean is over all that is annotated, whatever it weighs."""
    (corpus,) = load_corpora([mixed], split="dev")
    labels = replace(collect_labels([corpus]), entity_labels=tuple(tiny_model.config.entity_labels))
    windows = WindowSettings.from_tokenizer(tokenizer, window=32, stride=20)

    def summed(*weights):
        """The entity loss's gradient times the words it is a mean of; a weight for each half of the articles."""
        examples = []
        for half, weight in weights:
            heavy = replace(corpus, annotation=replace(corpus.annotation, weight=weight))
            (batch,) = encode_corpora([heavy], tokenizer, labels, max_segment_words=50, lost=LostEntities())
            examples += batch[half]
        tiny_model.zero_grad()
        tiny_model(**collate_examples(examples, windows)).loss.backward()
        return tiny_model.entity_head.tags.weight.grad * sum(len(one.encoded.words) for one in examples)

    first, second = slice(0, 3), slice(3, None)
    twice = summed((first, 1.0), (first, 1.0), (second, 1.0))
    assert not torch.allclose(summed((first, 1.0), (second, 1.0)), twice, rtol=0.05)
    torch.testing.assert_close(summed((first, 2.0), (second, 1.0)), twice, atol=1e-2, rtol=1e-3)


def test_a_yaml_gives_each_command_its_split(mixed):
    assert [corpus.name.rsplit("/", 1)[1] for corpus in load_corpus(mixed, split="dev")] == ["dev.jsonl"]
    assert len(load_corpus(mixed, split="train")) == 4
    assert len(load_corpus(mixed)) == 5
    with pytest.raises(KhabarError, match=r"corpora\.yaml has no source for test; allowed: at least one with `split: "):
        load_corpus(mixed, split="test")


def test_what_is_measured_on_is_test_then_dev_or_what_is_asked_for(mixed, tmp_path):
    assert choose_split(mixed) == "dev"
    assert choose_split(mixed, "train") == "train"
    both = write_yaml(
        tmp_path / "both.yaml", {"path": "dev.jsonl", "split": "dev"}, {"path": "dev.jsonl", "split": "test"}
    )
    assert choose_split(both) == "test"
    assert choose_split(both, default=("dev",)) == "dev"
    with pytest.raises(KhabarError, match=r"both\.yaml has no source for train; allowed: dev, test"):
        choose_split(both, "train")
    with pytest.raises(KhabarError, match=r"corpora\.yaml has no source for tets; allowed: train, dev"):
        choose_split(mixed, "tets")
    plain = write_yaml(tmp_path / "plain.yaml", {"path": "dev.jsonl"})
    assert choose_split(plain) is choose_split(tmp_path / "dev.jsonl") is None
    with pytest.raises(KhabarError, match=r"plain\.yaml has no source for dev; allowed: no split, for it names none"):
        choose_split(plain, "dev")


def test_gold_of_some_labels_cannot_be_measured_on(mixed, tmp_path):
    yaml = write_yaml(
        tmp_path / "part.yaml", {"path": "by-segment.jsonl", "unannotated_topics": ["attack"]}, {"path": "dev.jsonl"}
    )
    with pytest.raises(KhabarError, match=r"by-segment\.jsonl cannot be evaluated exactly: attack is not annotated"):
        as_gold(load_corpus(yaml)[0])


def test_two_corpora_that_name_a_dev_set_are_refused(mixed, tmp_path):
    other = write_yaml(tmp_path / "other.yaml", {"path": "dev.jsonl", "split": "dev"})
    given = {"corpora": (str(mixed), str(other)), "output": "x"}
    with pytest.raises(KhabarError, match=r"corpora\.yaml and .*other\.yaml each name sources for dev"):
        read_settings(None, given)
    assert read_settings(None, {**given, "dev": "dev.jsonl"}).dev == "dev.jsonl"


def test_topics_mean_something_to_the_model_or_are_named(mixed, tmp_path):
    source = {
        "path": "by-article.jsonl",
        "topics": {"weather": "climate"},
        "unannotated_topics": ["statment", "climate2"],
    }
    yaml = write_yaml(tmp_path / "wrong.yaml", source, {"path": "dev.jsonl"})
    with pytest.raises(CorpusError) as caught:
        load_corpus(yaml)
    path = tmp_path / "by-article.jsonl"
    known = "attack, climate, statement"
    (unknown, *claims) = [problem.message for problem in caught.value.problems]
    assert unknown == (
        f"{path} has topics of unknown meaning: violence (16); allowed: the model's topics ({known}), or an entry for "
        "each under `topics` or `ignore_topics`"
    )
    for claim, (name, guess) in zip(claims, [("climate2", "climate"), ("statment", "statement")], strict=True):
        assert claim.startswith(f'unannotated_topics names "{name}", which is not a topic of the model')
        assert claim.endswith(f'did you mean "{guess}"?; allowed: {known}')


def test_mapped_topics_are_the_models_everywhere(tmp_path):
    row = {
        "text": "قتل شخصان",
        "topics": ["bombing", "ambush", "weather"],
        "segments": [{"start": 0, "end": 3, "topics": ["ambush", "bombing"]}, {"start": 4, "end": 9}],
    }
    write_rows(tmp_path / "a.jsonl", [row, {"text": "عاجل", "topics": ["weather"]}, {"text": "عاجل"}])
    yaml = write_yaml(
        tmp_path / "corpora.yaml",
        {"path": "a.jsonl", "topics": {"bombing": "attack", "ambush": "attack"}, "ignore_topics": ["weather"]},
    )
    (corpus,) = load_corpus(yaml)
    first, second, third = corpus.articles
    assert (first.topics, [part.topics for part in first.segments]) == (("attack",), [("attack",), None])
    assert (second.topics, third.topics) == ((), None)
    assert parse_article(first.to_json()) == (first, [])
    assert dict(corpus.counts.topics) == {"attack": 1}
    assert corpus.topics == ("attack",)
    assert [article.topics for article in as_gold(corpus)] == [("attack",), (), None]

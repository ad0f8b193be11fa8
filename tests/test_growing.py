"""Growing a label set: known labels keep what was learned, new ones are learned, and losses are refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from khabar.inference.tagger import load
from khabar.models import tags
from khabar.models.article import Article, Entity, Segment
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import encode_articles
from khabar.models.errors import KhabarError
from khabar.training.corpora import load_corpora
from khabar.training.data import collect_labels
from khabar.training.growing import Change, compare_known, grow_model, grown_labels, mask_absent, refuse_drops
from khabar.training.seeds import train_seeds
from khabar.training.settings import TrainSettings
from khabar.training.targets import LabelSet, LostEntities, make_targets
from khabar.training.train import train

PLAIN = TrainSettings(corpora=("a",), output="o", encoder=None, from_model="m", dev="d")


def articles_with(path: Path, *articles: Article) -> Path:
    path.write_text("\n".join(json.dumps(a.to_json(), ensure_ascii=False) for a in articles), encoding="utf-8")
    return path


def test_known_labels_come_first_in_their_order():
    known = LabelSet(topics=("b", "a"), entity_labels=("X",))
    found = LabelSet(topics=("a", "c"), entity_labels=("A", "X"))
    assert grown_labels(known, found) == LabelSet(topics=("b", "a", "c"), entity_labels=("X", "A"))


def test_known_labels_score_as_before_wherever_they_go(tiny_model, tokenizer):
    with torch.no_grad():
        for parameter in tiny_model.crf.parameters():
            parameter.normal_()
    articles = encode_articles(["وصل الوزير إلى بغداد.", "وقع انفجار في تونس"], tokenizer, max_segment_words=24)
    windows = WindowSettings.from_tokenizer(tokenizer, window=32, stride=20)
    tensors = collate(articles, windows).tensors()
    before = tiny_model(**tensors)
    start, transition, end = (scores.clone() for scores in tiny_model.crf.scores())
    was = tiny_model.config
    was.topic_thresholds = {"attack": 0.3, "statement": 0.6}
    labels = LabelSet(topics=("رياضة", "statement", "attack"), entity_labels=("PERSON", "نادٍ", "تاريخ", "LOCATION"))
    model = grow_model(tiny_model, labels, PLAIN).eval()
    after = model(**tensors)

    topics = [labels.topics.index(topic) for topic in was.topics]
    torch.testing.assert_close(after.segment_topic_logits[:, topics], before.segment_topic_logits)
    places = [tags.OUTSIDE]
    for label in was.entity_labels:
        place = labels.entity_labels.index(label)
        places += [tags.begin_tag(place), tags.inside_tag(place)]
    torch.testing.assert_close(after.emissions[..., places], before.emissions)
    assert torch.equal(after.proclitic_logits, before.proclitic_logits)
    grown_start, grown_transition, grown_end = model.crf.scores()
    assert torch.equal(grown_start[places], start)
    assert torch.equal(grown_end[places], end)
    assert torch.equal(grown_transition[places][:, places], transition)
    new = [place for place in range(9) if place not in places]
    assert not after.emissions[..., new].isnan().any()
    assert model.config.topic_thresholds == {"رياضة": 0.5, "statement": 0.6, "attack": 0.3}
    assert (model.config.window, model.config.max_segment_words) == (was.window, was.max_segment_words)


def test_a_model_without_topics_or_entities_can_gain_them(tiny_model):
    tiny_model.config.topics, tiny_model.config.topic_thresholds, tiny_model.topic_head = [], {}, None
    model = grow_model(tiny_model, LabelSet(topics=("a",), entity_labels=tuple(tiny_model.config.entity_labels)), PLAIN)
    assert model.topic_head.out.weight.shape[0] == 1


def test_a_source_says_nothing_of_labels_that_it_never_has(tmp_path, tokenizer, caplog):
    old = articles_with(
        tmp_path / "old.jsonl",
        Article(text="وقع انفجار في بغداد", topics=("attack",), entities=(Entity(start=14, end=19, label="LOCATION"),)),
    )
    new = articles_with(tmp_path / "new.jsonl", Article(text="فاز النادي", topics=("رياضة",), entities=()))
    (tmp_path / "says.yaml").write_text(
        "sources:\n  - path: old.jsonl\n    entities: {LOCATION: LOCATION, WEAPON: WEAPON}\n    unannotated: [DATE]\n",
        encoding="utf-8",
    )
    known = LabelSet(topics=("attack", "statement"), entity_labels=("DATE", "LOCATION"))
    corpora = load_corpora([tmp_path / "says.yaml", new], more_entity_labels=known.entity_labels)
    labels = grown_labels(known, LabelSet(topics=("attack", "رياضة"), entity_labels=("LOCATION", "WEAPON")))
    with caplog.at_level("INFO", logger="khabar"):
        first, second = mask_absent(corpora, labels)
    assert first.annotation.unannotated == {"DATE"}, "the label map says that WEAPON is looked for"
    assert first.annotation.unannotated_topics == {"statement", "رياضة"}
    assert second.annotation.unannotated == {"DATE", "LOCATION", "WEAPON"}
    assert second.annotation.unannotated_topics == {"attack", "statement"}
    assert f"{old}: taken as not annotated, since they never occur: topics statement, رياضة; entity labels DATE" in (
        caplog.text
    )

    (article,) = second.articles
    (encoded,) = encode_articles([article.text], tokenizer, max_segment_words=9)
    targets = make_targets(article, encoded, second.annotation, labels, LostEntities())
    assert np.array_equal(targets.article_topics, [np.nan, np.nan, 1], equal_nan=True)
    assert targets.allowed_tags.all(), "with every label masked, nothing is taught of any word"
    (article,) = first.articles
    (encoded,) = encode_articles([article.text], tokenizer, max_segment_words=9)
    targets = make_targets(article, encoded, first.annotation, labels, LostEntities())
    outside = targets.allowed_tags[0]
    assert outside.tolist() == [True, True, True, False, False, False, False]  # O and DATE


def test_losses_beyond_the_margin_are_refused_and_listed():
    changes = [
        Change(label="topic a", before=0.90, after=0.50),
        Change(label="entity label B", before=0.80, after=0.79),
        Change(label="topic c", before=0.50, after=0.45),
    ]
    with pytest.raises(KhabarError) as raised:
        refuse_drops(changes, max_drop=2, kept_in="out/rejected")
    assert str(raised.value).splitlines() == [
        "not saved: on dev, known labels lost more than 2 points of F1:",
        "  topic a: F1 90.0 before, 50.0 after",
        "  topic c: F1 50.0 before, 45.0 after",
        "the model is kept in out/rejected; --allow-drop saves it all the same, --max-drop allows more",
    ]
    refuse_drops(changes, max_drop=40.1, kept_in="")


def test_only_known_labels_with_gold_are_compared():
    def report(f1, support):
        return {"entities": {"labels": {label: {"f1": f1, "support": support} for label in ("OLD", "NEW")}}}

    known = LabelSet(topics=(), entity_labels=("OLD",))
    assert compare_known(report(0.5, 3), report(0.75, 3), known) == [
        Change(label="entity label OLD", before=0.5, after=0.75)
    ]
    assert compare_known(report(None, 0), report(None, 0), known) == []


def growing_corpus(tmp_path, news_rows):
    """Articles with one new topic and one new entity label, and none of the old labels marked."""
    rows = []
    for index in range(24):
        name = ("الهلال", "الشباب", "النجم")[index % 3]
        text = f"فاز نادي {name} في المباراة.\n" if index % 2 else f"توقعت هيئة الأرصاد أمطارا قرب {name}.\n"
        start = text.index(name)
        topics = ["رياضة"] if index % 2 else []
        rows.append(
            Article(
                id=f"n{index}",
                text=text,
                segments=(Segment(start=0, end=len(text) - 1, topics=tuple(topics)),),
                topics=tuple(topics),
                entities=(Entity(start=start, end=start + len(name), label="نادٍ"),),
            ).to_json()
        )
    path, dev = tmp_path / "new.jsonl", tmp_path / "dev.jsonl"
    # Old news, looked through for the new labels alone: it has none of them.
    looked_through = [
        Article(
            id=f"o{index}",
            text=str(row["text"]),
            segments=tuple(Segment(start=part["start"], end=part["end"], topics=()) for part in row["segments"]),
            topics=(),
            entities=(),
        ).to_json()
        for index, row in enumerate(news_rows(12))
    ]
    path.write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in [*rows, *looked_through]), encoding="utf-8"
    )
    every = [*rows[:6], *news_rows(24)]
    dev.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in every), encoding="utf-8")
    return path, dev


@pytest.mark.slow
def test_a_model_grows_by_a_topic_and_an_entity_label(train_settings, tmp_path, news_rows):
    base = train(replace(train_settings, epochs=40, calibrate=False), progress_bar=False).folder
    new, dev = growing_corpus(tmp_path, news_rows)
    settings = replace(
        train_settings,
        encoder=None,
        from_model=str(base),
        corpora=(*train_settings.corpora, str(new)),
        dev=str(dev),
        output=str(tmp_path / "grown"),
        learning_rate=2e-3,
        epochs=30,
        patience=30,
        max_drop=30.0,
    )
    result = train(settings, progress_bar=False)
    assert result.metrics["labels"]["topics"] == ["attack", "statement", "رياضة"]
    assert result.metrics["labels"]["entity_labels"] == ["LOCATION", "نادٍ"]
    report = result.metrics["dev"]
    assert report["topics"]["segment"]["labels"]["رياضة"]["f1"] > 0.9
    assert report["entities"]["labels"]["نادٍ"]["f1"] > 0.9
    assert all(one["after"] > 0.7 for one in result.metrics["growth"])
    assert {one["label"] for one in result.metrics["growth"]} == {
        "topic attack, by article", "topic attack, by segment", "topic statement, by article",
        "topic statement, by segment", "entity label LOCATION",
    }  # fmt: skip
    assert "### Known labels" in (result.folder / "README.md").read_text(encoding="utf-8")


def test_a_dev_without_the_new_labels_does_not_choose_the_epoch(train_settings, tmp_path, news_rows, caplog):
    base = train(replace(train_settings, epochs=20), progress_bar=False).folder
    new, _ = growing_corpus(tmp_path, news_rows)
    settings = replace(
        train_settings, encoder=None, from_model=str(base), corpora=(*train_settings.corpora, str(new)),
        output=str(tmp_path / "grown"), epochs=3, learning_rate=1e-6, head_learning_rate=1e-6, patience=1,
        max_drop=100.0,
    )  # fmt: skip
    with caplog.at_level("WARNING", logger="khabar"):
        result = train(settings, progress_bar=False)
    assert (
        "dev has no example of topics رياضة; entity labels نادٍ: how well they are found is not measured; "
        "some are new to the model, so the last epoch is kept, not the best on dev"
    ) in caplog.messages
    assert result.metrics["best_epoch"] == len(result.metrics["history"]) == 3
    assert "chose the epoch" not in (result.folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(KhabarError, match="--seeds compares runs on dev; allowed: a dev set with examples of all new"):
        train_seeds(replace(settings, output=str(tmp_path / "seeds")), 2, progress_bar=False)


def test_a_dev_without_some_label_is_pointed_out_and_chooses_still(train_settings, tmp_path, news_rows, caplog):
    dev = tmp_path / "few.jsonl"
    rows = [row for row in news_rows(12) if "statement" not in row["topics"]]
    dev.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    settings = replace(
        train_settings, dev=str(dev), epochs=3, learning_rate=1e-9, head_learning_rate=1e-9, patience=1, calibrate=False
    )
    with caplog.at_level("WARNING", logger="khabar"):
        result = train(settings, progress_bar=False)
    assert "dev has no example of topics statement: how well they are found is not measured" in caplog.messages
    assert result.metrics["best_epoch"] == 1


def test_a_model_that_forgets_is_kept_aside(train_settings, tmp_path, news_rows):
    base = train(replace(train_settings, epochs=20), progress_bar=False)
    # The old label, on the wrong word of each article.
    rows = [Article(text=row["text"], entities=(Entity(start=0, end=3, label="LOCATION"),)) for row in news_rows(12)]
    wrong = articles_with(tmp_path / "wrong.jsonl", *rows)
    settings = replace(
        train_settings, encoder=None, from_model=str(base.folder), corpora=(str(wrong),),
        output=str(tmp_path / "grown"), epochs=4,
    )  # fmt: skip
    with pytest.raises(KhabarError, match=r"entity label LOCATION: F1 .* before, .* after") as raised:
        train(settings, progress_bar=False)
    aside = tmp_path / "grown" / "rejected"
    assert str(aside) in str(raised.value)
    assert load(aside, device="cpu").entity_labels == ["LOCATION"]
    assert (aside / "README.md").is_file()
    assert list((tmp_path / "grown").iterdir()) == [aside]
    assert load(base.folder, device="cpu").topics == ["attack", "statement"], "the old model is as it was"
    kept = train(replace(settings, allow_drop=True), progress_bar=False)
    assert (kept.folder / "config.json").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dev": None}, "growing m needs --dev"),
        ({"encoder": "e"}, "encoder and tokenizer come from the model m"),
        ({"from_scratch": True}, "encoder and tokenizer come from the model m"),
        ({"output": "./m"}, r"output is \./m, the model to start from"),
        ({"max_drop": -1.0}, r"max_drop is -1.0, must be in \[0, 100\]"),
    ],
)
def test_settings_that_do_not_fit_growing_are_refused(change, words):
    with pytest.raises(KhabarError, match=words):
        replace(PLAIN, **change)


def test_new_corpora_without_a_label_teach_nothing(tmp_path):
    path = articles_with(tmp_path / "a.jsonl", Article(text="نص", topics=(), entities=()))
    with pytest.raises(KhabarError, match="nothing to learn"):
        collect_labels(load_corpora([path]))

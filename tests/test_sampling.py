"""Samples hold what was asked for and no reprints; tasks come back as the labels that went out."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from khabar.cli import app
from khabar.inference.duplicates import near_duplicates
from khabar.inference.tagger import load
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.label_tasks import LabelRequest, labelling_configuration
from khabar.training.sampling import (
    SampleSettings,
    entity_uncertainty,
    joint_uncertainty,
    pick_articles,
    topic_uncertainty,
)

pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
WORDS, WEATHER, FOOTBALL = (
    line.split(" ")
    for line in (
        "وصل الوزير إلى العاصمة وبحث مع نظيره ملف المياه والحدود والتجارة ثم غادر مساء أمس نحو عمان ودمشق",
        "أمطار غزيرة ورياح شمالية وغيوم كثيفة وثلوج فوق الجبال وحرارة دون معدلها السنوي",
        "سجل المهاجم هدفا وتعادل الفريقان وصفر الحكم وخرج المدافع ببطاقة حمراء وفرح الجمهور",
    )
)


def story(seed: int, n_words: int = 40) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words)) + "."


def picked(uncertainty, texts, how, labelled=()):
    picks = pick_articles(np.array(uncertainty, dtype=float), texts.__getitem__, how, labelled)
    by_reason = {"random": set(), "uncertain": set()}
    for pick in picks:
        by_reason[pick.reason].add(pick.number)
    assert len(picks) == sum(map(len, by_reason.values())), "each article once"
    return picks, by_reason


@given(st.integers(0, 30), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=25, deadline=None)
def test_as_many_as_asked_for_are_picked_and_the_share_is_kept(n_pool, number, share, seed, data):
    # Some stories more than once, and some texts without a word.
    texts = [data.draw(st.sampled_from([story(k, 8), story(k % 5, 8), "…"])) for k in range(n_pool)]
    uncertainty = [data.draw(st.floats(0.01, 1)) for _ in texts]
    how = SampleSettings(number=number, random_share=share, seed=seed)
    picks, by_reason = picked(uncertainty, texts, how)
    n_stories = len(near_duplicates(texts))
    assert len(picks) <= min(number, n_stories)
    assert len(near_duplicates(texts[pick.number] for pick in picks)) == len(picks)
    n_random = min(round(number * share), n_stories)
    assert len(by_reason["random"]) == n_random
    assert len(by_reason["uncertain"]) == min(number - round(number * share), n_stories - n_random)
    assert pick_articles(np.array(uncertainty), texts.__getitem__, how) == picks, "the same seed gives the same"


def test_the_random_share_does_not_depend_on_the_model():
    texts = [story(k) for k in range(60)]
    how = SampleSettings(number=20, random_share=0.5, seed=3)
    rising = np.linspace(0.1, 1, 60)
    shares = [picked(values, texts, how)[1]["random"] for values in (rising, rising[::-1], np.full(60, 0.5))]
    assert shares[0] == shares[1] == shares[2]
    other = picked(rising, texts, replace(how, seed=4))[1]["random"]
    assert other != shares[0]


def test_the_order_of_a_sample_does_not_tell_why_an_article_was_picked():
    texts = [story(k) for k in range(80)]
    picks, _ = picked(np.linspace(0.1, 1, 80), texts, SampleSettings(number=40, random_share=0.5))
    changes = sum(a.reason != b.reason for a, b in pairwise(picks))
    assert changes > 8, "neither kind stands together"


def test_the_uncertain_ones_come_from_the_top():
    texts = [story(k) for k in range(100)]
    _, by_reason = picked(np.linspace(0.01, 1, 100), texts, SampleSettings(number=10, random_share=0))
    assert min(by_reason["uncertain"]) >= 70, "three times as many as wanted are looked at"


def test_the_uncertain_ones_are_spread_over_what_there_is_to_read():
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WEATHER, k=40)) for _ in range(8)] + [
        " ".join(rng.choices(FOOTBALL, k=40)) for _ in range(3)
    ]
    uncertainty = [0.9] * 8 + [0.8] * 3
    _, by_reason = picked(uncertainty, texts, SampleSettings(number=4, random_share=0))
    assert by_reason["uncertain"] & {8, 9, 10}, "the less uncertain matter is there too"


def test_neither_what_is_labelled_nor_its_reprints_are_picked():
    texts = [story(k) for k in range(10)]
    reprint = "عمان (وكالة) - " + texts[0] + " انتهى"
    labelled = [reprint, texts[1].replace("ة", "ه")]
    _, by_reason = picked(np.ones(10), texts, SampleSettings(number=10, random_share=0.5), labelled)
    assert by_reason["random"] | by_reason["uncertain"] == set(range(2, 10))


def test_a_topic_is_most_doubtful_at_its_threshold():
    thresholds = {"هجوم": 0.2, "بيان": 0.5}

    def doubt(attack, statement):
        return topic_uncertainty({"هجوم": attack, "بيان": statement}, thresholds)

    assert doubt(0.2, 0.5) == pytest.approx(2.0)
    assert doubt(0.0, 1.0) == 0.0
    assert doubt(0.2, 0.0) > doubt(0.3, 0.0) > doubt(0.9, 0.0)
    assert doubt(0.1, 0.0) == pytest.approx(doubt(0.6, 0.0)), "half way to either end"
    for threshold in (0.0, 1.0):
        assert topic_uncertainty({"a": threshold}, {"a": threshold}) == 1.0
        assert topic_uncertainty({"a": 1.0 - threshold}, {"a": threshold}) == 0.0


def test_doubtful_entities_count_for_the_length_of_the_text():
    assert entity_uncertainty([], 0) == entity_uncertainty([1.0, 1.0], 100) == 0.0
    assert entity_uncertainty([0.5, 0.5], 100) > entity_uncertainty([0.5], 100) > entity_uncertainty([0.5], 200)


def test_kinds_of_uncertainty_are_ranked_before_they_are_averaged():
    assert joint_uncertainty([0.1, 0.2, 0.3, 0.4]).tolist() == [0.25, 0.5, 0.75, 1.0]
    assert joint_uncertainty([0.0, 9.0], [0.2, 0.1]).tolist() == [0.75, 0.75]


# The command. The texts hold what makes offsets hard: joined letters, marks, directional signs, an emoji, CRLF.

TEXTS = [
    "قُتِلَ شخصان بانفجارٍ شمال بغـداد.\r\nوقال المتحدث باسم الوزارة إن التحقيق جارٍ 👩🏽‍🚒.",
    "\u200fأعلنت الوزارة في بيان من «جنيف» توقيف مشتبه بهم.\nوأضافت أن 12 منهم من طرابلس.",
    "توقعت هيئة الأرصاد أمطارا غزيرة في تونس.  ارتفعت أسعار القمح في عدن بعد موجة جفاف.",
    "أطلق مسلحون النار على دورية في الرستن، والجيش يرد.",
    "😀 قال المتحدث باسم الحكومة إن المفاوضات ستستأنف في بغداد وتونس وعدن.",
]


@pytest.fixture
def encoder_config(recurrent_config):
    """One kind of encoder is enough here."""
    return recurrent_config


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.jsonl"
    rows = [{"id": f"p{k}", "text": f"{text} {story(k, 6)}"} for k, text in enumerate(TEXTS * 4)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def sample(pool: Path, tiny_model_folder: Path) -> Callable[..., Result]:
    def run(
        output: Path, *options: object, number: int = 10, inputs: tuple[object, ...] | None = None, **given: object
    ):
        inputs = (pool,) if inputs is None else inputs
        arguments = [*inputs, "-o", output, "-n", number, "--model", tiny_model_folder, "--device", "cpu", *options]
        return CliRunner().invoke(app, ["data", "sample", *map(str, arguments)], **given)

    return run


def tasks_of(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


def answer(tasks: list[dict], path: Path) -> None:
    """Export the tasks as if an annotator had submitted what the model says."""
    exported = [
        {"id": k, "data": task["data"], "annotations": [{"result": task["predictions"][0]["result"]}]}
        for k, task in enumerate(tasks, start=1)
    ]
    path.write_text(json.dumps(exported, ensure_ascii=False), encoding="utf-8")


def converted(exported: Path, path: Path) -> list[Article]:
    result = CliRunner().invoke(app, ["data", "convert", str(exported), str(path), "--from", "label-studio"])
    assert result.exit_code == 0, result.stderr
    return read_articles(path)


def test_answers_come_back_as_the_labels_that_went_out(sample, tmp_path, tiny_model_folder):
    result = sample(tmp_path / "tasks.json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == f"{tmp_path}/tasks.json: 10 of 20 articles, 2 at random, 8 by uncertainty\n"
    tasks = tasks_of(tmp_path / "tasks.json")
    answer(tasks, tmp_path / "export.json")
    back = converted(tmp_path / "export.json", tmp_path / "labelled.jsonl")
    tagger = load(tiny_model_folder, device="cpu")
    for article, result in zip(back, tagger.tag_many([article.text for article in back]), strict=True):
        assert set(article.topics) == {topic.label for topic in result.topics}
        assert [(s.start, s.end, s.topics) for s in article.segments] == [
            (s.start, s.end, s.topics) for s in result.segments
        ]
        assert [(e.start, e.end, e.label) for e in article.entities] == [
            (e.start, e.end, e.label) for e in result.entities
        ]
    assert any(article.topics for article in back)
    assert sum(len(article.entities) for article in back) > 10


def test_edited_answers_come_back_and_train(sample, tmp_path, train_settings):
    from khabar.training.train import train

    assert sample(tmp_path / "tasks.json", number=20).exit_code == 0
    tasks = tasks_of(tmp_path / "tasks.json")
    edited = next(task for task in tasks if "بغـداد" in task["data"]["text"])
    text = edited["data"]["text"]
    place = text.index("بغـداد")
    regions = edited["predictions"][0]["result"]
    segment = next(item for item in regions if item["from_name"] == "segments")
    # The annotator throws all away but the segments, marks one name, and gives the first segment one topic.
    name = {"start": place, "end": place + 6, "text": "بغـداد", "labels": ["LOCATION"]}
    chosen = segment["value"] | {"choices": ["attack"]}
    del chosen["labels"]
    edited["predictions"][0]["result"] = [
        *[item for item in regions if item["from_name"] == "segments"],
        {"id": "new", "from_name": "entities", "to_name": "text", "type": "labels", "value": name},
        {"id": segment["id"], "from_name": "segment_topics", "to_name": "text", "type": "choices", "value": chosen},
    ]
    answer(tasks, tmp_path / "export.json")
    back = converted(tmp_path / "export.json", tmp_path / "labelled.jsonl")
    article = next(one for one in back if one.id == edited["data"]["id"])
    assert [(text[e.start : e.end], e.label) for e in article.entities] == [("بغـداد", "LOCATION")]
    assert article.topics == ("attack",)
    assert [part.topics for part in article.segments] == [("attack",), *[()] * (len(article.segments) - 1)]

    corpus = str(tmp_path / "labelled.jsonl")
    train(replace(train_settings, corpora=(corpus,), dev=corpus, epochs=1))
    assert "LOCATION" in load(train_settings.output, device="cpu").entity_labels


def test_every_answer_has_a_control_in_the_configuration(sample, tmp_path):
    for level in ("segment", "article"):
        assert sample(tmp_path / "tasks.json", "--topics", level, "--overwrite").exit_code == 0
        view = ET.parse(tmp_path / "tasks.xml").getroot()
        assert "direction: rtl" in view.attrib["style"]
        (text,) = view.findall("Text")
        assert text.attrib == {"name": "text", "value": "$text", "granularity": "symbol"}
        allowed = {
            (control.attrib["name"], control.attrib["toName"], control.tag.lower()): {
                value.attrib["value"] for value in control
            }
            for control in view
            if "toName" in control.attrib
        }
        used = set()
        for task in tasks_of(tmp_path / "tasks.json"):
            assert task["data"]["annotates"]
            for item in task["predictions"][0]["result"]:
                control = item["from_name"], item["to_name"], item["type"]
                value = item["value"]
                assert set(value[item["type"]]) <= allowed[control]
                used.add(control)
                if "start" in value:
                    assert task["data"]["text"][value["start"] : value["end"]] == value["text"]
        assert used == set(allowed), "each kind is shown somewhere"


def test_labels_of_any_spelling_are_choices():
    labels = ['a "b" & <c>', "تاريخ", "é'"]
    view = ET.fromstring(labelling_configuration(LabelRequest(topics=labels, entity_labels=labels)))
    for control in ("Labels[@name='entities']", "Choices"):
        assert [value.attrib["value"] for value in view.find(control)] == labels


def test_topics_by_article_come_back_without_segments(sample, tmp_path):
    assert sample(tmp_path / "tasks.json", "--topics", "article").exit_code == 0
    answer(tasks_of(tmp_path / "tasks.json"), tmp_path / "export.json")
    back = converted(tmp_path / "export.json", tmp_path / "labelled.jsonl")
    assert all(article.segments is None and article.topics is not None for article in back)
    assert any(article.topics for article in back)


def test_the_random_share_is_marked(sample, tmp_path):
    assert sample(tmp_path / "tasks.json", "--random-share", "0.4").exit_code == 0
    marks = [task["data"]["sampled"] for task in tasks_of(tmp_path / "tasks.json")]
    assert sorted(marks) == ["random"] * 4 + ["uncertain"] * 6
    assert sample(tmp_path / "next.jsonl", "--random-share", "0.4").exit_code == 0
    by_mark = {"random": tmp_path / "next.random.jsonl", "uncertain": tmp_path / "next.jsonl"}
    for mark, path in by_mark.items():
        ids = {task["data"]["id"] for task in tasks_of(tmp_path / "tasks.json") if task["data"]["sampled"] == mark}
        assert {article.id for article in read_articles(path)} == ids


def test_the_random_share_may_come_without_the_models_opinion(sample, tmp_path):
    assert sample(tmp_path / "tasks.json", "--blank-random", "--random-share", "0.5").exit_code == 0
    for task in tasks_of(tmp_path / "tasks.json"):
        shown = {item["from_name"] for item in task["predictions"][0]["result"]}
        if task["data"]["sampled"] == "random":
            assert shown == {"segments"}, "how a text is cut is no opinion"
            assert task["data"]["annotates"] == ["entities", "topics", "segments", "segment_topics"]
        else:
            assert "segment_topics" in shown
    assert sample(tmp_path / "next.jsonl", "--blank-random", "--random-share", "0.5").exit_code == 0
    blank = read_articles(tmp_path / "next.random.jsonl")
    assert len(blank) == 5
    for article in blank:
        assert article.topics is None
        assert article.entities is None
        assert all(part.topics is None for part in article.segments)


@pytest.mark.parametrize(("topics", "labels"), [([], ["LOCATION"]), (["attack"], [])])
def test_a_model_without_topics_or_without_entities_asks_for_the_other(
    sample, tmp_path, tiny_model, tokenizer, topics, labels
):
    from khabar.models.config import KhabarConfig
    from khabar.models.folder import save_model
    from khabar.models.model import KhabarModel

    encoder = tiny_model.config.encoder
    config = KhabarConfig(encoder=encoder, topics=topics, entity_labels=labels, window=32, stride=20)
    save_model(KhabarModel(config).eval(), tokenizer, tmp_path / "half")
    result = sample(tmp_path / "tasks.json", "--model", tmp_path / "half")
    assert result.exit_code == 0, result.stderr
    answer(tasks_of(tmp_path / "tasks.json"), tmp_path / "export.json")
    for article in converted(tmp_path / "export.json", tmp_path / "labelled.jsonl"):
        assert (article.topics is None) == (article.segments is None) == (not topics)
        assert (article.entities is None) == (not labels)
    controls = [control.attrib["name"] for control in ET.parse(tmp_path / "tasks.xml").getroot()[1:-1]]
    assert controls == (["segments", "segment_topics"] if topics else ["entities"])


def test_a_seed_gives_the_same_bytes_and_another_other_articles(sample, tmp_path):
    contents = []
    for seed in (1, 1, 2):
        assert sample(tmp_path / "tasks.json", "--overwrite", "--seed", seed).exit_code == 0
        contents.append((tmp_path / "tasks.json").read_bytes())
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("name", ["tasks.json", "next.jsonl"])
def test_a_second_round_leaves_out_the_first(sample, tmp_path, name):
    assert sample(tmp_path / name).exit_code == 0
    out = [tmp_path / name, tmp_path / "next.random.jsonl"] if name == "next.jsonl" else [tmp_path / name]
    options = [part for path in out for part in ("--exclude", path)]
    result = sample(tmp_path / "second.json", *options, number=15)
    assert result.exit_code == 0
    assert "10 of 20 articles" in result.stderr
    assert "; 15 were asked for" in result.stderr
    second = {task["data"]["id"] for task in tasks_of(tmp_path / "second.json")}
    first = (
        tasks_of(tmp_path / name) if name == "tasks.json" else [article for p in out for article in read_articles(p)]
    )
    ids = {one["data"]["id"] if isinstance(one, dict) else one.id for one in first}
    assert len(second | ids) == 20
    everything = sample(tmp_path / "third.json", "--exclude", tmp_path / "pool.jsonl")
    assert everything.exit_code == 2
    assert "all 20 articles of the pool are near-duplicates of labelled ones" in everything.stderr
    assert not list(tmp_path.glob("third*"))


def test_rows_that_cannot_be_used_are_put_aside_and_the_rest_goes_on(sample, pool, tmp_path):
    whole = pool.read_text(encoding="utf-8")
    pool.write_text('{"id": "x"}\nnot json\n' + whole, encoding="utf-8")
    result = sample(tmp_path / "tasks.json")
    assert result.exit_code == 1
    assert "2 rows could not be used" in result.stderr
    errors = [json.loads(line) for line in (tmp_path / "tasks.json.errors.jsonl").read_text("utf-8").splitlines()]
    assert [error["line"] for error in errors] == [1, 2]
    assert len(tasks_of(tmp_path / "tasks.json")) == 10
    pool.write_text(whole, encoding="utf-8")
    assert sample(tmp_path / "tasks.json", "--overwrite").exit_code == 0
    assert not (tmp_path / "tasks.json.errors.jsonl").exists()


def test_a_pool_may_come_from_standard_input_under_other_names(sample, tmp_path):
    rows = "".join(
        json.dumps({"url": f"u{k}", "body": text}, ensure_ascii=False) + "\n" for k, text in enumerate(TEXTS)
    )
    names = ("--text-field", "body", "--id-field", "url")
    result = sample(tmp_path / "tasks.json", *names, inputs=("-",), number=3, input=rows)
    assert result.exit_code == 0, result.stderr
    assert {task["data"]["id"] for task in tasks_of(tmp_path / "tasks.json")} < {f"u{k}" for k in range(5)}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t.json", ["--random-share", "1.5"], "random share is 1.5, must be in [0, 1]"),
        ("t.json", ["--random-share", "-0.1"], "random share is -0.1, must be in [0, 1]"),
        ("t.json", ["--random-share", "nan"], "random share is nan"),
        ("t.json", ["-n", "0"], "number is 0, must be at least 1"),
        ("t.json", ["--seed", "-1"], "seed is -1"),
        ("t.csv", [], "allowed: .json (tasks of Label Studio) or .jsonl (articles)"),
        ("there.json", [], "there already: "),
        ("pool.jsonl", ["--overwrite"], "is an input too"),
        ("none/t.json", [], "no folder"),
        ("t.json", ["--exclude", "none.jsonl"], "none.jsonl: no such file"),
        ("t.json", ["--max-characters", "5"], "the pool has no article that can be scored; the first reason of 20: "),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(sample, tmp_path, name, options, message):
    (tmp_path / "there.xml").write_text("<View/>", encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = sample(tmp_path / name, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_pool_is_an_error(sample, tmp_path):
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    result = sample(tmp_path / "t.json", inputs=(tmp_path / "empty.jsonl",))
    assert result.exit_code == 2
    assert result.stderr == "error: the pool has no article that can be scored\n"


def test_settings_out_of_range_are_refused():
    with pytest.raises(KhabarError, match="number"):
        SampleSettings(number=0)

"""Calibration from logits to folder: what is fitted, what it is worth, and what the user gets of it."""

import json
import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from khabar.cli import app
from khabar.inference.render import render
from khabar.inference.results import Segment as TaggedSegment
from khabar.inference.results import TaggedArticle
from khabar.inference.tagger import Tagger, load
from khabar.models.article import Article, Segment
from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.folder import save_model
from khabar.training.calibrated_folder import copy_calibrated
from khabar.training.calibration import MIN_EXAMPLES, TooFewExamplesError, calibrate
from khabar.training.calibration_report import render_calibration
from khabar.training.corpora import as_gold, load_corpus
from khabar.training.thresholds import fit_band, fit_temperature, fit_threshold, sigmoid

TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات.",
    "أعلنت الوزارة في بيان من عدن توقيف مشتبه بهم.",
]


@pytest.fixture
def encoder_config(bert_config):
    """One kind of encoder is enough here."""
    return bert_config


def drawn(n, *, spread=3.0, centre=-1.5, seed=0):
    """Logits that mean what they say, and gold drawn from them."""
    random = np.random.default_rng(seed)
    logits = random.normal(centre, spread, n)
    return logits, random.random(n) < sigmoid(logits)


def f1(gold, decided):
    return 2 * (gold & decided).sum() / (gold.sum() + decided.sum())


# --- one topic


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_a_scale(temperature):
    logits, gold = drawn(4000)
    assert fit_temperature(logits * temperature, gold) == pytest.approx(temperature, rel=0.1)


def test_the_temperature_stays_finite_without_errors_and_1_without_examples():
    gold = np.arange(50) % 2 == 0
    assert 0.01 < fit_temperature(np.where(gold, 5.0, -5.0), gold) < 1.0
    assert 1.0 < fit_temperature(np.where(gold, -5.0, 5.0), gold) < 100.0
    assert fit_temperature(np.zeros(0), np.zeros(0, dtype=bool)) == pytest.approx(1.0, abs=0.01)


def test_the_threshold_moves_where_that_clearly_pays_and_else_stays():
    logits, gold = drawn(2000)
    assert fit_threshold(logits[:200], gold[:200])[0] == 0.5
    threshold, reached = fit_threshold(logits - 4.0, gold)
    assert reached
    assert threshold < 0.1
    fresh_logits, fresh = drawn(2000, seed=1)
    probabilities = sigmoid(fresh_logits - 4.0)
    assert f1(fresh, probabilities >= threshold) > f1(fresh, probabilities >= 0.5) + 0.05


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.97])
def test_a_wanted_precision_holds_on_new_articles_and_is_not_overdone(wanted):
    logits, gold = drawn(2000)
    threshold, reached = fit_threshold(logits, gold, wanted)
    assert reached
    fresh_logits, fresh = drawn(20_000, seed=1)
    assert fresh[sigmoid(fresh_logits) >= threshold].mean() == pytest.approx(wanted, abs=0.025)


def test_a_precision_out_of_reach_gives_the_highest_there_is():
    logits = np.repeat([-2.0, 0.0, 2.0], 100)
    gold = np.concatenate([np.arange(100) < 10, np.arange(100) < 50, np.arange(100) < 70])
    threshold, reached = fit_threshold(logits, gold, 0.95)
    assert not reached
    assert sigmoid(np.float64(0.5)) < threshold
    assert fit_threshold(np.zeros(3), np.zeros(3, dtype=bool), 0.5)[1] is False


def test_outside_its_band_each_side_is_right_often_enough():
    logits, gold = drawn(3000, spread=2.0)
    low, high = fit_band(logits, gold, 0.5, 0.95)
    assert 0.0 < low < 0.5 < high < 1.0
    fresh_logits, fresh = drawn(20_000, spread=2.0, seed=1)
    probabilities = sigmoid(fresh_logits)
    assert fresh[probabilities >= high].mean() == pytest.approx(0.95, abs=0.02)
    assert 1 - fresh[probabilities < low].mean() == pytest.approx(0.95, abs=0.02)


def test_there_is_no_band_where_none_is_needed_and_a_whole_side_where_nothing_helps():
    gold = np.arange(60) % 2 == 0
    right = np.where(gold, 4.0, -4.0)
    assert fit_band(right, gold, 0.5, 0.95) is None
    assert fit_band(-right, gold, 0.5, 0.95) == (0.0, 1.0)
    one_sided = np.where(gold, 4.0, np.where(np.arange(60) % 3 == 0, 4.0, -4.0))
    assert fit_band(one_sided, gold, 0.5, 0.95) == (0.5, 1.0)


@given(st.lists(st.tuples(st.floats(-40, 40), st.booleans()), max_size=60), st.floats(0.51, 0.99))
def test_whatever_the_examples_a_band_lies_round_its_threshold(examples, share):
    logits = np.array([logit for logit, _ in examples], dtype=np.float64)
    gold = np.array([is_so for _, is_so in examples], dtype=bool)
    assert 0 < fit_temperature(logits, gold) < 100
    for wanted in (None, share):
        threshold, _ = fit_threshold(logits, gold, wanted)
        low, high = fit_band(logits, gold, threshold, share) or (threshold, threshold)
        assert 0 <= low <= threshold <= high <= 1


# --- all topics of a tagger


class Scripted:
    """Tags articles with the logits that it was given for their ids, under its config as the Tagger does."""

    def __init__(self, topics, logits):
        self.topics, self.entity_labels, self.logits = topics, [], logits
        self.model = type("Model", (), {"config": KhabarConfig(topics=topics)})

    def tag_many(self, articles):
        config = self.model.config
        temperatures = np.array([config.topic_temperatures[topic] for topic in self.topics])
        for article in articles:
            rows = sigmoid(np.array(self.logits[article.id], dtype=np.float64) / temperatures)
            spans = article.segment_spans or [(0, len(article.text))]
            scores = [dict(zip(self.topics, row.tolist(), strict=True)) for row in rows]
            best = dict(zip(self.topics, rows.max(axis=0).tolist(), strict=True))
            yield TaggedArticle(
                id=article.id,
                text=article.text,
                topics=(),
                topic_scores=best,
                segments=tuple(
                    TaggedSegment(start=start, end=end, topics=(), scores=row)
                    for (start, end), row in zip(spans, scores, strict=True)
                ),
                entities=(),
                characters_read=len(article.text),
                model="scripted",
            )


def scripted(n, topics=("a", "b"), *, scale=2.0, shift=0.0, seed=0):
    """A tagger whose logits are `scale` times too large and off by `shift`, and articles of two segments each."""
    random = np.random.default_rng(seed)
    logits = random.normal(-3.0, 4.0, (n, 2, len(topics)))
    truth = random.random(logits.shape) < sigmoid(logits)
    articles = []
    for k in range(n):
        segments = tuple(
            Segment(start=5 * i, end=5 * i + 4, topics=tuple(t for t, so in zip(topics, row, strict=True) if so))
            for i, row in enumerate(truth[k])
        )
        reported = tuple(t for t, so in zip(topics, truth[k].any(axis=0), strict=True) if so)
        articles.append(Article(id=str(k), text="خبر. خبر.", segments=segments, topics=reported))
    return Scripted(list(topics), {str(k): logits[k] * scale + shift for k in range(n)}), articles


def test_calibrating_sets_the_config_and_mends_the_probabilities():
    tagger, articles = scripted(400, scale=3.0)
    report = calibrate(tagger, articles)
    config = tagger.model.config
    for topic, one in report.topics.items():
        assert config.topic_temperatures[topic] == one.fitted.temperature == pytest.approx(3.0, rel=0.2)
        assert config.topic_thresholds[topic] == one.fitted.threshold
        assert tuple(config.topic_bands[topic]) == one.fitted.band
        assert one.calibration_error.held_out < one.calibration_error.before
    assert report.segments.log_loss.after < report.segments.log_loss.held_out < report.segments.log_loss.before
    assert report.decisions.reported_right.held_out == pytest.approx(0.95, abs=0.04)
    assert report.decisions.absent_right.held_out == pytest.approx(0.95, abs=0.04)
    assert report.decisions.errors_uncertain.held_out > 0.3
    json.dumps(report.to_json(), allow_nan=False)


def test_what_was_fitted_before_does_not_matter():
    tagger, articles = scripted(120, shift=-3.0)
    first = calibrate(tagger, articles)
    assert first.topics["a"].fitted.threshold != 0.5
    second = calibrate(tagger, articles)
    for topic in first.topics:
        again, before = second.topics[topic].fitted, first.topics[topic].fitted
        assert again.temperature == pytest.approx(before.temperature, rel=0.01)
        assert again.threshold == pytest.approx(before.threshold, abs=0.02)
        assert second.topics[topic].f1.before == first.topics[topic].f1.before


def test_held_out_measures_are_not_flattered():
    reports = [calibrate(*scripted(50, scale=1.0, shift=2.0, seed=seed)) for seed in range(4)]
    after, held_out = (
        np.mean([getattr(report.decisions.macro_f1, name) for report in reports]) for name in ("after", "held_out")
    )
    assert held_out < after
    assert all(report.decisions.log_loss.held_out > report.decisions.log_loss.after for report in reports)


@pytest.mark.parametrize("positives", [MIN_EXAMPLES - 1, MIN_EXAMPLES])
def test_a_topic_with_too_few_positives_shares_a_fit_and_has_no_band(positives):
    tagger, articles = scripted(200, ("كثير", "نادر"), shift=-3.0)
    with_rare = [article.id for article in articles if "نادر" in article.topics][:positives]
    articles = [
        article
        if article.id in with_rare
        else replace(
            article,
            topics=tuple(topic for topic in article.topics if topic != "نادر"),
            segments=tuple(
                replace(part, topics=tuple(topic for topic in part.topics if topic != "نادر"))
                for part in article.segments
            ),
        )
        for article in articles
    ]
    report = calibrate(tagger, articles)
    rare, common = report.topics["نادر"], report.topics["كثير"]
    assert (rare.positives, rare.shared) == (positives, positives < MIN_EXAMPLES)
    assert not common.shared
    assert rare.fitted.temperature != common.fitted.temperature
    if rare.shared:
        assert rare.fitted.band is None
        assert "نادر" not in tagger.model.config.topic_bands
    assert ("نادر *" in render_calibration(report)) == rare.shared
    assert ("too few articles" in render_calibration(report)) == rare.shared


def test_with_too_few_of_everything_nothing_changes():
    tagger, articles = scripted(5)
    config = tagger.model.config
    before = config.topic_temperatures, config.topic_thresholds, config.topic_bands
    with pytest.raises(TooFewExamplesError, match=r"of \d+ decisions \d+ are for a topic; allowed: at least 20 for"):
        calibrate(tagger, articles)
    assert (config.topic_temperatures, config.topic_thresholds, config.topic_bands) == before


def test_one_article_is_too_few_however_many_segments_it_has():
    tagger, articles = scripted(100)
    logits = np.concatenate([tagger.logits[article.id] for article in articles])
    segments = tuple(
        replace(segment, start=5 * i, end=5 * i + 4)
        for i, segment in enumerate(segment for article in articles for segment in article.segments)
    )
    one = Article(id="0", text="خبر. " * len(segments), segments=segments)
    with pytest.raises(TooFewExamplesError, match="too few articles to calibrate on: 1 with topics; allowed: at"):
        calibrate(Scripted(["a", "b"], {"0": logits}), [one])


def test_thresholds_are_for_segments_where_articles_have_no_topics_themselves():
    tagger, articles = scripted(100)
    alone = [replace(article, topics=None) for article in articles]
    report = calibrate(tagger, alone)
    assert (report.n_articles, report.n_segments, report.decisions.n) == (100, 200, 200)
    mixed = calibrate(tagger, [*articles[:30], *alone[30:]])
    assert (mixed.n_articles, mixed.n_segments, mixed.decisions.n, mixed.segments.n) == (100, 140, 30 + 140, 200)
    assert "100 articles, by 140 segments where they have no topics of their own" in render_calibration(mixed)
    assert calibrate(tagger, articles).decisions.n == 100


def test_articles_without_segments_are_enough():
    tagger, articles = scripted(100)
    tagger.logits = {id_: rows.max(axis=0, keepdims=True) for id_, rows in tagger.logits.items()}
    report = calibrate(tagger, [replace(article, segments=None) for article in articles])
    assert report.segments is None
    assert "segments" not in render_calibration(report)
    assert report.topics["a"].f1.after is not None


def test_a_wanted_precision_is_reported_and_missed_ones_are_named():
    tagger, articles = scripted(300, shift=2.0)
    report = calibrate(tagger, articles, wanted_precision=0.9)
    assert report.decisions.micro_precision.held_out == pytest.approx(0.9, abs=0.04)
    assert "out of reach" not in render_calibration(report)
    blind, articles = scripted(100, scale=0.001)
    missed = calibrate(blind, articles, wanted_precision=0.99)
    assert "out of reach, the highest is taken: a, b" in render_calibration(missed)


def test_a_topic_without_gold_has_no_f1():
    tagger, articles = scripted(60, ("a", "b"))
    bare = [replace(article, topics=tuple({*article.topics} - {"b"}), segments=None) for article in articles]
    tagger.logits = {id_: rows.max(axis=0, keepdims=True) for id_, rows in tagger.logits.items()}
    report = calibrate(tagger, bare)
    assert report.topics["b"].f1.after is None
    assert report.decisions.macro_f1.before == report.topics["a"].f1.before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wanted_precision": 1.0}, r"wanted precision is 1.0, must be in \(0, 1\)"),
        ({"wanted_precision": float("nan")}, "wanted precision is nan"),
        ({"certainty": 0.5}, r"certainty is 0.5, must be in \(0.5, 1\)"),
    ],
)
def test_shares_out_of_range_are_refused(options, message):
    tagger, articles = scripted(3)
    with pytest.raises(KhabarError, match=message):
        calibrate(tagger, articles, **options)


def test_without_topics_there_is_nothing_to_calibrate():
    tagger, articles = scripted(3)
    with pytest.raises(KhabarError, match="no article has topics or segments with topics"):
        calibrate(tagger, [replace(article, topics=None, segments=None, entities=()) for article in articles])
    with pytest.raises(KhabarError, match="the model has no topics"):
        calibrate(Scripted([], {}), articles)


# --- the model


def calibrated(model, **settings):
    for name, value in settings.items():
        setattr(model.config, name, value)
    return model


def test_temperatures_and_bands_act_on_results(tiny_model, tokenizer):
    first, second = tiny_model.config.topics[:2]
    tagger = Tagger(tiny_model, tokenizer)
    plain = list(tagger.tag_many(TEXTS))
    assert all(result.uncertain == () for result in plain)
    temperatures = dict.fromkeys(tiny_model.config.topics, 1.0) | {first: 4.0}
    calibrated(tiny_model, topic_temperatures=temperatures, topic_bands={first: [0.0, 1.0], second: [0.0, 0.0001]})
    for before, after in zip(plain, tagger.tag_many(TEXTS), strict=True):
        logit = np.log(before.topic_scores[first] / (1 - before.topic_scores[first]))
        assert after.topic_scores[first] == pytest.approx(sigmoid(logit / 4.0), abs=1e-5)
        assert after.topic_scores[second] == pytest.approx(before.topic_scores[second], abs=1e-6)
        assert {topic.label for topic in after.topics} == {topic.label for topic in before.topics}
        assert all(topic.segments for topic in after.topics)
        assert after.uncertain[:1] == (first,)
        assert after.to_json()["uncertain"] == list(after.uncertain)
        assert f"\nUncertain  {first} {after.topic_scores[first]:.2f}" in render(after)
        assert "Uncertain" not in render(before)


def test_a_band_includes_its_low_end_and_not_its_high_end(tiny_model, tokenizer):
    topic = tiny_model.config.topics[0]
    tagger = Tagger(tiny_model, tokenizer)
    score = tagger.tag(TEXTS[0]).topic_scores[topic]
    for band, inside in (([score, 1.0], True), ([0.0, score], False)):
        calibrated(tiny_model, topic_bands={topic: band})
        assert (topic in tagger.tag(TEXTS[0]).uncertain) == inside


def as_written(tagger):
    """Results with four digits: with weights elsewhere in memory, some processors' products differ in the last."""
    return [result.to_json() for result in tagger.tag_many(TEXTS)]


def test_a_calibrated_model_gives_the_same_after_saving(tiny_model, tokenizer, tmp_path):
    topics = tiny_model.config.topics
    calibrated(
        tiny_model,
        topic_temperatures={topic: 1.5 + k for k, topic in enumerate(topics)},
        topic_thresholds=dict.fromkeys(topics, 0.4),
        topic_bands={topics[0]: [0.2, 0.7]},
    )
    save_model(tiny_model, tokenizer, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert as_written(again) == as_written(Tagger(tiny_model, tokenizer))
    assert again.model.config.topic_bands == {topics[0]: [0.2, 0.7]}


def test_a_config_from_before_calibration_still_loads(tiny_model_folder, tiny_model, tokenizer):
    path = tiny_model_folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("topic_temperatures", "topic_bands"):
        del config[key]
    path.write_text(json.dumps(config), encoding="utf-8")
    tagger = load(tiny_model_folder, device="cpu")
    assert as_written(tagger) == as_written(Tagger(tiny_model, tokenizer))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"topic_temperatures": {"b": 1.0}}, "topic_temperatures has .'b'., must have exactly the topics"),
        ({"topic_temperatures": {"a": 0.0}}, "topic_temperatures.a is 0.0, must be above 0"),
        ({"topic_temperatures": {"a": float("inf")}}, "topic_temperatures.a is inf"),
        ({"topic_bands": {"b": [0.1, 0.2]}}, "topic_bands has .'b'., must have only some of the topics"),
        ({"topic_bands": {"a": [0.2, 0.1]}}, r"topic_bands.a is \[0.2, 0.1\], must be two rising probabilities"),
        ({"topic_bands": {"a": [0.2]}}, r"topic_bands.a is \[0.2\]"),
        ({"topic_bands": {"a": [0.2, 1.5]}}, r"topic_bands.a is \[0.2, 1.5\]"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(settings, message):
    with pytest.raises(ModelFolderError, match=message):
        KhabarConfig(topics=["a"], **settings)


# --- the command


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def corpus(tmp_path, tiny_model):
    """Sixty short articles; every topic is on half of them."""
    topics = tiny_model.config.topics
    rows = [
        {"id": f"c{k}", "text": f"{TEXTS[k % 3]} {k}", "topics": [topics[k % 2]], "entities": []} for k in range(60)
    ]
    path = tmp_path / "dev.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_the_command_makes_a_calibrated_copy(tiny_model_folder, corpus, tmp_path):
    before = {path.name: path.read_bytes() for path in tiny_model_folder.iterdir()}
    output, report = tmp_path / "new" / "copy", tmp_path / "report.json"
    done = run("calibrate", tiny_model_folder, corpus, "-o", output, "--json", report, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "held out" in done.stdout
    assert {path.name: path.read_bytes() for path in tiny_model_folder.iterdir()} == before
    assert {path.name for path in output.iterdir()} == {*before, "metrics.json"}
    assert (output / "model.safetensors").read_bytes() == before["model.safetensors"]
    assert [path.name for path in output.parent.iterdir()] == ["copy"]
    content = json.loads(report.read_text(encoding="utf-8"))
    config = load(output, device="cpu").model.config
    for topic, one in content["topics"].items():
        assert config.topic_temperatures[topic] == one["fitted"]["temperature"]
        assert config.topic_thresholds[topic] == one["fitted"]["threshold"]
    assert (content["model"], content["corpus"]) == ("tiny 1.0", "dev.jsonl")
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    assert {"model": "tiny 1.0", **metrics["calibration"]} == content


def test_the_command_changes_a_folder_in_place(tiny_model_folder, corpus):
    (tiny_model_folder / "metrics.json").write_text('{"seed": 7, "topic_bands": {"x": 0}}', encoding="utf-8")
    before = json.loads((tiny_model_folder / "config.json").read_text(encoding="utf-8"))
    done = run("calibrate", tiny_model_folder, corpus, "--wanted-precision", 0.6, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    after = json.loads((tiny_model_folder / "config.json").read_text(encoding="utf-8"))
    changed = {key for key in after if after[key] != before.get(key)}
    assert "topic_temperatures" in changed
    assert changed <= {"topic_temperatures", "topic_thresholds", "topic_bands"}
    metrics = json.loads((tiny_model_folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["seed"] == 7
    assert metrics["topic_bands"] == after["topic_bands"]
    assert "topic_thresholds" not in metrics
    assert metrics["calibration"]["wanted_precision"] == 0.6
    assert not [path.name for path in tiny_model_folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embedded", "{corpus}"], "embedded comes with khabar and is not changed; give --output DIR"),
        (["someone/model", "{corpus}"], "someone/model is no folder here, so it cannot be changed; give --output"),
        (["{model}", "{corpus}", "-o", "{model}"], "is not empty; allowed: a new or an empty folder"),
        (["{model}", "{corpus}", "-o", "{corpus}"], "is a file; allowed: a new or an empty folder"),
        (["{model}", "{corpus}", "--wanted-precision", "2"], "wanted precision is 2.0"),
        (["{model}", "{corpus}", "--certainty", "0.2"], "certainty is 0.2"),
        (["{model}", "{corpus}", "--json", "{model}"], "is a folder; allowed: a file to write"),
        (["{model}", "{corpus}", "--json", "{corpus}"], "allowed: a name that ends in .json"),
        (["{model}", "{corpus}.json", "--json", "{corpus}.json"], "is an input, which would be replaced"),
        (["{model}", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_the_command_says_what_it_cannot_do(tiny_model_folder, corpus, arguments, message):
    before = {path.name: path.read_bytes() for path in tiny_model_folder.iterdir()}
    done = run("calibrate", *(part.format(corpus=corpus, model=tiny_model_folder) for part in arguments))
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert {path.name: path.read_bytes() for path in tiny_model_folder.iterdir()} == before


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[]", "holds list, must be a JSON object")])
def test_a_copy_that_fails_leaves_nothing(tiny_model_folder, tiny_model, tmp_path, content, message):
    (tiny_model_folder / "metrics.json").write_text(content, encoding="utf-8")
    target = tmp_path / "out" / "copy"
    with pytest.raises(KhabarError, match=rf"metrics\.json {message}"):
        copy_calibrated(str(tiny_model_folder), target, tiny_model.config, {})
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_what_the_model_knows_needs_no_entry_in_a_map(tiny_model_folder, tiny_model, tmp_path, corpus, command):
    topic, *other_topics = tiny_model.config.topics
    label, *other_labels = tiny_model.config.entity_labels
    rows = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
    text = "قتل شخصان في بغداد"
    spans = [{"start": 0, "end": 3, "label": "one"}, {"start": 13, "end": 18, "label": other_labels[0]}]
    rows.append({"id": "named", "text": text, "topics": ["blast", other_topics[0]], "entities": spans})
    corpus.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    source = {"path": corpus.name, "topics": {"blast": topic}, "entities": {"one": label}}
    mapped = tmp_path / "mapped.yaml"
    mapped.write_text(json.dumps({"sources": [source]}), encoding="utf-8")  # JSON is YAML
    done = run(command, tiny_model_folder, mapped, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    (loaded,) = load_corpus(mapped, models=[tiny_model.config])
    *_, gold = as_gold(loaded)
    assert gold.topics == (topic, other_topics[0])
    assert [entity.label for entity in gold.entities] == [label, other_labels[0]]

    mapped.write_text(json.dumps({"sources": [{**source, "topics": {"blats": topic}}]}), encoding="utf-8")
    done = run(command, tiny_model_folder, mapped, "--device", "cpu")
    assert done.exit_code == 2
    assert (
        f"topics of unknown meaning: blast (1); allowed: the model's topics ({topic}, {other_topics[0]}" in done.stderr
    )


def test_labels_that_a_model_holds_apart_are_not_said_to_be_alike(tiny_model, corpus, caplog):
    model = deepcopy(tiny_model.config)
    model.entity_labels = [*model.entity_labels, "WEAPONS", "WEAPON"]
    load_corpus(corpus, models=[model])
    assert "alike" not in caplog.text
    found = '"entities": [{"start": 0, "end": 3, "label": "WEAPONZ"}]'
    corpus.write_text(corpus.read_text(encoding="utf-8").replace('"entities": []', found), encoding="utf-8")
    load_corpus(corpus, models=[model])
    assert '"WEAPONS" and "WEAPONZ" are spelt alike' in caplog.text


def test_what_nobody_looked_for_is_not_taken_for_absent(tiny_model_folder, corpus, tmp_path):
    both = tmp_path / "both.yaml"
    (tmp_path / "attacks.jsonl").write_text('{"text": "قتل شخصان في بغداد", "topics": ["attack"]}', encoding="utf-8")
    sources = [{"path": corpus.name}, {"path": "attacks.jsonl", "unannotated_topics": ["statement"]}]
    both.write_text(json.dumps({"sources": sources}), encoding="utf-8")  # JSON is YAML
    before = (tiny_model_folder / "config.json").read_bytes()
    done = run("calibrate", tiny_model_folder, both, "--device", "cpu")
    assert done.exit_code == 2
    assert "cannot be evaluated exactly: statement is not annotated" in done.stderr
    assert (tiny_model_folder / "config.json").read_bytes() == before


def test_training_calibrates_on_dev(tmp_path, corpus, bert_config, tokenizer, caplog):
    from transformers import AutoModel

    torch.manual_seed(0)
    save_model(AutoModel.from_config(bert_config), tokenizer, tmp_path / "encoder")
    common = ("--dev", corpus, "--encoder", tmp_path / "encoder", "--epochs", 1, "--device", "cpu")
    config = tmp_path / "off.yaml"
    config.write_text("calibrate: false\n", encoding="utf-8")
    for name, extra, calibrated_on in (("on", (), corpus.name), ("off", ("--config", config), None)):
        done = run("train", corpus, "--output", tmp_path / name, *common, *extra)
        assert done.exit_code == 0, done.stderr
        metrics = json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8"))
        assert (metrics["calibration"] or {}).get("corpus") == calibrated_on
        temperatures = load(tmp_path / name, device="cpu").model.config.topic_temperatures
        assert (set(temperatures.values()) == {1.0}) == (calibrated_on is None)

    first_lines = corpus.read_text(encoding="utf-8").splitlines(keepends=True)[:2]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(first_lines), encoding="utf-8")
    done = run("train", corpus, "--output", tmp_path / "few", *common, "--dev", few)
    assert done.exit_code == 0, done.stderr
    assert "too few examples to calibrate on" in done.stderr + caplog.text
    assert json.loads((tmp_path / "few" / "metrics.json").read_text(encoding="utf-8"))["calibration"] is None

    # The card follows a later calibration, unless it has become somebody's own.
    folder = tmp_path / "off"
    assert "Thresholds are not fitted" in (folder / "README.md").read_text(encoding="utf-8")
    for folder, chosen in ((tmp_path / "on", True), (tmp_path / "off", False), (tmp_path / "off", False)):
        done = run("calibrate", folder, corpus, "--device", "cpu")
        assert done.exit_code == 0, done.stderr
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"Fitted on {corpus.name}" in card
        assert "Those of topics are from before the calibration below." in card
        assert ("chose the epoch and the thresholds" in card) is chosen
        thresholds = load(folder, device="cpu").model.config.topic_thresholds
        assert all(re.search(rf"\| {topic} \| [\d.]+ \| {value:.2f} \|", card) for topic, value in thresholds.items())
        assert "so it stays" not in caplog.text
    (folder / "README.md").write_text(f"{card}\nOurs.\n", encoding="utf-8")
    done = run("calibrate", folder, corpus, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "README.md is not what khabar makes of metrics.json, so it stays" in caplog.text
    assert (folder / "README.md").read_text(encoding="utf-8") == f"{card}\nOurs.\n"

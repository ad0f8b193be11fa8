"""The report as a whole: what it holds, the page it becomes, the comparison, and the command that writes it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from khabar.cli import app
from khabar.inference import results
from khabar.models.article import Article, Entity, Segment
from khabar.models.errors import KhabarError
from khabar.training.comparison import compare, render_comparison
from khabar.training.evaluate import measure, render
from khabar.training.page import check_folder, render_page, write_report
from khabar.training.predictions import Prediction, UnknownLabels, predict, unknown_labels
from khabar.training.report import MOST_CHARTED, Evaluated, build_report

ARTICLES = Path(__file__).parent / "data" / "articles.jsonl"
SCRIPT = "<script>alert('x')</script>"
KNOWN = UnknownLabels(topics={}, entity_labels={})


def predictions(n=12, *, right=lambda k: True, label="PERSON", topic="visit", source="s", before=""):
    """Articles with one topic and one entity each, which are found where `right` says so."""
    made = []
    for k in range(n):
        text = f"{before}زار أحمد بغداد يوم {k}."
        start = text.index("أحمد")
        article = Article(
            id=f"a{k}",
            text=text,
            source=source,
            date=f"2021-{k % 12 + 1:02}-01",
            topics=(topic,),
            segments=(Segment(start=0, end=len(text), topics=(topic,)),),
            entities=(Entity(start=start, end=start + 4, label=label),),
        )
        good = right(k)
        score = 0.9 if good else 0.2
        found = () if not good else (topic,)
        result = results.TaggedArticle(
            id=article.id,
            text=text,
            topics=tuple(results.Topic(label=name, score=score, segments=(0,)) for name in found),
            topic_scores={topic: score},
            segments=(results.Segment(start=0, end=len(text), topics=found, scores={topic: score}),),
            entities=(
                results.Entity(start=start, end=start + 4, label=label if good else f"not {label}", text="", score=0.8),
            ),
            characters_read=len(text),
            model="fake 1.0",
        )
        made.append(Prediction(gold=article, result=result))
    return made


def evaluated(made, name="fake 1.0", unknown=KNOWN):
    return Evaluated(name=name, predictions=made, unknown=unknown)


def report_of(made, against=None, **options):
    return build_report(evaluated(made), against, corpus="dev.jsonl", resamples=200, **options)


def test_a_report_holds_everything_and_is_json():
    report = report_of(predictions(right=lambda k: k % 3 > 0))
    assert json.loads(json.dumps(report, allow_nan=False)) == json.loads(json.dumps(report))
    assert (report["model"], report["corpus"], report["articles"]) == ("fake 1.0", "dev.jsonl", 12)
    assert report["bootstrap"] == {"resamples": 200, "seed": 0, "coverage": 0.95}
    low, high = report["entities"]["labels"]["PERSON"]["intervals"]["recall"]
    assert low < 8 / 12 < high
    assert report["confusion"]["labels"] == ["PERSON", "not PERSON"]
    assert report["confusion"]["same_span"] == [[8, 4], [0, 0]]
    chart = report["curves"]["article"]["labels"]["visit"]
    assert chart["curve"] == {"thresholds": [0.9, 0.2], "precision": [1.0, 1.0], "recall": [0.6667, 1.0]}
    assert chart["reliability"]["error"] == pytest.approx((8 * 0.1 + 4 * 0.8) / 12)
    assert [one["by"] for one in report["slices"]] == ["length", "source", "date"]
    by_source = report["slices"][1]["groups"][0]
    assert (by_source["name"], by_source["articles"]) == ("s", 12)
    assert by_source["micro_f1"]["article"]["f1"] == report["topics"]["article"]["micro"]["f1"]
    assert by_source["micro_f1"]["article"]["interval"] == report["topics"]["article"]["micro"]["intervals"]["f1"]
    assert {error["task"] for error in report["errors"]} == {"topic", "entity"}
    assert report["against"] is None


def test_equal_seeds_give_equal_reports():
    made = predictions(right=lambda k: k % 3 > 0)
    assert report_of(made, seed=4) == report_of(made, seed=4)
    assert report_of(made, seed=4) != report_of(made, seed=5)


def test_only_what_is_annotated_is_reported():
    made = [Prediction(gold=replace(one.gold, topics=None, segments=None), result=one.result) for one in predictions()]
    report = report_of(made)
    assert set(report["curves"]) == {"entities"}
    assert "topics" not in report
    assert "topics" not in re.sub(r"<style>.*</style>|How it was measured.*", "", render_page(report), flags=re.DOTALL)
    topics_only = report_of(
        [Prediction(gold=replace(one.gold, entities=None), result=one.result) for one in predictions()]
    )
    assert "confusion" not in topics_only
    assert 'id="confusion"' not in render_page(topics_only)


def test_labels_with_little_gold_get_no_interval():
    report = report_of(predictions(4))
    assert report["entities"]["micro"]["intervals"] is None
    assert "too few articles for an interval" in render_page(report)
    assert re.search(r"micro +100.0 +100.0 +100.0 +- +4", render(report))


def test_the_table_shows_intervals():
    shown = render(measure(predictions(right=lambda k: k % 3 > 0), resamples=200)).splitlines()
    assert shown[1].split() == ["precision", "recall", "F1", "95", "%", "of", "F1", "AP", "support", "predicted"]
    assert re.fullmatch(r"visit +100\.0 +66\.7 +80\.0 +\d\d\.\d to \d\d\.\d +100\.0 +12 +8", shown[2])
    assert max(map(len, shown)) < 100


# --- the page


class _Page(HTMLParser):
    """Gathers a page's tags, checks that they are closed, and keeps the text of each right-to-left paragraph."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.open, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append((tag, dict(attrs)))
        if dict(attrs).get("dir") == "rtl":
            self.texts.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(attrs.get("dir") == "rtl" for _, attrs in self.open):
            self.texts[-1] += data


def test_the_page_is_whole_and_needs_nothing_else():
    made = predictions(right=lambda k: k % 3 > 0)
    page = render_page(report_of(made, evaluated(predictions(), "other 2")))
    found = _Page(page)
    assert found.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert {name for name, _ in found.attributes} & {"src", "onclick", "onload"} == set()
    assert all(value.startswith("#") for name, value in found.attributes if name == "href")
    anchors = {value for name, value in found.attributes if name == "id"}
    assert {value[1:] for name, value in found.attributes if name == "href"} == anchors
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page


def test_errors_stand_in_their_text_from_right_to_left():
    page = render_page(report_of(predictions(1, right=lambda k: False)))
    assert _Page(page).texts == ["زار أحمد بغداد يوم 0."] * 2  # the topic's and the entity's
    assert 'زار <mark class="gold predicted">أحمد</mark> بغداد' in page


def test_untrusted_text_never_becomes_markup():
    made = predictions(6, right=lambda k: k > 2, label=SCRIPT, topic=f"t{SCRIPT}", source=f'"{SCRIPT}', before=SCRIPT)
    unknown = UnknownLabels(topics={SCRIPT: 1}, entity_labels={})
    one, other = evaluated(made, f"m{SCRIPT}", unknown), evaluated(made, SCRIPT)
    page = render_page(build_report(one, other, corpus=SCRIPT, resamples=100))
    assert "script" not in _Page(page).tags
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert any(SCRIPT in text for text in _Page(page).texts), "shown as the text that it is"


def test_no_errors_are_said_to_be_none():
    assert "<p>There are none.</p>" in render_page(report_of(predictions()))


def test_arabic_labels_and_many_labels():
    made = [replace_label(one, f"نوع {k}") for k, one in enumerate(predictions(MOST_CHARTED + 3))]
    report = report_of(made)
    assert len(report["curves"]["entities"]["labels"]) == MOST_CHARTED
    assert report["curves"]["entities"]["left_out"] == 3
    assert "<bdi>نوع 0</bdi>" in render_page(report)


def replace_label(one, label):
    entities = tuple(replace(entity, label=label) for entity in one.gold.entities)
    found = tuple(replace(entity, label=label) for entity in one.result.entities)
    return Prediction(gold=replace(one.gold, entities=entities), result=replace(one.result, entities=found))


# --- two models


def test_a_model_does_not_differ_from_itself():
    made = predictions(right=lambda k: k % 3 > 0)
    tests = report_of(made, evaluated(made))["against"]["tests"]
    row = tests["entities"]["labels"]["PERSON"]
    assert (row["difference"], row["interval"], row["p_value"]) == (0.0, [0.0, 0.0], 1.0)
    assert tests["entities"]["labels"]["not PERSON"] == {
        "f1": None, "other_f1": None, "difference": None, "interval": None, "p_value": None
    }  # fmt: skip


def test_a_better_model_shows():
    good, bad = predictions(30), predictions(30, right=lambda k: k % 2 > 0)
    report = report_of(good, evaluated(bad, "worse 1"))
    row = report["against"]["tests"]["article"]["macro"]
    assert (row["f1"], row["other_f1"]) == (1.0, pytest.approx(2 / 3))
    assert row["p_value"] == 1 / 201
    assert 0 < row["interval"][0] < row["difference"] < row["interval"][1]
    assert report["against"]["measures"]["topics"]["article"]["macro"]["f1"] == pytest.approx(2 / 3)
    assert render_comparison(report).splitlines()[0] == ("fake 1.0 against worse 1: F1, difference, 95 % interval, p")
    assert re.search(
        r"topics, per article, macro +100\.0 +66\.7 +\+33\.3 +\+\d\d\.\d to \+\d\d\.\d +0\.005",
        render_comparison(report),
    )


def test_too_few_articles_are_not_tested():
    good, bad = predictions(4), predictions(4, right=lambda k: False)
    report = report_of(good, evaluated(bad))
    row = report["against"]["tests"]["article"]["micro"]
    assert (row["difference"], row["interval"], row["p_value"]) == (1.0, None, None)
    assert render_comparison(report).endswith("-  -")
    render_page(report)


def test_other_articles_cannot_be_compared():
    one, other = predictions(6), predictions(6, source="other")
    with pytest.raises(ValueError, match="compared on the same articles"):
        compare(measure(one), one, measure(other), other, resamples=100, seed=0)


# --- labels that the model does not know


def test_unknown_labels_are_counted():
    articles = [
        Article(text="نص", topics=("war", "summit"), entities=(Entity(start=0, end=1, label="GPE"),)),
        Article(text="نص", segments=(Segment(start=0, end=2, topics=("summit",)),)),
    ]
    unknown = unknown_labels(articles, topics=["war"], entity_labels=["PERSON"])
    assert (unknown.topics, unknown.entity_labels) == ({"summit": 2}, {"GPE": 1})
    assert unknown.lines() == [
        "gold has topics that the model does not know, all counted as missed: summit (2)",
        "gold has entity labels that the model does not know, all counted as missed: GPE (1)",
    ]
    assert unknown_labels(articles, topics=["war", "summit"], entity_labels=["GPE"]).lines() == []


def test_a_model_of_other_labels_altogether_is_an_error():
    with pytest.raises(KhabarError, match=r"knows none of the corpus's labels \(summit\); allowed: .* \(war, PERSON\)"):
        unknown_labels([Article(text="نص", topics=("summit",))], topics=["war"], entity_labels=["PERSON"])
    # Gold that says "none" everywhere has no labels to know.
    assert unknown_labels([Article(text="نص", topics=())], topics=["war"], entity_labels=[]).lines() == []


def test_notes_reach_the_page():
    made = predictions()
    short = [Prediction(gold=one.gold, result=replace(one.result, characters_read=5)) for one in made]
    unknown = UnknownLabels(topics={"summit": 3}, entity_labels={})
    report = build_report(evaluated(short, unknown=unknown), corpus="c", resamples=100)
    assert report["notes"][0].startswith("fake 1.0: gold has topics that the model does not know")
    assert report["notes"][1].endswith("characters were not read")
    assert "summit (3)" in render_page(report)


# --- files and the command


def test_a_folder_that_cannot_be_one_is_an_error(tmp_path):
    file = tmp_path / "report.json"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(KhabarError, match=r"is a file; allowed: a folder for index\.html and report\.json"):
        check_folder(file)
    with pytest.raises(KhabarError, match="cannot be written in"):
        check_folder(file / "deeper")
    check_folder(tmp_path / "new" / "deeper")
    check_folder(tmp_path)


def test_a_report_appears_whole_and_leaves_other_files_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    report = report_of(predictions())
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "notes.txt", "report.json"]
    before = (tmp_path / "index.html").read_bytes()
    with pytest.raises(ValueError, match="Out of range float"):
        write_report({**report, "articles": float("nan")}, tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before
    write_report(report, tmp_path)
    assert (tmp_path / "index.html").read_bytes() == before


def test_numbers_never_stand_beside_a_page_that_could_not_be_written(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(OSError, match=r"index\.html"):
        write_report(report_of(predictions()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


@pytest.fixture
def encoder_config(bert_config):
    """One kind of encoder is enough here."""
    return bert_config


def test_the_command(tmp_path, tiny_model_folder):
    rows = [json.loads(line) for line in ARTICLES.read_text(encoding="utf-8").splitlines()]
    corpus = tmp_path / "dev.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder = tmp_path / "report"
    call = ["evaluate", tiny_model_folder, corpus, "--against", "embedded", "--device", "cpu", "--resamples", 100]
    done = CliRunner().invoke(app, [str(argument) for argument in [*call, "--report", folder]])
    assert done.exit_code == 0, done.stderr
    assert "95 % of F1" in done.stdout
    assert "tiny 1.0 against khabar-mini 2.1: F1, difference" in done.stdout
    assert f"report written to {folder}" in done.stderr
    assert "tiny 1.0: gold has topics that the model does not know, all counted as missed: " in done.stderr
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert (report["model"], report["against"]["model"]) == ("tiny 1.0", "khabar-mini 2.1")
    assert (folder / "index.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "dev.jsonl"
    path.write_text(ARTICLES.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def test_models_of_one_name_are_told_apart(tiny_model_folder, corpus):
    call = ["evaluate", tiny_model_folder, corpus, "--against", tiny_model_folder, "--precision", "bf16"]
    done = CliRunner().invoke(app, [str(argument) for argument in [*call, "--device", "cpu", "--resamples", 100]])
    assert done.exit_code == 0, done.stderr
    assert "tiny 1.0 (tiny-model, bf16) against tiny 1.0 (tiny-model): F1, difference" in done.stdout


def test_an_exported_model_is_measured_beside_the_one_it_was_made_of(tiny_model_folder, corpus, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs khabar[onnx]")
    exported = tmp_path / "exported"
    done = CliRunner().invoke(app, ["export", str(tiny_model_folder), str(exported)])
    assert done.exit_code == 0, done.stderr
    call = ["evaluate", exported, corpus, "--runtime", "onnx", "--against", tiny_model_folder, "--resamples", 100]
    done = CliRunner().invoke(app, [str(argument) for argument in call])
    assert done.exit_code == 0, done.stderr
    assert "tiny 1.0 (exported, onnx) against tiny 1.0 (tiny-model): F1, difference" in done.stdout


def test_articles_are_tagged_once_and_counted(tmp_path):
    class Tagger:
        n = 0

        def tag_many(self, articles):
            for article, one in zip(articles, predictions(), strict=True):
                self.n += 1
                assert article == one.gold
                yield one.result

    tagger, steps = Tagger(), []
    made = predict(tagger, [one.gold for one in predictions()], progress=lambda: steps.append(1))
    assert (tagger.n, len(steps), len(made)) == (12, 12, 12)

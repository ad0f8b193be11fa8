"""`khabar data convert`: which format a path is of, what is said, and that an output is whole or not there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from khabar.cli import app
from khabar.models.article import Article
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError, MissingExtraError
from khabar.models.words import split_words
from khabar.training.convert.convert import convert
from khabar.training.convert.formats import FORMATS
from khabar.training.convert.gathering import Losses
from khabar.training.convert.spacing import natural_spaces

ROW = '{"text": "زار الوزير بغداد.", "topics": ["visit"], "entities": [{"start": 11, "end": 16, "label": "LOC"}]}\n'


@pytest.fixture
def article_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(ROW, encoding="utf-8")
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["data", "convert", *map(str, args)])


def test_what_a_format_cannot_hold_is_said_with_counts(article_file, tmp_path):
    result = run(article_file, tmp_path / "out.bio")
    assert result.exit_code == 0
    assert result.stderr == f"{tmp_path}/out.bio: left out: 1 articles' topics, for which conll has no place\n"
    assert result.stdout == (
        f"{tmp_path}/out.bio: from jsonl to conll, 1 articles read with 1 entities, 1 topics, 0 segments\n"
    )
    assert (tmp_path / "out.bio").read_text(encoding="utf-8") == (
        "زار\t_\tO\nالوزير\t_\tO\nبغداد\tSpaceAfter=No\tB-LOC\n.\tSpaceAfter=No\tO\n"
    )


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_is_reached_by_name_and_back(article_file, tmp_path, name):
    assert run(article_file, tmp_path / "out", "--to", name).exit_code == 0
    result = run(tmp_path / "out", tmp_path / "back.jsonl", "--from", name)
    assert result.exit_code == 0, result.stderr
    assert [one.text for one in read_articles(tmp_path / "back.jsonl")] == ["زار الوزير بغداد."]


@pytest.mark.parametrize("name", ["brat", "datasets"])
def test_a_folder_shows_its_format(article_file, tmp_path, name):
    assert run(article_file, tmp_path / "out", "--to", name).exit_code == 0
    assert f"from {name} to" in run(tmp_path / "out", tmp_path / "back.jsonl").stdout


def test_endings_that_several_tools_have_need_the_option(article_file, tmp_path):
    names = "jsonl, conll, spacy, label-studio, doccano, prodigy, brat, csv, datasets"
    result = run(article_file, tmp_path / "out.json")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {tmp_path}/out.json: the ending .json does not say which format it is; give --to, one of {names}\n"
    )
    result = run(article_file, tmp_path / "out.json", "--to", "label_studio")
    assert result.stderr == f'error: --to is "label_studio"; did you mean "label-studio"?; allowed: {names}\n'


def test_nothing_is_overwritten_unasked(article_file, tmp_path):
    target = tmp_path / "out.csv"
    target.write_text("old", encoding="utf-8")
    result = run(article_file, target)
    assert (result.exit_code, target.read_text(encoding="utf-8")) == (2, "old")
    assert "is there already; give another output, or --overwrite" in result.stderr
    assert run(article_file, target, "--overwrite").exit_code == 0
    assert "visit" in target.read_text(encoding="utf-8-sig")
    (tmp_path / "folder").mkdir()
    result = run(article_file, tmp_path / "folder", "--to", "brat", "--overwrite")
    assert "is there already" in result.stderr
    assert "is what is to be converted" in run(article_file, article_file, "--overwrite").stderr


@pytest.mark.parametrize(
    ("name", "label", "allowed"),
    [
        ("conll", "a place", "has a space; allowed in tagged tokens: none"),
        ("brat", "مكان", "is none for brat; allowed: letters a to z, digits, _ and -"),
    ],
)
def test_a_label_that_cannot_be_spelt_is_an_error_and_leaves_nothing(article_file, tmp_path, name, label, allowed):
    article_file.write_text(ROW.replace("LOC", label), encoding="utf-8")
    result = run(article_file, tmp_path / "out", "--to", name)
    assert result.exit_code == 2
    assert result.stderr == f'error: the label "{label}" {allowed}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


@pytest.mark.parametrize("topic", ["a; b", "-", " a"])
def test_a_topic_that_cannot_stand_in_a_cell_is_an_error(article_file, tmp_path, topic):
    article_file.write_text(ROW.replace("visit", topic), encoding="utf-8")
    with pytest.raises(KhabarError, match="cannot stand in a table's cell"):
        convert(article_file, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_wrong_input_is_named_and_nothing_is_written(tmp_path):
    wrong = tmp_path / "in.bio"
    wrong.write_text("بغداد B_LOC\n", encoding="utf-8")
    result = run(wrong, tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert result.stderr == (f'error: {wrong}:1: the tag of "بغداد" is "B_LOC"; allowed: O, B-LABEL, I-LABEL\n')
    assert "no such file" in run(tmp_path / "none.bio", tmp_path / "out.jsonl").stderr
    wrong.write_text("\n", encoding="utf-8")
    assert "has no articles" in run(wrong, tmp_path / "out.jsonl").stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.bio"]


def test_an_annotator_is_of_label_studio_alone(article_file, tmp_path):
    result = run(article_file, tmp_path / "out.csv", "--annotator", "1")
    assert result.stderr == (
        f"error: an annotator is given, and {article_file} is read as jsonl; allowed: label-studio\n"
    )


def test_columns_of_a_table_may_have_other_names(article_file, tmp_path):
    table = tmp_path / "in.csv"
    table.write_text("url,body,topics,text\na.example/1,نص,visit,عنوان\n", encoding="utf-8")
    options = ("--text-field", "body", "--id-field", "url")
    result = run(table, tmp_path / "out.jsonl", *options)
    assert result.stderr == f'{table}: left out: 1 values of the key "text"\n'
    assert read_articles(tmp_path / "out.jsonl") == [Article(text="نص", id="a.example/1", topics=("visit",))]
    result = run(article_file, tmp_path / "out.csv", *options)
    assert result.stderr == (
        f"error: fields of text and id are given, and {article_file} is read as jsonl; allowed: csv\n"
    )


@pytest.mark.parametrize(("name", "extra"), [("spacy", "spacy"), ("datasets", "train")])
def test_a_missing_library_is_named_by_its_extra(article_file, tmp_path, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'khabar\[{extra}\]'"):
        convert(article_file, tmp_path / "out", to_format=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("قال : « لا » .", "قال: «لا»."),
        ('قال " لا " ( أمس ) ، و مضى', 'قال "لا" (أمس)، و مضى'),
        ('قال " لا', 'قال " لا'),
        ("نحو 5 % ... ).", "نحو 5%...)."),
        ("«", "«"),
        ("", ""),
    ],
)
def test_tokens_are_spaced_as_news_is_written(tokens, text):
    words = tokens.split()
    gaps = natural_spaces(words)
    assert gaps[0] + "".join(word + gap for word, gap in zip(words, gaps[1:], strict=True)) == text


def test_the_commands_of_the_guide_run(examples, tmp_path, monkeypatch):
    path = examples.parent / "docs" / "converting.md"
    if not path.is_file():
        pytest.skip("only a checkout has the guide")
    guide = path.read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(examples)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^(?:\$ )?khabar data convert (.+)$", guide, re.MULTILINE)
    commands = [command.split() for command in commands if "[" not in command and "wojood" not in command]
    assert len(commands) > 5
    for command in commands:
        assert run(*command).exit_code == 0, command
    said = [line for line in guide.splitlines() if line.startswith("dev.bio: ")]
    assert run("examples/corpus/dev.jsonl", "dev.bio", "--overwrite").output.splitlines() == said
    assert Path("labelled.jsonl").read_bytes() == Path("examples/corpus/dev.jsonl").read_bytes()


def names(article: Article) -> list[tuple[str, int, str, str]]:
    text = article.text
    return [(text, one.start, text[one.start : one.end].strip("\u200f"), one.label) for one in article.entities or ()]


@pytest.mark.parametrize(
    ("name", "n_articles", "n_tokens", "n_entities", "n_nested"),
    [
        ("anercorp/train.bio", 4284, 125_114, 9002, 0),
        ("anercorp/test.bio", 959, 25_008, 2231, 0),
        ("wojood/train.txt", 2138, None, 4714, 551),
        ("wojood/val.txt", 281, None, 709, 81),
        ("wojood/test.txt", 637, None, 1425, 152),
        ("newsfane/newsfane_without_anercorp_test.bio", 3867, None, 9173, 0),
        ("aqmar/train.txt", 1328, None, 3088, 0),
        ("aqmar/dev.txt", 710, None, 1212, 0),
        ("aqmar/test.txt", 605, None, 1574, 0),
    ],
)
def test_real_corpora_lose_no_token(shared_data, tmp_path, name, n_articles, n_tokens, n_entities, n_nested):
    source = shared_data / "ner" / name
    result = run(source, tmp_path / "out.jsonl", "--from", "conll")
    assert f"{n_articles:,} articles read with {n_entities:,} entities" in result.stdout
    said = f"{source}: left out: {n_nested} entities nested in another one, which is kept\n"
    assert result.stderr == (said if n_nested else "")
    lines = [line.split() for line in source.read_text(encoding="utf-8").splitlines()]
    tokens = [line[0] for line in lines if line]
    articles = read_articles(tmp_path / "out.jsonl")
    assert len(tokens) == n_tokens or n_tokens is None
    assert "".join(article.text for article in articles).replace(" ", "") == "".join(tokens)
    assert sum(tag.startswith("B-") for line in lines for tag in line[1:]) <= n_entities + n_nested
    # And back, by the tokens of khabar: the same, but for sentences of one unseen mark, and such marks behind names.
    FORMATS["conll"].write(articles, tmp_path / "back.bio", Losses())
    back = FORMATS["conll"].read(tmp_path / "back.bio", Losses())
    assert [names(one) for one in back] == [names(one) for one in articles if split_words(one.text)]

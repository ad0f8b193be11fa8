"""Scoring with a tagger that needs no model: order, bad rows, whole files or none, the view for people."""

import io
import json
from pathlib import Path

import pytest

from khabar.inference.lines import result_line
from khabar.inference.part import errors_path
from khabar.inference.render import plain, render, shorten
from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.inference.score import ScoreOptions, check_results_file, score_sources
from khabar.inference.sinks import FileSink
from khabar.inference.sources import open_sources
from khabar.models.article import Article
from khabar.models.errors import KhabarError


def tagged(article: Article) -> TaggedArticle:
    """Take the first word for a place, and every text for an attack."""
    words = article.text.split()
    start = article.text.index(words[0]) if words else 0
    end = start + len(words[0]) if words else 0
    return TaggedArticle(
        id=article.id,
        text=article.text,
        topics=(Topic(label="attack", score=0.98765, segments=(0,)),) if words else (),
        topic_scores={"attack": 0.98765, "statement": 0.01},
        segments=(Segment(start=0, end=len(article.text), topics=("attack",), scores={"attack": 0.98765}),)
        if words
        else (),
        entities=(Entity(label="LOCATION", start=start, end=end, text=words[0], score=0.5),) if words else (),
        characters_read=len(article.text),
        model="fake 1.0",
    )


class FakeTagger:
    """Reads a chunk ahead, as a real one does, and is short of memory for what tells of it."""

    device = "cpu"

    def map_chunks(self, function, chunks):
        held = []
        for chunk in chunks:
            held.append([KhabarError("too little memory") if "ذاكرة" in a.text else function(tagged(a)) for a in chunk])
            if len(held) == 2:
                yield held.pop(0)
        yield from held


class FailingTagger:
    device = "cpu"

    def __init__(self, error):
        self.error = error

    def map_chunks(self, function, chunks):
        yield [function(tagged(article)) for article in next(iter(chunks))]
        raise self.error


@pytest.fixture
def articles(tmp_path):
    path = tmp_path / "in" / "articles.jsonl"
    path.parent.mkdir()
    path.write_text('{"id": "a", "text": "بغداد اليوم"}\nbroken\n{"id": "b", "text": "كركوك"}\n', encoding="utf-8")
    return path


@pytest.fixture
def clean_articles(tmp_path):
    path = tmp_path / "in" / "clean.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"id": "a", "text": "بغداد اليوم"}\n', encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "results.jsonl"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def score_file(path, out, tagger=None, options=None, **rest):
    errors = io.BytesIO()
    summary = score_sources(
        tagger or FakeTagger(), open_sources([path]), out, errors=errors, options=ScoreOptions(**options or {}), **rest
    )
    return summary, errors.getvalue().decode()


def test_a_file_gets_one_object_a_line(articles, out):
    summary, errors = score_file(articles, out)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b"]
    assert json.loads(lines[0]) == {
        "id": "a",
        "topics": [{"label": "attack", "score": 0.9877, "segments": [0]}],
        "uncertain": [],
        "topic_scores": {"attack": 0.9877, "statement": 0.01},
        "segments": [{"start": 0, "end": 11, "topics": ["attack"]}],
        "entities": [{"label": "LOCATION", "start": 0, "end": 5, "text": "بغداد", "score": 0.5}],
        "characters": 11,
        "characters_read": 11,
        "model": "fake 1.0",
    }
    assert "بغداد" in lines[0], "Arabic is written as Arabic"
    (bad,) = map(json.loads, errors_path(out).read_text(encoding="utf-8").splitlines())
    assert (bad["file"], bad["line"]) == (str(articles), 2)
    assert "not JSON" in bad["reason"]
    assert errors == ""
    assert (summary.n_articles, summary.n_bad_rows) == (2, 1)
    assert names_in(out.parent) == ["results.jsonl", "results.jsonl.errors.jsonl"]


@pytest.mark.parametrize("id_", ["a", None, 'quoted "', "خبر\n1"])
@pytest.mark.parametrize("story", [None, "b", 'a "story"', "قصة"])
def test_a_line_is_the_result_with_its_story_behind_its_id(id_, story):
    result = tagged(Article(text="كركوك", id=id_))
    row = result.to_json()
    whole = {"id": row.pop("id"), **({} if story is None else {"story": story}), **row}
    assert result_line(result).whole(story) == json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def test_an_old_file_of_bad_rows_does_not_outlive_a_clean_run(articles, clean_articles, out):
    score_file(articles, out)
    score_file(clean_articles, out)
    assert [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").splitlines()] == ["a"]
    assert not errors_path(out).exists()


def test_a_stream_gets_lines_and_the_other_one_bad_rows(articles):
    stream = io.BytesIO()
    _, errors = score_file(articles, stream)
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["a", "b"]
    assert errors.startswith(f"{articles}:2: not JSON")


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(143)])
def test_after_an_error_there_is_no_output_and_the_old_one_stays(articles, out, error):
    out.write_text("old\n", encoding="utf-8")
    errors_path(out).write_text("old errors\n", encoding="utf-8")
    with pytest.raises(type(error)):
        score_file(articles, out, FailingTagger(error))
    assert out.read_text(encoding="utf-8") == "old\n"
    assert errors_path(out).read_text(encoding="utf-8") == "old errors\n"
    assert "3 rows are done and kept in" in error.__notes__[0]


def test_strict_leaves_no_output(articles, out):
    with pytest.raises(KhabarError, match=r"articles\.jsonl:2: not JSON"):
        score_file(articles, out, strict=True)
    assert names_in(out.parent) == []


def test_an_input_is_not_replaced_by_its_results(articles):
    before = articles.read_bytes()
    with pytest.raises(KhabarError, match="is an input too"):
        score_file(articles, articles.parent / "." / "articles.jsonl")
    assert articles.read_bytes() == before


@pytest.mark.parametrize("beside", [".errors.jsonl", ".part", ".part.state.json", ".errors.jsonl.part"])
def test_nor_by_what_is_kept_beside_them(articles, beside):
    out = articles.parent / "results.jsonl"
    given = articles.rename(f"{out}{beside}")
    before = given.read_bytes()
    sources = open_sources([given], input_format="jsonl")
    with pytest.raises(KhabarError, match=r"is an input too, which what is kept beside .*results\.jsonl would replace"):
        score_sources(FakeTagger(), sources, out, errors=io.BytesIO())
    assert given.read_bytes() == before
    assert names_in(out.parent) == [given.name]


def test_a_stream_that_is_no_file_of_the_system_can_be_scored_into_a_file(out):
    out.write_text("old", encoding="utf-8")
    stdin = io.BytesIO(b'{"text": "a"}')
    assert score_sources(FakeTagger(), open_sources(["-"]), out, errors=io.BytesIO(), stdin=stdin).n_articles == 1


def test_a_link_to_itself_is_no_output(articles, tmp_path):
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop.name)
    with pytest.raises(KhabarError, match="is a link that leads back to itself"):
        score_file(articles, loop)


def test_results_never_replace_an_article_of_a_folder(tmp_path):
    folder = tmp_path / "news"
    folder.mkdir()
    (folder / "a.txt").write_text("خبر", encoding="utf-8")
    (folder / "broken.txt").symlink_to("nowhere")
    with pytest.raises(KhabarError, match=r"a\.txt is an input too"):
        score_file(folder, folder / "a.txt", options={"result_format": "text"})
    assert (folder / "a.txt").read_text(encoding="utf-8") == "خبر"


def test_a_broken_link_in_a_folder_is_one_bad_row(tmp_path, out):
    folder = tmp_path / "news"
    folder.mkdir()
    (folder / "a.txt").write_text("خبر", encoding="utf-8")
    (folder / "b.txt").symlink_to("nowhere")
    summary, _ = score_file(folder, out)
    assert (summary.n_articles, summary.n_bad_rows) == (1, 1)


def test_a_linked_output_stays_a_link(clean_articles, out, tmp_path):
    target = tmp_path / "target.jsonl"
    out.symlink_to(target)
    score_file(clean_articles, out)
    assert out.is_symlink()
    assert json.loads(target.read_text(encoding="utf-8"))["id"] == "a"


def test_a_device_is_written_to_as_it_is(clean_articles):
    summary, _ = score_file(clean_articles, "/dev/null")
    assert summary.n_articles == 1
    assert Path("/dev/null").is_char_device()


def test_the_file_gets_the_usual_rights(out):
    with FileSink(out) as sink:
        sink.write("خبر")
    other = out.with_name("other")
    other.write_text("", encoding="utf-8")
    assert out.stat().st_mode == other.stat().st_mode
    assert out.read_bytes() == "خبر\n".encode()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is a folder"),
        ("no/such/x.jsonl", "no folder"),
        ("x.docx", "ending .docx"),
    ],
)
def test_an_output_that_cannot_be_is_refused_early(tmp_path, name, words):
    with pytest.raises(KhabarError, match=words):
        check_results_file(tmp_path / name, ScoreOptions())


def test_text_for_people(clean_articles):
    stream = io.BytesIO()
    score_file(clean_articles, stream, options={"result_format": "text"})
    assert stream.getvalue().decode() == (
        "a  (11 characters; fake 1.0)\n"
        "\n"
        "Topics\n"
        "  attack  0.99\n"
        "    [0] بغداد اليوم\n"
        "\n"
        "Entities\n"
        "  LOCATION\n"
        "    0.50     بغداد\n"
        "\n"
    )


def test_repeated_names_are_counted_and_unread_text_is_told():
    text = "بغداد\nبغداد"
    spans = [(0, 5, 0.5), (6, 11, 0.75)]
    article = TaggedArticle(
        id=None,
        text=text,
        topics=(),
        topic_scores={},
        segments=(),
        entities=tuple(Entity(label="LOCATION", start=s, end=e, text=text[s:e], score=p) for s, e, p in spans),
        characters_read=5,
        model="fake 1.0",
    )
    lines = render(article).splitlines()
    assert "    0.75  2x بغداد" in lines
    assert "only 5 of 11 characters were read" in lines
    assert "Topics: none" in lines


def test_nothing_found():
    assert render(tagged(Article(id="x", text=""))) == "x  (0 characters; fake 1.0)\n\nTopics: none\n\nEntities: none"


def test_plain_text_cannot_move_the_cursor_or_turn_the_line():
    assert plain("\u202eأ\u2066ب\u2069\x1b[31m\r\nج\u2028د\x07") == "أب [31m ج د"


@pytest.mark.parametrize(
    ("text", "n_characters", "expected"),
    [
        ("كلمة", 4, "كلمة"),
        ("كلمة أخرى", 6, "كلمة…"),
        ("كلمة أخرى", 8, "كلمة…"),
        ("كلمات", 3, "كل…"),
        ("كلمة", 1, "…"),
    ],
)
def test_shorten(text, n_characters, expected):
    assert shorten(text, n_characters) == expected
    assert len(shorten(text, n_characters)) <= max(n_characters, 1)

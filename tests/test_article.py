"""The article's JSON form and the strict reader: what is accepted, and how every wrong thing is named."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khabar.models import article_reader
from khabar.models.article import Article, Entity, Segment, parse_article
from khabar.models.article_reader import iter_articles, other_encoding, read_articles
from khabar.models.errors import CorpusError, KhabarError

SAMPLE = Path(__file__).parent / "data" / "articles.jsonl"
TEXT = "قصف في حلب"  # 10 characters; the words lie at 0-3, 4-6, 7-10


def problems_of(row: object) -> list[str]:
    article, problems = parse_article(row)
    assert (article is None) == bool(problems)
    return problems


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "corpus.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def row(name: str, **more: object) -> str:
    return json.dumps({"id": name, "text": TEXT, **more}, ensure_ascii=False)


def read_problems(path: Path) -> list[str]:
    with pytest.raises(CorpusError) as caught:
        read_articles(path)
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return [f"{problem.line}: {problem.message}" for problem in caught.value.problems]


def test_sample_is_read_whole():
    articles = read_articles(SAMPLE)
    assert [article.id for article in articles] == [f"sample-{i}" for i in range(1, 7)]
    names = [articles[0].text[entity.start : entity.end] for entity in articles[0].entities]
    assert names[:3] == ["الناتو", "وزارة الدفاع", "سامر الحسني"]
    assert articles[3].topics == ()  # none
    assert articles[4].entities is None  # not annotated
    assert articles[5].topics is None


def test_an_article_survives_its_json():
    for article in read_articles(SAMPLE):
        assert parse_article(json.loads(json.dumps(article.to_json()))) == (article, [])


def test_to_json_leaves_out_what_is_not_annotated():
    assert Article(text=TEXT).to_json() == {"text": TEXT}
    article = Article(text=TEXT, segments=(Segment(start=0, end=3),), topics=(), entities=())
    assert article.to_json() == {
        "text": TEXT,
        "segments": [{"start": 0, "end": 3}],
        "topics": [],
        "entities": [],
    }


def test_entities_may_come_in_any_order_and_are_kept_sorted():
    entities = [{"start": 7, "end": 10, "label": "LOCATION"}, {"start": 0, "end": 3, "label": "WEAPON"}]
    article, problems = parse_article({"text": TEXT, "entities": entities})
    assert not problems
    assert article.entities == (
        Entity(start=0, end=3, label="WEAPON"),
        Entity(start=7, end=10, label="LOCATION"),
    )


def test_unknown_metadata_may_be_null_and_text_may_be_empty():
    assert parse_article({"text": "", "id": None, "date": None}) == (Article(text=""), [])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1], "an article is a JSON object, got [1]"),
        ("نص", 'an article is a JSON object, got "نص"'),
        ({}, "text is missing; allowed: a string"),
        ({"text": None}, "text is null; allowed: a string"),
        ({"text": 5}, "text is 5; allowed: a string"),
        ({"text": TEXT, "id": 7}, "id is 7; allowed: a string"),
        (
            {"text": "قتـ\ud83dل"},
            "text has half a surrogate pair (\\ud83d) at character 3; allowed: whole Unicode characters",
        ),
        (
            {"text": TEXT, "topic": []},
            (
                'topic is not a known key; did you mean "topics"?; allowed: '
                "id, text, date, source, lang, segments, topics, entities"
            ),
        ),
        (
            {"text": TEXT, "topics": None},
            "topics is null; allowed: a list ([] for none; leave the key out when it is not annotated)",
        ),
        (
            {"text": TEXT, "topics": "attack"},
            'topics is "attack"; allowed: a list ([] for none; leave the key out when it is not annotated)',
        ),
        ({"text": TEXT, "topics": ["a", "a"]}, 'topics[1] is "a" again; allowed: each topic once'),
        ({"text": TEXT, "topics": [" "]}, 'topics[0] is " "; allowed: a topic, a string that is not blank'),
    ],
)
def test_wrong_articles(value, expected):
    assert problems_of(value) == [expected]


@pytest.mark.parametrize(
    ("entity", "expected"),
    [
        ([0, 3], "entities[0] is [0, 3]; allowed: an object with start, end, label"),
        (
            {"start": 0, "end": 3},
            "entities[0].label is missing; allowed: an entity label",
        ),
        ({"end": 3, "label": "X"}, "entities[0].start is missing; allowed: a whole number"),
        ({"start": 0, "end": 11, "label": "X"}, "entities[0].end is 11, past the end of the text (10)"),
        ({"start": -1, "end": 3, "label": "X"}, "entities[0].start is -1; allowed: 0 or more"),
        ({"start": 5, "end": 3, "label": "X"}, "entities[0].end is 3; allowed: more than its start (5)"),
        ({"start": 3, "end": 3, "label": "X"}, "entities[0].end is 3; allowed: more than its start (3)"),
        ({"start": True, "end": 3, "label": "X"}, "entities[0].start is true; allowed: a whole number"),
        ({"start": 0, "end": 3.0, "label": "X"}, "entities[0].end is 3.0; allowed: a whole number"),
        ({"start": "0", "end": 3, "label": "X"}, 'entities[0].start is "0"; allowed: a whole number'),
        (
            {"start": 0, "end": 3, "label": 4},
            "entities[0].label is 4; allowed: an entity label, a string that is not blank",
        ),
        (
            {"start": 0, "end": 3, "label": "X", "text": "قصف"},
            "entities[0].text is not a known key; allowed: start, end, label",
        ),
    ],
)
def test_wrong_entities(entity, expected):
    assert problems_of({"text": TEXT, "entities": [entity]}) == [expected]


def test_overlapping_entities_name_both():
    spans = [(0, 10), (1, 2), (4, 6)]
    entities = [{"start": start, "end": end, "label": "X"} for start, end in spans]
    assert problems_of({"text": TEXT, "entities": entities}) == [
        "entities[1] (1 to 2) overlaps entities[0] (0 to 10); allowed: entities that do not overlap",
        "entities[2] (4 to 6) overlaps entities[0] (0 to 10); allowed: entities that do not overlap",
    ]


@pytest.mark.parametrize("spans", [[(0, 5), (4, 10)], [(4, 10), (0, 3)]])
def test_segments_out_of_order_or_overlapping(spans):
    segments = [{"start": start, "end": end} for start, end in spans]
    assert problems_of({"text": TEXT, "segments": segments}) == [
        (
            f"segments[1].start is {spans[1][0]}, before the end of segments[0] ({spans[0][1]}); "
            "allowed: segments in order that do not overlap"
        )
    ]


def test_topics_must_include_those_of_the_segments():
    segments = [{"start": 0, "end": 3, "topics": ["attack", "protest"]}]
    assert problems_of({"text": TEXT, "segments": segments, "topics": ["attack"]}) == [
        ('topics lacks "protest", which segments[0].topics has; allowed: topics that include every segment\'s topics')
    ]
    assert not problems_of({"text": TEXT, "segments": segments, "topics": ["statement", "protest", "attack"]})
    assert not problems_of({"text": TEXT, "segments": segments})


def test_all_problems_of_an_article_are_listed():
    value = {
        "text": 3,
        "titel": "",
        "segments": [{"start": 9, "end": 2}, 5],
        "topics": [None],
        "entities": [{"start": 0, "end": -1, "label": ""}],
    }
    assert len(problems_of(value)) == 7


def test_all_problems_of_a_file_are_listed(tmp_path):
    path = write(
        tmp_path,
        row("a"),
        '{"text": ',
        "",
        row("b", entities=[{"start": 0, "end": 99, "label": "X"}]),
        b'{"text": "\xff"}',
        row("a"),
        '{"text": "x", "topics": [NaN]}',
        '{"text": "x", "text": "y"}',
        "[" * 100_000,
    )
    assert read_problems(path) == [
        "2: not JSON: Expecting value at column 10, at the line's end",
        "4: entities[0].end is 99, past the end of the text (10)",
        "5: not UTF-8: byte 0xff at byte 11 of the line",
        '6: id is "a", the id of line 1 too; allowed: each id once',
        "7: not JSON: NaN; allowed: JSON's own numbers, true, false, null",
        '8: key "text" stands twice in one object; allowed: once',
        "9: not an article: JSON nested too deep",
    ]


def test_a_problem_names_file_and_line(tmp_path):
    path = write(tmp_path, row("a"), row("b", topics=[3]))
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:2: topics\[0\] is 3; allowed: a topic"):
        read_articles(path)


def test_ids_of_wrong_articles_count_as_seen(tmp_path):
    path = write(tmp_path, row("a", topics=3), row("a"))
    assert [line[0] for line in read_problems(path)] == ["1", "2"]


def test_blank_lines_mark_and_line_ends_are_taken(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + row("a").encode() + b"\r", b"  \r", row("b"), "")
    assert [article.id for article in read_articles(path)] == ["a", "b"]


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path):
    text = "سطر\u2028آخر\x85هنا"
    path = write(tmp_path, json.dumps({"text": text}, ensure_ascii=False))
    assert read_articles(path) == [Article(text=text)]


def test_other_encodings_and_missing_files_are_errors(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(row("a").encode("utf-16"))
    with pytest.raises(KhabarError, match="is in UTF-16; allowed: UTF-8"):
        read_articles(path)
    with pytest.raises(KhabarError, match=r"nowhere\.jsonl: no such file"):
        read_articles(tmp_path / "nowhere.jsonl")
    with pytest.raises(KhabarError, match="cannot be read"):
        read_articles(tmp_path)


ARABIC = "زار الوزير مدينة بغداد أمس، و«أكد» استعداده."


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ARABIC.encode("cp1256"), True),
        (ARABIC.encode("iso-8859-6", "ignore"), False),
        ("Le président a été élu à l'unanimité, très tôt, grâce à l'écoute.".encode("cp1256"), False),
        ("بغداد".encode("cp1256"), False),  # too little to tell
        (ARABIC.encode() + b"\xff", False),  # one wrong byte
        (ARABIC.encode()[:-3], False),  # cut in a character's midst
        ("تفي ".encode() * 9, False),  # good UTF-8 that would be Arabic in Windows-1256 too
    ],
)
def test_windows_1256_is_known_by_its_letters(content, found):
    message = "not in UTF-8 and looks like Windows-1256; allowed: UTF-8 (iconv -f cp1256 -t utf-8)"
    assert other_encoding(content) == (message if found else None)


def test_a_file_in_windows_1256_is_one_error(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes((row(ARABIC) + "\n" + row("b")).encode("cp1256"))
    with pytest.raises(KhabarError, match="looks like Windows-1256") as caught:
        read_articles(path)
    assert not isinstance(caught.value, CorpusError)


@pytest.mark.parametrize("beginning", ["[", "\ufeff\n [\n"])
def test_a_json_list_is_one_error(tmp_path, beginning):
    path = write(tmp_path, f'{beginning}{{"text":', '"a"}', "]")
    with pytest.raises(KhabarError) as caught:
        read_articles(path)
    assert str(caught.value) == (
        f"{path} is one JSON list; allowed: JSON Lines, one article as an object a line, which `khabar data convert` "
        "makes of other formats"
    )


def test_articles_are_given_one_at_a_time_and_what_is_wrong_at_the_end(tmp_path):
    path = write(tmp_path, row("a"), "no", row("b"), row("a"), row("c", topics=1))
    stream = iter_articles(path)
    assert next(stream).id == "a"
    assert [next(stream).id, next(stream).id] == ["b", "a"]
    with pytest.raises(CorpusError) as caught:
        next(stream)
    assert [problem.line for problem in caught.value.problems] == [2, 4, 5]


def test_ids_with_equal_hashes_are_compared_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(article_reader, "hash", len, raising=False)
    path = write(tmp_path, row("a1"), row("a2"), row("b"), row("a2"), row("c"))
    assert read_problems(path) == ['4: id is "a2", the id of line 2 too; allowed: each id once']
    path = write(tmp_path, row("a1"), row("a2"))
    assert [article.id for article in read_articles(path)] == ["a1", "a2"]


def test_the_problems_of_a_hopeless_file_are_counted_beyond_those_that_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(article_reader, "MOST_KEPT", 5)
    path = write(tmp_path, *["no"] * 8, *[row("a")] * 9, row("b"), row("b"))
    with pytest.raises(CorpusError, match=r"… and 7 more problems") as caught:
        read_articles(path)
    # Five of eight lines, and five of nine repeats.
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3, 4, 5, 10, 11, 12, 13, 14]
    assert caught.value.n_more == 3 + 4


def test_a_pipe_is_no_corpus(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe.jsonl").open("wb").close())
    writer.start()
    with pytest.raises(KhabarError, match=r"pipe\.jsonl is no plain file; allowed: a file on disk, for a corpus is"):
        read_articles(tmp_path / "pipe.jsonl")
    writer.join()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "segments", "topics", "entities", "start", "end"]), inner)
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_value_gives_an_article_or_problems(value):
    article, problems = parse_article(value)
    assert (article is None) == bool(problems)
    for problem in problems:
        assert "\n" not in problem
        problem.encode("utf-8")


@given(st.text(max_size=30), st.data())
def test_any_sound_annotation_survives_its_json(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    spans = list(zip(cuts[::2], cuts[1::2], strict=False))
    topics = st.none() | st.lists(st.sampled_from("ABC"), unique=True).map(tuple)
    segments = tuple(Segment(start=start, end=end, topics=data.draw(topics)) for start, end in spans)
    article = Article(
        text=text,
        segments=segments,
        topics=("A", "B", "C"),
        entities=tuple(Entity(start=start, end=end, label="X") for start, end in spans),
    )
    assert parse_article(json.loads(json.dumps(article.to_json()))) == (article, [])


def test_gold_is_read_and_survives_its_json(shared_data):
    articles = read_articles(shared_data / "gold" / "dev.jsonl")
    assert len(articles) == 237
    for article in articles:
        assert parse_article(article.to_json()) == (article, [])
        assert set(article.topics) == {topic for segment in article.segments for topic in segment.topics}

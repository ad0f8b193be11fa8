"""Reading what a user gives to score: every kind of input, and every kind of row that is no article."""

import gzip
import io
import itertools
import json
import os
from pathlib import Path

import pytest
from inputs import read_rows, rows_of

from khabar.inference.fields import FieldNames
from khabar.inference.sources import BadRow, open_sources
from khabar.models.article import Article, Segment
from khabar.models.errors import KhabarError

TEXT = "أعلنت الوزارة، الأحد، عن لقاء.\r\nوقال المتحدث: «لا تعليق»."


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def json_lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".JSONL"])
def test_json_lines(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", json_lines({"id": "x", "text": TEXT}, {"text": ""}))
    assert rows_of(path) == [Article(id="x", text=TEXT), Article(id="2", text="")]


def test_a_row_may_carry_anything_else(tmp_path):
    row = {"id": 17, "text": "خبر", "url": "…", "date": 5, "entities": "none", "topics": {"a": 1}}
    path = write(tmp_path / "a.jsonl", json_lines(row))
    assert rows_of(path) == [Article(id="17", text="خبر")]


def test_segments_of_a_row_are_kept_without_their_topics(tmp_path):
    segments = [{"start": 0, "end": 3, "topics": ["unheard of"], "note": 1}]
    path = write(tmp_path / "a.jsonl", json_lines({"id": "x", "text": "خبر", "segments": segments}))
    assert rows_of(path) == [Article(id="x", text="خبر", segments=(Segment(start=0, end=3),))]


def test_what_a_run_keeps_beside_its_output_is_left_out_of_patterns(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "out.jsonl.errors.jsonl"):
        write(tmp_path / name, json_lines({"id": name, "text": "خبر"}))
    given = {"left_out": [tmp_path / "." / "out.jsonl.errors.jsonl"]}
    sources = open_sources([tmp_path / "*.jsonl"], **given)
    assert [Path(source.name).name for source in sources] == ["a.jsonl", "b.jsonl"]
    (source,) = open_sources([tmp_path / "out.jsonl.errors.jsonl"], **given)
    assert source.name.endswith("out.jsonl.errors.jsonl"), "by its name it can be given, and is refused later"


def test_an_empty_name_is_not_the_folder_one_is_in(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "خبر")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KhabarError, match=r"the name of an input is empty; allowed: \.jsonl"):
        open_sources([""])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("b.txt", "خبر".encode("utf-16"), "UTF-16"),
        ("b.txt", "خبر".encode("cp1256"), "not UTF-8"),
        ("b.txt.gz", b"", "is not gzip"),
        ("b.txt.gz", gzip.compress(b"x" * 999, mtime=0)[:12], "cut off"),
    ],
    ids=["UTF-16", "Windows-1256", "no gzip", "cut off"],
)
def test_a_text_file_that_is_none_is_one_bad_row_however_it_is_given(tmp_path, name, content, reason):
    good, bad = write(tmp_path / "news" / "a.txt", "خبر"), write(tmp_path / "news" / name, content)
    for given in ([tmp_path / "news"], [good, bad], [tmp_path / "news" / "*.txt*"]):
        one, other = rows_of(*given)
        assert one == Article(id="a", text="خبر")
        assert reason in other.reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_in_a_folder_are_left_out(tmp_path):
    write(tmp_path / "a.txt", "خبر")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to("b.txt")
    assert rows_of(tmp_path) == [Article(id="a", text="خبر")]


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": ""}])
def test_a_row_without_id_gets_its_number_among_all_rows(tmp_path, missing):
    path = write(
        tmp_path / "a.jsonl",
        json_lines({"text": "أ"}) + "\nnot json\n" + json_lines({"text": "ب", **missing}),
    )
    assert [row.id for row in rows_of(path, path) if isinstance(row, Article)] == ["1", "3", "4", "6"]


def test_two_rows_may_have_one_id(tmp_path):
    path = write(tmp_path / "a.jsonl", json_lines({"id": "x", "text": "أ"}, {"id": "x", "text": "ب"}))
    assert [row.id for row in rows_of(path)] == ["x", "x"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[1, 2]", "an article is a JSON object, got [1, 2]"),
        (b'"text"', "an article is a JSON object"),
        (b'{"id": "a", "title": "b"}', 'text is missing; the row has "id", "title"'),
        (b"{}", "text is missing; the row has no keys"),
        (b'{"text": null}', "text is null; allowed: a string"),
        (b'{"text": ["a"]}', 'text is ["a"]; allowed: a string'),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff at byte 11 of the line"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
        (b'{"text": "a", "id": true}', "id is true; allowed: a string"),
        (b'{"text": "a", "id": 1.5}', "id is 1.5; allowed: a string"),
        (b'{"text": NaN}', "NaN"),
        (b'{"text": "a", "text": "b"}', "stands twice"),
        (b'{"text": "abc", "segments": [{"start": 0, "end": 9}]}', "segments[0].end is 9, past the end"),
        (b'{"text": "abc", "segments": 3}', "segments is 3"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_bad_line_says_where_and_why_and_the_rest_goes_on(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n\n' + line + b'\n{"text": "b"}')
    first, bad, last = rows_of(path)
    assert (first, last) == (Article(id="1", text="a"), Article(id="3", text="b"))
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.line) == (str(path), 3)
    assert reason in bad.reason
    assert str(bad).startswith(f"{path}:3: ")
    assert bad.to_json() == {"file": str(path), "line": 3, "reason": bad.reason}


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    content = {"a.jsonl": '{"text": "خبر"}', "a.csv": "text\nخبر\n", "a.txt": "خبر"}[name]
    (row,) = rows_of(write(tmp_path / name, "\ufeff" + content))
    assert isinstance(row, Article)
    assert row.text == "خبر"


def test_text_is_taken_as_it_is(tmp_path):
    path = write(tmp_path / "my.article.txt", f" \n{TEXT}\n")
    assert rows_of(path) == [Article(id="my.article", text=f" \n{TEXT}\n")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("خبر".encode("cp1256"), "not UTF-8: byte 0xce at byte 1"),
        (
            f"{TEXT} {TEXT}".encode("cp1256", "ignore"),
            "not in UTF-8 and looks like Windows-1256; allowed: UTF-8 (iconv -f cp1256 -t utf-8)",
        ),
        ("خبر".encode("utf-16"), "in UTF-16; allowed: UTF-8"),
    ],
)
def test_text_in_another_encoding_is_a_bad_row(tmp_path, content, reason):
    folder = write(tmp_path / "f" / "a.txt", content).parent
    write(folder / "b.txt", "خبر")
    assert rows_of(folder) == [
        BadRow(file=str(folder / "a.txt"), line=None, reason=reason),
        Article(id="b", text="خبر"),
    ]


def test_a_folder_is_read_by_name_with_relative_ids(tmp_path):
    for name in (
        "b.txt",
        "a/2.txt",
        "a/1.TXT",
        "a.b.txt",
        ".hidden.txt",
        ".git/x.txt",
        "notes.md",
        "z/.txt.swp",
    ):
        write(tmp_path / name, name)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [row.id for row in rows_of(tmp_path) if isinstance(row, Article)] == ["a/1", "a/2", "a.b", "b"]


def test_a_file_name_that_is_no_unicode(tmp_path):
    try:
        write(tmp_path / "a\udcff.txt", "خبر")
    except OSError:
        pytest.skip("this file system allows Unicode names only")
    (row,) = rows_of(tmp_path)
    assert isinstance(row, Article)
    assert row.id == "a\\udcff"


def test_csv(tmp_path):
    quoted = TEXT.replace('"', '""')
    content = f'date, text ,id,source\n2024-01-01,"{quoted}",7,x\n\n2024-01-02,خبر,,y\n'
    assert rows_of(write(tmp_path / "a.csv", content)) == [
        Article(id="7", text=TEXT),
        Article(id="2", text="خبر"),
    ]


def test_csv_fields_may_be_long(tmp_path):
    text = "خبر " * 100_000
    (row,) = rows_of(write(tmp_path / "a.csv", f'text\n"{text}"\n'))
    assert row == Article(id="1", text=text)


def test_bad_rows_of_csv(tmp_path):
    content = b'id,text\n1,"two\nlines"\n2,a,b\n3\n4,\xff\xfe' + '\n5,"a"b\n6,جيد\n7,"never closed\n8,lost\n'.encode()
    path = write(tmp_path / "a.csv", content)
    rows = rows_of(path)
    assert [row.id for row in rows if isinstance(row, Article)] == ["1", "6"]
    bad = [(row.line, row.reason) for row in rows if isinstance(row, BadRow)]
    assert [line for line, _ in bad] == [4, 5, 6, 7, 9]
    reasons = [
        "3 fields; allowed: 2",
        "1 fields",
        "not UTF-8: byte 0xff in column text at character 1",
        "not CSV",
        "never closed; lines 9 to 10 were taken for one row",
    ]
    for (_, seen), reason in zip(bad, reasons, strict=True):
        assert reason in seen


@pytest.mark.parametrize("header", ["id,title", "", "text,text", "id,text,id", "Text"])
def test_csv_needs_a_column_text(tmp_path, header):
    path = write(tmp_path / "a.csv", f"{header}\n1,a\n")
    with pytest.raises(KhabarError, match=r"a\.csv:1: the columns are .*; needed: .*--text-field"):
        open_sources([path])


def test_a_table_without_commas_is_told_what_it_has(tmp_path):
    path = write(tmp_path / "a.csv", "id;text\n1;a\n")
    with pytest.raises(KhabarError, match='the columns are "id;text": fields seem to be separated by ";"; allowed: c'):
        open_sources([path])
    assert rows_of(path, fields=FieldNames(text="id;text")) == [Article(id="1", text="1;a")]


@pytest.mark.parametrize(
    ("stdin", "expected"),
    [
        (b'{"id": "a", "text": "b"}\n', [Article(id="a", text="b")]),
        (
            b'\xef\xbb\xbf\n  {"text": "b"}\n{"text": "c"}',
            [Article(id="1", text="b"), Article(id="2", text="c")],
        ),
        (TEXT.encode(), [Article(id="1", text=TEXT)]),
        (f"\n\n {TEXT}\n{{".encode(), [Article(id="1", text=f"\n\n {TEXT}\n{{")]),
        (b"", []),
        (b" \n\n", []),
    ],
)
def test_standard_input_is_known_by_its_first_character(stdin, expected):
    assert rows_of("-", stdin=stdin) == expected


def test_standard_input_keeps_line_numbers():
    (bad,) = rows_of("-", stdin=b"\n\n{]\n")
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.line) == ("-", 3)


@pytest.mark.parametrize(
    ("input_format", "stdin", "expected"),
    [
        ("txt", b'{"text": "b"}', [Article(id="1", text='{"text": "b"}')]),
        ("csv", b"text\nb\n", [Article(id="1", text="b")]),
        ("jsonl", b'{"text": "b"}', [Article(id="1", text="b")]),
    ],
)
def test_a_named_format_wins(tmp_path, input_format, stdin, expected):
    assert rows_of("-", stdin=stdin, input_format=input_format) == expected
    path = write(tmp_path / "1.data", stdin)
    assert rows_of(path, input_format=input_format) == expected


def test_several_inputs_come_in_order(tmp_path):
    folder = write(tmp_path / "f" / "x.txt", "أ").parent
    lines = write(tmp_path / "a.jsonl", json_lines({"text": "ب"}))
    rows = rows_of(lines, "-", folder, stdin=b'{"text": "c"}')
    assert [row.id for row in rows if isinstance(row, Article)] == ["1", "2", "x"]


def test_all_wrong_inputs_are_named_before_anything_is_read(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "list.json", '[{"text": "a"}]')
    write(tmp_path / "wide.jsonl", '{"text": "a"}'.encode("utf-16"))
    write(tmp_path / "old.csv", "text\nزار الوزير مدينة بغداد أمس\n".encode("cp1256"))
    write(tmp_path / "table.parquet", b"PAR1")
    names = ["nowhere.jsonl", "empty", "list.json", "wide.jsonl", "old.csv", "table.parquet", "table"]
    write(tmp_path / "table", b"")
    with pytest.raises(KhabarError) as caught:
        open_sources([*(tmp_path / name for name in names), "-", "-"])
    lines = str(caught.value).splitlines()
    expected = [
        "no such file or folder",
        "a folder without .txt files",
        "is one JSON list; allowed: JSON Lines",
        "is in UTF-16; allowed: UTF-8",
        "is not in UTF-8 and looks like Windows-1256; allowed: UTF-8 (iconv -f cp1256 -t utf-8)",
        "table.parquet cannot be read as Parquet: ",
        "ending (none) is not known",
        "more than once",
    ]
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line


def test_rows_stream():
    endless = itertools.cycle(b'{"text": "a"}\n')

    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            n = min(len(buffer), 7)
            buffer[:n] = bytes(itertools.islice(endless, n))
            return n

    rows = read_rows(open_sources(["-"]), stdin=io.BufferedReader(Endless(), 64))
    assert [row.id for row in itertools.islice(rows, 3) if isinstance(row, Article)] == ["1", "2", "3"]

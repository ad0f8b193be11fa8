"""Reading rows of every format alike, fields by other names, files by a pattern, and rows without end."""

import gzip
import io
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import csv_table, json_lines, parquet, rows_of, write

from khabar.inference import csv_rows, text_rows
from khabar.inference.compressed import capped_lines
from khabar.inference.fields import FieldNames
from khabar.inference.sources import BadRow, open_sources
from khabar.models.article import Article
from khabar.models.errors import KhabarError, MissingExtraError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
zstandard = pytest.importorskip("zstandard")

PACK = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
BODY = FieldNames(text="body", id="url")


# Of what a text may hold, half surrogate pairs are no Unicode.
a_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(a_text, a_text), min_size=1, max_size=5))
def test_the_same_rows_are_the_same_articles_in_every_format(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("formats")
    objects = [{"id": id_, "text": text} for id_, text in rows]
    expected = [Article(id=id_ or str(i), text=text) for i, (id_, text) in enumerate(rows, start=1)]
    parquet(folder / "a.parquet", {key: [row[key] for row in objects] for key in ("id", "text")})
    for name, content in (("a.jsonl", json_lines(*objects)), ("a.csv", csv_table(*objects))):
        write(folder / name, content)
        for ending, pack in PACK.items():
            write(folder / f"{name}{ending}", pack(content))
    for path in folder.iterdir():
        assert rows_of(path) == expected, path.name


def test_of_a_line_that_is_too_long_the_rest_is_skipped():
    stream = io.BytesIO(b"ab\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\n" + b"z" * 3_000_000 + b"\nlast")
    lines = list(capped_lines(stream, max_bytes=10 + 1))
    assert [line if isinstance(line, bytes) else "bad" for line in lines] == [
        b"ab\n",
        "bad",
        b"y" * 10 + b"\n",
        "bad",
        b"last",
    ]
    assert str(lines[1]) == "the line is longer than 11 bytes, the most that is read at once"


def test_a_long_text_is_an_article(tmp_path):
    text = "خبر طويل " * 3_000_000  # 50 MB in UTF-8
    path = write(tmp_path / "a.jsonl", json_lines({"text": text}, {"text": "b"}))
    first, second = rows_of(path)
    assert len(first.text) == len(text)
    assert second.text == "b"


def test_a_text_without_end_is_a_bad_row(tmp_path, monkeypatch):
    monkeypatch.setattr(text_rows, "MAX_BYTES", 1000)
    write(tmp_path / "a.txt.gz", PACK[".gz"](b"a" * 1001))
    write(tmp_path / "b.txt", b"b" * 1000)
    bad, good = rows_of(tmp_path)
    assert bad.reason == "the text is longer than 1,000 bytes, the most that is read at once"
    assert good.text == "b" * 1000


def test_csv_recovers_from_a_field_or_a_line_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_rows, "MAX_FIELD", 1000)
    text = "سطر من الخبر\n" * 200
    content = f'id,text\n1,قبل\n2,"{text}3,بعد\n4,{"س" * 5000}\n5,"{"س" * 500}"\n6,{"س" * 5000}'
    rows = rows_of(write(tmp_path / "a.csv", content.encode()))
    assert [row.id for row in rows if isinstance(row, Article)] == ["1", "3", "5"]
    bad = {row.line: row.reason for row in rows if isinstance(row, BadRow)}
    assert bad[3].startswith("a field has more than 1,000 characters: too long, or a double quote is never closed")
    assert bad[204] == bad[206] == "not CSV: the line is longer than 1,000 characters, the most that is read at once"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_fields_may_have_other_names(tmp_path, kind):
    row = {"text": "not this", "id": "nor this", "body": "خبر", "url": "http://a"}
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        parquet(path, {key: [value] for key, value in row.items()})
    else:
        write(path, json_lines(row) if kind == "jsonl" else csv_table(row))
    assert rows_of(path, fields=BODY) == [Article(id="http://a", text="خبر")]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(("seen", "missing"), [("body", "url"), ("url", "body"), ("text", "body")])
def test_a_table_without_a_named_field_is_refused(tmp_path, kind, seen, missing):
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        parquet(path, {seen: ["a"]})
    else:
        write(path, csv_table({seen: "a"}))
    with pytest.raises(KhabarError, match=f'the columns are "{seen}"; needed: "{missing}"'):
        open_sources([path], fields=BODY)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "a", "url": "b"}, 'body is missing; the row has "text", "url"'),
        ({"body": "a", "id": "b"}, 'url is missing; the row has "body", "id"'),
        ({"a": 1}, 'body and url are missing; the row has "a"'),
        ({"body": None, "url": "b"}, "body is null; allowed: a string"),
        ({"body": "a", "url": 1.5}, "url is 1.5; allowed: a string"),
    ],
)
def test_a_row_without_a_named_field_is_a_bad_row(tmp_path, row, reason):
    path = write(tmp_path / "a.jsonl", json_lines(row, {"body": "a", "url": None}))
    assert rows_of(path, fields=BODY) == [BadRow(file=str(path), line=1, reason=reason), Article(id="2", text="a")]


@pytest.mark.parametrize("names", [{"text": ""}, {"text": "id"}, {"text": "segments"}, {"id": "segments"}])
def test_field_names_must_differ(names):
    with pytest.raises(KhabarError, match="allowed: two different names"):
        FieldNames(**names)


def test_a_pattern_stands_for_the_files_it_matches(tmp_path, monkeypatch):
    for name in ("news/2.jsonl.gz", "news/1.jsonl.gz", "news/deep/3.jsonl.gz"):
        write(tmp_path / name, PACK[".gz"](json_lines({"id": name[-10], "text": "a"})))
    write(tmp_path / "news/notes.md", b"not matched")
    monkeypatch.chdir(tmp_path)
    assert [row.id for row in rows_of("news/*.jsonl.gz")] == ["1", "2"]
    assert [row.id for row in rows_of("news/**/*.gz")] == ["1", "2", "3"]
    assert [row.id for row in rows_of(tmp_path / "news" / "[2-9].*")] == ["2"]
    assert open_sources(["news/*.jsonl.gz"])[0].name == "news/1.jsonl.gz"
    with pytest.raises(KhabarError, match=r"^news/\*\.csv: no file matches this pattern$"):
        open_sources(["news/*.csv"])
    with pytest.raises(KhabarError, match=r"^news/notes\.md: ending \.md is not known"):
        open_sources(["news/*.md"])


def test_a_file_may_have_a_pattern_s_name(tmp_path):
    path = write(tmp_path / "[1].txt", b"a")
    assert rows_of(path) == [Article(id="[1]", text="a")]


@pytest.mark.parametrize(
    ("name", "package"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard"), ("folder/a.txt.zst", "zstandard")]
)
def test_a_missing_package_is_told_with_what_to_install(tmp_path, monkeypatch, name, package):
    write(tmp_path / name, PACK[".zst"](b'{"text": "a"}'))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"^reading \S+ needs .*: pip install 'khabar\[formats\]'$"):
        rows_of(tmp_path / name.removesuffix("/a.txt.zst"))

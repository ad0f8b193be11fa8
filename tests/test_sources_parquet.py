"""Reading Parquet: types of columns, bad rows, damage, and memory."""

import gzip
import os

import pytest
from inputs import parquet, read_rows, rows_of, write

from khabar.inference.sources import BadRow, open_sources
from khabar.models.article import Article, Segment
from khabar.models.errors import KhabarError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_parquet(tmp_path):
    segments = [[{"start": 0, "end": 3, "topics": ["x"], "note": "n"}], None, []]
    columns = {"url": ["x"] * 3, "text": ["خبر", "ب", "ج"], "id": ["a", None, ""], "segments": segments}
    assert rows_of(parquet(tmp_path / "a.parquet", columns)) == [
        Article(id="a", text="خبر", segments=(Segment(start=0, end=3),)),
        Article(id="2", text="ب"),
        Article(id="3", text="ج", segments=()),
    ]


@pytest.mark.parametrize(
    "texts",
    [
        pa.array(["خبر", "خبر"], pa.large_string()),
        pa.array(["خبر", "خبر"]).dictionary_encode(),
        pa.array(["خبر".encode()] * 2, pa.binary()),
        pa.array(["خبر", "خبر"], pa.string_view()),
    ],
    ids=lambda texts: str(texts.type),
)
@pytest.mark.parametrize("ids", [pa.array([7, 8], pa.int32()), pa.array([7, 8], pa.uint64()), pa.array(["7", "8"])])
def test_parquet_may_hold_texts_and_ids_in_many_ways(tmp_path, texts, ids):
    try:
        path = parquet(tmp_path / "a.parquet", {"id": ids, "text": texts})
    except pa.ArrowNotImplementedError:
        pytest.skip(f"this pyarrow writes no Parquet of {texts.type}")
    assert rows_of(path) == [Article(id="7", text="خبر"), Article(id="8", text="خبر")]


def test_what_python_cannot_hold_is_a_bad_row(tmp_path):
    kind = pa.list_(pa.struct({"start": pa.int64(), "end": pa.int64(), "at": pa.timestamp("us")}))
    rows = [[{"start": 0, "end": 3, "at": at}] for at in (0, 2**60, None)]
    path = parquet(tmp_path / "a.parquet", {"text": ["خبر"] * 3, "segments": pa.array(rows, kind)})
    first, bad, last = rows_of(path)
    assert (first.segments, last.segments) == ((Segment(start=0, end=3),),) * 2
    assert bad.reason.startswith("column segments cannot be read: ")


def test_bad_rows_of_parquet_have_the_row_s_number(tmp_path):
    texts = pa.array(["أ".encode(), None, b"a\xff", "ب".encode()], pa.binary()).view(pa.string())
    path = parquet(tmp_path / "a.parquet", {"text": texts})
    assert rows_of(path) == [
        Article(id="1", text="أ"),
        BadRow(file=str(path), line=2, reason="text is null; allowed: a string"),
        BadRow(file=str(path), line=3, reason="not UTF-8: byte 0xff in column text at byte 2"),
        Article(id="4", text="ب"),
    ]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"id": ["a"], "body": ["b"]}, r': the columns are "id", "body"; needed: "text", once \(--text-field and'),
        ({"text": [1.5]}, r': column "text" is of type double; allowed: strings$'),
        ({"text": ["a"], "id": [1.5]}, r': column "id" is of type double; allowed: strings or whole numbers$'),
        ({"text": [["a"]]}, r'column "text" is of type list'),
        (pa.table([["a"], ["b"]], ["text", "text"]), r': the columns are "text", "text"; needed: "text", once'),
        (pa.table([["a"], [[]], [[]]], ["text", "segments", "segments"]), r'.*; needed: "segments", once'),
    ],
)
def test_parquet_without_the_columns_is_refused_as_a_whole(tmp_path, columns, reason):
    path = parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(KhabarError, match=rf"^{path}{reason}" if reason.startswith(":") else reason):
        open_sources([path])


def test_damaged_parquet(tmp_path):
    # Texts that differ: equal ones would stand in a dictionary, and be read from it.
    texts = [f"{i * 7919} خبر" * 20 for i in range(20_000)]
    whole = parquet(tmp_path / "a.parquet", {"text": texts}, row_group_size=5000, use_dictionary=False)
    content = bytearray(whole.read_bytes())
    cut = write(tmp_path / "cut.parquet", bytes(content[: len(content) // 2]))
    with pytest.raises(KhabarError, match=rf"^{cut} cannot be read as Parquet: "):
        open_sources([cut])
    middle = len(content) // 2
    content[middle : middle + 50_000] = os.urandom(50_000)
    rows = read_rows(open_sources([write(tmp_path / "hurt.parquet", bytes(content))]))
    read = []
    with pytest.raises(KhabarError, match=r"hurt\.parquet cannot be read as Parquet: "):
        read.extend(rows)
    assert 5000 <= len(read) < 20_000
    assert read[-1] == Article(id=str(len(read)), text=texts[len(read) - 1])


def test_parquet_of_one_large_group_is_read_in_bits(tmp_path):
    # Texts that compression does not shrink: 20 MB in the file as well.
    texts = [os.urandom(1000).hex() + os.urandom(1000).hex() for _ in range(5000)]
    path = parquet(tmp_path / "a.parquet", {"text": texts}, row_group_size=5000, use_dictionary=False, compression=None)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    most = max(pool.bytes_allocated() - before for _ in read_rows(open_sources([path])))
    assert most < 8 * 2**20


def test_parquet_comes_in_files_only(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"text": ["a"]})
    packed = write(tmp_path / "a.parquet.gz", gzip.compress(path.read_bytes()))
    with pytest.raises(KhabarError, match=r"ending \.parquet\.gz is not known"):
        open_sources([packed])
    with pytest.raises(KhabarError, match=r"standard input\) is Parquet.*give a file"):
        rows_of("-", stdin=path.read_bytes())
    with pytest.raises(KhabarError, match=r"standard input\) cannot be read as Parquet.*give a file"):
        open_sources(["-"], input_format="parquet")
    assert rows_of(path.rename(tmp_path / "data"), input_format="parquet") == [Article(id="1", text="a")]

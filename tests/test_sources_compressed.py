"""Reading compressed files and streams: whole, cut off, damaged, dripping, and very much larger inside."""

import gzip
import io
import os
import struct
import threading
import tracemalloc

import pytest
from inputs import csv_table, json_lines, read_rows, rows_of, write

from khabar.inference.compressed import decompressed
from khabar.inference.sources import BadRow, open_sources
from khabar.models.article import Article
from khabar.models.errors import KhabarError

zstandard = pytest.importorskip("zstandard")

TEXT = "أعلنت الوزارة، الأحد، عن لقاء.\r\nوقال المتحدث: «لا تعليق»."
PACK = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "folder"])
def test_compressed_files_are_as_good_as_plain_ones(tmp_path, ending, name):
    content = {"a.jsonl": '{"id": "a", "text": "خبر"}', "a.csv": "text,id\nخبر,a\n"}.get(name, "خبر").encode()
    inside = "folder/a.txt" if name == "folder" else name
    write(tmp_path / f"{inside}{ending}", PACK[ending](b"\xef\xbb\xbf" + content))
    assert rows_of(tmp_path / (name if name == "folder" else f"{name}{ending}")) == [Article(id="a", text="خبر")]


def test_a_folder_takes_texts_of_every_kind_by_name(tmp_path):
    for name, content in (("b.txt.gz", PACK[".gz"](b"b")), ("a.txt", b"a"), ("c.TXT.zst", PACK[".zst"](b"c"))):
        write(tmp_path / name, content)
    assert [(row.id, row.text) for row in rows_of(tmp_path)] == [("a", "a"), ("b", "b"), ("c", "c")]


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_compression_is_known_by_its_bytes(tmp_path, pack):
    content = json_lines({"id": "a", "text": TEXT})
    assert rows_of(write(tmp_path / "a.jsonl", pack(content))) == [Article(id="a", text=TEXT)]
    assert rows_of("-", stdin=pack(content)) == [Article(id="a", text=TEXT)]
    assert rows_of("-", stdin=pack(TEXT.encode())) == [Article(id="1", text=TEXT)]
    assert rows_of("-", stdin=pack(b"text\nb\n"), input_format="csv") == [Article(id="1", text="b")]


def test_all_members_and_frames_are_read(tmp_path):
    rows = [json_lines({"id": str(i), "text": "خبر"}) for i in range(4)]
    skipped = struct.pack("<II", 0x184D2A50, 5) + b"notes"
    zst = b"".join([skipped, PACK[".zst"](rows[0]), skipped, *map(PACK[".zst"], rows[1:])])
    gz = b"".join([PACK[".gz"](rows[0]), PACK[".gz"](b""), *map(PACK[".gz"], rows[1:]), bytes(700)])
    for path in (write(tmp_path / "a.jsonl.zst", zst), write(tmp_path / "a.jsonl.gz", gz)):
        assert [row.id for row in rows_of(path)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_rows_before_the_cut_stay_good_and_the_cut_is_told(tmp_path, ending, kind):
    objects = [{"id": str(i), "text": f"خبر {i * 7919}"} for i in range(20_000)]
    packed = PACK[ending]((json_lines if kind == "jsonl" else csv_table)(*objects))
    path = write(tmp_path / f"a.{kind}{ending}", packed[: len(packed) * 2 // 3])
    rows = read_rows(open_sources([path]))
    read = []
    with pytest.raises(KhabarError, match=rf"^{path} is cut off: its (gzip|Zstandard) data lacks its end$"):
        read.extend(rows)  # list.extend keeps what came before the error
    assert 1000 < len(read) < 20_000
    assert [row.id for row in read] == [str(i) for i in range(len(read))]


@pytest.mark.parametrize("ending", PACK)
def test_damage_is_told_with_the_file(tmp_path, ending):
    objects = [{"id": str(i), "text": f"خبر {i * 7919}"} for i in range(20_000)]
    packed = bytearray(PACK[ending](json_lines(*objects)))
    packed[len(packed) // 2] ^= 0xFF
    packed[len(packed) // 2 + 1 :] = packed[len(packed) // 2 + 1 :][::-1]
    path = write(tmp_path / f"a.jsonl{ending}", bytes(packed))
    with pytest.raises(KhabarError, match=rf"^{path}: its (gzip|Zstandard) data is damaged \("):
        rows_of(path)
    trailing = write(tmp_path / f"b.jsonl{ending}", PACK[ending](json_lines({"text": "a"})) + b"left over")
    with pytest.raises(KhabarError, match="is damaged"):
        rows_of(trailing)


@pytest.mark.parametrize("content", [b"", b'{"text": "a"}', b"\x1f"])
@pytest.mark.parametrize("ending", PACK)
def test_an_ending_must_keep_its_promise(tmp_path, content, ending):
    path = write(tmp_path / f"a.jsonl{ending}", content)
    with pytest.raises(KhabarError, match=rf"a\.jsonl{ending} is not (gzip|Zstandard) data, as its ending {ending}"):
        open_sources([path])


def test_a_damaged_text_is_one_bad_row(tmp_path):
    write(tmp_path / "a.txt.gz", PACK[".gz"](TEXT.encode())[:-5])
    write(tmp_path / "b.txt", b"b")
    bad, good = rows_of(tmp_path)
    assert bad == BadRow(
        file=str(tmp_path / "a.txt.gz"), line=None, reason="the file is cut off: its gzip data lacks its end"
    )
    assert good == Article(id="b", text="b")


def test_standard_input_that_is_cut_off(tmp_path):
    packed = PACK[".gz"](json_lines({"text": "a"}))
    with pytest.raises(KhabarError, match=r"^standard input is cut off"):
        rows_of("-", stdin=packed[:-3])


@pytest.mark.parametrize("pack", [bytes, *PACK.values()])
def test_a_pipe_that_drips_is_read_row_by_row(pack):
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as pipe:
        rows = read_rows(open_sources(["-"]), stdin=stdin)
        for id_ in ("a", "b"):
            line = pack(json_lines({"id": id_, "text": TEXT}))
            thread = threading.Thread(target=lambda line=line: [pipe.write(line[i : i + 1]) for i in range(len(line))])
            thread.start()
            # The pipe stays open: nothing may wait for more than this row.
            assert next(rows) == Article(id=id_, text=TEXT)
            thread.join()


def test_a_named_pipe_may_be_compressed(tmp_path):
    pipe = tmp_path / "a.jsonl.gz"
    os.mkfifo(pipe)
    sources = open_sources([pipe])
    thread = threading.Thread(target=pipe.write_bytes, args=(PACK[".gz"](json_lines({"id": "a", "text": "b"})),))
    thread.start()
    assert list(read_rows(sources)) == [Article(id="a", text="b")]
    thread.join()
    with pytest.raises(KhabarError, match="is a pipe; Parquet"):
        open_sources([pipe], input_format="parquet")


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_a_little_that_stands_for_much_is_unpacked_bit_by_bit(pack):
    # One byte over and over makes Zstandard's smallest blocks: a piece holds thousands of times its size.
    packed = pack(bytes(256 * 2**20))
    tracemalloc.start()
    stream = decompressed("bomb", io.BytesIO(packed))
    n = sum(len(piece) for piece in iter(lambda: stream.read(2**16), b""))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 256 * 2**20
    assert peak < 160 * 2**20

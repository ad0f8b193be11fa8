"""How far a run is: rates, shares of all kinds of inputs, time left, and when a line is due."""

import gzip
import json

import pytest

from khabar.inference.progress import Progress
from khabar.inference.sources import open_sources, read_placed_rows


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def lines(n_rows):
    # Longer than what is read from a file at once, so that its position moves on.
    return "".join(json.dumps({"id": str(n), "text": f"{n} " * 2000}) + "\n" for n in range(n_rows)).encode()


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(200))
    return path


def shares(paths):
    """The share read after each row."""
    sources = open_sources(paths)
    progress = Progress(sources)
    rows = read_placed_rows(sources, opened=progress.opened)
    return [progress.share for _ in map(progress.read, rows)]


def test_the_share_of_lines_is_the_files_position(jsonl):
    found = shares([jsonl])
    assert found == sorted(found)
    assert 0 < found[0] < 0.5
    assert found[100] == pytest.approx(0.5, abs=0.15)
    assert found[-1] == 1.0


def test_the_share_of_a_compressed_file_is_that_of_its_own_bytes(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(200)))
    found = shares([path])
    assert found[100] == pytest.approx(0.5, abs=0.2)
    assert found[-1] == 1.0


def test_several_inputs_of_several_kinds_count_by_their_sizes(tmp_path, jsonl):
    pa = pytest.importorskip("pyarrow", reason="needs khabar[formats]")
    import pyarrow.parquet as pq

    folder = tmp_path / "texts"
    folder.mkdir()
    size = jsonl.stat().st_size
    for name in ("1.txt", "2.txt"):
        (folder / name).write_bytes(b"a" * (size // 2))
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"]}), table)
    total = 2 * size + table.stat().st_size
    found = shares([jsonl, folder, table])
    assert found[199:202] == [pytest.approx(n * size / total, abs=0.01) for n in (1, 1.5, 2)]
    quarter = table.stat().st_size / 4
    assert found[202:] == [pytest.approx((2 * size + n * quarter) / total, abs=1e-3) for n in (1, 2, 3, 4)]


def test_a_stream_has_no_share(jsonl):
    progress = Progress(open_sources([jsonl, "-"]))
    progress.scored(5)
    assert progress.share is None
    assert progress.line() == "5 articles"


def test_a_line_tells_rate_share_and_time_left(jsonl):
    clock, written = Clock(), []
    sources = open_sources([jsonl])
    progress = Progress(sources, write=written.append, seconds=60, clock=clock)
    rows = map(progress.read, read_placed_rows(sources, opened=progress.opened))
    for _ in range(40):
        next(rows)
    clock.now += 50  # loading, warming up, or what an earlier run had done
    progress.scored(10)
    assert written == []
    for _ in range(60):
        next(rows)
    clock.now += 20
    progress.scored(15)
    (line,) = written
    assert line.startswith("25 articles, 0.8 a second, ")
    assert "% of the input read, about 0:00:" in line
    clock.now += 59
    progress.scored(1)
    assert len(written) == 1, "at most one a minute"
    clock.now += 1
    progress.scored(1)
    assert len(written) == 2

"""Scoring on a local Ray cluster, with a worker killed on the way; and, without Ray, what its workers do."""

import gzip
import io
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from fakes import FakeTagger
from typer.testing import CliRunner

from khabar.cli import app
from khabar.inference.part import errors_path
from khabar.inference.ray_cluster import Pool, RayOptions, load_tagger
from khabar.inference.ray_engine import check_results_folder, score_sources_on_ray
from khabar.inference.score import ScoreOptions, score_sources
from khabar.inference.sources import open_sources
from khabar.inference.stretches import (
    Failed,
    Rules,
    ScoredStretch,
    Staging,
    StretchScorer,
    check_whole,
    count_rows,
    read_stretches,
)
from khabar.models.errors import DeviceError, KhabarError, MissingExtraError

CHUNK = 512  # rows in a chunk


@pytest.fixture
def encoder_config(recurrent_config):
    return recurrent_config


@pytest.fixture
def rules():
    return Rules(max_characters=100, strict=False, directory=Path.cwd(), chunks_in_stretch=1)


@pytest.fixture
def staging(tmp_path):
    staging = Staging(folder=tmp_path / "out.jsonl.partial", ending=".jsonl")
    staging.make()
    return staging


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def results(folder):
    """Give all parts' lines, in the order of the parts' names."""
    return b"".join(part.read_bytes() for part in sorted(folder.iterdir()))


def alike(a, b):
    """Whether two JSON values are the same, but for the last digits of scores."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return abs(a - b) < 1e-3 if isinstance(a, float) else a == b


class Killer(threading.Thread):
    """Kills a worker that is at its second stretch or a later one."""

    def __init__(self, staging):
        super().__init__(daemon=True)
        self.staging = staging
        self.killed = None
        self.left = threading.Event()

    def run(self):
        while not self.left.wait(0.01):
            try:
                at_work = list(self.staging.work.glob("*/*")) if any(self.staging.parts.iterdir()) else []
            except OSError:
                continue  # not there yet
            if at_work:
                pid = int(at_work[0].name.rsplit(".", 1)[1])
                os.kill(pid, signal.SIGKILL)
                self.killed = pid
                return


@pytest.mark.slow
def test_a_cluster_gives_what_one_process_gives_with_a_worker_killed_on_the_way(tmp_path, tiny_model_folder, news_rows):
    pytest.importorskip("ray")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from khabar.inference.tagger import load

    rows = [{"id": row["id"], "text": row["text"]} for row in news_rows(3 * CHUNK)]
    rows[5] = {"id": "bad"}
    first = write_rows(tmp_path / "first.jsonl", rows)
    second, third = tmp_path / "second.jsonl.gz", tmp_path / "third.parquet"
    second.write_bytes(gzip.compress(b"broken\n" + json.dumps(rows[0]).encode()))
    pq.write_table(pa.table({"text": [row["text"] for row in rows[6:9]]}), third)
    sources = open_sources([first, second, third])
    local, out = tmp_path / "local.jsonl", tmp_path / "out.jsonl"

    expected = score_sources(load(tiny_model_folder, device="cpu"), sources, local, errors=io.BytesIO())
    killer = Killer(Staging(folder=tmp_path / "out.jsonl.partial", ending=".jsonl"))
    killer.start()
    summary = score_sources_on_ray(
        sources, out, RayOptions(model=str(tiny_model_folder), device="cpu", workers=2, chunks_in_stretch=1)
    )
    killer.left.set()

    assert killer.killed is not None
    assert (summary.n_articles, summary.n_bad_rows) == (expected.n_articles, expected.n_bad_rows) == (3 * CHUNK + 3, 2)
    assert [part.name for part in sorted(out.iterdir())] == [
        *(f"part-000001-00000{number}.jsonl" for number in range(1, 4)),
        "part-000002-000001.jsonl",
        "part-000003-000001.jsonl",
    ]
    whole_chunks = b"".join((out / f"part-000001-00000{number}.jsonl").read_bytes() for number in range(1, 4))
    assert local.read_bytes().startswith(whole_chunks), "the same chunks give the same bytes"
    lines = [list(map(json.loads, data.splitlines())) for data in (local.read_bytes(), results(out))]
    assert [row["id"] for row in lines[1][-3:]] == [str(3 * CHUNK + 2 + number) for number in (1, 2, 3)]
    assert alike(*lines)
    assert errors_path(out).read_bytes() == errors_path(local).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_stretches_hold_all_rows_and_are_numbered_on(tmp_path, rules):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "بغداد"}] * (2 * CHUNK) + [{"text": "ب" * 101}])
    (source,) = open_sources([path])
    assert count_rows(source, rules) == 2 * CHUNK + 1
    stretches = list(read_stretches(source, 3, 10, rules))
    assert [(s.place, len(s.rows), s.last) for s in stretches] == [
        ((3, 1), CHUNK, False),
        ((3, 2), CHUNK, False),
        ((3, 3), 1, True),
    ]
    assert stretches[0].rows[0].row.id == "11"
    assert "101 characters" in stretches[2].rows[0].row.reason


def test_an_input_without_rows_is_one_stretch(tmp_path, rules, staging):
    (source,) = open_sources([write_rows(tmp_path / "empty.jsonl", [])])
    (stretch,) = read_stretches(source, 1, 0, rules)
    assert (stretch.rows, stretch.last) == ([], True)
    assert StretchScorer(FakeTagger, staging, rules).score(stretch).n_articles == 0
    assert staging.part((1, 1)).read_bytes() == b""


def test_a_damaged_input_fails_behind_its_whole_stretches(tmp_path, rules):
    path = tmp_path / "cut.jsonl.gz"
    data = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(5 * CHUNK)))
    path.write_bytes(data[: len(data) // 2])
    (source,) = open_sources([path])
    *whole, last = read_stretches(source, 1, 0, rules)
    assert whole
    assert isinstance(last, Failed)
    assert "cut.jsonl.gz" in last.reason
    assert isinstance(count_rows(source, rules), Failed)


def test_a_stretch_scored_twice_is_there_once(tmp_path, rules, staging):
    path = write_rows(tmp_path / "a.jsonl", [{"id": "a", "text": "بغداد"}, {"id": "b"}])
    (stretch,) = read_stretches(open_sources([path])[0], 1, 0, rules)
    scorer = StretchScorer(FakeTagger, staging, rules)
    assert scorer.score(stretch) == scorer.score(stretch)
    assert [json.loads(line)["id"] for line in results(staging.parts).splitlines()] == ["a"]
    assert json.loads(staging.bad_rows((1, 1)).read_text())["line"] == 2
    assert not list(staging.work.iterdir())


def test_rows_that_end_every_worker_end_the_run(tmp_path, rules, staging):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "بغداد"}, {"text": "كركوك"}])
    (stretch,) = read_stretches(open_sources([path])[0], 1, 0, rules)
    for pid in range(3):
        (staging.work / "part-000001-000001" / f"machine.{pid}").mkdir(parents=True)
    failed = StretchScorer(FakeTagger, staging, rules).score(stretch)
    assert failed == Failed(reason=f"{path}:1 to {path}:2 has ended 3 workers; is there memory enough?")


def test_a_model_that_cannot_be_loaded_is_told(tmp_path, rules, staging):
    def load():
        raise KhabarError("no such model")

    (stretch,) = read_stretches(open_sources([write_rows(tmp_path / "a.jsonl", [{"text": "ب"}])])[0], 1, 0, rules)
    assert StretchScorer(load, staging, rules).score(stretch) == Failed(reason="no such model")
    assert not list(staging.parts.iterdir())


def test_strict_stops_at_a_bad_row(tmp_path, staging):
    rules = Rules(max_characters=100, strict=True, directory=Path.cwd())
    (failed,) = read_stretches(open_sources([write_rows(tmp_path / "a.jsonl", [{}])])[0], 1, 0, rules)
    assert isinstance(failed, Failed)
    assert "a.jsonl:1: text is missing" in failed.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs --output"),
        (["-o", "out.jsonl", "--resume"], "--resume"),
        (["-o", "out.jsonl", "--format", "text"], "--format text"),
        (["-o", "out.jsonl", "--group-duplicates"], "--group-duplicates"),
        (["-o", "out.csv"], "JSON Lines or Parquet"),
        (["-o", "."], "output ending"),
        (["-o", "there.jsonl"], "is there already"),
        (["-o", "out.jsonl", "--device", "cuda:1"], "allowed with --engine ray"),
        (["-o", "out.jsonl", "--workers", "0"], "must be at least 1"),
        (["-o", "out.jsonl", "--runtime", "onnx", "--precision", "bf16"], "an exported model has its own"),
        (["-o", "out.jsonl", "--runtime", "onnx", "--device", "cuda"], "onnx runs on the CPU"),
    ],
)
def test_what_does_not_go_with_ray_is_said_before_any_work(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "a.jsonl", [{"text": "بغداد"}])
    (tmp_path / "there.jsonl").mkdir()
    result = CliRunner().invoke(app, ["score", "a.jsonl", "--engine", "ray", *options])
    assert (result.exit_code, message in result.output) == (2, True), result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "there.jsonl"]


def test_standard_input_is_for_the_local_engine(tmp_path):
    with pytest.raises(KhabarError, match="only --engine local can read"):
        check_results_folder(tmp_path / "out.jsonl", ScoreOptions(), open_sources(["-"]))


@pytest.mark.parametrize("lost", [(1, 1), (1, 2), (2, 1)])
def test_what_is_lost_is_seen(lost):
    scored = {
        place: ScoredStretch(place=place, last=place != (1, 1), n_articles=1, n_bad_rows=0)
        for place in [(1, 1), (1, 2), (2, 1)]
    }
    check_whole(scored, 2)
    del scored[lost]
    with pytest.raises(KhabarError, match=f"some of input {lost[0]} has been lost"):
        check_whole(scored, 2)


def test_parts_of_parquet_are_one_table(tmp_path, rules):
    pytest.importorskip("pyarrow.parquet")
    import pyarrow.parquet as pq

    staging = Staging(folder=tmp_path / "out.parquet.partial", ending=".parquet")
    staging.make()
    path = write_rows(tmp_path / "a.jsonl", [{"id": str(number), "text": "بغداد"} for number in range(CHUNK + 1)])
    scorer = StretchScorer(FakeTagger, staging, rules)
    for stretch in read_stretches(open_sources([path])[0], 1, 0, rules):
        scorer.score(stretch)
    assert pq.read_table(staging.parts)["id"].to_pylist() == [str(number) for number in range(CHUNK + 1)]


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    sources = open_sources([write_rows(tmp_path / "a.jsonl", [{"text": "بغداد"}])])
    with pytest.raises(MissingExtraError, match=r"pip install 'khabar\[ray\]'"):
        score_sources_on_ray(sources, tmp_path / "out.jsonl", RayOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_another_run_is_not_disturbed(tmp_path, staging):
    sources = open_sources([write_rows(tmp_path / "a.jsonl", [{"text": "بغداد"}])])
    with pytest.raises(KhabarError, match="another run is writing it"):
        score_sources_on_ray(sources, tmp_path / "out.jsonl", RayOptions())
    assert staging.parts.is_dir()


def test_a_device_by_number_is_refused():
    with pytest.raises(DeviceError, match="allowed with --engine ray: auto, cpu, cuda"):
        RayOptions(device="cuda:0")


def test_a_worker_computes_in_the_precision_that_is_asked_for(monkeypatch, tiny_model_folder):
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS"):  # which a worker sets for itself
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    pool = Pool(n_workers=1, n_cpus=1, n_gpus=0)
    for precision, bf16 in (("auto", False), ("bf16", True)):
        tagger = load_tagger(RayOptions(model=str(tiny_model_folder), precision=precision), pool)
        assert tagger.bf16 is bf16

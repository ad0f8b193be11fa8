"""Runs that are stopped and gone on with: the same bytes, whenever it happens; refused where they would not be."""

import gzip
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import nothing_found

from khabar.inference import part, planning
from khabar.inference.part import Done, PartFiles, errors_path
from khabar.inference.run_identity import model_digest
from khabar.inference.score import ScoreOptions, score_sources
from khabar.inference.sources import open_sources
from khabar.models.errors import KhabarError

SCRIPT = Path(__file__).parent / "support" / "killed_run.py"


@pytest.fixture
def encoder_config(bert_config):
    """One kind of encoder is enough here."""
    return bert_config


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setitem(planning.LOOK_AHEAD, "cpu", planning.LookAhead(articles=8, characters=1_000_000))


class Tagger:
    """Tags like any other; gives out after so many chunks, and counts what it is given."""

    device = "cpu"

    def __init__(self, n_chunks=None, error=None):
        self.n_chunks = n_chunks
        self.error = error or RuntimeError("gave out")
        self.n_articles = 0

    def map_chunks(self, function, chunks):
        for number, chunk in enumerate(chunks):
            if number == self.n_chunks:
                raise self.error
            self.n_articles += len(chunk)
            yield [function(nothing_found(article)) for article in chunk]


def text(number):
    return f"قال المتحدث في بيان رقم {number} إن الاجتماع عقد في العاصمة وإن النتائج ستعلن قريبا"


@pytest.fixture
def rows(tmp_path):
    """Sixty rows, of which every seventh is bad."""
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"id": f"a{n}", "text": text(n % 20)}, ensure_ascii=False) for n in range(60)]
    lines[::7] = ["{}"] * len(lines[::7])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "results.jsonl"


def run(tagger, rows, out, *, options=None, made_by=None, **rest):
    return score_sources(
        tagger,
        open_sources([rows]),
        out,
        errors=io.BytesIO(),
        options=ScoreOptions(**options or {}),
        made_by=made_by,
        **rest,
    )


def stop(rows, out, n_chunks=3, **rest):
    with pytest.raises(RuntimeError, match="gave out"):
        run(Tagger(n_chunks), rows, out, **rest)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


PARTS = ["results.jsonl.errors.jsonl.part", "results.jsonl.part", "results.jsonl.part.state.json"]


def test_a_stopped_run_is_gone_on_with_where_it_was(rows, out, tmp_path):
    whole = tmp_path / "whole.jsonl"
    run(Tagger(), rows, whole)
    stop(rows, out)
    assert names_in(out.parent) == PARTS
    tagger = Tagger()
    summary = run(tagger, rows, out, resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert errors_path(out).read_bytes() == errors_path(whole).read_bytes()
    assert names_in(out.parent) == ["results.jsonl", "results.jsonl.errors.jsonl"]
    assert (summary.n_articles, summary.n_bad_rows) == (51, 9)
    assert summary.n_before == 51 - tagger.n_articles > 0
    assert {path.stat().st_mode for path in (out, errors_path(out))} == {rows.stat().st_mode}


def test_rows_that_were_cut_otherwise_are_not_scored_twice(rows, out, monkeypatch):
    monkeypatch.setitem(planning.LOOK_AHEAD, "cuda", planning.LookAhead(articles=20, characters=1_000_000))
    stop(rows, out)
    tagger = Tagger()
    tagger.device = "cuda"
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    with pytest.raises(KhabarError, match=r"the 24 rows .* end inside a chunk of this run: .* another kind of device"):
        run(tagger, rows, out, resume=True)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before


@pytest.mark.parametrize("left_over", [b"", b'{"id": "half a li', b'{"id": "whole"}\n' * 1000])
def test_what_was_written_behind_the_last_state_is_cut_off(rows, out, tmp_path, left_over):
    whole = tmp_path / "whole.jsonl"
    run(Tagger(), rows, whole)
    stop(rows, out)
    for name in PARTS[:2]:
        with (out.parent / name).open("ab") as stream:
            stream.write(left_over)
    run(Tagger(), rows, out, resume=True)
    assert out.read_bytes() == whole.read_bytes()
    assert errors_path(out).read_bytes() == errors_path(whole).read_bytes()


def test_stories_are_the_same_as_without_a_stop(rows, out, tmp_path):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    options = {"group_duplicates": True}
    whole = tmp_path / "whole.jsonl"
    run(Tagger(), rows, whole, options=options)
    stop(rows, out, options=options)
    run(Tagger(), rows, out, options=options, resume=True)
    assert out.read_bytes() == whole.read_bytes()
    results = {row["id"]: row for row in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    assert list(results["a59"])[:2] == ["id", "story"]
    assert results["a1"]["story"] == "a1"
    assert results["a41"]["story"] == "a1", "the same text, forty rows later"


def test_other_formats_come_from_the_same_part_files(rows, out, tmp_path):
    whole, target = tmp_path / "whole.csv", out.with_suffix(".csv")
    run(Tagger(), rows, whole)
    stop(rows, target)
    run(Tagger(), rows, target, resume=True)
    assert target.read_bytes() == whole.read_bytes()
    assert names_in(out.parent) == ["results.csv", "results.csv.errors.jsonl"]


def test_part_files_are_not_overwritten(rows, out):
    stop(rows, out)
    before = {name: (out.parent / name).read_bytes() for name in PARTS}
    with pytest.raises(
        KhabarError, match=r"holds 24 rows of a run that was stopped; go on with it by --resume, or remove"
    ):
        run(Tagger(), rows, out)
    assert {name: (out.parent / name).read_bytes() for name in PARTS} == before


def test_resume_starts_where_there_is_nothing(rows, out):
    assert run(Tagger(), rows, out, resume=True).n_before == 0
    assert out.exists()


def test_a_run_that_did_nothing_leaves_nothing(rows, out):
    stop(rows, out, n_chunks=0)
    assert names_in(out.parent) == []


def test_an_error_says_how_to_go_on(rows, out):
    error = OSError(5, "Input/output error", "rows.jsonl")
    with pytest.raises(OSError, match="Input/output error") as raised:
        run(Tagger(2, error), rows, out)
    assert raised.value.__notes__ == [
        f"16 rows are done and kept in {out}.part; the same command on the same input goes on with --resume"
    ]


def test_an_input_that_ends_in_the_middle_leaves_what_is_done(rows, out, tmp_path):
    packed = tmp_path / "rows.jsonl.gz"
    lines = [json.dumps({"id": str(n), "text": os.urandom(2000).hex()}) for n in range(60)]
    whole = gzip.compress("\n".join(lines).encode())
    packed.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KhabarError, match=r"rows\.jsonl\.gz is cut off") as raised:
        run(Tagger(), packed, out)
    assert "24 rows are done and kept" in raised.value.__notes__[0]
    assert names_in(out.parent) == PARTS


def test_strict_keeps_what_came_before_the_bad_row(rows, out):
    lines = rows.read_text(encoding="utf-8").splitlines()
    good = [line for line in lines if line != "{}"]
    rows.write_text("\n".join([*good[:30], "{}", *good[30:]]) + "\n", encoding="utf-8")
    with pytest.raises(KhabarError, match=r"rows\.jsonl:31: text is missing"):
        run(Tagger(), rows, out, strict=True)
    assert names_in(out.parent) == PARTS
    assert run(Tagger(), rows, out, resume=True).n_before == 24


# --- refused


def change_size(rows):
    rows.write_text(rows.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")


def change_done_rows(rows):
    """Same name, same size, other rows."""
    rows.write_text(rows.read_text(encoding="utf-8").replace("رقم 1 ", "رقم 2 "), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "options", "made_by", "words"),
    [
        (
            change_size,
            {},
            {},
            r"of another run: input 1 was \S+ \(jsonl, \S+ bytes\), is \S+ \(jsonl, \S+ bytes\)\. Give what",
        ),
        (change_done_rows, {}, {}, "the first 24 rows are not those that were scored before"),
        (lambda _: None, {"max_characters": 50}, {}, "max_characters was 300000, is 50"),
        (lambda _: None, {}, {"model": "b"}, "model was a, is b"),
        (
            lambda _: None,
            {"group_duplicates": True},
            {"device": "cuda"},
            "device was null, is cuda; group_duplicates was false",
        ),
    ],
)
def test_another_run_is_refused_and_told_what_differs(rows, out, change, options, made_by, words):
    stop(rows, out, made_by={"model": "a"})
    before = [(out.parent / name).read_bytes() for name in PARTS]
    change(rows)
    with pytest.raises(KhabarError, match=words):
        run(Tagger(), rows, out, options=options, made_by={"model": "a", **made_by}, resume=True)
    assert [(out.parent / name).read_bytes() for name in PARTS] == before


def test_fewer_rows_than_were_done_are_refused(rows, out):
    stop(rows, out)
    lines = rows.read_text(encoding="utf-8").splitlines()
    size = rows.stat().st_size
    short = "\n".join(lines[:10]) + "\n"
    rows.write_bytes(short.encode() + b" " * (size - len(short.encode()) - 1) + b"\n")
    with pytest.raises(KhabarError, match="the first 24 rows are not those"):
        run(Tagger(), rows, out, resume=True)


def test_damaged_part_files_are_refused(rows, out):
    stop(rows, out)
    state = out.parent / PARTS[2]
    kept = state.read_bytes()
    for broken in (b"", b"[]", b'{"run": {}}', kept.replace(b"n_rows", b"n_roes")):
        state.write_bytes(broken)
        with pytest.raises(KhabarError, match=r"state\.json is damaged; remove it"):
            run(Tagger(), rows, out, resume=True)
    state.write_bytes(kept)
    (out.parent / PARTS[1]).write_bytes(b"{}\n")
    with pytest.raises(KhabarError, match=r"is shorter than the \S+ bytes its run had written"):
        run(Tagger(), rows, out, resume=True)
    state.unlink()
    for resume in (False, True):
        with pytest.raises(KhabarError, match=r"\.part is there without results\.jsonl\.part\.state\.json"):
            run(Tagger(), rows, out, resume=resume)


@contextmanager
def one_run_alone(out):
    """Write part files, which another run is refused meanwhile."""
    with PartFiles(out, {}, finish=os.replace, resume=False) as parts:
        parts.write(b"{}\n", b"", Done(n_rows=1))
        yield
        with (
            pytest.raises(KhabarError, match=r"\.part is being written by another run"),
            PartFiles(out, {}, finish=os.replace, resume=True),
        ):
            pytest.fail("it was opened twice")
        parts.finish()
    assert out.read_bytes() == b"{}\n"


def test_two_runs_do_not_write_to_the_same_part_files(out):
    with one_run_alone(out):
        pass


def test_of_a_run_at_work_nobody_is_told_that_it_was_stopped(out):
    with PartFiles(out, {}, finish=os.replace, resume=False) as parts:
        parts.write(b"{}\n", b"", Done(n_rows=1))
        with (
            pytest.raises(KhabarError, match=r"\.part is being written by another run; wait for it, or stop it"),
            PartFiles(out, {}, finish=os.replace, resume=False),
        ):
            pytest.fail("it was begun anew")
        parts.finish()
    assert names_in(out.parent) == ["results.jsonl"]


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be removed")
@pytest.mark.parametrize("moment", ["writing", "finishing"])
@pytest.mark.parametrize("begun_anew", [False, True])
def test_part_files_that_are_taken_away_are_missed(out, moment, begun_anew):
    out.write_text("old", encoding="utf-8")

    def robbed():
        with PartFiles(out, {}, finish=os.replace, resume=False) as parts:
            parts.write(b"{}\n", b"{}\n", Done(n_rows=2))
            for path in (parts.part, parts.errors_part, parts.state):
                path.unlink()
            if begun_anew:
                others.append(PartFiles(out, {}, finish=os.replace, resume=False).__enter__())
            parts.finish() if moment == "finishing" else parts.write(b"{}\n", b"", Done(n_rows=3))

    others = []
    with pytest.raises(KhabarError, match="was removed or replaced while this run wrote it") as caught:
        robbed()
    assert not hasattr(caught.value, "__notes__"), "nothing is kept"
    assert out.read_text(encoding="utf-8") == "old"
    for other in others:
        other.write(b"new\n", b"", Done(n_rows=1))
        other.finish()
        assert out.read_text(encoding="utf-8") == "new\n"
    assert names_in(out.parent) == ["results.jsonl"]


def test_of_two_runs_that_begin_at_the_same_moment_one_is_left_alone(out, monkeypatch):
    open_locked, others = part._open_locked, []

    def after_another(path):
        monkeypatch.setattr(part, "_open_locked", open_locked)
        others.append(PartFiles(out, {}, finish=os.replace, resume=False).__enter__())
        return open_locked(path)

    monkeypatch.setattr(part, "_open_locked", after_another)
    with (
        pytest.raises(KhabarError, match="is being written by another run"),
        PartFiles(out, {}, finish=os.replace, resume=False),
    ):
        pytest.fail("it was begun anew")
    others[0].write(b"{}\n", b"", Done(n_rows=1))
    others[0].finish()
    assert out.read_bytes() == b"{}\n"
    assert names_in(out.parent) == ["results.jsonl"]


def test_a_run_that_cannot_begin_leaves_nothing(out, monkeypatch):
    def full(_self, _done):
        Path(f"{out}.part.state.json.partial").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PartFiles, "_save", full)
    with (
        pytest.raises(KhabarError, match="No space left on device"),
        PartFiles(out, {}, finish=os.replace, resume=False),
    ):
        pytest.fail("it was begun")
    assert names_in(out.parent) == []


def test_a_run_that_is_being_finished_is_left_alone(out):
    def finish(part, target):
        with (
            pytest.raises(KhabarError, match=r"\.part is being written by another run"),
            PartFiles(out, {}, finish=os.replace, resume=True),
        ):
            pytest.fail("it was opened twice")
        part.replace(target)

    with PartFiles(out, {}, finish=finish, resume=False) as parts:
        parts.write(b"{}\n", b"", Done(n_rows=1))
        parts.finish()
    assert names_in(out.parent) == ["results.jsonl"]


def test_a_run_that_another_has_finished_meanwhile_is_not_begun_anew(out, monkeypatch):
    with PartFiles(out, {}, finish=os.replace, resume=False) as parts:
        parts.write(b"{}\n", b"", Done(n_rows=1))
    parts._save(replace(parts.done, whole=True))  # as if killed before it was moved into place
    resumed = PartFiles(out, {}, finish=os.replace, resume=True)
    found = resumed._found
    seen = []

    def found_and_finished():
        seen.append(found())
        if len(seen) == 1:
            with PartFiles(out, {}, finish=os.replace, resume=True) as other:
                other.finish()
        return seen[-1]

    monkeypatch.setattr(resumed, "_found", found_and_finished)
    with pytest.raises(KhabarError, match="has been finished by another run meanwhile"), resumed:
        pytest.fail("it was begun anew")
    assert names_in(out.parent) == ["results.jsonl"]


def test_a_part_file_that_is_moved_while_it_is_opened_is_not_written_to(out, monkeypatch):
    with PartFiles(out, {}, finish=os.replace, resume=False) as parts:
        parts.write(b"{}\n", b"", Done(n_rows=1))
    lock = part._lock

    def finished_meanwhile(stream):
        monkeypatch.setattr(part, "_lock", lock)
        with PartFiles(out, {}, finish=os.replace, resume=True) as other:
            other.finish()
        lock(stream)

    monkeypatch.setattr(part, "_lock", finished_meanwhile)
    with (
        pytest.raises(KhabarError, match="has been finished by another run meanwhile"),
        PartFiles(out, {}, finish=os.replace, resume=True),
    ):
        pytest.fail("it was begun anew")
    assert out.read_bytes() == b"{}\n"


class WindowsLocks:
    """Stands in for `msvcrt`: a file's byte is one open file's until that is closed."""

    LK_NBLCK = 2

    def __init__(self):
        self.places = {}

    def locking(self, descriptor, mode, n_bytes):
        assert (mode, n_bytes) == (self.LK_NBLCK, 1)
        place = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        if place in self.places:
            raise PermissionError(13, "Permission denied")
        self.places[place] = descriptor


def test_on_windows_too_two_runs_do_not_write_to_the_same_part_files(out, monkeypatch):
    locks = WindowsLocks()
    monkeypatch.setitem(sys.modules, "msvcrt", locks)
    monkeypatch.setattr(sys, "platform", "win32")
    with one_run_alone(out):
        assert len(locks.places) == 2  # results and bad rows


def test_a_stream_cannot_be_gone_on_with(rows):
    with pytest.raises(KhabarError, match="cannot be gone on with; give an output file"):
        run(Tagger(), rows, io.BytesIO(), resume=True)
    with pytest.raises(KhabarError, match="cannot be gone on with; give an output file"):
        run(Tagger(), rows, "/dev/null", resume=True)


def test_a_models_digest_tells_its_files(tiny_model_folder):
    first = model_digest(str(tiny_model_folder))
    assert first == model_digest(str(tiny_model_folder))
    (tiny_model_folder / "README.md").write_text("a card", encoding="utf-8")
    assert model_digest(str(tiny_model_folder)) == first
    config = tiny_model_folder / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("0.5", "0.4", 1), encoding="utf-8")
    assert model_digest(str(tiny_model_folder)) != first
    assert model_digest("embedded") != first


# --- the disk, and kills


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_disk_that_takes_no_more_leaves_what_is_done(rows, out, tmp_path):
    import resource

    whole = tmp_path / "whole.jsonl"
    run(Tagger(), rows, whole)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(KhabarError, match="cannot be written: File too large") as raised:
            run(Tagger(), rows, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "goes on with --resume" in raised.value.__notes__[0]
    assert (out.parent / PARTS[1]).stat().st_size == 4000, "a chunk was cut off in the middle"
    run(Tagger(), rows, out, resume=True)
    assert out.read_bytes() == whole.read_bytes()


def test_an_output_that_cannot_be_made_of_the_part_is_tried_again(rows, out, tmp_path, monkeypatch):
    whole = tmp_path / "whole.jsonl"
    run(Tagger(), rows, whole)
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("khabar.inference.score.write_output", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(KhabarError, match="No space left on device") as raised:
            run(Tagger(), rows, out)
    assert "60 rows are done and kept" in raised.value.__notes__[0]
    again = Tagger()
    run(again, rows, out, resume=True)
    assert again.n_articles == 0, "all of it was done"
    assert out.read_bytes() == whole.read_bytes()


def test_a_kill_at_any_operation_on_files_changes_nothing(rows, tmp_path):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    lines = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(lines[:20]))  # three chunks
    assert killed("fake", rows, tmp_path, "operations") > 20


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(rows, tmp_path, tiny_model_folder):
    assert killed(tiny_model_folder, rows, tmp_path, "random") == 20


def killed(model, rows, tmp_path, moments):
    out = tmp_path / "killed" / "results.jsonl"
    out.parent.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, SCRIPT, model, rows, out, moments]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)

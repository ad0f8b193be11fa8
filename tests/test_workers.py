"""Processes beside the model's: the same results, errors from them, and processes that always end."""

import gc
import multiprocessing
import operator
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import _ExecutorManagerThread
from functools import partial

import psutil
import pytest
from fakes import (
    ends_in_the_middle_of_its_result,
    fails_in_its_own_way,
    gives_a_stream,
    lasts_until_there_is,
    process_of,
)
from inputs import json_lines, write

from khabar.inference.lines import result_line
from khabar.inference.tagger import Tagger
from khabar.inference.workers import AT_HAND, TextWork, Workers, _Packed, usual_number
from khabar.models.article import Article
from khabar.models.errors import KhabarError

TEXTS = [
    "قتل شخصان بانفجار سيارة مفخخة شمال بغداد.\nوقال المتحدث سالم الحداد إن التحقيق بدأ.",
    "",
    "شهدت العاصمة تونس مظاهرة شارك فيها المئات. " * 6,
    "أعلنت الوزارة في بيان أن الاجتماع [SEP] بدأ صباح اليوم.",
]
CHUNKS = [[Article(text=TEXTS[n % len(TEXTS)], id=f"{k}-{n}") for n in range(k, 2 * k)] for k in range(12)]


@pytest.fixture
def encoder_config(bert_config):
    """One kind of encoder is enough here."""
    return bert_config


@pytest.fixture
def crew(tiny_model, tokenizer):
    with Tagger(tiny_model, tokenizer, workers=2) as tagger:
        yield tagger


def children():
    return multiprocessing.active_children()


def test_workers_give_what_one_process_gives(crew, tiny_model, tokenizer):
    expected = list(Tagger(tiny_model, tokenizer).tag_chunks(CHUNKS))
    found = list(crew.tag_chunks(CHUNKS))
    assert found == expected
    assert any(result.entities for chunk in found for result in chunk)
    assert len(children()) == 2
    crew.close()
    assert not children()
    assert list(crew.tag_chunks(CHUNKS[:3])) == expected[:3], "it can be used again"


def test_what_was_computed_in_bfloat16_arrives_without_loss(tiny_model, tokenizer):
    expected = list(Tagger(tiny_model, tokenizer, bf16=True).tag_chunks(CHUNKS[:6]))
    with Tagger(tiny_model, tokenizer, bf16=True, workers=1) as crew:
        assert list(crew.tag_chunks(CHUNKS[:6])) == expected


def test_what_is_made_of_results_is_made_in_the_workers(crew):
    expected = [[result_line(result) for result in chunk] for chunk in crew.tag_chunks(CHUNKS)]
    assert list(crew.map_chunks(result_line, CHUNKS)) == expected
    (pids,) = crew.map_chunks(process_of, [[*CHUNKS[5]]])
    assert os.getpid() not in pids
    assert gc.isenabled()


def test_where_there_is_no_fork_server_processes_start_anew(crew, monkeypatch):
    def fails():
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", fails)
    assert [len(chunk) for chunk in crew.tag_chunks(CHUNKS[:4])] == [0, 1, 2, 3]
    assert {type(child).__name__ for child in children()} == {"SpawnProcess"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "workers", "runtime", "files", "visible", "starts"),
    [
        ("cpu", 2, "onnx", [], "", True),
        ("auto", 0, "torch", ["."], "0", False),
        ("auto", None, "torch", [], "0", False),
        ("auto", None, "compiled", ["."], "0", True),
        ("cuda:1", None, "torch", ["."], "0", True),
        ("cpu", None, "torch", ["."], "0", False),
        ("auto", None, "onnx", ["."], "0", False),
        ("auto", None, "torch", ["."], "", False),
    ],
)
def test_a_command_that_will_have_workers_starts_their_server_before_it_imports_torch(
    device, workers, runtime, files, visible, starts
):
    code = (
        "import sys, importlib\n"
        "from khabar import cli_common\n"
        "from khabar.inference import fork_server\n"
        "from multiprocessing import forkserver\n"
        f"fork_server._GPU_FILES = {files!r}\n"
        "class Seen(Exception): pass\n"
        "def importing(name, *_):\n"
        "    if name == 'torch': raise Seen\n"
        "sys.meta_path.insert(0, type('Finder', (), {'find_spec': importing}))\n"
        "try:\n"
        f"    cli_common.load_tagger('embedded', device={device!r}, workers={workers!r}, runtime={runtime!r})\n"
        "except Seen:\n"
        "    print(forkserver._forkserver._forkserver_pid is not None)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert run.stdout.split() == [str(starts)]


def test_a_process_that_ends_as_it_starts_is_told_and_the_next_use_starts_others(crew, monkeypatch):
    begin, begun = ProcessPoolExecutor._spawn_process, []

    def second_ends(pool):
        if begun:
            raise BrokenPipeError
        begin(pool)
        begun.extend(children())

    with monkeypatch.context() as patched:
        patched.setattr(ProcessPoolExecutor, "_spawn_process", second_ends)
        with pytest.raises(KhabarError, match=r"(cannot be started .BrokenPipeError|ended unexpectedly).*__main__"):
            list(crew.tag_chunks(CHUNKS[3:] * 9))
    begun[0].join(timeout=20)
    assert not begun[0].is_alive(), "the first one is not left behind"
    assert len(next(crew.tag_chunks(CHUNKS[3:4]))) == 3


def test_workers_have_something_to_encode_and_no_more_is_read(crew):
    read = []
    results = crew.tag_chunks(read.append(chunk) or chunk for chunk in CHUNKS[1:] + [CHUNKS[1] * 600] * 9)
    next(results)
    assert len(read) == 3 + 2, "one at the model, one waiting, one planned, and one for each to encode"
    for _ in range(9):
        next(results)
    next(results)
    assert len(read) == 11 + 3, "of long lists one is enough for two: it is encoded in parts"


def test_what_the_model_waits_for_is_not_behind_texts_to_encode(crew, monkeypatch):
    begin, begun, ahead = Workers._begin, [], []

    def recorded(workers, step, arguments):
        unfinished = [work for work in begun if not work.future.done()]
        if step is TextWork.encode:
            ahead.append(len(unfinished))
        begun.append(begin(workers, step, arguments))
        return begun[-1]

    monkeypatch.setattr(Workers, "_begin", recorded)
    list(crew.tag_chunks([CHUNKS[3] * 500] * 4))
    assert len(ahead) == 4 * 12, "1,500 articles are encoded in 12 parts"
    assert max(ahead) <= crew.workers + AT_HAND - 1


def test_what_is_not_urgent_waits_until_a_process_would_have_nothing_to_do(crew, tmp_path):
    workers = crew._workers
    begun = [workers.submit_when_room(lasts_until_there_is, tmp_path / "first")]
    begun += [workers.submit(lasts_until_there_is, tmp_path / "rest") for _ in range(workers.n + AT_HAND - 1)]
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(workers.submit_when_room, lasts_until_there_is, tmp_path / "rest") for _ in "ab"]
        try:
            with pytest.raises(TimeoutError):
                waiting[0].result(timeout=0.3)
            (tmp_path / "first").touch()
            begun[0].result()
            assert [future.done() for future in waiting].count(True) <= 1, "there is room for one of them"
        finally:
            (tmp_path / "first").touch()
            (tmp_path / "rest").touch()
        begun += [future.result(timeout=20) for future in waiting]
    assert [work.result() for work in begun] == [None] * len(begun)


def test_work_that_nobody_waits_for_is_not_counted_for_ever(crew, monkeypatch):
    monkeypatch.setattr("khabar.inference.workers.LOOK_SECONDS", 0.5)
    workers = crew._workers
    for _ in range(workers.n + AT_HAND + 3):
        workers.submit(ends_in_the_middle_of_its_result)
    while all(process.is_alive() for process in workers._pool.processes):
        time.sleep(0.05)
    with pytest.raises(KhabarError, match="ended unexpectedly"):
        workers.submit(process_of).result()
    assert workers.submit_when_room(process_of).result() != os.getpid(), "others have taken their place"
    crew.close()
    assert not children()


def test_waiting_for_room_sees_that_a_worker_has_ended(crew, monkeypatch):
    monkeypatch.setattr("khabar.inference.workers.LOOK_SECONDS", 0.5)
    begun = [crew._workers.submit(ends_in_the_middle_of_its_result) for _ in range(crew.workers + AT_HAND)]
    assert crew._workers.submit_when_room(process_of).result() != os.getpid(), "others have taken their place"
    for work in begun:
        with pytest.raises(KhabarError, match="ended unexpectedly"):
            work.result()
    assert len(next(crew.tag_chunks(CHUNKS[3:4]))) == 3


def test_closing_ends_what_other_threads_wait_for(crew, tmp_path):
    workers = crew._workers
    begun = [workers.submit(lasts_until_there_is, tmp_path / "end") for _ in range(9)]
    with ThreadPoolExecutor(10) as threads:
        waiting = [threads.submit(work.result) for work in begun]
        closing = threads.submit(crew.close)
        try:
            for future in waiting[2 * workers.n + 1 :]:  # the pool may have handed the others out
                with pytest.raises(KhabarError, match="closed in the middle"):
                    future.result(timeout=20)
        finally:
            (tmp_path / "end").touch()
        closing.result(timeout=20)
    assert len(next(crew.tag_chunks(CHUNKS[3:4]))) == 3


def test_a_short_list_does_not_wait_for_workers_that_nobody_asked_for(tiny_model, tokenizer):
    with Tagger(tiny_model, tokenizer, workers=2) as crew:
        crew._workers.spare_short = True  # as where the number was left open, on a GPU
        short, later = crew.map_chunks(process_of, [CHUNKS[5], CHUNKS[5]])
        assert set(short) == {os.getpid()}
        assert os.getpid() not in later
        assert os.getpid() not in next(crew.map_chunks(process_of, [CHUNKS[5] * 103])), "515 articles are worth it"


def test_as_many_workers_as_suit_the_machine(tiny_model, tokenizer, monkeypatch):
    assert Tagger(tiny_model, tokenizer, workers=None).workers == 0, "a CPU has no use for them"
    for processors, expected in ((1, 0), (2, 0), (4, 2), (64, 14)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid, n=processors: set(range(n)), raising=False)
        assert usual_number("cuda") == usual_number("cuda", processors) == expected
        assert usual_number("cpu", processors) == 0


def test_a_function_that_cannot_be_sent_is_named(crew):
    for function, why in ((lambda result: result, "lambda"), (here_alone, "^here_alone .*No module named")):
        with pytest.raises(KhabarError, match=f"{why}.*allowed: a function at the top of a module"):
            list(crew.map_chunks(function, CHUNKS[:3]))
    with pytest.raises(KhabarError, match=r"^test_.*lambda.*cannot be sent"):
        next(crew.map_chunks(partial(lambda _, result: result, "x" * 1000), []))
    assert len(next(crew.tag_chunks(CHUNKS[5:6]))) == 5


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (partial(operator.truediv, 1), TypeError, "unsupported operand"),
        (fails_in_its_own_way, KhabarError, "in a worker, LonelyError: .*one"),
        (gives_a_stream, KhabarError, "cannot be sent back .*generator"),
    ],
)
def test_what_goes_wrong_in_a_function_is_told_and_the_workers_stay(crew, function, error, message):
    with pytest.raises(error, match=message):
        list(crew.map_chunks(function, CHUNKS[3:4]))
    assert len(next(crew.tag_chunks(CHUNKS[5:6]))) == 5


def test_unpacking_in_several_threads_leaves_the_garbage_collector_as_it_was():
    packed, interval = _Packed(pickle.dumps(list(range(50)))), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(60):
            with ThreadPoolExecutor(3) as pool:
                for _ in range(300):
                    pool.submit(packed.unpacked)
            assert gc.isenabled()
    finally:
        sys.setswitchinterval(interval)
        gc.enable()


def here_alone(result):
    """Workers cannot import a test file."""
    return result


def test_what_a_worker_cannot_take_is_raised_in_its_place(crew):
    chunks = [CHUNKS[3], [Article(text="نص \ud800")], CHUNKS[4]]
    results = crew.tag_chunks(chunks)
    assert [result.id for result in next(results)] == ["3-3", "3-4", "3-5"]
    with pytest.raises(KhabarError, match="surrogate"):
        next(results)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_and_no_hang(crew):
    results = crew.tag_chunks(chunk for _ in range(10_000) for chunk in CHUNKS[1:])
    next(results)
    children()[0].kill()
    with pytest.raises(KhabarError, match="ended unexpectedly"):
        for _ in results:
            pass
    assert next(crew.tag_chunks(CHUNKS[3:4]))[0].id == "3-3", "others have taken their place"


def test_a_worker_that_ends_while_it_sends_a_result_is_an_error_and_no_hang(crew, monkeypatch):
    monkeypatch.setattr("khabar.inference.workers.LOOK_SECONDS", 0.5)
    with pytest.raises(KhabarError, match="ended unexpectedly"):
        list(crew.map_chunks(ends_in_the_middle_of_its_result, CHUNKS[3:]))
    assert len(next(crew.tag_chunks(CHUNKS[3:4]))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_worker_that_ended_while_nobody_waited_is_replaced(crew, monkeypatch, seconds):
    waited = _ExecutorManagerThread.wait_result_broken_or_wakeup

    def seen_late(thread):
        result_item, is_broken, cause = waited(thread)
        time.sleep(seconds * is_broken)
        return result_item, is_broken, cause

    monkeypatch.setattr(_ExecutorManagerThread, "wait_result_broken_or_wakeup", seen_late)
    assert len(next(crew.tag_chunks(CHUNKS[3:4]))) == 3
    child = children()[0]
    child.kill()
    child.join()
    assert len(next(crew.tag_chunks(CHUNKS[5:6]))) == 5


def test_closing_does_not_wait_for_what_an_ended_worker_had_begun_to_send(crew, monkeypatch):
    monkeypatch.setattr("khabar.inference.workers.LOOK_SECONDS", 0.5)
    crew._workers.submit(ends_in_the_middle_of_its_result)
    (process,) = crew._workers._pool.processes
    while process.is_alive():
        time.sleep(0.05)
    crew.close()
    assert not children()


@pytest.mark.slow
def test_leaving_a_stream_early_leaves_the_workers_free(crew):
    results = crew.tag_chunks(chunk for _ in range(10_000) for chunk in CHUNKS[1:])
    next(results)
    results.close()
    assert len(next(crew.tag_chunks(CHUNKS[5:6]))) == 5


@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(tiny_model_folder):
    code = (
        "import sys\n"
        "from khabar.inference.tagger import load\n"
        "from khabar.models.article import Article\n"
        "if __name__ == '__main__':\n"
        f"    tagger = load({str(tiny_model_folder)!r}, device='cpu', workers=1)\n"
        "    next(tagger.tag_chunks([[Article(text='عاجل')]]))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    script = tiny_model_folder.parent / "parent.py"
    script.write_text(code, encoding="utf-8")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        below = psutil.Process(parent.pid).children(recursive=True)
        assert below
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive


def test_the_number_of_workers_is_checked(tiny_model, tokenizer):
    with pytest.raises(ValueError, match="workers is -1, must be at least 0"):
        Tagger(tiny_model, tokenizer, workers=-1)
    with Tagger(tiny_model, tokenizer, workers=64) as tagger:
        tagger.tag("عاجل")
        assert not children(), "one article needs no process"


@pytest.mark.slow
def test_the_command_takes_workers(tiny_model_folder, tmp_path):
    rows = write(tmp_path / "rows.jsonl", json_lines(*({"id": str(n), "text": text} for n, text in enumerate(TEXTS))))
    call = [sys.executable, "-m", "khabar", "score", rows, "--model", tiny_model_folder, "--device", "cpu"]
    plain, helped = (
        subprocess.run([*call, *more], capture_output=True, check=True).stdout for more in ([], ["--workers", "1"])
    )
    assert helped == plain
    assert helped.count(b"\n") == 4

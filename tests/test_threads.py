"""A thread's share of the processors: its own count changes, nobody else's."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from khabar.inference.threads import lanes, take_threads


def counted_in_a_thread(before=lambda: None):
    counts = []

    def work():
        before()
        counts.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return counts[0]


@pytest.fixture(autouse=True)
def _four_threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(usual)


def test_a_thread_takes_a_count_of_its_own():
    assert counted_in_a_thread(lambda: take_threads(2)) == 2


def test_others_keep_theirs():
    counted_in_a_thread(lambda: take_threads(2))
    assert torch.get_num_threads() == 4
    assert counted_in_a_thread() == 4, "nor do threads to come start with it"


def test_many_at_a_time_leave_nothing_behind():
    threads = [threading.Thread(target=take_threads, args=(n % 3 + 1,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.get_num_threads() == 4
    assert counted_in_a_thread() == 4


def test_lanes_share_processors_out_and_are_shared():
    assert lanes(3, 6) is lanes(3, 6)
    together = threading.Barrier(3)

    def work():
        together.wait(timeout=60)
        return threading.get_ident(), torch.get_num_threads()

    done = [future.result() for future in [lanes(3, 6).submit(work) for _ in range(3)]]
    assert len({ident for ident, _ in done}) == 3
    assert [n for _, n in done] == [2, 2, 2]


def ask_for_lanes(processors, together):
    together.wait(timeout=60)
    return lanes(1, processors)


def test_who_first_ask_together_share_one_set_of_lanes():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for n in range(20, 40):
            with ThreadPoolExecutor(8) as pool:
                together = threading.Barrier(8)
                waiting = [pool.submit(ask_for_lanes, n, together) for _ in range(8)]
            assert len({id(future.result()) for future in waiting}) == 1
    finally:
        sys.setswitchinterval(interval)


def test_a_lane_goes_on_after_an_error_and_passes_over_what_is_cancelled():
    begun, go_on, called = threading.Event(), threading.Event(), []

    def hold():
        begun.set()
        go_on.wait(timeout=60)

    held = lanes(1, 1).submit(hold)
    begun.wait(timeout=60)
    bad, dropped = lanes(1, 1).submit(int, "x"), lanes(1, 1).submit(called.append, "dropped")
    good = lanes(1, 1).submit(called.append, "done")
    assert dropped.cancel()
    go_on.set()
    with pytest.raises(ValueError, match="invalid literal"):
        bad.result(timeout=60)
    good.result(timeout=60)
    held.result(timeout=60)
    assert called == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_lanes_of_its_own():
    script = """
import os, sys
from khabar.inference.threads import lanes
assert lanes(2, 2).submit(len, "ab").result(60) == 2
child = os.fork()
if child == 0:
    os._exit(lanes(2, 2).submit(len, "abc").result(60))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr

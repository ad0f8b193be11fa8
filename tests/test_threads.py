"""A thread's share of the processors: its own count changes, nobody else's."""

import threading

import pytest
import torch

from khabar.inference.threads import take_threads


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

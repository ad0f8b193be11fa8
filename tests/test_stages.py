"""Steps that overlap: order, bounds, errors from any of them, and threads that always end."""

import itertools
import sqlite3
import threading
import time

import pytest

from khabar.inference.planning import LookAhead, in_chunks, plan_batches
from khabar.inference.stages import Closed, run_stages
from khabar.models.windows import lay_windows


def double(items):
    for item in items:
        yield 2 * item


def spread(items):
    """Two for each: a later step puts them together again."""
    for item in items:
        yield item
        yield item


def gather(items):
    for first in items:
        yield first + next(items)


def fail_at(bad):
    def step(items):
        for item in items:
            if item == bad:
                raise ValueError(f"cannot take {item}")
            yield item

    return step


def until_error(results):
    """What comes before the error, and the error."""
    taken = []
    with pytest.raises((ValueError, OSError)) as raised:
        taken.extend(results)  # keeps what it has when it fails
    return taken, raised.value


@pytest.fixture(autouse=True)
def _no_threads_left():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("khabar-stage")]


def at_most(n):
    return lambda on_their_way: len(on_their_way) >= n


@pytest.mark.parametrize("n_items", [0, 1, 2, 50])
@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_results_come_in_order(n_items, ahead):
    assert list(run_stages(range(n_items), [double, spread, gather], enough=at_most(ahead))) == [
        4 * n for n in range(n_items)
    ]


def test_the_source_is_read_no_further_than_asked_and_in_the_callers_thread():
    n_read = 0
    threads = set()

    def source():
        nonlocal n_read
        for n in itertools.count():
            n_read += 1
            threads.add(threading.current_thread())
            yield n

    results = run_stages(source(), [double, double], enough=at_most(3))
    for n_taken in range(1, 20):
        next(results)
        assert n_read == n_taken + 2
    results.close()
    assert threads == {threading.current_thread()}


def test_a_source_that_is_bound_to_its_thread_will_do():
    rows = sqlite3.connect(":memory:").execute("select value from json_each('[1, 2, 3]')")
    assert list(run_stages((value for (value,) in rows), [double], enough=at_most(2))) == [2, 4, 6]


def test_steps_work_at_the_same_time():
    """Each step waits for the other to have begun with another item: one after the other they would wait for ever."""
    meeting = threading.Barrier(2, timeout=30)

    def meet(items):
        for item in items:
            meeting.wait()
            yield item

    def first_then_meet(items):
        yield next(items)
        yield from meet(items)

    def meet_then_last(items):
        for item in items:
            if item < 3:
                meeting.wait()
            yield item

    assert list(run_stages(range(4), [first_then_meet, meet_then_last], enough=at_most(3))) == [0, 1, 2, 3]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_error_comes_behind_the_results_before_it(place):
    steps = [double, double, double]
    steps.insert(place, fail_at(5 * 2**place))
    taken, error = until_error(run_stages(range(1000), steps, enough=at_most(2)))
    assert taken == [8 * n for n in range(5)]
    assert str(error) == f"cannot take {5 * 2**place}"


def test_an_error_of_the_source_comes_behind_the_results_before_it():
    def source():
        yield from range(5)
        raise OSError("cannot be read")

    taken, error = until_error(run_stages(source(), [double], enough=at_most(3)))
    assert taken == [0, 2, 4, 6, 8]
    assert str(error) == "cannot be read"


def test_a_step_that_gives_up_while_others_wait_is_an_error():
    """They would wait for ever."""

    def gives_up(items):
        next(items)
        raise Closed
        yield

    with pytest.raises(Closed):
        list(run_stages(range(3), [gives_up, double], enough=at_most(2)))


def test_steps_are_told_to_stop_before_they_are_waited_for():
    told = threading.Event()

    def works_until_told(items):
        for item in items:
            if item == 1:
                assert told.wait(timeout=60)
            yield item

    results = run_stages(itertools.count(), [works_until_told], enough=at_most(1), stop=told.set)
    assert next(results) == 0
    assert not told.is_set()
    results.close()
    assert told.is_set()


def test_an_interrupt_in_the_source_ends_it_at_once():
    def source():
        yield from range(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_stages(source(), [double], enough=at_most(3)))


def test_a_caller_that_leaves_early_ends_the_steps():
    ended = threading.Event()

    def slow(items):
        try:
            for item in items:
                time.sleep(0.001)
                yield item
        finally:
            ended.set()

    results = run_stages(itertools.count(), [double, slow, double], enough=at_most(4))
    assert [next(results) for _ in range(3)] == [0, 4, 8]
    results.close()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [([], []), ([1] * 5, [5]), ([1] * 1025, [512, 512, 1]), ([3_000_000, 1, 1_999_999, 1], [1, 2, 1])],
)
def test_chunks_are_bounded_in_items_and_characters(lengths, sizes):
    chunks = list(in_chunks(lengths, lambda length: length, LookAhead(articles=512, characters=2_000_000)))
    assert [len(chunk) for chunk in chunks] == sizes
    assert [item for chunk in chunks for item in chunk] == lengths


@pytest.mark.parametrize("batch_pieces", [1, 512, 4096, 32768])
@pytest.mark.parametrize("longest", [30, 600, 5000])
def test_planned_batches_hold_each_article_once_and_little_padding(batch_pieces, longest):
    window, stride = 512, 382
    lengths = [(7919 * n) % longest for n in range(512)]
    batches = plan_batches(lengths, window=window, stride=stride, batch_pieces=batch_pieces)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        layouts = [lay_windows(lengths[index], window - 2, stride) for index in batch]
        rows = [width + 2 for starts, width in layouts for _ in starts]
        n_pieces = len(rows) * max(rows)
        assert len(batch) == 1 or n_pieces <= batch_pieces
        assert sum(rows) >= 0.95 * n_pieces or n_pieces <= batch_pieces // 16


def test_a_few_articles_are_shared_out_among_batches_at_once():
    lengths = [50] * 12
    settings = {"window": 512, "stride": 382, "batch_pieces": 2048}
    assert plan_batches(lengths, **settings) == [list(range(12))]
    assert [len(batch) for batch in plan_batches(lengths, at_once=3, **settings)] == [4, 4, 4]
    assert [len(batch) for batch in plan_batches(lengths[:2], at_once=3, **settings)] == [1, 1]
    assert plan_batches([], at_once=3, **settings) == []
    many = [50] * 1200
    assert plan_batches(many, at_once=3, **settings) == plan_batches(many, **settings)

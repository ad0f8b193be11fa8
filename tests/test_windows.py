import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from khabar.models.windows import best_windows, lay_windows


@pytest.mark.parametrize(
    ("n_pieces", "expected"),
    [(0, ([0], 0)), (4, ([0], 4)), (5, ([0, 2], 3)), (7, ([0, 3], 4)), (8, ([0, 2, 4], 4)), (10, ([0, 3, 6], 4))],
)
def test_windows_are_few_and_then_narrow(n_pieces, expected):
    assert lay_windows(n_pieces, window=4, stride=3) == expected


@pytest.mark.parametrize(("n_pieces", "window", "stride"), [(5, 4, 0), (5, 4, 5), (-1, 4, 2)])
def test_impossible_windows_are_refused(n_pieces, window, stride):
    with pytest.raises(ValueError, match="must"):
        lay_windows(n_pieces, window, stride)


@given(st.integers(0, 300), st.integers(1, 40), st.data())
def test_windows_cover_every_piece_and_share_what_the_stride_leaves(n_pieces, window, data):
    stride = data.draw(st.integers(1, window))
    starts, width = lay_windows(n_pieces, window, stride)
    assert width <= window
    assert (starts[0], starts[-1] + width) == (0, n_pieces)
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0 < step <= width - (window - stride) for step in steps)
    full = [*range(0, max(n_pieces - window, 0), stride), max(n_pieces - window, 0)]
    assert len(starts) == len(full)
    assert len(starts) * width <= n_pieces + (len(starts) - 1) * (window - stride) + len(starts) - 1


@given(st.integers(0, 300), st.integers(1, 40), st.data())
def test_each_piece_is_read_where_it_has_the_most_context(n_pieces, window, data):
    stride = data.draw(st.integers(1, window))
    starts, width = lay_windows(n_pieces, window, stride)
    owner = best_windows(n_pieces, width, starts)
    assert len(owner) == n_pieces

    def context(piece, start):
        left = n_pieces if start == 0 else piece - start
        right = n_pieces if start + width >= n_pieces else start + width - 1 - piece
        return min(left, right)

    for piece, index in enumerate(owner):
        holding = [start for start in starts if start <= piece < start + width]
        assert starts[index] in holding
        assert context(piece, starts[index]) == max(context(piece, start) for start in holding)


def test_the_middle_of_an_overlap_parts_the_windows():
    assert best_windows(10, 6, [0, 4]).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert best_windows(3, 6, [0]).tolist() == [0, 0, 0]
    assert best_windows(0, 6, [0]).dtype == np.int64

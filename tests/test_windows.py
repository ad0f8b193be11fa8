import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from khabar.models.windows import best_windows, window_starts


@pytest.mark.parametrize(("n_pieces", "expected"), [(0, [0]), (4, [0]), (5, [0, 1]), (10, [0, 3, 6])])
def test_windows_cover_every_piece(n_pieces, expected):
    assert window_starts(n_pieces, window=4, stride=3) == expected


@pytest.mark.parametrize(("n_pieces", "window", "stride"), [(5, 4, 0), (5, 4, 5), (-1, 4, 2)])
def test_impossible_windows_are_refused(n_pieces, window, stride):
    with pytest.raises(ValueError, match="must"):
        window_starts(n_pieces, window, stride)


@given(st.integers(0, 300), st.integers(1, 40), st.data())
def test_each_piece_is_read_where_it_has_the_most_context(n_pieces, window, data):
    stride = data.draw(st.integers(1, window))
    starts = window_starts(n_pieces, window, stride)
    owner = best_windows(n_pieces, window, starts)
    assert len(owner) == n_pieces

    def context(piece, start):
        left = n_pieces if start == 0 else piece - start
        right = n_pieces if start + window >= n_pieces else start + window - 1 - piece
        return min(left, right)

    for piece, index in enumerate(owner):
        holding = [start for start in starts if start <= piece < start + window]
        assert starts[index] in holding
        assert context(piece, starts[index]) == max(context(piece, start) for start in holding)


def test_the_middle_of_an_overlap_parts_the_windows():
    assert best_windows(10, 6, [0, 4]).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert best_windows(3, 6, [0]).tolist() == [0, 0, 0]
    assert best_windows(0, 6, [0]).dtype == np.int64

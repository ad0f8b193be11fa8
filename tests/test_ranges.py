import math

import pytest

from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.ranges import check_choice, check_range


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (0, {"at_least": 1}, "x is 0, must be at least 1"),
        (0.0, {"above": 0}, "x is 0.0, must be above 0"),
        (1.0, {"at_least": 0, "below": 1}, "x is 1.0, must be in [0, 1)"),
        (0.0, {"above": 0, "at_most": 1}, "x is 0.0, must be in (0, 1]"),
        (3, {"at_most": 2}, "x is 3, must be at most 2"),
        (2, {"below": 2}, "x is 2, must be below 2"),
        (math.inf, {"above": 0, "below": math.inf}, "x is inf, must be above 0"),
        (math.nan, {"above": 0}, "x is nan, must be above 0"),
        (math.nan, {"at_most": 1}, "x is nan, must be at most 1"),
        ("2", {"at_least": 0}, "x is '2', must be at least 0"),
    ],
)
def test_what_is_outside_is_named_with_its_range(value, bounds, words):
    with pytest.raises(ModelFolderError) as raised:
        check_range("x", value, error=ModelFolderError, **bounds)
    assert str(raised.value) == words


def test_what_is_inside_or_left_out_passes():
    check_range("x", 1, at_least=1, at_most=1)
    check_range("x", 0.5, above=0, below=1)
    check_range("x", None, at_least=1)


def test_a_choice_is_one_of_those_named():
    check_choice("x", "a", ("a", "b"))
    with pytest.raises(KhabarError, match="x is 'c', must be one of a, b"):
        check_choice("x", "c", ("a", "b"))

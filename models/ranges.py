"""Checks that a setting lies in its range, and words the error where it does not.

Knows numbers and names; knows nothing of what they are settings of.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from khabar.models.errors import KhabarError


def check_range(
    name: str,
    value: float | None,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    error: type[KhabarError] = KhabarError,
) -> None:
    """Refuse a number outside its bounds; one that is not a number is outside of all.

    Args:
        name: The setting, for the message.
        value: What it is; None, an optional setting left out, is in every range.
        at_least: Least allowed value.
        above: Instead, a bound that is not allowed itself.
        at_most: Greatest allowed value.
        below: Instead, a bound that is not allowed itself; infinity rules out infinity.
        error: What to raise.

    Raises:
        KhabarError: Or `error`: "epochs is 0, must be at least 1", "warmup is 1.0, must be in [0, 1)".
    """
    if value is None:
        return
    seen = str(value)
    try:
        inside = (
            not math.isnan(value)
            and (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
    except TypeError:  # it is no number, whatever is promised
        inside, seen = False, repr(value)
    if not inside:
        raise error(f"{name} is {seen}, must be {_words(at_least, above, at_most, below)}")


def check_choice(name: str, value: str, allowed: Collection[str]) -> None:
    """Refuse a word that is none of those allowed.

    Raises:
        KhabarError: "precision is 'int8', must be one of auto, fp32".
    """
    if value not in allowed:
        raise KhabarError(f"{name} is {value!r}, must be one of {', '.join(allowed)}")


def _words(at_least: float | None, above: float | None, at_most: float | None, below: float | None) -> str:
    low = f"[{at_least}" if at_least is not None else f"({above}" if above is not None else None
    high = f"{at_most}]" if at_most is not None else f"{below})" if below is not None and below != math.inf else None
    if low is not None and high is not None:
        return f"in {low}, {high}"
    if at_least is not None:
        return f"at least {at_least}"
    if above is not None:
        return f"above {above}"
    return f"at most {at_most}" if at_most is not None else f"below {below}"

"""Writes measures as people read them: in percent, with a dash where there is none.

Knows numbers and plain text; knows nothing of what was measured.
"""

from collections.abc import Mapping, Sequence


def percent(value: float | None) -> str:
    """Write a share in percent, to one digit."""
    return "-" if value is None else f"{100 * value:.1f}"


def f1_interval(ends: Mapping[str, Sequence[float]] | None) -> str:
    """Write the ends of F1's interval, of a row's `intervals`, in percent."""
    if ends is None:
        return "-"
    low, high = ends["f1"]
    return f"{percent(low)} to {percent(high)}"

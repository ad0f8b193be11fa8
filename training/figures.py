"""Writes measures as people read them: in percent, with a dash where there is none, and in columns.

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


def text_table(rows: Sequence[Sequence[str]], *, n_left: int = 1) -> list[str]:
    """Lay rows of cells out as lines of plain text, each column as wide as its widest cell.

    Args:
        rows: The rows, a header among them; all have the same number of cells.
        n_left: Columns that are aligned left, from the first on; the others are aligned right.

    Returns:
        A line a row, columns two spaces apart, none at a line's end.

    Raises:
        ValueError: If rows differ in their number of cells.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([*map(str.ljust, row[:n_left], widths), *map(str.rjust, row[n_left:], widths[n_left:])]).rstrip()
        for row in rows
    ]

"""Offsets in UTF-16 units, as JavaScript counts them, and in code points, as Python and khabar do.

They differ behind every emoji. Knows texts and numbers only.
"""

from bisect import bisect_left
from itertools import accumulate


class Utf16Offsets:
    """Translates offsets of one text."""

    def __init__(self, text: str) -> None:
        # The offset in units of every code point, and of the text's end.
        self._units = list(accumulate((2 if char > "\uffff" else 1 for char in text), initial=0))

    def to_units(self, offset: int) -> int:
        """Give the offset in UTF-16 units of a code point."""
        return self._units[offset]

    def to_code_points(self, units: int) -> int | None:
        """Give the offset in code points; None where it is none: in a character's midst, or outside the text."""
        offset = bisect_left(self._units, units)
        return offset if offset < len(self._units) and self._units[offset] == units else None

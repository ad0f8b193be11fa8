"""Reads the dates of articles as news sites, feeds and mails write them, whatever the time zone."""

import re
from datetime import date
from email.utils import parsedate_to_datetime

# For messages: what `day_of` reads.
READABLE = "2021-12-06, 2021-12-06 10:00, 06/12/2021 (day first), Mon, 06 Dec 2021 10:00:00 GMT"

_YEARS = range(1900, 2101)
_YEAR_FIRST = re.compile(r"\s*(\d{4})(?:([-/.])(\d{1,2})(?:\2(\d{1,2}))?|(\d\d)(\d\d))?(?!\d)")
_DAY_FIRST = re.compile(r"\s*(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?!\d)")


def read_date(text: str) -> tuple[int, int | None, int | None] | None:
    """Read year, month and day; a date may stop at its year or month, the others are None then.

    Args:
        text: As ISO 8601 ("2021-12-06T10:00", "20211206", "2021-12", "2021"), day first ("06/12/2021"), or as in feeds
            and mails ("Mon, 06 Dec 2021 10:00:00 GMT"). What follows the day does not matter.

    Returns:
        None where it is none of these, no day of the calendar, or not within the years 1900 to 2100.
    """
    month: int | str | None
    day: int | str | None
    if found := _YEAR_FIRST.match(text):
        year, month, day = found[1], found[3] or found[5], found[4] or found[6]
    elif found := _DAY_FIRST.match(text):
        year, month, day = found[4], found[3], found[1]
    else:
        try:
            stamp = parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return None
        year, month, day = stamp.year, stamp.month, stamp.day
    numbers = int(year), None if month is None else int(month), None if day is None else int(day)
    return numbers if _is_date(*numbers) else None


def day_of(text: str) -> date | None:
    """Read the day of a date; None where `read_date` finds none."""
    found = read_date(text)
    if found is None:
        return None
    year, month, day = found
    return None if month is None or day is None else date(year, month, day)


def _is_date(year: int, month: int | None, day: int | None) -> bool:
    if year not in _YEARS:
        return False
    try:
        date(year, 1 if month is None else month, 1 if day is None else day)
    except ValueError:
        return False
    return True

"""Dates as sites, feeds and mails write them."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from khabar.training.dates import day_of, read_date


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-12-06", (2021, 12, 6)),
        ("2015-07-24 13:00:14", (2015, 7, 24)),
        ("2026-08-02T09:15:00.000Z", (2026, 8, 2)),
        ("2024-03-01T23:30:00-05:00", (2024, 3, 1)),
        ("2021/3/1", (2021, 3, 1)),
        ("20210305", (2021, 3, 5)),
        ("2021-12", (2021, 12, None)),
        ("2021", (2021, None, None)),
        ("٢٠٢١-٠٣-٠١", (2021, 3, 1)),
        ("30/04/2017", (2017, 4, 30)),
        (" 5.4.2017 10:00", (2017, 4, 5)),
        ("٣٠/٤/٢٠١٧", (2017, 4, 30)),
        ("Fri, 29 Jun 2018 16:26:59 GMT", (2018, 6, 29)),
        ("Fri, 1 Mar 2024 23:30:00 -0500", (2024, 3, 1)),
        ("22:04 · 08 Tir 1405", None),
        ("2021-13-01", None),
        ("2024-02-31", None),
        ("2024-00-01", None),
        ("04/30/2017", None),
        ("30/04-2017", None),
        ("6/12", None),
        ("1405-05-08", None),
        ("20210305123", None),
        ("Mon, 06 Dec 99999999999999999999 10:00:00 GMT", None),
        ("Mon, 06 Dec 2021 10:00:00 +9999999999999999", None),
        ("أمس", None),
        ("", None),
    ],
)
def test_dates_are_read_as_they_are_written(text, expected):
    assert read_date(text) == expected
    assert day_of(text) == (None if expected is None or None in expected else date(*expected))


@given(st.dates(date(1900, 1, 1), date(2100, 12, 31)))
def test_every_day_is_read_in_every_form(day):
    for form in ("%Y-%m-%d", "%Y/%m/%d 10:00", "%Y%m%d", "%d/%m/%Y", "%d.%m.%Y", "%a, %d %b %Y 10:00:00 GMT"):
        written = day.strftime(form)
        assert day_of(written) == day, written


@given(st.text())
def test_any_text_is_read_or_not(text):
    found = read_date(text)
    assert found is None or 1900 <= found[0] <= 2100

"""Words of raw text: they tile what is visible, and proclitics are counted and undone."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khabar.models.words import MAX_PROCLITICS, PROCLITICS, after_proclitics, proclitic_length, split_words

ARABIC = "ابتجدرسلمنوهيةآأ\u064e\u0651ـ"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \n\u200f\0", []),
        ("بغداد", ["بغداد"]),
        ("قالَ إنّ،نعم", ["قالَ", "إنّ", "،", "نعم"]),
        ("الـــعراق ـهم ـ", ["الـــعراق", "ـهم", "ـ"]),
        ("2021م ٢٠٢١م F16", ["2021", "م", "٢٠٢١", "م", "F16"]),
        ("لـCNN 20.5%", ["لـCNN", "20", ".", "5", "%"]),
        ("Erdoğan چلبي e\u0301a", ["Erdoğan", "چلبي", "e\u0301a"]),
        ("می\u200cروم \u200cنعم\u200f.", ["می\u200cروم", "نعم", "."]),
        ("...👍🏽", [".", ".", ".", "👍", "🏽"]),
        ("«نعم»", ["«", "نعم", "»"]),
        ("https://a.example/b، x.com", ["https://a.example/b", "،", "x.com"]),
        ("للمدينةhttp://a.bc", ["للمدينة", "http://a.bc"]),
        ("A@B.C @user_1:", ["A@B.C", "@user_1", ":"]),
        ("[رابط] [رَابط] [نعم]", ["[رابط]", "[رَابط]", "[", "نعم", "]"]),
        ("ـ[رابط]ـ [[[رابط]]]]", ["ـ[رابط]ـ", "[", "[", "[رابط]]]", "]"]),
        ("&quot;نعم&quot; R&D", ["&quot;", "نعم", "&quot;", "R", "&", "D"]),
        ("<a href='x.com'>نعم", ["<", "a", "href", "=", "'", "x", ".", "com", "'", ">", "نعم"]),
        ("\ud800أ", ["أ"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text)] == words


def is_unseen(character: str) -> bool:
    """White space, controls, directional marks, variation selectors."""
    unassigned_tags = "\U000e0000" <= character <= "\U000e0fff"
    return (
        unicodedata.category(character) in {"Zs", "Zl", "Zp", "Cc", "Cf", "Cs"}
        or "\ufe00" <= character <= "\ufe0f"
        or "\u2060" <= character <= "\u206f"
        or unassigned_tags
    )


@given(st.one_of(st.text(max_size=60), st.text(alphabet=f"{ARABIC}aZ09٣ \n.@:/<>&;[]_\u200c\u200f", max_size=60)))
@settings(max_examples=500, deadline=None)
def test_words_tile_the_visible_text(text: str) -> None:
    words = split_words(text)
    assert all(start < end for start, end in words)
    assert all(end <= start for (_, end), (start, _) in pairwise(words))
    covered = {position for start, end in words for position in range(start, end)}
    assert all(is_unseen(text[position]) for position in range(len(text)) if position not in covered)
    for start, end in words:
        assert not text[start].isspace()
        assert not text[end - 1].isspace()


@pytest.mark.parametrize(
    ("word", "name", "length"),
    [
        ("بغداد", "بغداد", 0),
        ("ببغداد", "بغداد", 1),
        ("والجيش", "الجيش", 1),
        ("ولبغداد", "بغداد", 2),
        ("وَبِبغداد", "بغداد", 2),
        ("لـCNN", "CNN", 1),
        ("فكالعراق", "العراق", 2),
        ("للجيش", "جيش", None),
        ("لوبغداد", "بغداد", None),
        ("سيبغداد", "بغداد", None),
    ],
)
def test_proclitics_are_counted_and_undone(word: str, name: str, length: int | None) -> None:
    text = f"قال {word}"
    start = text.rindex(name)
    assert proclitic_length(text, 4, start) == length
    if length is not None:
        assert after_proclitics(text, 4, length) == start


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("بغداد", 0, 0),
        ("بغداد", 2, 1),  # «بغ» are no proclitics: only the first letter is taken
        ("محمد", 1, 0),
        ("و", 1, 0),  # nothing would be left
        ("وب نعم", 2, 1),
        ("وَ نعم", 1, 0),
        ("", 1, 0),
    ],
)
def test_what_cannot_be_proclitics_stays(text: str, n: int, expected: int) -> None:
    assert after_proclitics(text, 0, n) == expected


def test_entity_before_its_word_is_not_explained() -> None:
    assert proclitic_length("و بغداد", 2, 0) is None


@given(st.sampled_from(sorted(PROCLITICS)), st.lists(st.sampled_from("\u064e\u0651ـ"), max_size=4), st.data())
def test_every_proclitic_round_trips(letters: str, marks: list[str], data: st.DataObject) -> None:
    before = letters
    for mark in marks:
        place = data.draw(st.integers(1, len(before)))
        before = before[:place] + mark + before[place:]
    text = f"{before}دمشق"
    assert len(split_words(text)) == 1
    assert proclitic_length(text, 0, len(before)) == len(letters) <= MAX_PROCLITICS
    assert after_proclitics(text, 0, len(letters)) == len(before)

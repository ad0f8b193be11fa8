"""Segments: lines, groups of sentences, and nothing left out."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khabar.models.segments import GROUP, LONG_LINE, split_segments


def sentence(n_words: int, end: str = ".") -> str:
    return " ".join(["كلمة"] * n_words) + end


def parts(text: str, **options: int) -> list[str]:
    return [text[start:end] for start, end in split_segments(text, **options)]


@pytest.mark.parametrize("text", ["", " ", "\n\n \r\n\t"])
def test_nothing_gives_no_segments(text: str) -> None:
    assert split_segments(text) == []


def test_lines_are_segments() -> None:
    assert parts(" عنوان \n\nنص أول. نص ثان؟\r\nنص\u2028ثالث") == ["عنوان", "نص أول. نص ثان؟", "نص", "ثالث"]


def test_a_line_of_usual_length_stays_whole() -> None:
    text = f"{sentence(30)} {sentence(LONG_LINE - 30)}"
    assert parts(text) == [text]


def test_long_lines_are_cut_between_sentences() -> None:
    first, second, third, fourth = sentence(20), sentence(30, "؟"), sentence(40, '!"'), sentence(11, ".»")
    assert parts(f"{first} {second} {third} {fourth}") == [f"{first} {second}", third, fourth]
    assert GROUP == 50


def test_a_sentence_begins_without_a_space() -> None:
    assert parts(f"{sentence(40)}{sentence(40)}") == [sentence(40), sentence(40)]


def test_a_long_run_of_full_stops_that_ends_nothing_is_passed_over_at_once() -> None:
    text = sentence(60, "") + "." * 200_000 + "x"
    assert parts(text) == [text]


@pytest.mark.parametrize("inside", ["د. محمد", "(أ.ب) قال", "20.370 دينار", "3.5", "news.iq خبر"])
def test_not_every_full_stop_ends_a_sentence(inside: str) -> None:
    text = f"{sentence(40, '')} {inside} {sentence(40)}"
    assert parts(text) == [text]


def test_a_sentence_over_the_limit_is_cut_at_spaces_into_equal_parts() -> None:
    lengths = [len(part.split()) for part in parts(sentence(250), max_words=100)]
    assert lengths == [83, 83, 84]


def test_the_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        split_segments("نص", max_words=0)


@given(
    st.one_of(st.text(), st.lists(st.sampled_from([*"اب.؟!\n …»", "كلمة ", "5.4", ". "]), max_size=300).map("".join)),
    st.integers(1, 30),
)
@settings(max_examples=300, deadline=None)
def test_segments_cover_everything_visible(text: str, max_words: int) -> None:
    spans = split_segments(text, max_words=max_words)
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    outside = "".join(
        text[end:start] for (_, end), (start, _) in zip([(0, 0), *spans], [*spans, (len(text), 0)], strict=True)
    )
    assert not outside.strip()
    for start, end in spans:
        assert text[start:end] == text[start:end].strip()
        assert len(text[start:end].split()) <= max_words


def test_gold_segments_are_reproduced(shared_data: Path) -> None:
    same = total = 0
    for file in ("train.jsonl", "dev.jsonl"):
        for line in (shared_data / "gold" / file).read_text(encoding="utf-8").splitlines():
            article = json.loads(line)
            gold = [(segment["start"], segment["end"]) for segment in article["segments"]]
            same += split_segments(article["text"]) == gold
            total += 1
    assert same / total > 0.99, f"{same} of {total} articles have the gold segments"

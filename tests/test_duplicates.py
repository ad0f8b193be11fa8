"""Reprints are one story whatever their spelling, header and cut; other stories in the same words are not."""

import json
import random
import sys
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khabar.inference.duplicates import (
    MAX_WORDS,
    MIN_SHINGLES,
    StoryGrouper,
    are_near,
    near_duplicates,
    normalised_words,
    shingles_of,
)
from khabar.models.errors import MissingExtraError

pytest.importorskip("datasketch", reason="needs khabar[duplicates]")

HEADERS = ("", "وكالة الفرات للأنباء - بغداد\n", "مراسلنا في أربيل | آخر الأخبار العاجلة من العراق\n")
FOOTERS = ("", "\nانتهى/ 25 ن", "\nتابعوا قناتنا على التطبيق لمتابعة آخر الأخبار")
TASHKEEL = "\u064e\u064f\u0650\u0651\u0652"


@pytest.fixture(scope="module")
def stories(examples):
    """Texts of different stories, 100 words and more each."""
    files = [examples / "corpus" / name for name in ("train.jsonl", "dev.jsonl")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [json.loads(line)["text"] for line in lines][:48]


def near(left, right):
    return are_near(shingles_of(left).whole, shingles_of(right).whole)


def reprint(text, random):
    """Print a text as another agency would: other marks, spellings, punctuation, header and footer."""
    letters = []
    for letter in text:
        if letter.isalpha() and random.random() < 0.1:
            letter += random.choice(TASHKEEL)
        elif letter in "بتسصعفقكلمنهي" and random.random() < 0.05:
            letter += "\u0640" * random.randint(1, 3)
        elif letter in "أإآ" and random.random() < 0.5:
            letter = "ا"
        elif letter == "ى" and random.random() < 0.5:
            letter = "ي"
        elif letter == "ة" and random.random() < 0.5:
            letter = "ه"
        elif letter in '،."' and random.random() < 0.7:
            letter = random.choice([" ", " - ", "«»", "؛"])
        letters.append(letter)
    return random.choice(HEADERS) + "".join(letters) + random.choice(FOOTERS)


def test_normalised_words():
    text = "إنّ \u202bالقُـــوّات\u202c، فِي «مدينة» الموصل/نينوى ١٢٫٥ IRAQ ﻻجئ"
    assert normalised_words(text) == ["ان", "القوات", "في", "مدينه", "الموصل", "نينوي", "12", "5", "iraq", "لاجئ"]


def test_normalising_is_bounded():
    assert len(normalised_words("كلمة " * 5_000_000)) == MAX_WORDS


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=25, deadline=None)
def test_reprints_are_near(stories, seed, data):
    text = data.draw(st.sampled_from(stories))
    assert near(text, reprint(text, random.Random(seed)))


@given(st.integers(0, 2**32))
@settings(max_examples=4, deadline=None)
def test_reprints_are_grouped_with_their_story_alone(stories, seed):
    rng = random.Random(seed)
    texts = [(number, reprint(text, rng)) for number, text in enumerate(stories) for _ in range(rng.randint(1, 3))]
    rng.shuffle(texts)
    groups = near_duplicates(text for _, text in texts)
    assert sorted(sorted({texts[i][0] for i in group}) for group in groups) == [[n] for n in range(len(stories))]
    grouper = StoryGrouper()
    story_of = [grouper.add(text) for _, text in texts]
    firsts = {}
    assert story_of == [firsts.setdefault(story, position) for position, (story, _) in enumerate(texts)]


@pytest.mark.parametrize("kept", [0.5, 0.6, 0.8, 0.95])
def test_an_article_with_its_tail_cut_off_is_found(stories, kept):
    for text in stories:
        words = text.split(" ")
        cut = " ".join(words[: int(len(words) * kept)])
        assert near(text, "عاجل من المراسل: " + cut + " ...")


def test_long_articles_cut_in_half_are_nearly_all_found(stories):
    longer = [f"{first}\n{second}" for first, second in zip(stories[::2], stories[1::2], strict=True)]
    halves = [" ".join(text.split(" ")[: text.count(" ") // 2 + 1]) for text in longer]
    groups = near_duplicates([*longer, *halves])
    assert sum(len(group) == 2 for group in groups) >= len(longer) - 1


def test_an_article_cut_to_a_third_is_another(stories):
    words = stories[0].split(" ")
    assert not near(stories[0], " ".join(words[: len(words) // 3]))


def test_stories_of_one_template_stay_apart():
    template = (
        "أعلنت قيادة شرطة {place} اليوم {day} أن قوة من {unit} ألقت القبض على {n} متهماً بقضايا {crime} خلال حملة "
        "نفذتها في {district} بناء على أوامر قضائية، وأحالت المتهمين إلى {court} لاتخاذ الإجراءات القانونية بحقهم"
    )
    values = [
        ("البصرة", "السبت", "فوج الطوارئ", "12", "الابتزاز", "قضاء الزبير", "محكمة تحقيق الزبير"),
        ("كركوك", "الأحد", "مكافحة المخدرات", "7", "السرقة", "ناحية الرياض", "محكمة استئناف كركوك"),
        ("بابل", "الثلاثاء", "شؤون السيطرات", "23", "التهريب", "حي الإمام", "قاضي التحقيق المختص"),
        ("ديالى", "الخميس", "الاستخبارات", "4", "التزوير", "قضاء المقدادية", "مركز شرطة القضاء"),
    ]
    keys = ("place", "day", "unit", "n", "crime", "district", "court")
    texts = [template.format(**dict(zip(keys, row, strict=True))) for row in values]
    assert near_duplicates(texts) == [[0], [1], [2], [3]]
    grouper = StoryGrouper()
    assert [grouper.add(text) for text in texts] == [0, 1, 2, 3]


def test_short_texts_must_be_equal():
    texts = ["عاجل", "عاجل!", "عاجل جداً", "مقتل جنديين في الموصل", "مقتل جنديين في كركوك", "مقتلُ جنديين، في الموصـل"]
    assert near_duplicates(texts) == [[0, 1], [2], [3, 5], [4]]
    flash = "عاجل وزارة الداخلية تعلن القبض على المتهم الرئيس في حادثة تفجير سوق شعبي وسط مدينة"
    assert len(shingles_of(flash)) < MIN_SHINGLES
    assert near_duplicates([f"{flash} الموصل", f"{flash} تكريت"]) == [[0], [1]]


@pytest.mark.parametrize("empty", ["", "   \n", "...", "\u0640\u0640", "😀"])
def test_texts_without_words_are_never_duplicates(empty):
    assert near_duplicates([empty, empty, "خبر"]) == [[0], [1], [2]]
    grouper = StoryGrouper()
    assert [grouper.add(empty), grouper.add(empty)] == [0, 1]


def test_groups_reach_through_others():
    words = [f"كلمة{n}" for n in range(260)]
    texts = [" ".join(words[start : start + 200]) for start in (0, 30, 60)]
    first, middle, last = texts
    assert near(first, middle)
    assert near(middle, last)
    assert not near(first, last)
    assert near_duplicates([texts[0], texts[2], "خبر آخر", texts[1]]) == [[0, 1, 3], [2]]


@given(st.lists(st.lists(st.sampled_from("ابتثج"), max_size=40).map(" ".join), max_size=12))
@settings(max_examples=40, deadline=None)
def test_every_text_is_in_one_group_and_equal_ones_are_together(texts):
    groups = near_duplicates(texts)
    assert sorted(i for group in groups for i in group) == list(range(len(texts)))
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    assert all(group == sorted(group) for group in groups)
    together = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
    for i, j in combinations(range(len(texts)), 2):
        if normalised_words(texts[i]) == normalised_words(texts[j]) != []:
            assert {i, j} in together


def test_few_near_pairs_are_missed():
    """Pairs with 80 % in common, the least there is, are found nearly always."""
    rng = random.Random(0)
    n_found = 0
    for _ in range(100):
        words = [str(rng.random()) for _ in range(220)]
        left, right = " ".join(words[:200]), " ".join(words[20:] + [str(rng.random()) for _ in range(10)])
        assert near(left, right)
        n_found += len(near_duplicates([left, right])) == 1
    assert n_found >= 97


def test_nearness_is_symmetric(stories):
    cut = stories[0][: len(stories[0]) * 2 // 3]
    assert near(stories[0], cut)
    assert near(cut, stories[0])


def test_a_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'khabar\[duplicates\]'"):
        StoryGrouper()
    with pytest.raises(MissingExtraError, match="grouping near-duplicates needs"):
        near_duplicates([])

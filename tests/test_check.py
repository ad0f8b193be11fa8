"""What `khabar data check` finds, kind by kind, with its place; and what it leaves in peace."""

import json
import sys
from pathlib import Path
from random import Random

import pytest

from khabar.models.errors import KhabarError
from khabar.training.check import check_files
from khabar.training.check_finding import KINDS, Finding
from khabar.training.check_summary import MOST_COLUMNS, summarise

# Enough words for near-duplicates to be told from other stories.
LONG = (
    "أعلنت وزارة الزراعة في العاصمة أن موسم القمح هذا العام سيكون أفضل من سابقه بعد أمطار غزيرة هطلت على السهول "
    "الشمالية وأن المزارعين سيحصلون على أسعار مجزية تشجعهم على التوسع في الزراعة خلال السنوات المقبلة"
)


def entity(text, name, label, *, before=0, after=0):
    """The entity at a name, or so many characters more on either side."""
    start = text.index(name)
    return {"start": start - before, "end": start + len(name) + after, "label": label}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def check(tmp_path):
    """Checks the given articles as one file; gives kind, span and message of what is found, rare labels aside."""

    def check(*rows):
        checked = check_files([write(tmp_path / "a.jsonl", rows)], ignore=["rare-label", "few-examples"])
        return [(finding.kind, finding.span, finding.message) for finding in checked.findings]

    return check


def kinds(found):
    return [kind for kind, _, _ in found]


# --- spans


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("زار بغداد", 4, 9),
        ("ببغداد", 1, 6),  # ب
        ("والجيش العراقي", 1, 14),  # و
        ("وببغداد", 2, 7),  # و + ب
        ("وَبـبغداد", 4, 9),  # marks on the proclitics
        ("صاروخ (سكود)", 0, 12),
        ("في يوليو (تموز) الحالي", 3, 15),
        ("وسم #العراق", 4, 11),
        ("كتيبة U.S. هنا", 6, 10),
        ("«العربي» و«الجديد» معا", 0, 18),
        ("قال لـCNN", 6, 9),
        ("😀 بغدادَ", 2, 8),
    ],
)
def test_a_whole_name_is_left_in_peace(check, text, start, end):
    assert check({"text": text, "entities": [{"start": start, "end": end, "label": "X"}]}) == []


@pytest.mark.parametrize(
    ("text", "start", "end", "kind", "said"),
    [
        ("زار بغداد أمس", 4, 10, "span-space", '"بغداد " ends with a space'),
        ("زار بغداد أمس", 3, 9, "span-space", 'X " بغداد" starts with a space'),
        ("زار \u200fبغداد أمس", 4, 11, "span-space", "starts and ends with"),
        ("زار  بغداد", 3, 5, "span-space", "nothing that can be seen"),
        ("زار بغداد أمس", 4, 8, "span-word", 'ends inside the word "بغداد"'),
        ("زار بغداد أمس", 5, 9, "span-word", None),
        ("والجيش", 3, 6, "span-word", 'starts inside the word "والجيش"'),
        ("سيبغداد", 2, 7, "span-word", "starts inside"),
        ("زار بغدادَ أمس", 4, 9, "span-word", "ends inside the word"),
        ("قال محمد.", 4, 9, "span-punctuation", 'ends with "."'),
        ("قال «محمد» ثم", 4, 10, "span-punctuation", 'starts with "«" and ends with "»"'),
        ('قال "محمد ثم', 4, 9, "span-punctuation", 'starts with "\\""'),
        ("(محمد) و(علي)", 0, 6, "span-punctuation", 'starts with "(" and ends with ")"'),
        ("قال محمد) ثم", 4, 9, "span-punctuation", 'ends with ")"'),
    ],
)
def test_a_span_that_is_not_a_name_is_reported(check, text, start, end, kind, said):
    found = check({"text": text, "entities": [{"start": start, "end": end, "label": "X"}]})
    if said is None:  # «ب» before «غداد» could be a joined preposition: nobody can tell
        assert found == []
        return
    assert [(one, span) for one, span, _ in found] == [(kind, (start, end))]
    assert said in found[0][2]


def test_a_segment_must_not_cut_a_word(check):
    text = "قال الوزير. زار بغداد."
    good = {"text": text, "segments": [{"start": 0, "end": 11}, {"start": 12, "end": 22}]}
    bad = {"text": text + " ثم", "segments": [{"start": 0, "end": 7}, {"start": 12, "end": 22}]}
    assert kinds(check(good)) == []
    ((kind, span, message),) = check(bad)
    assert (kind, span) == ("segment-word", (4, 10))
    assert message.startswith('segments[0] ends inside the word "الوزير"')


# --- texts


@pytest.mark.parametrize(
    ("written", "read", "said"),
    [
        ("utf-8", "cp1256", "UTF-8 read as cp1256"),
        ("utf-8", "latin-1", "UTF-8 read as cp1252"),
        ("cp1256", "cp1252", "cp1256 read as cp1252 or Latin-1"),
        ("cp1256", "latin-1", "cp1256 read as cp1252 or Latin-1"),
    ],
)
def test_mojibake_is_named_and_read_rightly(check, written, read, said):
    garbled = "السلام عليكم يا أهل المدينة".encode(written).decode(read)
    ((kind, span, message),) = check({"text": "خبر: " + garbled})
    assert kind == "mojibake"
    assert span[0] == 5
    assert said in message
    assert 'it should be "السلام' in message


def test_mojibake_of_cp1252_with_its_own_signs(check):
    # Each letter's second byte is one that cp1252 has a sign for: «ك» is D9 83, read as Ùƒ.
    ((kind, _, message),) = check({"text": "ÙƒÙ„Ù†"})
    assert kind == "mojibake"
    assert 'it should be "كلن"' in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("السلام \ufffd\ufffd عليكم", "2 replacement characters"),
        ("أعلن ???? ?????? ??? اليوم", "could not hold"),
    ],
)
def test_lost_letters_are_reported(check, text, said):
    ((kind, _, message),) = check({"text": text})
    assert kind == "mojibake"
    assert said in message


@pytest.mark.parametrize(
    "text",
    [
        "ماذا؟ لماذا?? متى ??? قال «نعم»، ثم غادر؛ ولم يعد.",
        "ط، ظ، ع، غ: حروف من الأبجدية العربية",
        "قال André Gérôme من فرنسا إن الاتفاق جيد",
        "گفت الوزير إن چاي تباع في السوق",
    ],
)
def test_unusual_text_is_no_mojibake(check, text):
    assert check({"text": text}) == []


def test_a_text_without_arabic_or_letters_is_reported(check):
    found = check(
        {"text": "The minister said on Monday: نعم"},
        {"text": "قال الوزير للصحفيين يوم الاثنين CNN BBC"},
        {"text": " 123 ..."},
        {"text": ""},
    )
    assert kinds(found) == ["not-arabic", "blank-text", "blank-text"]
    assert found[0][2] == "12% of the text's 26 letters are Arabic; allowed: at least 50%"


def test_dates_of_a_file_are_reported_once(check):
    ((kind, span, message),) = check(
        {"text": "خبر أول", "date": "2021-12-06"}, {"text": "خبر ثان", "date": "6/12"}, {"text": "ثالث", "date": "أمس"}
    )
    assert (kind, span) == ("date", None)
    assert message.startswith('2 of its dates cannot be read, the first "6/12" on line 2; allowed: ')


# --- names and labels


def _named(name, label, n):
    return [
        {"text": f"زار {name} صباحا {k} {label}", "entities": [{"start": 4, "end": 4 + len(name), "label": label}]}
        for k in range(n)
    ]


def test_a_label_that_a_name_has_once_in_twenty_times_is_a_slip(check):
    ((kind, span, message),) = check(*_named("بغداد", "LOCATION", 19), *_named("بغداد", "منظمة", 1))
    assert (kind, span) == ("name-labels", (4, 9))
    assert message == 'منظمة "بغداد", but this name is labelled LOCATION 19, منظمة 1'


def test_a_label_that_a_name_has_more_often_is_noted_by_name(check):
    found = check(*_named("بغداد", "LOCATION", 18), *_named("بغداد", "ORG", 1), *_named("روما", "LOCATION", 3))
    assert found == [("name-split", None, '"بغداد" is labelled LOCATION 18, ORG 1')]


def test_spellings_of_a_name_are_one_name(check):
    found = check(*_named("الأَنبار", "A", 1), *_named("الانبار", "B", 1))
    assert found == [("name-split", None, '"الأَنبار" is labelled A 1, B 1')]


def test_a_name_may_have_two_labels_and_a_slip(check):
    found = check(*_named("بدر", "A", 12), *_named("بدر", "B", 12), *_named("بدر", "C", 1))
    assert kinds(found) == ["name-labels", "name-split"]
    assert found[1][2] == '"بدر" is labelled A 12, B 12, C 1'


def test_labels_that_are_spelt_alike(check):
    found = check(*_named("علي", "PERSON", 30), *_named("بغداد", "LOCATION", 30), *_named("عمر", "PERSN", 4))
    assert [message for kind, _, message in found if kind == "label-spelling"] == [
        'entity label "PERSN" (4) is spelt like "PERSON" (30); one label, or two?'
    ]


def test_a_label_that_looks_like_several(tmp_path):
    topics = ["economy", "flood", "economy, flood", "flood | sport", "اقتصاد، زراعة"]
    rows = [{"text": f"{LONG[:40]} {k} {LONG[k:]}", "topics": [topics[k % 5]]} for k in range(15)]
    found = check_files([write(tmp_path / "a.jsonl", rows)]).findings
    assert [one.message for one in found if one.kind == "label-spelling"] == [
        'topic "economy, flood" looks like 2 labels; allowed: each by itself'
    ]


def test_labels_with_few_examples(tmp_path):
    rows = [
        *[{"text": f"{LONG[:40]} {k} {LONG[k:]}", "topics": ["often"]} for k in range(20)],
        *[{"text": f"نص {k} هنا", "segments": [{"start": 0, "end": 2, "topics": ["some"]}]} for k in range(3)],
        {"text": "زار علي بيروت", "topics": ["once"], "entities": [{"start": 8, "end": 13, "label": "X"}]},
    ]
    found = check_files([write(tmp_path / "a.jsonl", rows)]).findings
    assert [(one.kind, one.line, one.message) for one in found if one.kind in ("rare-label", "few-examples")] == [
        ("rare-label", 24, 'topic "once" is on 1 article; a slip of the pen? allowed: 3 or more'),
        ("rare-label", 24, 'entity label "X" is on 1 entity; a slip of the pen? allowed: 3 or more'),
        ("few-examples", None, 'topic "some" is on 3 articles; below 20 it is hardly learned or measured'),
    ]


# --- articles against each other


def test_equal_texts_with_other_labels_conflict(check):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    first = {"id": "a", "text": LONG, "topics": ["x"], "entities": [entity(LONG, "وزارة الزراعة", "ORG")]}
    second = {"id": "b", "text": LONG, "topics": ["y"], "entities": [entity(LONG, "وزارة", "ORG")]}
    found = check(first, second)
    assert kinds(found) == ["conflict", "duplicate"]
    message = found[0][2]
    assert "a.jsonl:1 (a) and other labels: topic x there, not here; topic y here, not there; ORG " in message
    assert message.endswith("; and 1 more")


def test_what_nobody_was_asked_for_is_no_conflict(check):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    named = {"id": "a", "text": LONG, "entities": [entity(LONG, "وزارة الزراعة", "ORG")]}
    assert kinds(check(named, {"id": "b", "text": LONG, "topics": ["x"]})) == ["duplicate"]
    assert kinds(check(named, {"id": "b", "text": LONG, "entities": []})) == ["conflict", "duplicate"]


def test_nearly_equal_texts_with_other_topics_are_noted(check):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    first = {"id": "a", "text": LONG, "topics": ["x"]}
    near = {"id": "b", "text": "وكالة الساحل: " + LONG, "topics": []}
    assert kinds(check(first, near)) == ["duplicate", "near-conflict"]
    same_words = {"id": "b", "text": LONG.replace("أ", "ا") + ".", "topics": []}
    assert kinds(check(first, same_words)) == ["conflict", "duplicate"]


def test_copies_in_another_file_are_leaks(tmp_path):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    train = write(tmp_path / "train.jsonl", [{"id": "a", "text": LONG}, {"id": "b", "text": "خبر آخر عن الطقس"}])
    dev = write(tmp_path / "dev.jsonl", [{"id": "c", "text": LONG + " خبر"}, {"id": "b", "text": "خبر غيره"}])
    found = check_files([train, dev]).findings
    assert [(one.kind, one.file, one.line, one.id) for one in found] == [
        ("leak", dev, 1, "c"),
        ("id-reused", dev, 2, "b"),
    ]
    assert found[0].message.startswith(f"is a near-duplicate of {train}:1 (a); ")
    # The same file named twice is one file.
    assert check_files([train, train]).findings == []


def test_of_many_copies_each_is_compared_with_the_first_that_differs(tmp_path):
    pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
    random = Random(0)
    texts = [LONG, LONG + ".", "وكالة الساحل: " + LONG]
    labels = [None, [], [entity(LONG, "الزراعة", "ORG")], [entity(LONG, "العاصمة", "LOC")]]
    rows = []
    for number in range(60):
        text = random.choice(texts)
        row = {"id": str(number), "text": text, "topics": random.choice([None, [], ["x"], ["x", "y"]])}
        row["entities"] = random.choice(labels) if text != texts[2] else None
        rows.append({key: value for key, value in row.items() if value is not None})
    files = [write(tmp_path / f"{n}.jsonl", rows[20 * n : 20 * n + 20]) for n in range(3)]
    ignored = [kind for kind in KINDS if kind not in ("conflict", "near-conflict", "leak", "duplicate", "format")]
    found = {
        (one.file, one.line): one.message for one in check_files(files, ignore=ignored).findings if "conf" in one.kind
    }

    def differ(one, two):
        keys = ("topics", "entities") if one["text"] == two["text"] else ("topics",)
        return any(key in one and key in two and one[key] != two[key] for key in keys)

    places = [(files[number // 20], number % 20 + 1) for number in range(60)]
    for number, row in enumerate(rows):
        first = next((other for other in range(number) if differ(rows[other], row)), None)
        assert (places[number] in found) == (first is not None)
        if first is not None:
            assert f"{places[first][0]}:{places[first][1]} ({first})" in found[places[number]]


def test_without_the_package_for_duplicates_the_rest_is_checked(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    found = check_files([write(tmp_path / "a.jsonl", [{"text": "..."}])]).findings
    assert [finding.kind for finding in found] == ["blank-text", "not-compared"]
    assert "pip install 'khabar[duplicates]'" in found[1].message


# --- all together


def test_unreadable_lines_come_first_and_good_ones_are_checked(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"id": "a", "text": "...", "entities": [{"start": 0, "end": 9, "label": "X"}]}
    path.write_text('{"id": "g", "text": "..."}\n' + json.dumps(row) + "\nnot json\n", encoding="utf-8")
    empty = write(tmp_path / "empty.jsonl", [])
    checked = check_files([path, empty, tmp_path / "absent.jsonl"])
    assert [str(finding) for finding in checked.findings] == [
        f"error: {path}:2: entities[0].end is 9, past the end of the text (3) [format]",
        f'error: {path}:3: not JSON: Expecting value at column 1, at "not json" [format]',
        f"error: {empty}: no articles; allowed: one a line [format]",
        f"error: {tmp_path / 'absent.jsonl'}: no such file [format]",
        f'warning: {path}:1: article "g": text is "..."; allowed: a news article, with letters [blank-text]',
    ]
    assert checked.totals() == "4 errors, 1 warning, 0 notes"


def test_a_place_has_file_line_article_and_offsets():
    finding = Finding(kind="span-word", message="seen", file="a.jsonl", line=3, id="م1", span=(4, 9))
    assert str(finding) == 'warning: a.jsonl:3: article "م1", 4 to 9: seen [span-word]'
    assert str(Finding(kind="name-split", message="seen")) == "note: seen [name-split]"


@pytest.mark.parametrize("kind", ["format", "spans"])
def test_only_known_kinds_that_are_no_errors_can_be_ignored(kind):
    with pytest.raises(KhabarError, match=f"ignore is '{kind}'.*allowed: blank-text"):
        check_files([], ignore=[kind])


def test_the_summary_counts_by_hand(tmp_path):
    one = [
        {
            "text": "زار علي بيروت",
            "source": "و",
            "date": "2021-12-06",
            "topics": ["x"],
            "entities": [{"start": 4, "end": 7, "label": "P"}, {"start": 8, "end": 13, "label": "L"}],
        },
        {"text": "ا ب ت ث ج", "date": "؟", "segments": [{"start": 0, "end": 5, "topics": ["x", "y"]}]},
    ]
    two = [{"text": "نص", "entities": []}]
    files = [write(tmp_path / "one.jsonl", one), write(tmp_path / "two.jsonl", two)]
    summary = summarise(files, check_files(files).articles)
    assert list(summary.columns) == ["one.jsonl", "two.jsonl", "all"]
    assert dict(summary.rows) == {
        "articles": [2, 1, 3],
        "characters": [22, 2, 24],
        "words, least": [3, 1, 1],
        "words, median": [4, 1, 3],
        "words, 95th percentile": [4, 1, 4],  # 4.9 and 4.8, whole words
        "words, most": [5, 1, 5],
        "articles with topics annotated": [2, 0, 2],
        "  topic x": [2, 0, 2],
        "  topic y": [1, 0, 1],
        "segments with topics annotated": [1, 0, 1],
        "  in segments, x": [1, 0, 1],
        "  in segments, y": [1, 0, 1],
        "articles with entities annotated": [1, 1, 2],
        "  entity L": [1, 0, 1],
        "  entity P": [1, 0, 1],
    }
    assert list(summary.remarks) == [
        "sources: و 1; none given 2",
        "dates: 2021-12-06 to 2021-12-06; none, or not readable, 2",
    ]
    lines = str(summary).splitlines()
    assert lines[0].split() == ["one.jsonl", "two.jsonl", "all"]
    assert lines[1].split() == ["articles", "2", "1", "3"]
    many = [str(k) for k in range(MOST_COLUMNS + 1)]
    assert list(summarise(many, []).columns) == ["all"]


def test_the_examples_have_no_errors_and_no_warnings(examples):
    checked = check_files(sorted((examples / "corpus").glob("*.jsonl")))
    assert len(checked.articles) > 150
    assert [str(finding) for finding in checked.findings if finding.severity != "note"] == []


def test_the_guide_names_every_kind():
    guide = Path(__file__).resolve().parents[1] / "docs" / "articles.md"
    if not guide.exists():
        pytest.skip("needs the documentation: not beside these tests")
    text = guide.read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []


@pytest.mark.slow
def test_the_gold_has_few_warnings_all_of_names(shared_data):
    checked = check_files([shared_data / "gold" / f"{name}.jsonl" for name in ("train", "dev")])
    warned = [finding for finding in checked.findings if finding.severity != "note"]
    assert {finding.kind for finding in warned} == {"name-labels"}
    assert len(warned) < len(checked.articles) / 100

"""Splits put every article in one part, keep near-duplicates together, and leave lines as they were."""

import json
import random
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from khabar.cli import app
from khabar.models.errors import CorpusError, KhabarError
from khabar.training.split import PARTS, Entry, SplitSettings, split_entries
from khabar.training.split_files import split_files
from khabar.training.split_report import describe_split

pytest.importorskip("datasketch", reason="needs khabar[duplicates]")
NAMES = ("اجتماع", "هجوم", "بيان", "احتجاج")


def entry(line=1, labels=(), **known):
    return Entry(file="a.jsonl", line=line, labels=frozenset(("topic", label) for label in labels), **known)


def entries_of(numbers, random):
    return [entry(n, [name for name in NAMES if random.random() < 0.3]) for n in range(numbers)]


@st.composite
def corpora(draw):
    """Labels of articles and groups of them: (entries, groups)."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=3, max_size=60))
    rng = random.Random(draw(st.integers(0, 2**32)))
    numbers = list(range(sum(sizes)))
    rng.shuffle(numbers)
    groups = [sorted(numbers.pop() for _ in range(size)) for size in sizes]
    labels = {label for label in NAMES if rng.random() < 0.8}
    entries = [entry(n, {name for name in labels if rng.random() < 0.4}) for n in range(sum(sizes))]
    return entries, groups


@given(corpora(), st.floats(0, 0.45), st.floats(0.05, 0.45), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_every_article_is_in_one_part_and_no_group_straddles(corpus, dev, test, seed):
    entries, groups = corpus
    how = SplitSettings(dev=dev, test=test, seed=seed)
    try:
        done = split_entries(entries, groups, how)
    except KhabarError as error:
        assume("too few" not in str(error))
        raise
    assert list(done.parts) == [name for name in PARTS if name == "train" or how.shares.get(name)]
    assert sorted(i for numbers in done.parts.values() for i in numbers) == list(range(len(entries)))
    assert all(done.parts.values())
    part_of = {i: name for name, numbers in done.parts.items() for i in numbers}
    assert all(len({part_of[i] for i in group}) == 1 for group in groups)
    assert all(numbers == sorted(numbers) for numbers in done.parts.values())
    assert split_entries(entries, groups, how) == done, "the same seed gives the same split"


def test_labels_are_spread_in_equal_shares():
    rng = random.Random(0)
    entries = entries_of(1000, rng)
    done = split_entries(entries, [[n] for n in range(1000)], SplitSettings(dev=0.1, test=0.2))
    assert [len(done.parts[name]) for name in PARTS] == pytest.approx([700, 100, 200], abs=3)
    total = Counter(label for one in entries for label in one.labels)
    for name, share in (("dev", 0.1), ("test", 0.2)):
        found = Counter(label for n in done.parts[name] for label in entries[n].labels)
        assert {label: n / total[label] for label, n in found.items()} == pytest.approx(
            dict.fromkeys(total, share), abs=0.01
        )
    assert done.shares == pytest.approx({"train": 0.7, "dev": 0.1, "test": 0.2})


def test_another_seed_gives_another_split():
    entries = entries_of(100, random.Random(0))
    groups = [[n] for n in range(100)]
    assert split_entries(entries, groups, SplitSettings()) != split_entries(entries, groups, SplitSettings(seed=1))


def test_a_large_group_goes_to_train_and_the_others_keep_their_shares():
    entries = entries_of(300, random.Random(0))
    groups = [list(range(100)), *([n] for n in range(100, 300))]
    done = split_entries(entries, groups, SplitSettings())
    assert set(range(100)) <= set(done.parts["train"])
    assert [len(done.parts[name]) for name in PARTS] == pytest.approx([240, 30, 30], abs=2)


@pytest.mark.parametrize("labels", [(), ("نادر",), NAMES])
def test_the_smallest_corpora_fill_every_part(labels):
    entries = [entry(n, labels[:1] if n == 0 else labels) for n in range(3)]
    done = split_entries(entries, [[0], [1], [2]], SplitSettings())
    assert [len(done.parts[name]) for name in PARTS] == [1, 1, 1]


def test_a_label_of_one_article_stays_in_train():
    entries = [entry(n, ["نادر"] if n == 17 else []) for n in range(50)]
    for seed in range(5):
        assert 17 in split_entries(entries, [[n] for n in range(50)], SplitSettings(seed=seed)).parts["train"]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "no articles to split"),
        ([[0], [1]], "2 articles in 2 groups of near-duplicates, 2 of them small enough to hold out, are too few for"),
        ([[0, 1, 2, 3], [4, 5, 6], [7]], "8 articles in 3 groups of near-duplicates, 1 of them small enough"),
    ],
)
def test_too_few_articles_are_refused(groups, words):
    with pytest.raises(KhabarError, match=words):
        split_entries([entry(n) for n in range(sum(map(len, groups)))], groups, SplitSettings())


# --- by date


def test_by_one_date_dev_is_drawn_from_what_is_before():
    entries = [entry(n, date=f"2024-01-{n % 28 + 1:02d} 10:00:00") for n in range(280)]
    done = split_entries(entries, [[n] for n in range(280)], SplitSettings(by_date=(date(2024, 1, 22),), dev=0.2))
    assert all(entries[n].date >= "2024-01-22" for n in done.parts["test"])
    assert all(entries[n].date < "2024-01-22" for name in ("train", "dev") for n in done.parts[name])
    assert [len(done.parts[name]) for name in PARTS] == [168, 42, 70]


def test_by_two_dates_groups_go_to_the_earlier_side_and_are_counted():
    days = ["2024-01-01", "2024-02-01", "2024-03-01", "Fri, 01 Mar 2024 23:30:00 GMT", "2024-02-03T10:00:00+03:00"]
    entries = [entry(n, date=day) for n, day in enumerate(days)]
    how = SplitSettings(by_date=(date(2024, 2, 1), date(2024, 3, 1)))
    done = split_entries(entries, [[0], [1, 3], [2], [4]], how)
    assert done.parts == {"train": [0], "dev": [1, 3, 4], "test": [2]}
    assert done.n_straddling == 1
    assert not done.shares


def test_articles_without_a_readable_date_are_all_named():
    entries = [entry(1, date="2024-01-01"), entry(2), entry(3, date="أمس")]
    with pytest.raises(CorpusError) as raised:
        split_entries(entries, [[0], [1], [2]], SplitSettings(by_date=(date(2024, 1, 1),)))
    one, two = map(str, raised.value.problems)
    assert one.startswith("a.jsonl:2: the article has no date; to split by date, allowed: ")
    assert two.startswith('a.jsonl:3: date is "أمس"; to split by date, allowed: ')


def test_a_date_that_leaves_a_part_empty_is_refused():
    entries = [entry(1, date="2024-01-01"), entry(2, date="2024-02-01")]
    with pytest.raises(
        KhabarError, match="by-date is 2025-01-01, the articles' dates go from 2024-01-01 to 2024-02-01"
    ):
        split_entries(entries, [[0], [1]], SplitSettings(by_date=(date(2025, 1, 1),)))
    with pytest.raises(KhabarError, match="no article, with its near-duplicates, falls in test"):
        split_entries(entries, [[0, 1]], SplitSettings(by_date=(date(2024, 2, 1),)))


# --- by source


def test_by_source_test_holds_nothing_else():
    sources = ["واع", "واع", "شفق", None, "شفق"]
    entries = [entry(n, source=source) for n, source in enumerate(sources)]
    done = split_entries(entries, [[0], [1, 2], [3], [4]], SplitSettings(hold_out_sources=("واع",), dev=0))
    assert done.parts == {"train": [1, 2, 3, 4], "test": [0]}
    assert done.n_straddling == 1


def test_an_unknown_source_is_named_with_those_seen():
    entries = [entry(1, source="واع"), entry(2, source="شفق")]
    with pytest.raises(KhabarError, match='no article has the source "السومرية"; allowed: شفق, واع'):
        split_entries(entries, [[0], [1]], SplitSettings(hold_out_sources=("السومرية",)))
    with pytest.raises(KhabarError, match="train is empty"):
        split_entries(entries, [[0], [1]], SplitSettings(hold_out_sources=("واع", "شفق")))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dev": 0.6, "test": 0.4}, "dev and test together are 1, must be below 1"),
        ({"dev": 0, "test": 0}, "both 0"),
        ({"dev": -0.1}, "dev is -0.1"),
        ({"test": float("nan")}, "test is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"by_date": (date(2024, 1, 1),), "hold_out_sources": ("واع",)}, "allowed: one of them"),
        ({"by_date": (date(2024, 1, 2), date(2024, 1, 1))}, "in order"),
        ({"by_date": (date(2024, 1, 1),), "test": 0.1}, "test is given as a share, but by-date decides"),
        ({"by_date": (date(2024, 1, 1), date(2024, 1, 2)), "dev": 0.1}, "dev is given as a share, but by-date"),
        ({"hold_out_sources": ("واع",), "test": 0.1}, "but hold-out-source decides"),
    ],
)
def test_settings_that_do_not_add_up_are_refused(values, words):
    with pytest.raises(KhabarError, match=words):
        SplitSettings(**values)


# --- files


@pytest.fixture
def corpus(tmp_path, examples):
    """A file of 24 articles and a reprint of three of them, in lines as different tools write them."""
    lines = [
        line for name in ("train.jsonl", "dev.jsonl") for line in (examples / "corpus" / name).read_bytes().splitlines()
    ][:24]
    rows = [json.loads(line) for line in lines]
    for number in (0, 5, 9):
        row = {
            "id": f"reprint{number}",
            "text": "وكالة الساحل:\n" + rows[number]["text"].replace("،", " "),
            "topics": [],
        }
        lines.append(json.dumps(row).encode() + b" \r")
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(lines))
    return path


def lines_of(folder: Path) -> dict[str, list[bytes]]:
    return {path.stem: path.read_bytes().removesuffix(b"\n").split(b"\n") for path in folder.iterdir()}


def test_lines_are_copied_as_they_are(corpus, tmp_path):
    done = split_files([corpus], tmp_path / "new" / "split", SplitSettings(dev=0.2, test=0.2))
    found = lines_of(tmp_path / "new" / "split")
    assert set(found) == set(PARTS)
    lines = [line for line in corpus.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n") if line]
    assert sorted(line for part in found.values() for line in part) == sorted(lines)
    for part in found.values():
        assert part == [line for line in lines if line in part], "in the order of the input"
    part_of = {json.loads(line)["id"]: name for name, part in found.items() for line in part}
    for number in (0, 5, 9):
        assert part_of[json.loads(lines[number])["id"]] == part_of[f"reprint{number}"]
    assert sum(len(group) == 2 for group in done.groups) == 3
    assert not [path for path in (tmp_path / "new").iterdir() if path.name != "split"]


def test_only_what_is_asked_for_is_written(corpus, tmp_path):
    split_files([corpus], tmp_path / "split", SplitSettings(dev=0, test=0.2, group_duplicates=False))
    assert set(lines_of(tmp_path / "split")) == {"train", "test"}


def test_several_files_are_split_together(corpus, tmp_path):
    second = tmp_path / "second.jsonl"
    second.write_text('{"id": "z1", "text": "خبر"}\n\n{"id": "z2", "text": "خبر آخر"}', encoding="utf-8")
    split_files([second, corpus], tmp_path / "split", SplitSettings(dev=0.3, test=0.3))
    found = lines_of(tmp_path / "split")
    assert sum(map(len, found.values())) == 29
    assert sum(line.startswith(b'{"id": "z') for part in found.values() for line in part) == 2


def test_an_earlier_split_stays_until_told(corpus, tmp_path):
    folder = tmp_path / "split"
    split_files([corpus], folder, SplitSettings())
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KhabarError, match=r"already holds train.jsonl, dev.jsonl, test.jsonl; .* or --overwrite"):
        split_files([corpus], folder, SplitSettings(seed=1))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    split_files([corpus], folder, SplitSettings(seed=1, dev=0), overwrite=True)
    assert {path.name for path in folder.iterdir()} == {"train.jsonl", "test.jsonl", "notes.txt"}


def test_an_input_is_never_overwritten(corpus, tmp_path):
    inside = corpus.rename(tmp_path / "train.jsonl")
    with pytest.raises(KhabarError, match=r"train.jsonl would be overwritten by its own split"):
        split_files([inside], tmp_path, SplitSettings(), overwrite=True)


def test_bad_lines_are_all_named_and_nothing_is_written(tmp_path):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text('{"id": "a", "text": "x"}\nno json\n{"text": 5}\n', encoding="utf-8")
    two.write_text('\n{"id": "a", "text": "y"}\n', encoding="utf-8")
    with pytest.raises(CorpusError) as raised:
        split_files([one, two], tmp_path / "split", SplitSettings())
    places = [f"{problem.file}:{problem.line}" for problem in raised.value.problems]
    assert places == [f"{one}:2", f"{one}:3", f"{two}:2"]
    assert str(raised.value.problems[-1]).endswith(f'id is "a", the id of {one}:1 too; allowed: each id once')
    assert not (tmp_path / "split").exists()


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "wide.jsonl").write_text('{"text": "x"}', encoding="utf-16")
    for name, words in (("none.jsonl", "no such file"), ("wide.jsonl", "UTF-16"), ("", "cannot be read")):
        with pytest.raises(KhabarError, match=words):
            split_files([tmp_path / name], tmp_path / "split", SplitSettings())
    (tmp_path / "file").touch()
    with pytest.raises(KhabarError, match="is a file; allowed: a folder"):
        split_files([tmp_path / "wide.jsonl"], tmp_path / "file", SplitSettings())


@pytest.mark.parametrize(
    "change", [lambda text: text + '{"text": "z"}\n', lambda text: text[:-20], lambda text: text[::-1]]
)
def test_a_file_that_changes_on_the_way_is_noticed(corpus, tmp_path, monkeypatch, change):
    def changed_after_reading(texts):
        groups = [[number] for number, _ in enumerate(texts)]
        corpus.write_text(change(corpus.read_text(encoding="utf-8")), encoding="utf-8")
        return groups

    monkeypatch.setattr("khabar.training.split_files.near_duplicates", changed_after_reading)
    with pytest.raises(KhabarError, match=r"corpus.jsonl has changed while it was being split"):
        split_files([corpus], tmp_path / "split", SplitSettings())
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_the_table_counts_articles_groups_and_labels(corpus, tmp_path):
    table = describe_split(split_files([corpus], tmp_path / "split", SplitSettings(dev=0.2, test=0.2)))
    heading, *lines = table.splitlines()
    assert heading.split() == ["train", "dev", "test", "all"]
    counted = [line.split() for line in lines if ": " not in line]
    rows = {" ".join(words[:-4]): list(map(int, words[-4:])) for words in counted}
    assert rows["articles"][-1] == 27
    assert rows["groups"][-1] == 24
    assert {"annotated topics", "topic attack", "entity LOCATION"} <= set(rows)
    assert all(sum(counts[:3]) == counts[3] for counts in rows.values())
    assert "near-duplicates: 6 articles in 3 groups, the largest of 2" in table
    assert "largest deviation from the wanted share: " in table


def test_labels_that_a_part_lacks_are_named(tmp_path):
    rows = [{"text": f"خبر رقم {n}", "topics": ["نادر"] if n == 7 else [], "source": "واع"} for n in range(30)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = describe_split(split_files([path], tmp_path / "split", SplitSettings(dev=0)))
    assert table.splitlines()[-1] == "not in test: topic نادر"


# --- the command


def split(*arguments: object):
    return CliRunner().invoke(app, ["data", "split", *map(str, arguments)])


def test_the_command_writes_and_tells(corpus, tmp_path):
    done = split(corpus, "--output", tmp_path / "split", "--dev", 0.2, "--test", 0.2, "--seed", 3)
    assert done.exit_code == 0, done.stderr
    assert "near-duplicates: 6 articles in 3 groups" in done.stdout
    assert set(lines_of(tmp_path / "split")) == set(PARTS)
    assert split(corpus, "-o", tmp_path / "loose", "--no-group-duplicates").stdout.count("near-duplicates") == 0


def test_the_command_holds_out_by_date_and_source(tmp_path):
    rows = [{"text": f"خبر رقم {n}", "date": f"2024-0{n}-01", "source": "واع" if n % 2 else "شفق"} for n in range(1, 9)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert split(path, "-o", tmp_path / "dates", "--by-date", "2024-05-01,2024-07-01").exit_code == 0
    assert {name: len(part) for name, part in lines_of(tmp_path / "dates").items()} == {"train": 4, "dev": 2, "test": 2}
    assert split(path, "-o", tmp_path / "source", "--hold-out-source", "واع", "--dev", 0).exit_code == 0
    assert {json.loads(line)["source"] for line in lines_of(tmp_path / "source")["test"]} == {"واع"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by-date", "2024-13-01"], "by-date is '2024-13-01'; allowed: a day as 2021-12-06"),
        (["--by-date", "2024-01-01"], "the article has no date"),
        (["--hold-out-source", "واع"], 'no article has the source "واع"; allowed: '),
        (["--dev", "0.7", "--test", "0.7"], "dev and test together are 1.4"),
        (["--dev", "0.9", "--test", "0.05"], "small enough to hold out, are too few"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path, arguments, words):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "خبر"}\n{"text": "خبر آخر"}\n', encoding="utf-8")
    done = split(path, "-o", tmp_path / "split", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not (tmp_path / "split").exists()


def test_a_file_that_is_given_twice_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "قال"}\n', encoding="utf-8")
    with pytest.raises(KhabarError, match=r"a\.jsonl is given twice; allowed: each file once"):
        split_files([path, path], tmp_path / "out", SplitSettings())

"""Writing results: each kind of file says what the JSON lines say, the same bytes every time, whole or not at all."""

import csv
import gzip
import json
import os
import resource
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from khabar.inference.outputs import output_format, write_output
from khabar.inference.results import Entity, Segment, TaggedArticle, Topic
from khabar.models.errors import KhabarError, MissingExtraError

pq = pytest.importorskip("pyarrow.parquet")
zstandard = pytest.importorskip("zstandard")

ENDINGS = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".csv", ".sqlite"]
TEXT = "اجتمع الوزير في بغداد.\nوهاجم مسلحون كركوك."


def result(id_: str | None, *, text: str = TEXT, **more: object) -> dict[str, object]:
    names = [("مكان", 16, 21), ("PERSON", 6, 12), ("مكان", 36, 41), ("مكان", 16, 21)]
    article = TaggedArticle(
        id=id_,
        text=text,
        topics=(Topic(label="هجوم", score=0.91234, segments=(1,)), Topic(label="meeting", score=0.75, segments=(0,))),
        topic_scores={"meeting": 0.75, "هجوم": 0.91234, "protest": 0.5},
        segments=(
            Segment(start=0, end=22, topics=("meeting",), scores={}),
            Segment(start=23, end=42, topics=("هجوم",), scores={}),
        ),
        entities=tuple(Entity(label=label, start=s, end=e, text=text[s:e], score=0.5) for label, s, e in names),
        characters_read=len(text),
        model="tiny 1.0",
    )
    return article.to_json() | more


EMPTY = TaggedArticle(
    id=None,
    text="",
    topics=(),
    topic_scores={"meeting": 0.1, "هجوم": 0.2, "protest": 0.0},
    segments=(),
    entities=(),
    characters_read=0,
    model="tiny 1.0",
).to_json()
RESULTS = [result("a", story="a", uncertain=["protest"]), EMPTY, result("a", story="a", uncertain=[])]


def part_of(folder: Path, results: list[dict[str, object]]) -> Path:
    part = folder / "results.part"
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in results), encoding="utf-8")
    return part


def written(folder: Path, ending: str, results: list[dict[str, object]]) -> Path:
    target = folder / f"results{ending}"
    write_output(part_of(folder, results), target)
    return target


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", "jsonl"),
        ("a.b.JSON", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("a.jsonl.gz", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.csv", "csv"),
        ("a.db", "sqlite"),
        ("a.sqlite3", "sqlite"),
    ],
)
def test_the_ending_says_what_is_written(name, expected):
    assert output_format(name) == expected


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.parquet.gz", "a.csv.gz", "a.gz", "jsonl", "a.tsv"])
def test_another_ending_is_refused_with_those_that_can_be(name):
    with pytest.raises(KhabarError, match=r"output ending .* is not known; allowed: \.jsonl.*\.parquet.*\.csv.*sqlite"):
        output_format(name)


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")])
def test_a_missing_package_is_told_before_the_work(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'khabar\[formats\]'"):
        output_format(name)
    assert output_format("a.csv") == "csv"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("n_copies", [0, 1, 2000])
def test_the_same_lines_give_the_same_bytes_and_nothing_else_stays(tmp_path, ending, n_copies):
    folders = [tmp_path / "one", tmp_path / "another"]
    for folder in folders:
        folder.mkdir()
        written(folder, ending, RESULTS * n_copies)
        os.utime(folder, (0, 0))
    first, second = ((folder / f"results{ending}").read_bytes() for folder in folders)
    assert first == second
    assert [path.name for path in folders[0].iterdir()] == [f"results{ending}"]


def test_json_lines_stay_as_they_are(tmp_path):
    lines = part_of(tmp_path, RESULTS).read_bytes()
    assert written(tmp_path, ".jsonl", RESULTS).read_bytes() == lines
    assert gzip.decompress(written(tmp_path, ".jsonl.gz", RESULTS).read_bytes()) == lines
    with written(tmp_path, ".ndjson.zst", RESULTS).open("rb") as packed:
        assert zstandard.ZstdDecompressor().stream_reader(packed).read() == lines


@pytest.mark.parametrize("n_copies", [1, 3000])
def test_parquet_holds_what_the_lines_hold(tmp_path, n_copies):
    table = pq.read_table(written(tmp_path, ".parquet", RESULTS * n_copies))
    rows = table.to_pylist()
    for row in rows:
        row["topic_scores"] = dict(row["topic_scores"])
    assert rows == [{"story": None, "uncertain": None} | row for row in RESULTS] * n_copies


def test_every_key_of_a_result_is_a_column_of_parquet_and_the_schema_never_changes(tmp_path):
    schemas = [pq.read_schema(written(tmp_path, ".parquet", rows)) for rows in ([], RESULTS, [EMPTY])]
    assert schemas[0] == schemas[1] == schemas[2]
    assert set(EMPTY) <= set(schemas[0].names)


def test_parquet_comes_in_groups_of_bounded_size(tmp_path):
    long = EMPTY | {"characters": 3 * 2**20}
    file = pq.ParquetFile(written(tmp_path, ".parquet", [long] * 10 + [EMPTY] * 5000))
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sum(sizes) == 5010
    assert sizes[0] < 10
    assert max(sizes) < 5000


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_is_flat_and_opens_as_arabic(tmp_path):
    path = written(tmp_path, ".csv", RESULTS)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfid,story,topics,")
    first, empty, _ = read_csv(path)
    assert first == {
        "id": "a",
        "story": "a",
        "topics": "هجوم; meeting",
        "uncertain": "protest",
        "score_meeting": "0.75",
        "score_هجوم": "0.9123",
        "score_protest": "0.5",
        "n_entities": "4",
        "entities_PERSON": "الوزير",
        "entities_مكان": "بغداد; كركوك",
        "characters": "42",
        "characters_read": "42",
        "model": "tiny 1.0",
    }
    assert list(first) == list(empty)
    assert (empty["id"], empty["topics"], empty["n_entities"], empty["entities_مكان"]) == ("", "", "0", "")


def test_csv_of_no_results_has_a_header(tmp_path):
    assert written(tmp_path, ".csv", []).read_text("utf-8-sig").split(",")[:3] == ["id", "story", "topics"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝"])
def test_no_cell_of_csv_is_a_formula(tmp_path, start):
    evil = f"{start}HYPERLINK(1)"
    names = [("ORG", "خبر"), ("ORG", evil), ("LOC", evil)]
    entities = [{"label": label, "start": 0, "end": 1, "text": name, "score": 1.0} for label, name in names]
    row = EMPTY | {
        "id": evil,
        "story": evil,
        "model": evil,
        "topics": [{"label": evil, "score": 0.5, "segments": []}],
        "topic_scores": {evil: 0.5},
        "uncertain": [evil],
        "entities": entities,
    }
    with written(tmp_path, ".csv", [row]).open(encoding="utf-8-sig", newline="") as stream:
        cells = [piece for line in csv.reader(stream) for cell in line for piece in cell.split("; ")]
    assert f"'{evil}" in cells
    assert not [cell for cell in cells if cell.startswith(start)]


def test_cells_of_csv_hold_names_on_one_line_and_no_more_than_excel_takes(tmp_path):
    names = ["وزارة\r\n الدفاع", *(f"اسم {i}" for i in range(5000))]
    entities = [{"label": "ORG", "start": 0, "end": 1, "text": name, "score": 1.0} for name in names]
    (row,) = read_csv(written(tmp_path, ".csv", [EMPTY | {"entities": entities}]))
    cell = row["entities_ORG"]
    assert cell.startswith("وزارة الدفاع; اسم 0; ")
    assert len(cell) <= 32_767
    assert cell.endswith("…")
    assert set(cell.removesuffix("…").split("; ")) <= {" ".join(name.split()) for name in names}
    assert row["n_entities"] == "5001"


@pytest.fixture
def database(tmp_path):
    connection = sqlite3.connect(written(tmp_path, ".sqlite", RESULTS))
    yield connection
    connection.close()


def test_sqlite_holds_what_the_lines_hold(database):
    def rows(query):
        return list(database.execute(query))

    assert rows("SELECT article, id, story, characters, characters_read, model FROM articles ORDER BY article") == [
        (i, row["id"], row.get("story"), row["characters"], row["characters_read"], row["model"])
        for i, row in enumerate(RESULTS, start=1)
    ]
    expected: dict[str, list[tuple]] = {"topics": [], "topic_scores": [], "segments": [], "entities": [], "shown": []}
    for i, row in enumerate(RESULTS, start=1):
        expected["topics"] += [(i, topic["label"], topic["score"]) for topic in row["topics"]]
        expected["shown"] += [(i, topic["label"], k) for topic in row["topics"] for k in topic["segments"]]
        expected["topic_scores"] += [
            (i, label, score, int(label in row.get("uncertain", []))) for label, score in row["topic_scores"].items()
        ]
        expected["segments"] += [(i, k, item["start"], item["end"]) for k, item in enumerate(row["segments"])]
        expected["entities"] += [
            (i, item["label"], item["start"], item["end"], item["text"], item["score"]) for item in row["entities"]
        ]
    assert rows("SELECT article, label, score FROM topics") == sorted(expected["topics"])
    assert rows("SELECT * FROM topic_scores") == sorted(expected["topic_scores"])
    assert rows("SELECT article, segment, start, end FROM segments") == expected["segments"]
    assert rows("SELECT article, label, segment FROM segment_topics ORDER BY 1, 2, 3") == sorted(expected["shown"])
    assert (
        rows("SELECT article, label, start, end, text, score FROM entities ORDER BY entity") == (expected["entities"])
    )


def test_sqlite_has_sound_keys_and_indexes(database):
    assert list(database.execute("PRAGMA foreign_key_check")) == []
    assert list(database.execute("PRAGMA integrity_check")) == [("ok",)]
    for table in ("topics", "topic_scores", "segments", "segment_topics", "entities"):
        assert list(database.execute(f"PRAGMA foreign_key_list({table})"))
    for query in (
        "SELECT article FROM entities WHERE text = 'x'",
        "SELECT text FROM entities WHERE article = 1",
        "SELECT article FROM topics WHERE label = 'x'",
        "SELECT article FROM articles WHERE id = 'x'",
        "SELECT article FROM articles WHERE story = 'x'",
    ):
        plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {query}"))
        assert "SEARCH" in plan, (query, plan)
    with pytest.raises(sqlite3.IntegrityError):
        database.execute("PRAGMA foreign_keys = ON").execute("INSERT INTO topics VALUES (99, 'x', 1)")


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_stood_there_is_replaced_and_a_link_stays_one(tmp_path, ending):
    real = tmp_path / "elsewhere" / "old"
    real.parent.mkdir()
    real.write_bytes(b"old")
    target = tmp_path / f"results{ending}"
    target.symlink_to(real)
    written(tmp_path, ending, RESULTS)
    assert target.is_symlink()
    assert len(real.read_bytes()) > 100
    assert [path.name for path in real.parent.iterdir()] == ["old"]


@pytest.mark.parametrize("ending", ENDINGS[1:])
def test_a_full_disk_leaves_the_part_and_what_was_there(tmp_path, ending):
    results = [result(f"{i * 7919}", text=TEXT[i % 7 :] + str(i**5)) for i in range(4000)]
    part = part_of(tmp_path, results)
    lines = part.read_bytes()
    target = tmp_path / f"results{ending}"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(KhabarError, match=r"results\..* cannot be written: .*; the results are in .*\.part"):
            write_output(part, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (target.read_bytes(), part.read_bytes()) == (b"old", lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([part.name, target.name])
    write_output(part, target)
    assert len(target.read_bytes()) > 20_000


@pytest.mark.parametrize("ending", ENDINGS[1:])
def test_what_a_killed_run_left_beside_is_no_hindrance(tmp_path, ending):
    whole = written(tmp_path, ending, RESULTS).read_bytes()
    (tmp_path / f".results{ending}.partial").write_bytes(b"half of something" * 500)
    assert written(tmp_path, ending, RESULTS).read_bytes() == whole
    assert len(list(tmp_path.iterdir())) == 1


WRITE = """
import sys
from pathlib import Path
from khabar.inference.outputs import write_output
print("now", flush=True)
write_output(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_killed_at_any_moment_there_is_the_part_or_the_whole(tmp_path, ending):
    results = [result(str(i)) for i in range(3000)]
    whole = written(tmp_path, ending, results).read_bytes()
    target = tmp_path / f"results{ending}"
    for seconds in (0.0, 0.03, 0.1, 0.3, 0.6):
        target.unlink(missing_ok=True)
        part = part_of(tmp_path, results)
        process = subprocess.Popen([sys.executable, "-c", WRITE, part, target], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        process.communicate()
        assert part.exists() or target.exists()
        if target.exists():
            assert target.read_bytes() == whole
        if part.exists():
            write_output(part, target)
        assert target.read_bytes() == whole
        assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS[1:])
def test_memory_does_not_grow_with_the_part(tmp_path, ending):
    """Peak resident memory of a fresh process for 2,000 and for 30,000 articles."""
    peaks = []
    for n in (2_000, 30_000):
        part = tmp_path / "results.part"
        with part.open("w", encoding="utf-8") as lines:
            for i in range(n):
                lines.write(json.dumps(result(str(i)), ensure_ascii=False) + "\n")
        code = f"{WRITE}\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        done = subprocess.run(
            [sys.executable, "-c", code, part, tmp_path / f"out{ending}"], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 60, peaks

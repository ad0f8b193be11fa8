"""`khabar data check` as a command: exit codes, safe fixes, and the page, which a real Chromium opens."""

import json
import shutil
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from khabar.cli import app
from khabar.models.article import Article, Entity, Segment
from khabar.models.article_reader import read_articles
from khabar.models.errors import KhabarError
from khabar.training.check import check_files
from khabar.training.check_finding import Finding
from khabar.training.check_fix import fix_files
from khabar.training.check_page import Block, Piece, blocks, render_check
from khabar.training.check_summary import summarise

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TEXT = "زار أحمد بغداد أمس."
SCRIPT = "<script>alert('x')</script>"


def run(*arguments):
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments)])


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- exit codes


def test_good_files_are_counted(examples):
    done = run(*sorted((examples / "corpus").glob("*.jsonl")))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["articles", "29", "28", "130", "187"]
    assert done.stderr.splitlines()[-1].startswith("0 errors, 0 warnings, ")


def test_warnings_count_under_strict_alone_and_notes_never(tmp_path):
    warned = write(tmp_path / "warned.jsonl", {"text": "..."})
    noted = write(tmp_path / "noted.jsonl", {"text": "نص", "date": "أمس"})
    broken = write(tmp_path / "broken.jsonl", "{")
    assert [run(warned).exit_code, run(warned, "--strict").exit_code] == [0, 1]
    assert run(warned, "--strict", "--ignore", "blank-text").exit_code == 0
    assert run(noted, "--strict").exit_code == 0
    assert [run(broken).exit_code, run(broken, warned, "--strict").exit_code] == [2, 2]


def test_every_problem_of_every_file_is_listed(tmp_path):
    one = write(tmp_path / "one.jsonl", {"text": "a", "entities": [{"start": 0, "end": 9, "label": "X"}]}, "{")
    two = write(tmp_path / "two.jsonl", {"id": 5, "text": "a", "tpics": []})
    done = run(one, two, tmp_path / "three.jsonl")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert [line.split(": ")[:2] for line in lines[:-1]] == [
        ["error", f"{one}:1"],
        ["error", f"{one}:2"],
        ["error", f"{two}:1"],
        ["error", f"{two}:1"],
        ["error", str(tmp_path / "three.jsonl")],
    ]
    assert lines[-1] == "5 errors, 0 warnings, 0 notes"


def test_a_file_of_another_kind_is_one_error(tmp_path):
    path = tmp_path / "export.json"
    path.write_text('[\n {"id": 1,\n  "data": {"text": "a"}}\n]\n', encoding="utf-8")
    first, totals = run(path).stderr.splitlines()
    assert first.startswith(f"error: {path}: is one JSON list; allowed: JSON Lines, ")
    assert totals == "1 error, 0 warnings, 0 notes"


def test_nothing_is_counted_where_no_article_can_be_read(tmp_path):
    done = run(tmp_path / "none.jsonl")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (f"error: {tmp_path}/none.jsonl: no such file [format]\n1 error, 0 warnings, 0 notes\n")


# --- fixes


def test_safe_fixes_are_made_in_copies_and_said(tmp_path):
    good = '{"id":"good",  "text":"خبر"}'
    twice = {"start": 9, "end": 14, "label": "L"}
    path = write(
        tmp_path / "a.jsonl",
        good,
        {
            "id": "1",
            "text": TEXT,
            "topics": ["x", "x"],
            "segments": [{"start": 0, "end": 19, "topics": ["x", "x"]}],
            "entities": [{"start": 4, "end": 9, "label": "P"}, twice, twice, {"start": 3, "end": 4, "label": "P"}],
        },
        "not json",
        {"id": "2", "text": TEXT, "entities": [{"start": 15, "end": 19, "label": "D"}]},
        {"id": "3", "text": TEXT, "entities": [{"start": 15, "end": 19, "label": "D"}]},
    )
    before = path.read_bytes()
    (copy,), changes = fix_files([path], tmp_path / "fixed")
    assert path.read_bytes() == before
    assert [str(change).removeprefix(f"{path}:") for change in changes] == [
        '2: topics[1] left out: "x" again',
        '2: segments[0].topics[1] left out: "x" again',
        '2: entities[0] from 4 to 9 now goes from 4 to 8: "أحمد"',
        "2: entities[3] left out: nothing of 3 to 4 can be seen",
        '2: entities[2] left out: {"start": 9, "end": 14, "label": "L"} again',
        "5: left out: equal to line 4",
    ]
    lines = copy.read_text(encoding="utf-8").splitlines()
    assert lines[0] == good  # byte for byte
    assert lines[2] == "not json"  # nothing is lost
    assert len(lines) == 4
    fixed = json.loads(lines[1])
    assert fixed["entities"] == [{"start": 4, "end": 8, "label": "P"}, twice]
    assert (fixed["topics"], fixed["segments"][0]["topics"], fixed["text"]) == (["x"], ["x"], TEXT)
    # What only a person can put right is left: the full stop of «أمس.».
    assert json.loads(lines[3])["entities"] == [{"start": 15, "end": 19, "label": "D"}]


def test_fixing_twice_changes_nothing_more(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": TEXT, "entities": [{"start": 3, "end": 9, "label": "P"}]})
    (once,), changes = fix_files([path], tmp_path / "one")
    (again,), more = fix_files([once], tmp_path / "two")
    assert (len(changes), more) == (1, [])
    assert again.read_bytes() == once.read_bytes()


def test_line_ends_become_those_of_unix(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n{"text": "c\\ud800"}')
    (copy,), changes = fix_files([path], tmp_path / "fixed")
    assert copy.read_bytes() == b'{"text": "a"}\n{"text": "b"}\n{"text": "c\\ud800"}\n'
    assert [change.message for change in changes] == ["2 lines ended with CR LF; now with LF"]


def test_lines_that_are_no_articles_stay_as_they_are(tmp_path):
    lines = [
        '{"id": "q1", "title": "خبر"}',
        '{"id": "q2", "title": "خبر"}',
        '{"id": 7, "text": "زار", "topics": ["x", "x"]}',
        '{"text": "خبر \\ud800", "topics": ["x", "x"]}',
    ]
    path = write(tmp_path / "a.jsonl", *lines)
    (copy,), changes = fix_files([path], tmp_path / "fixed")
    assert copy.read_text(encoding="utf-8").splitlines() == lines
    assert changes == []


def test_no_file_is_replaced(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": TEXT})
    (tmp_path / "other").mkdir()
    same_name = write(tmp_path / "other" / "a.jsonl", {"text": TEXT})
    for files, folder, reason in (
        ([path], tmp_path, "is there already"),
        ([path], path, "is a file; allowed: a folder"),
        ([path, same_name], tmp_path / "new", "two files are called a.jsonl"),
        ([path, tmp_path / "absent.jsonl"], tmp_path / "new", "no such file"),
    ):
        with pytest.raises(KhabarError, match=reason):
            fix_files(files, folder)
    assert not (tmp_path / "new").exists()
    assert rows_of(path) == [{"text": TEXT}]


def test_nothing_is_fixed_where_the_check_would_be_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": TEXT})
    corpus = tmp_path / "c.yaml"
    corpus.write_text(f"sources: [{{path: {path}}}]", encoding="utf-8")
    for arguments, reason in (([path, "--ignore", "bogus"], "ignore is 'bogus'"), ([corpus], "a list of sources")):
        done = run(*arguments, "--fix", tmp_path / "fixed")
        assert done.exit_code == 2
        assert reason in done.stderr
        assert not (tmp_path / "fixed").exists()


def test_fix_checks_the_copies(tmp_path):
    spaced = {"id": "a", "text": TEXT, "entities": [{"start": 4, "end": 9, "label": "P"}]}
    path = write(tmp_path / "a.jsonl", *({**spaced, "id": str(k), "text": TEXT + str(k)} for k in range(3)))
    assert "span-space" in run(path, "--strict").stderr
    done = run(path, "--strict", "--fix", tmp_path / "fixed")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("fixed: ") == 3
    assert f"3 fixes; the copies in {tmp_path / 'fixed'} are checked" in done.stderr
    assert all(
        article.entities == (Entity(start=4, end=8, label="P"),)
        for article in read_articles(tmp_path / "fixed" / "a.jsonl")
    )
    again = run(path, "--fix", tmp_path / "fixed")
    assert again.exit_code == 2
    assert "is there already" in again.stderr


# --- the page


def test_a_text_is_cut_where_labels_and_findings_start_and_end():
    article = Article(
        text="زار علي بيروت\n\nثم عاد",
        segments=(Segment(start=0, end=13, topics=("x",)), Segment(start=15, end=21)),
        entities=(Entity(start=4, end=7, label="P"), Entity(start=8, end=18, label="L")),
    )
    finding = Finding(kind="span-word", message="", span=(6, 10))
    note = Finding(kind="date", message="")  # of no stretch
    assert blocks(article, [finding, note]) == [
        Block(
            topics=("x",),
            pieces=[
                Piece(text="زار "),
                Piece(text="عل", label="P"),
                Piece(text="ي", label="P", closes=True, severity="warning"),
                Piece(text=" ", severity="warning"),
                Piece(text="بي", label="L", severity="warning"),
                Piece(text="روت", label="L"),
            ],
        ),
        Block(topics=None, pieces=[Piece(text="ثم ", label="L", closes=True), Piece(text="عاد")]),
    ]
    assert blocks(Article(text="")) == []


class _Page(HTMLParser):
    """Gathers a page's tags and attributes, checks that they are closed, and keeps its texts."""

    VOID = ("meta",)

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.attributes, self.text = [], [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def hostile(tmp_path):
    """A file in which everything that can be is a script, and a broken line."""
    text = f"{SCRIPT} زار علي بيروت"
    row = {
        "id": f"{SCRIPT}1",
        "source": SCRIPT,
        "date": SCRIPT,
        "text": text,
        "topics": [SCRIPT],
        "segments": [{"start": 0, "end": len(text), "topics": [SCRIPT]}],
        "entities": [{"start": 0, "end": len(SCRIPT), "label": f'"{SCRIPT}'}],
    }
    return write(tmp_path / "a.jsonl", row, {"id": "clean", "text": "خبر عن الطقس"}, f'"{SCRIPT}"')


def page_of(path, **options):
    checked = check_files([path])
    return render_check(checked, summarise(checked.files, checked.articles), **options)


def test_the_page_escapes_everything_and_fetches_nothing(hostile):
    page = _Page(page_of(hostile))
    assert page.open == []
    assert "script" not in page.tags
    assert not {name for _, name, _ in page.attributes} & {"src", "href", "onclick", "style"}
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert page.text.count(SCRIPT) > 8
    labels = [value for _, name, value in page.attributes if name == "data-label"]
    assert labels == [f'"{SCRIPT}']


def test_articles_with_problems_come_first_and_the_rest_is_counted(tmp_path):
    path = write(
        tmp_path / "a.jsonl", *({"id": f"n{k}", "text": f"خبر {k}"} for k in range(3)), {"id": "bad", "text": "."}
    )
    page = _Page(page_of(path, most=2))
    assert page.tags.count("article") == 2
    assert page.text.index("bad") < page.text.index("n0")
    assert "n1" not in page.text
    assert "2 more are not on this page" in page.text


def test_the_page_is_written_whole_and_never_over_a_corpus(tmp_path, hostile):
    before = hostile.read_bytes()
    done = run(hostile, "--html", hostile)
    assert done.exit_code == 2
    assert "cannot be the output; allowed: a name that ends in .html" in done.stderr
    assert hostile.read_bytes() == before
    new = tmp_path / "new"
    done = run(hostile, "--html", new / "page.html", "--fix", tmp_path / "fixed")
    assert "no folder" in done.stderr
    assert not (tmp_path / "fixed").exists(), "nothing is written before"
    new.mkdir()
    assert run(hostile, "--html", new / "page.html").exit_code == 2  # for the broken line
    assert [path.name for path in new.iterdir()] == ["page.html"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_chromium_shows_and_filters_the_page(examples, hostile, tmp_path, scheme):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    checked = check_files([examples / "corpus" / "dev.jsonl", hostile])
    target = tmp_path / "page.html"
    target.write_text(render_check(checked, summarise(checked.files, checked.articles)), encoding="utf-8")
    articles = [placed.article for placed in checked.articles]
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
        problems, asked = [], []
        page.on("console", lambda message: problems.append(message.text))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(target.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        shown = page.locator("article:visible")
        assert shown.count() == len(articles)
        assert page.locator("article .text").first.evaluate("node => getComputedStyle(node).direction") == "rtl"
        # The labels are drawn, not written: what is selected and copied is the text.
        text = articles[0].text
        own = page.locator("article", has_text=articles[0].id).first.locator(".block p").all_text_contents()
        assert " ".join(own).split() == text.split()
        page.select_option("#problem", "rare-label")
        assert shown.count() == 1
        page.select_option("#problem", "any")
        assert shown.count() == sum(
            any((one.file, one.line) == (placed.file, placed.line) for one in checked.findings)
            for placed in checked.articles
        )
        page.select_option("#problem", "")
        page.select_option("#label", label="protest")
        assert shown.count() == sum("protest" in (article.topics or ()) for article in articles)
        page.select_option("#label", label="WEAPON")
        assert shown.count() == sum(
            any(entity.label == "WEAPON" for entity in article.entities or ()) for article in articles
        )
        browser.close()
    assert problems == []
    assert asked == [target.as_uri()]

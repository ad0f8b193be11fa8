"""The command as users meet it: what it prints, where, and how it ends."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import khabar
from khabar.cli import app
from khabar.cli_common import one_line_errors
from khabar.models.errors import MOST_KEPT

LINES = Path(__file__).parent / "data" / "lines.txt"
ARTICLES = Path(__file__).parent / "data" / "articles.jsonl"

# A tagger of its own module, so that a process of its own starts without torch. It says that it has begun.
FAKE = """
import pathlib, sys, types
from khabar.inference.results import TaggedArticle

def tagged(article):
    return TaggedArticle(id=article.id, text=article.text, topics=(), topic_scores={}, segments=(),
                         entities=(), characters_read=len(article.text), model="fake 1.0")

class Tagger:
    device = "cpu"
    def map_chunks(self, function, chunks):
        for chunk in chunks:
            yield [function(tagged(article)) for article in chunk]
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

fake = types.ModuleType("khabar.inference.tagger")
fake.EMBEDDED = pathlib.Path("nowhere")
fake.load = lambda model, **options: Tagger()
sys.modules["khabar.inference.tagger"] = fake

from khabar.cli import main
main()
"""


@pytest.fixture
def encoder_config(bert_config):
    """One kind of encoder is enough here."""
    return bert_config


def run(*arguments: object, stdin: str | bytes | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def start(*arguments: object, **options) -> subprocess.Popen:
    call = [sys.executable, "-c", FAKE, *map(str, arguments)]
    # A shell's background job hands on that Ctrl-C is to be ignored.
    return subprocess.Popen(
        call,
        stderr=options.pop("stderr", subprocess.PIPE),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads here
        **options,
    )


def test_version():
    assert run("--version").stdout == f"khabar {khabar.__version__}\n"


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "khabar", "--help"], capture_output=True, text=True, check=True)
    commands = ("score", "train", "evaluate", "calibrate", "pretrain", "data")
    assert all(f"\n  {command} " in done.stdout for command in commands)


def test_public_names_are_found_when_asked_for():
    from khabar.inference.tagger import Tagger, load

    assert (khabar.Tagger, khabar.load) == (Tagger, load)
    assert set(khabar.__all__) <= set(dir(khabar))
    for name in khabar.__all__:
        assert getattr(khabar, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        khabar.nothing  # noqa: B018


def test_unknown_words_are_usage_errors():
    assert run("bogus").exit_code == 2
    done = run("score", "--formt", "json")
    assert done.exit_code == 2
    assert "--formt" in done.stderr


# --- score


def test_score_gives_the_documented_output(tiny_model_folder, tmp_path):
    path = tmp_path / "my article.txt"
    path.write_text("وصل الوزير إلى بغداد.\nوأعلن الجيش العراقي بدء العملية.", encoding="utf-8")
    done = run("score", path, "--model", tiny_model_folder, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert list(result) == [
        "id",
        "topics",
        "uncertain",
        "topic_scores",
        "segments",
        "entities",
        "characters",
        "characters_read",
        "model",
    ]
    assert result["id"] == "my article"
    assert result["model"] == "tiny 1.0"
    assert [(segment["start"], segment["end"]) for segment in result["segments"]] == [(0, 21), (22, 54)]
    assert done.stderr.startswith("scored 1 article; ")
    assert done.stderr.count("\n") == 1


def test_score_reads_several_inputs_and_standard_input(tiny_model_folder, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "t.txt").write_text("بغداد", encoding="utf-8")
    (tmp_path / "c.csv").write_text("id,text\nc,بغداد\n", encoding="utf-8")
    inputs = [tmp_path / "c.csv", tmp_path / "texts", "-"]
    done = run("score", *inputs, "-m", tiny_model_folder, stdin='{"text": "بغداد"}\n{"id": "z", "text": ""}\n')
    assert done.exit_code == 0, done.stderr
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["c", "t", "3", "z"]


def test_score_takes_a_pipe_without_being_told(tiny_model_folder):
    done = run("score", "-m", tiny_model_folder, "--format", "text", stdin="وصل الوزير إلى بغداد.")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("1  (21 characters; tiny 1.0)\n")
    assert "\nEntities" in done.stdout


def test_closed_standard_input_is_not_missed(tiny_model_folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "بغداد"}\n', encoding="utf-8")
    score = [sys.executable, "-m", "khabar", "score", "-m", tiny_model_folder, "-o", tmp_path / "out.jsonl"]
    for inputs, code, said in (
        ([path], 0, "scored 1 article"),
        ([], 2, "nothing to score"),
        (["-"], 2, "cannot be read here"),
    ):
        command = ["/bin/sh", "-c", '"$@" <&-', "sh", *score, *inputs]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_score_puts_bad_rows_aside(tiny_model_folder, tmp_path):
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"id": "a", "text": "بغداد"}\n{}\n{"id": "b", "text": "كركوك"}\n', encoding="utf-8")
    done = run("score", path, "-m", tiny_model_folder, "-o", out)
    assert done.exit_code == 1
    assert done.stdout == ""
    errors = tmp_path / "out.jsonl.errors.jsonl"
    assert f"scored 2 articles; 1 row could not be scored (see {errors}); " in done.stderr
    assert [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").splitlines()] == ["a", "b"]
    assert json.loads(errors.read_text(encoding="utf-8"))["line"] == 2

    link = tmp_path / "link.jsonl"
    link.symlink_to(out)
    done = run("score", path, "-m", tiny_model_folder, "-o", link)
    assert f"(see {errors})" in done.stderr
    done = run("score", path, "-m", tiny_model_folder, "-o", "/dev/null")
    assert "1 row could not be scored; " in done.stderr, "it was shown here"

    done = run("score", path, "-m", tiny_model_folder)
    assert done.exit_code == 1
    assert f"{path}:2: text is missing" in done.stderr
    assert len(done.stdout.splitlines()) == 2

    out.unlink()
    done = run("score", path, "-m", tiny_model_folder, "-o", out, "--strict")
    assert done.exit_code == 2
    assert f"error: {path}:2: text is missing" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.jsonl"], "error: nowhere.jsonl: no such file or folder"),
        ([ARTICLES, "-m", "./nowhere"], "error: ./nowhere: no such model folder"),
        ([ARTICLES, "-o", "no/such/out.jsonl"], "error: no/such/out.jsonl: no folder"),
        ([ARTICLES, "--device", "tpu"], "error: device is 'tpu', must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_score_says_in_one_line_what_is_wrong(arguments, words):
    done = run("score", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_reader_that_leaves_ends_it_quietly(tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_text('{"text": "بغداد"}\n' * 20_000, encoding="utf-8")
    process = start("score", many, stdout=subprocess.PIPE)
    assert process.stdout.readline().startswith(b'{"id": "1"')
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_what_is_done_and_says_how_to_go_on(tmp_path, sent, code):
    out = tmp_path / "out.jsonl"
    process = start("score", "-", "-o", out, stdin=subprocess.PIPE)
    process.stdin.write(b'{"text": "a"}\n' * 10_000)
    process.stdin.flush()
    part = tmp_path / "out.jsonl.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert not out.exists()
    lines = errors.decode().splitlines()
    assert lines[:-1] == (["interrupted"] if sent == signal.SIGINT else [])
    assert lines[-1].endswith(f"{part}; the same command on the same input goes on with --resume")

    again = start("score", "-", "-o", out, stdin=subprocess.PIPE)
    assert "go on with it by --resume, or remove" in again.communicate(b'{"text": "a"}\n', timeout=60)[1].decode()
    assert again.returncode == 2
    resumed = start("score", "-", "-o", out, "--resume", stdin=subprocess.PIPE)
    assert b"scored 10,000 articles" in resumed.communicate(b'{"text": "a"}\n' * 10_000, timeout=60)[1]
    assert len(out.read_bytes().splitlines()) == 10_000
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_while_it_tidies_up_a_command_hears_no_other_signal(first, second):
    heard, tidied = [], []

    @one_line_errors
    def command():
        try:
            signal.raise_signal(first)
            heard.append("nothing")
        finally:
            signal.raise_signal(second)  # as `timeout` sends two
            tidied.append("up")

    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises((typer.Exit, SystemExit)) as ended:
            command()
        signal.raise_signal(second)  # while Python itself ends
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    code = ended.value.exit_code if first == signal.SIGINT else ended.value.code
    assert (heard, tidied, code) == ([], ["up"], 130 if first == signal.SIGINT else 143)


def test_a_command_without_a_signal_leaves_the_handlers_as_they_were():
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.getsignal(signal.SIGTERM)
    try:
        one_line_errors(lambda: None)()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("rows", "code"), [(['{"text": "a"}'], 0), (['{"text": "a"}', "{}"], 2)])
def test_where_nothing_can_be_said_the_exit_code_still_tells(tmp_path, rows, code):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        assert start("score", path, stdout=subprocess.DEVNULL, stderr=full).wait(timeout=60) == code


def test_a_closed_standard_output_is_said(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}', encoding="utf-8")
    command = f'exec "{sys.executable}" -m khabar score "{path}" >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: standard output is closed; give --output\n")


def test_standard_input_is_not_replaced_by_its_results(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}', encoding="utf-8")
    with path.open("rb") as stream:
        process = start("score", "-o", path, stdin=stream)
        assert b"is an input too, which its results would replace" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert path.read_text(encoding="utf-8") == '{"text": "a"}'


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(tmp_path):
    path, out = tmp_path / os.fsdecode(b"n\xff.jsonl"), tmp_path / os.fsdecode(b"o\xff.jsonl")
    path.write_text('{"text": "a"}\n{}', encoding="utf-8")
    process = start("score", path, "-o", out)
    assert b"scored 1 article; 1 row could not be scored" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    for arguments, message in (
        (["-o", out.with_suffix(".parquet")], b"the name is not UTF-8, which writing Parquet needs"),
        (["--text-field", os.fsdecode(b"te\xff")], b"which is not UTF-8; allowed: names that are"),
    ):
        process = start("score", path, *arguments)
        assert message in process.communicate(timeout=60)[1]
        assert process.returncode == 2


def test_output_is_utf8_whatever_the_terminal_says(tmp_path):
    path = tmp_path / "خبر.jsonl"
    path.write_text('{"id": "خبر", "text": "بغداد"}\n{}\n', encoding="utf-8")
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    process = start("score", path, stdout=subprocess.PIPE, env=plain)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert json.loads(out.decode("utf-8"))["id"] == "خبر"


def test_tables_are_printed_whatever_letters_an_encoding_has(tmp_path):
    rows = [{"id": f"a{i}", "text": "بغداد", "topics": ["هجوم"]} for i in range(3)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    windows = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    process = start("data", "check", path, stdout=subprocess.PIPE, env=windows)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert rb"  topic \u0647\u062c\u0648\u0645" in out
    assert b"Traceback" not in errors


def test_problems_that_are_not_listed_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 1, "topics": 1}\n' * (MOST_KEPT // 2 + 3), encoding="utf-8")
    done = run("data", "agreement", path, path)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == f"{MOST_KEPT + 6:,} problems, of which 6 are not listed"
    assert done.stderr.count("\n") == MOST_KEPT + 1


# --- train, evaluate


def test_train_and_evaluate(tmp_path, bert_config, tokenizer):
    pytest.importorskip("sklearn", reason="needs khabar[train]")
    from transformers import AutoModel

    from khabar.models.folder import save_model

    encoder, output, report = tmp_path / "encoder", tmp_path / "model", tmp_path / "report"
    save_model(AutoModel.from_config(bert_config), tokenizer, encoder)
    config = tmp_path / "train.yaml"
    config.write_text("epochs: 9\nname: from-file\nversion: '2'\n", encoding="utf-8")
    done = run(
        *("train", ARTICLES, "--output", output, "--encoder", encoder, "--config", config, "--dev", ARTICLES),
        *("--epochs", 1, "--device", "cpu", "--seed", 0, "--average-decay", 0),
    )
    assert done.exit_code == 0, done.stderr
    assert f"model saved in {output}" in done.stderr
    settings = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["epochs"], settings["name"], settings["seed"]) == (1, "from-file", 0)

    done = run("evaluate", output, ARTICLES, "--report", report, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "entities, exact span and label" in done.stdout
    measures = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert measures["model"] == "from-file 2"
    assert (report / "index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert "entities" in measures


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "error: CORPUS is missing"),
        (["train", ARTICLES], "error: --output is missing"),
        (["train", ARTICLES, "--output", "x", "--epochs", 0], "error: epochs is 0, must be at least 1"),
        (["train", "nowhere.jsonl", "--output", "{tmp}/x"], "error: nowhere.jsonl"),
        (["evaluate", "./nowhere", ARTICLES], "error: ./nowhere: no such model folder"),
        (["evaluate", "embedded", "nowhere.jsonl"], "error: nowhere.jsonl"),
        (["evaluate", "embedded", ARTICLES, "--report", ARTICLES], "is a file; allowed: a folder for index.html"),
        (["evaluate", "embedded", ARTICLES, "--resamples", 10], "error: resamples is 10; allowed: 100 or more"),
        (["pretrain", LINES], "error: --output is missing"),
        (["pretrain", LINES, "-o", "x", "--architecture", "both"], "error: architecture is 'both'"),
    ],
)
def test_training_says_in_one_line_what_is_wrong(tmp_path, arguments, words):
    pytest.importorskip("sklearn", reason="needs khabar[train]")
    done = run(*(str(argument).replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_flags_are_settings():
    pytest.importorskip("sklearn", reason="needs khabar[train]")
    from khabar.cli_train import pretrain, train
    from khabar.training.pretrain_settings import PretrainSettings
    from khabar.training.settings import TrainSettings

    def flags(command):
        return set(inspect.signature(command).parameters) - {"config", "resume", "overwrite", "seeds", "search"}

    assert flags(train) <= {field.name for field in fields(TrainSettings)}
    assert flags(pretrain) == {field.name for field in fields(PretrainSettings)}, "pretrain reads no file"


def test_a_missing_extra_names_the_pip_line(monkeypatch):
    import importlib.util

    for module in [name for name in sys.modules if name.startswith("khabar.training")]:
        monkeypatch.delitem(sys.modules, module)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else found(name, *rest)
    )
    done = run("evaluate", "embedded", ARTICLES)
    assert done.exit_code == 2
    assert "pip install 'khabar[train]'" in done.stderr

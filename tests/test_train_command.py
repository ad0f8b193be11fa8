"""Training as users meet it: other labels than the package's, several processes, and what the command refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from khabar.cli import app

CORPUS = Path(__file__).parent / "data" / "sport_and_economy.jsonl"
TEXTS = {
    "sport": "فاز نادي الميناء على ضيفه بهدفين في المباراة.",
    "economy": "تراجعت أسعار القمح بعد ارتفاع كلفة الشحن.",
    "neither": "افتتح المتحف معرضا للخط القديم.",
}
FAST = (
    *("--epochs", 45, "--patience", 45, "--learning-rate", 1e-2, "--head-learning-rate", 1e-2),
    *("--batch-pieces", 256, "--window", 32, "--device", "cpu"),
)


def run(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def run_two(*arguments: object) -> subprocess.CompletedProcess[str]:
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "khabar")
    return subprocess.run(
        [sys.executable, "-m", *torchrun, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_other_labels_are_learned_and_come_back(tmp_path, encoder_folder):
    model, articles = tmp_path / "model", tmp_path / "articles.jsonl"
    done = run("train", CORPUS, "--dev", CORPUS, "--encoder", encoder_folder, "-o", model, "--name", "رياضة", *FAST)
    assert done.exit_code == 0, done.stderr
    assert "رياضة" in done.stdout
    rows = [json.dumps({"id": name, "text": text}, ensure_ascii=False) for name, text in TEXTS.items()]
    articles.write_text("\n".join(rows), encoding="utf-8")
    done = run("score", articles, "--model", model, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    results = {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {name: [topic["label"] for topic in row["topics"]] for name, row in results.items()} == {
        "sport": ["رياضة"],
        "economy": ["اقتصاد"],
        "neither": [],
    }
    assert [(entity["label"], entity["text"]) for entity in results["sport"]["entities"]] == [("نادٍ", "نادي الميناء")]
    assert results["sport"]["model"] == "رياضة 1.0"
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "| رياضة |" in card
    assert str(tmp_path) not in card


def test_measuring_on_what_a_model_was_trained_on_is_pointed_out(tmp_path, encoder_folder, caplog):
    model, copy, other = tmp_path / "model", tmp_path / "copy.jsonl", tmp_path / "other.jsonl"
    rows = [{**json.loads(line), "id": f"{k}"} for k, line in enumerate(CORPUS.read_text("utf-8").splitlines() * 4)]
    corpus = tmp_path / "corpus.jsonl"  # enough to calibrate on
    corpus.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    done = run("train", corpus, "--encoder", encoder_folder, "-o", model, *FAST, "--epochs", 1)
    assert done.exit_code == 0, done.stderr
    copy.write_bytes(corpus.read_bytes())
    other.write_bytes(corpus.read_bytes().replace("القمح".encode(), "الذرة".encode()))
    for command in (["evaluate", model, "--resamples", 100], ["calibrate", model, "-o", tmp_path / "calibrated"]):
        warned = [f"{model} was trained on {copy}: what is measured on it flatters the model"]
        for corpus, expected in ((copy, warned), (other, [])):
            caplog.clear()
            done = run(*command[:2], corpus, *command[2:], "--device", "cpu")
            assert done.exit_code == 0, done.stderr
            assert [line for line in caplog.messages if "was trained on" in line] == expected
            shutil.rmtree(tmp_path / "calibrated", ignore_errors=True)


def test_seeds_and_a_search_from_the_command_line(tmp_path, encoder_folder):
    pytest.importorskip("optuna", reason="needs khabar[search]")
    model = tmp_path / "model"
    done = run(
        *("train", CORPUS, "--dev", CORPUS, "--encoder", encoder_folder, "-o", model, *FAST, "--epochs", 1),
        *("--search", 2, "--seeds", 2, "--no-calibrate"),
    )
    assert done.exit_code == 0, done.stderr
    assert "learning_rate" in done.stdout
    assert "dev measures of 2 seeds" in done.stdout
    assert "kept: seed" in done.stderr
    metrics = json.loads((model / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["search"]["trials"]) == len(metrics["seeds"]["runs"]) == 2
    assert metrics["calibration"] is None
    best = max(metrics["search"]["trials"], key=lambda trial: trial["score"])["settings"]
    assert {name: metrics["settings"][name] for name in best} == best
    assert not (model / "runs").exists()
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "chosen by the dev score of 2 trials" in card


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", 0], "--seeds is 0, must be at least 1"),
        (["--seeds", 2], "--seeds needs --dev"),
        (["--search", 2], "--search needs --dev"),
        (["--from", "embedded"], "growing embedded needs --dev"),
        (["--from", "embedded", "--encoder", "x"], "encoder and tokenizer come from the model embedded"),
        (["--wanted-precision", 2], r"wanted_precision is 2.0, must be in (0, 1)"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(tmp_path, arguments, words):
    done = run("train", CORPUS, "--output", tmp_path / "model", *arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_a_settings_file_written_by_a_run_is_one_that_a_run_reads(tmp_path):
    from khabar.training.provenance import public_settings, settings_yaml
    from khabar.training.settings import TrainSettings, read_settings

    settings = TrainSettings(corpora=("خبر.jsonl", "b.yaml"), output="m", dev="d.jsonl", learning_rate=1e-5, window=64)
    file = tmp_path / "settings.yaml"
    file.write_text(settings_yaml(public_settings(settings)), encoding="utf-8")
    assert read_settings(file, {}) == settings
    hidden = TrainSettings(corpora=("/home/someone/a.jsonl",), output="/data/m", encoder="org/encoder")
    shown = public_settings(hidden)
    assert (shown["corpora"], shown["output"], shown["encoder"]) == (["a.jsonl"], "m", "org/encoder")
    assert shown.keys() == {field.name for field in fields(TrainSettings)}


@pytest.mark.slow
def test_two_processes_make_one_model(tmp_path, encoder_folder):
    settings = tmp_path / "settings.yaml"
    settings.write_text("frozen_epochs: 1\naverage_decay: 0.5\n", encoding="utf-8")
    model = tmp_path / "model"
    done = run_two(
        *("train", CORPUS, "--dev", CORPUS, "--encoder", encoder_folder, "-o", model, *FAST),
        *("--epochs", 3, "--config", settings, "--seeds", 2),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("model saved in") == 1
    assert done.stdout.count("dev measures of 2 seeds") == 1
    assert {path.name for path in model.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "metrics.json", "settings.yaml", "README.md",
    }  # fmt: skip
    metrics = json.loads((model / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["processes"] == 2
    assert metrics["n_articles"] == 18
    assert [entry["epoch"] for entry in metrics["history"]] == [1, 2, 3]
    assert 0 < metrics["history"][-1]["loss"] < metrics["history"][0]["loss"]
    assert "accelerate launch --num_processes 2" in (model / "README.md").read_text(encoding="utf-8")
    assert run("evaluate", model, CORPUS, "--device", "cpu").exit_code == 0


@pytest.mark.slow
def test_an_error_of_all_processes_is_said_once(tmp_path):
    done = run_two("train", "nowhere.jsonl", "-o", tmp_path / "model", "--device", "cpu")
    assert done.returncode != 0
    assert done.stderr.count("error: nowhere.jsonl: no such file") == 1


def test_the_help_names_every_default_as_it_is():
    import typer

    from khabar.training.settings import TrainSettings
    from khabar.training.settling import LEAST_EPOCHS, MOST_PIECES, USUAL_RATE

    defaults = {field.name: field.default for field in fields(TrainSettings)}
    train = typer.main.get_command(app).commands["train"]
    shown = {
        parameter.name: found[1]
        for parameter in train.params
        if (found := re.search(r"\[default: ([^]]*)\]", getattr(parameter, "help", None) or ""))
    }
    plain = {name: value for name, value in defaults.items() if type(value) in (int, float, str)}
    given = {parameter.name for parameter in train.params} & plain.keys()
    assert {name: type(plain[name])(shown[name]) for name in given} == {name: plain[name] for name in given}
    assert shown["epochs"].startswith(f"{LEAST_EPOCHS}, more")
    assert shown["batch_pieces"].startswith(f"{MOST_PIECES}, fewer")
    assert f" {USUAL_RATE}" in shown["learning_rate"]


def test_an_earlier_model_is_not_replaced_unasked(tmp_path, encoder_folder):
    """Nor any other file of a name that a model's folder uses."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "README.md").write_text("mine", encoding="utf-8")
    arguments = ("train", CORPUS, "--dev", CORPUS, "--encoder", encoder_folder, "-o", model, *FAST[2:], "--epochs", 1)
    for more in ((), ("--resume",), ("--seeds", 2), ("--search", 2)):
        done = run(*arguments, *more)
        assert done.exit_code == 2
        assert f"{model} already holds README.md; give another --output, or --overwrite" in done.stderr
    assert [path.name for path in model.iterdir()] == ["README.md"]
    assert run(*arguments, "--overwrite").exit_code == 0
    assert (model / "README.md").read_text(encoding="utf-8").startswith("---")
    done = run(*arguments)
    assert "already holds config.json, model.safetensors, tokenizer.json, " in done.stderr


def test_topics_of_dev_that_training_lacks_are_named_once(tmp_path, encoder_folder):
    dev = tmp_path / "dev.jsonl"
    rows = [{"text": text, "topics": ["طقس"]} for text in TEXTS.values()]
    dev.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    for more in ((), ("--search", 2)):
        done = run("train", CORPUS, "--dev", dev, "--encoder", encoder_folder, "-o", tmp_path / "model", *FAST, *more)
        assert done.exit_code == 2
        assert "has topics of unknown meaning: طقس (3)" in done.stderr
        assert done.stderr.count("طقس") == 1
    assert not list(tmp_path.glob("model/*"))


def test_training_that_is_stopped_says_how_it_goes_on(tmp_path, encoder_folder):
    command = ("train", CORPUS, "--encoder", encoder_folder, "-o", tmp_path / "model", *FAST, "--epochs", 500)
    process = subprocess.Popen(
        [sys.executable, "-m", "khabar", *map(str, command)], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "model").glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert re.search(r"the same command goes on from \S+step-\d+ with --resume$", errors.strip())

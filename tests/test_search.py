"""The search for settings: trials, their table, and a search that goes on after it was interrupted."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from khabar.models.errors import KhabarError, MissingExtraError
from khabar.training.search import render_trials, search

pytest.importorskip("optuna", reason="needs khabar[search]")


@pytest.fixture
def settings(train_settings):
    return replace(train_settings, output=str(Path(train_settings.output).with_name("نموذج 1%")))


def test_an_interrupted_search_makes_the_trials_of_an_uninterrupted_one(settings, monkeypatch):
    from khabar.training import loop

    whole = search(replace(settings, output=f"{settings.output}-2"), 3, progress_bar=False)
    evaluate, n_measured = loop.evaluate, []

    def evaluate_and_stop(*arguments):
        n_measured.append(1)
        if len(n_measured) == 4:  # the second trial's second epoch
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", evaluate_and_stop)
    with pytest.raises(KeyboardInterrupt):
        search(settings, 3, progress_bar=False)
    monkeypatch.undo()
    with pytest.raises(KhabarError, match="holds an earlier search; go on with --resume"):
        search(settings, 3, progress_bar=False)
    with pytest.raises(KhabarError, match="seed was 0, is 1"):
        search(replace(settings, seed=1), 3, resume=True, progress_bar=False)
    corpus = Path(settings.corpora[0])
    before = corpus.read_bytes()
    corpus.write_bytes(before.replace(b'"id": "', b'"id": "other-', 1))
    with pytest.raises(KhabarError, match=r"search: cannot resume from other material: .*train source 0"):
        search(settings, 3, resume=True, progress_bar=False)
    corpus.write_bytes(before)

    resumed = search(settings, 3, resume=True, progress_bar=False)
    assert resumed.trials == whole.trials
    assert len(n_measured) == 4
    first = resumed.trials[0]
    assert first["settings"] == {name: getattr(settings, name) for name in first["settings"]}
    best = max(resumed.trials, key=lambda trial: trial["score"])
    assert vars(replace(settings, **best["settings"])) == vars(resumed.settings)
    folder = Path(settings.output) / "search"
    assert json.loads((folder / "trials.json").read_text(encoding="utf-8")) == resumed.trials
    assert {path.name for path in folder.iterdir()} == {"study.db", "trials.json"}
    assert search(settings, 3, resume=True, progress_bar=False) == resumed  # there is nothing left to do


def test_the_table_has_the_best_trial_first():
    trials = [
        {"number": 1, "state": "complete", "epochs": 3, "score": 0.5, "settings": {"learning_rate": 1e-4}},
        {"number": 2, "state": "pruned", "epochs": 1, "score": 0.9, "settings": {"learning_rate": 0.012345}},
        {"number": 3, "state": "complete", "epochs": 3, "score": 0.625, "settings": {"learning_rate": 2e-4}},
    ]
    assert [line.split()[0] for line in render_trials(trials).splitlines()] == ["trial", "3", "1", "2"]
    assert render_trials(trials).splitlines()[-1].split() == ["2", "90.0", "1", "cut", "short", "0.0123"]


def test_what_cannot_be_searched_is_refused(settings, monkeypatch):
    with pytest.raises(KhabarError, match="--search needs --dev"):
        search(replace(settings, dev=None), 2)
    with pytest.raises(KhabarError, match="search is 0, must be at least 1"):
        search(settings, 0)
    found = importlib.util.find_spec
    monkeypatch.setattr("khabar.training.search.find_spec", lambda name: None if name == "optuna" else found(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'khabar\[search\]'"):
        search(settings, 2)


def test_a_run_that_the_search_would_collide_with_is_named_before_the_trials(settings):
    Path(settings.output, "checkpoints", "step-3").mkdir(parents=True)
    with pytest.raises(KhabarError, match="holds checkpoints of an earlier run"):
        search(settings, 2)
    assert not Path(settings.output, "search").exists()


def test_a_finished_search_replaces_no_model_unasked(settings):
    search(settings, 1, progress_bar=False)
    cache = Path(settings.output, "cache")
    shutil.rmtree(cache)
    Path(settings.output, "config.json").touch()  # the run after the search has finished
    with pytest.raises(KhabarError, match=r"already holds config\.json; give another --output, or --overwrite"):
        search(settings, 2, resume=True, progress_bar=False)
    assert not cache.exists()
    Path(settings.output, "runs").mkdir()  # it goes on with the seeds after the search
    assert len(search(settings, 1, resume=True, progress_bar=False).trials) == 1


def test_a_search_settles_what_is_left_open(train_settings):
    left_open = replace(train_settings, batch_pieces=None, learning_rate=None)
    found = search(left_open, 1, progress_bar=False)
    assert found.trials[0]["settings"]["learning_rate"] == 5e-5
    assert (found.settings.batch_pieces, found.settings.learning_rate) == (1024, 5e-5)


def test_a_precision_that_the_device_lacks_is_refused_before_articles_are_encoded(train_settings):
    with pytest.raises(KhabarError, match="precision is 'fp16', which needs a GPU"):
        search(replace(train_settings, precision="fp16"), 1, progress_bar=False)
    assert not Path(train_settings.output).exists()

"""Several seeds: mean, spread and the best model; a killed series goes on where it stood."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from khabar.models.errors import KhabarError
from khabar.training import train as train_module
from khabar.training.seeds import render_seeds, summarize_seeds, train_seeds


def run(seed, f1):
    report = {"entities": {"micro": {"f1": f1}}}
    return {"settings": {"seed": seed}, "best_epoch": 2, "dev": report}


def test_the_summary_has_mean_spread_and_the_best():
    summary = summarize_seeds([run(4, 0.5), run(5, 0.7), run(6, 0.6)])
    assert summary["kept"] == 5
    assert summary["mean"] == {"score": pytest.approx(0.6), "entity_micro_f1": pytest.approx(0.6)}
    assert summary["std"]["score"] == pytest.approx(0.1)
    assert summary["runs"][0] == {"seed": 4, "best_epoch": 2, "dev": {"score": 0.5, "entity_micro_f1": 0.5}}
    assert render_seeds(summary).splitlines() == [
        "dev measures of 3 seeds",
        "                 seed 4  seed 5  seed 6  mean  std. dev.",
        "score              50.0    70.0    60.0  60.0       10.0",
        "entity_micro_f1    50.0    70.0    60.0  60.0       10.0",
    ]


def test_of_equal_scores_the_first_is_kept():
    assert summarize_seeds([run(1, 0.5), run(2, 0.5)])["kept"] == 1


def test_interrupted_in_the_second_run_it_goes_on_there(train_settings, monkeypatch):
    settings = replace(train_settings, average_decay=0.5, seed=3)
    work = Path(settings.output) / "runs"
    save = train_module.Checkpoints.save

    def save_and_stop(self, accelerator, progress):
        save(self, accelerator, progress)
        if self.folder.name == "seed-4":
            raise KeyboardInterrupt

    monkeypatch.setattr(train_module.Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(settings, 2, progress_bar=False)
    monkeypatch.undo()
    assert not Path(settings.output, "config.json").exists()
    first = load_file(work / "seed-3" / "finished" / "model.safetensors")
    written = (work / "seed-3" / "finished" / "metrics.json").stat().st_mtime_ns
    with pytest.raises(KhabarError, match="go on with --resume"):
        train_seeds(settings, 2, progress_bar=False)
    corpus = Path(settings.corpora[0])
    before = corpus.read_bytes()
    corpus.write_bytes(before.replace(b'"id": "', b'"id": "other-', 1))
    shutil.rmtree(next((work / "seed-4").glob("step-*")))  # as if stopped before its first checkpoint
    with pytest.raises(KhabarError, match=r"seed-3: cannot resume from other material: .*train source 0"):
        train_seeds(settings, 2, resume=True, progress_bar=False)
    corpus.write_bytes(before)
    with pytest.raises(KhabarError, match=r"epochs was 2, is 3"):
        train_seeds(replace(settings, epochs=3), 2, resume=True, progress_bar=False)
    assert (work / "seed-3" / "finished" / "metrics.json").stat().st_mtime_ns == written

    result = train_seeds(settings, 2, resume=True, progress_bar=False)
    assert not work.exists()
    seeds = result.metrics["seeds"]
    assert [one["seed"] for one in seeds["runs"]] == [3, 4]
    best = max(seeds["runs"], key=lambda one: one["dev"]["score"])
    assert seeds["kept"] == best["seed"] == result.metrics["settings"]["seed"]
    assert json.loads((result.folder / "metrics.json").read_text(encoding="utf-8")) == result.metrics
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "### Seeds" in card
    assert "--seeds 2 --seed 3" in card
    kept = load_file(result.folder / "model.safetensors")
    assert torch.equal(kept["crf.transition"], first["crf.transition"]) == (seeds["kept"] == 3)


@pytest.mark.parametrize(
    ("dev", "n", "words"), [(None, 2, "--seeds needs --dev"), ("dev.jsonl", 1, "seeds is 1, must be at least 2")]
)
def test_what_cannot_be_compared_is_refused(train_settings, dev, n, words):
    with pytest.raises(KhabarError, match=words):
        train_seeds(replace(train_settings, dev=dev), n)

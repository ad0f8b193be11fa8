import json

import pytest

from khabar.models.errors import KhabarError
from khabar.training.settings import TrainSettings, read_settings


def test_a_file_gives_settings_and_flags_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "corpora: [a.jsonl, b.yaml]\noutput: model\nepochs: 3\nlearning_rate: 1e-3\ndev: null\nfrom_scratch: true\n",
        encoding="utf-8",
    )
    settings = read_settings(file, {"epochs": 5})
    assert settings == TrainSettings(
        corpora=("a.jsonl", "b.yaml"), output="model", epochs=5, learning_rate=1e-3, from_scratch=True
    )


def test_json_is_read_as_well_and_one_corpus_needs_no_list(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"corpora": "a.jsonl", "output": "model", "window": 64}), encoding="utf-8")
    assert read_settings(file, {}) == TrainSettings(corpora=("a.jsonl",), output="model", window=64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch: 3", "epoch is no setting; did you mean epochs"),
        ("zzz: 3", "zzz is no setting; settings are corpora"),
        ("epochs: three", "epochs is 'three', must be int"),
        ("epochs: true", "epochs is True, must be int"),
        ("from_scratch: 1", "from_scratch is 1, must be bool"),
        ("learning_rate: fast", "learning_rate is 'fast', must be float"),
        ("corpora: [1]", r"corpora is \[1\], must be tuple"),
        ("- a", "must hold settings"),
        ("a: [", "is not YAML"),
        ("name: 2021-13-45", "is not YAML: month must be in 1..12"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path, line, message):
    file = tmp_path / "run.yaml"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(KhabarError, match=message):
        read_settings(file, {"corpora": ("a",), "output": "o"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(KhabarError, match=r"run\.yaml: cannot be read: No such file"):
        read_settings(tmp_path / "run.yaml", {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpora": ()}, "corpora is empty"),
        ({"epochs": 0}, "epochs is 0, must be at least 1"),
        ({"checkpoint_steps": 0}, "checkpoint_steps is 0"),
        ({"window": 2}, "window is 2, must be at least 3"),
        ({"window": 64, "stride": 63}, r"stride is 63, must be in \[1, 62\]"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, must be above 0"),
        ({"learning_rate": float("nan")}, "must be above 0"),
        ({"warmup": 1.0}, r"warmup is 1.0, must be in \[0, 1\)"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"frozen_epochs": -1}, "frozen_epochs is -1"),
        ({"seed": -1}, r"seed is -1, must be in \[0, 4294967296\)"),
        ({"precision": "int8"}, "precision is 'int8', must be one of auto, fp32, bf16, fp16"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(KhabarError, match=message):
        TrainSettings(**{"corpora": ("a",), "output": "o", **change})


def test_required_settings_are_asked_for(tmp_path):
    with pytest.raises(KhabarError, match="output is missing"):
        read_settings(None, {"corpora": ("a",)})

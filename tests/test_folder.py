"""Loading is strict: whatever is not a whole khabar model is refused with a clear error."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.folder import load_encoder, load_model, read_config, save_model
from khabar.models.text import build_tokenizer


@pytest.fixture
def folder(tiny_model_folder):
    return tiny_model_folder


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, change):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_a_saved_folder_is_whole_and_loads(folder, tiny_model):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model, tokenizer = load_model(folder)
    assert not model.training
    assert all(torch.equal(value, tiny_model.state_dict()[name]) for name, value in model.state_dict().items())
    assert tokenizer.tokenize("قال سالم") == load_model(folder)[1].tokenize("قال سالم")


def test_a_configuration_is_read_without_the_weights(folder):
    config, loaded = read_config(folder), load_model(folder)[0].config
    for name in ("topics", "entity_labels", "topic_thresholds", "window", "vocabulary", "full_name"):
        assert getattr(config, name) == getattr(loaded, name)
    assert config.encoder.vocab_size == loaded.encoder.vocab_size
    edit_weights(folder, lambda tensors: tensors["crf.start"].fill_(float("nan")))
    assert read_config(folder).topics == config.topics  # only a load reads numbers


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer.json missing"),
        (lambda folder: (folder / "vocab.pkl").write_bytes(b""), r"vocab.pkl: a pickle"),
        (lambda folder: edit_config(folder, lambda c: c.update(model_type="bert")), "not a khabar model"),
        (lambda folder: edit_config(folder, lambda c: c.update(window="32")), 'window is "32", must be a whole number'),
        (
            lambda folder: edit_weights(folder, lambda t: t.update({"crf.start": torch.zeros(3)})),
            r"crf.start has shape \[3\], must be \[7\]",
        ),
        (
            lambda folder: build_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]).save_pretrained(folder),
            "tokenizer.json has another vocabulary",
        ),
    ],
)
def test_a_configuration_is_that_of_a_whole_model(folder, spoil, message):
    spoil(folder)
    for read in (read_config, load_model):
        with pytest.raises(ModelFolderError, match=message):
            read(folder)


def test_half_precision_is_loaded_as_float32(folder):
    edit_weights(folder, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    assert {parameter.dtype for parameter in load_model(folder)[0].parameters()} == {torch.float32}


def test_saving_over_a_folder_keeps_what_is_not_the_models(folder, tiny_model, tokenizer):
    (folder / "notes.txt").write_text("kept")
    save_model(tiny_model, tokenizer, folder)
    assert (folder / "notes.txt").read_text() == "kept"
    assert not list(folder.glob(".saving-*"))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ModelFolderError, match=f"{missing} missing"):
        load_model(folder)


def test_a_pickle_is_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelFolderError, match=r"pytorch_model.bin is a pickle, which khabar never opens"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("crf.start"), "crf.start is missing"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is not part of this model"),
        (lambda t: t.update({"crf.start": torch.zeros(3)}), r"crf.start has shape \[3\], must be \[7\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(folder, change, message):
    edit_weights(folder, change)
    with pytest.raises(ModelFolderError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["entity_labels"].append("NEW"), "must be"),
        (
            lambda c: c.update(topics=[], entity_labels=[], topic_thresholds={}, topic_temperatures={}),
            "not a khabar model",
        ),
        (lambda c: c["encoder"].update(model_type="no-such-encoder"), "no-such-encoder"),
        (lambda c: c.update(topic_thresholds={"attack": 2.0, "statement": 0.5}), "topic_thresholds.attack is 2.0"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, change, message):
    edit_config(folder, change)
    with pytest.raises(ModelFolderError, match=message):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_truncated_file_is_refused(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(KhabarError, match=r"cannot be (loaded|read)"):
        load_model(folder)


def test_a_tokenizer_of_another_model_is_refused(folder, tokenizer):
    def shrink(tensors):
        name = next(name for name in tensors if "embedding" in name and tensors[name].shape[0] == len(tokenizer))
        tensors[name] = tensors[name][:50].clone()

    edit_weights(folder, shrink)
    edit_config(folder, lambda config: config["encoder"].update(vocab_size=50))
    with pytest.raises(ModelFolderError, match="embeds only 50"):
        load_model(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/nowhere/model", "no such model folder"),
        ("./nowhere", "no such model folder"),
        ("somebody/some-model", "Give a local folder"),
    ],
)
def test_what_is_not_there_is_named(name, message):
    with pytest.raises(ModelFolderError, match=message):
        load_model(name)


@pytest.mark.parametrize(
    "name",
    [
        r"C:\models\mine",
        "C:/models",
        r"models\mine",
        r"\\server\models",
        "~/models",
        "../mine",
        "models/news/mine",
        "my model",
        "نموذج/أخبار",
    ],
)
def test_a_path_is_never_asked_of_the_network(name, monkeypatch):
    asked = []
    monkeypatch.setattr("khabar.models.folder.model_info", lambda name, **options: asked.append(name))
    with pytest.raises(ModelFolderError, match="no such model folder"):
        load_model(name)
    assert not asked


@pytest.mark.parametrize("name", ["somebody/some-model", "some_model", "CAMeL-Lab/bert-base.v0_2"])
def test_a_hub_id_is_asked_of_the_network(name, monkeypatch):
    asked = []

    def model_info(name, **options):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("khabar.models.folder.model_info", model_info)
    with pytest.raises(ModelFolderError, match="no model hub gave it"):
        load_model(name)
    assert asked == [name]


def test_a_file_is_no_folder(folder):
    with pytest.raises(ModelFolderError, match="this is a file"):
        load_model(folder / "config.json")


def test_an_encoder_loads_from_a_masked_lm_checkpoint_but_not_with_holes(tmp_path, tokenizer, bert_config):
    save_model(AutoModel.from_config(bert_config, add_pooling_layer=False), tokenizer, tmp_path / "encoder")
    encoder, loaded_tokenizer = load_encoder(tmp_path / "encoder")
    assert encoder.config.model_type == "bert"
    assert len(loaded_tokenizer) == len(tokenizer)
    shutil.copytree(tmp_path / "encoder", tmp_path / "holes")
    edit_weights(tmp_path / "holes", lambda t: t.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(ModelFolderError, match=r"lacks weights of the encoder: encoder.layer.1.output.dense.weight"):
        load_encoder(tmp_path / "holes")

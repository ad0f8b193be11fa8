"""A folder from anywhere does no harm: no code of it runs, nothing outside it is read, and what is wrong is named."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from khabar.models.config import KhabarConfig
from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.folder import load_encoder, load_model, save_model
from khabar.models.text import build_tokenizer


@pytest.fixture
def encoder_config(recurrent_config):
    """One kind of encoder is enough here: what is checked does not depend on it."""
    return recurrent_config


@pytest.fixture
def folder(tiny_model_folder):
    return tiny_model_folder


@pytest.fixture
def bert_folder(tmp_path, tokenizer, bert_config):
    """An encoder by itself, of a kind that transformers knows."""
    save_model(AutoModel.from_config(bert_config, add_pooling_layer=False), tokenizer, tmp_path / "bert")
    return tmp_path / "bert"


def edit(path, change):
    settings = json.loads(path.read_text(encoding="utf-8"))
    change(settings)
    path.write_text(json.dumps(settings), encoding="utf-8")


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def index(folder, file):
    """Have an index name a file for every tensor, in the place of the weights, which move out of the folder."""
    names = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "optimizer.pt", "vocab.pkl", "model.PTH", "last.ckpt", "x.pickle", "m.joblib"]
)
def test_a_pickle_beside_good_weights_is_refused_and_not_opened(folder, tmp_path, name):
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ModelFolderError, match=f"{name}: a pickle, which no khabar model has and khabar never opens"):
        load_model(folder)
    assert not (tmp_path / "sprung").exists()


def test_an_encoders_pickle_is_never_opened(bert_folder, tmp_path):
    (bert_folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    assert load_encoder(bert_folder)[0].config.model_type == "bert"
    index(bert_folder, "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r'index.json: names "pytorch_model.bin"; allowed: safetensors files of'):
        load_encoder(bert_folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../outside.safetensors", r'names "../outside.safetensors"; allowed: safetensors files of the folder itself'),
        ("/etc/passwd", 'names "/etc/passwd"'),
        ("weights.bin", 'names "weights.bin"'),
        (7, "names 7"),
        ("nowhere.safetensors", "names nowhere.safetensors, which is missing"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "bert_folder"])
def test_an_index_names_safetensors_of_its_folder(request, kind, file, message):
    folder = request.getfixturevalue(kind)
    index(folder, file)
    with pytest.raises(ModelFolderError, match=f"model.safetensors.index.json: {message}"):
        (load_model if kind == "folder" else load_encoder)(folder)


@pytest.mark.parametrize("content", ["[", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_is_named(folder, content):
    index(folder, "x.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"model.safetensors.index.json: "):
        load_model(folder)


def test_a_model_in_shards_is_the_same_model(folder, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    state = load_model(tmp_path / "shards")[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tiny_model.state_dict().items())
    edit_shard = next((tmp_path / "shards").glob("model-*.safetensors"))
    edit_shard.write_bytes(edit_shard.read_bytes()[:-8])
    with pytest.raises(ModelFolderError, match=f"{edit_shard.name}: cannot be loaded: no whole safetensors file"):
        load_model(tmp_path / "shards")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_link_out_of_the_folder_is_refused(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(f"../{name}")
    with pytest.raises(ModelFolderError, match=f"{name}: a link out of the folder, to {folder.parent / name}; allowed"):
        load_model(folder)


def test_links_within_a_folder_and_to_a_folder_are_no_harm(folder):
    # As a mounted volume of settings looks.
    (folder / "..data").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(f"..data/{name}")
    (folder.parent / "link").symlink_to(folder)
    assert load_model(folder.parent / "link")[0].config.name == "tiny"


def test_an_encoder_with_a_link_out_of_the_folder_is_refused(bert_folder):
    (bert_folder / "vocab.txt").symlink_to("/etc/passwd")
    with pytest.raises(ModelFolderError, match=r"vocab.txt: a link out of the folder, to /etc/passwd"):
        load_encoder(bert_folder)


IN_THE_CACHE = """
import sys, khabar
print(khabar.load("somebody/some-model", device="cpu").tag("خبر").model)
"""


def test_a_model_in_the_hubs_cache_is_looked_at_like_any_other(folder, tmp_path):
    # The cache keeps files under their digests and links to them.
    model = tmp_path / "hub" / "models--somebody--some-model"
    snapshot, blobs = model / "snapshots" / ("0" * 40), model / "blobs"
    for place in (snapshot, blobs, model / "refs"):
        place.mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    for path in folder.iterdir():
        shutil.copy(path, blobs / f"digest-of-{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/digest-of-{path.name}")

    def load():
        env = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
        call = [sys.executable, "-c", IN_THE_CACHE]
        return subprocess.run(call, env=env, capture_output=True, text=True, check=False)

    done = load()
    assert (done.returncode, done.stdout) == (0, "tiny 1.0\n"), done.stderr
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(folder / "config.json")
    assert "config.json: a link out of the folder" in load().stderr


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"', "7", "[" * 100_000, b"\xff\xfe\x00"])
def test_a_configuration_that_is_no_json_object_is_named(folder, content):
    path = folder / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for load in (load_model, load_encoder):
        with pytest.raises(ModelFolderError, match=r"config.json: (cannot be read as JSON|is .*; allowed: a JSON obj)"):
            load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topics": "ab"}, 'topics is "ab", must be a list of labels'),
        ({"topics": [1, 2]}, "topics is .1, 2., must be a list of labels"),
        ({"topics": None}, "topics is null"),
        ({"entity_labels": {"LOCATION": 0}}, "entity_labels is .*, must be a list of labels"),
        ({"entity_labels": ["LOCATION", " "]}, "strings that are not blank"),
        ({"window": "32"}, 'window is "32", must be a whole number'),
        ({"window": 32.5}, "window is 32.5"),
        ({"stride": True}, "stride is true, must be a whole number"),
        (
            {"topic_thresholds": {"attack": "x", "statement": 0.5}},
            "topic_thresholds is .*, must be an object of numbers",
        ),
        ({"topic_thresholds": {"attack": None, "statement": 0.5}}, "must be an object of numbers"),
        ({"topic_temperatures": [1, 1]}, "topic_temperatures is .1, 1."),
        ({"topic_temperatures": {"attack": float("nan"), "statement": 1}}, "topic_temperatures.attack is nan"),
        ({"topic_bands": 7}, "topic_bands is 7, must be an object of lists"),
        ({"topic_bands": {"attack": "ab"}}, "topic_bands is"),
        ({"topic_bands": {"attack": [0.1, 0.2, 0.3]}}, "two rising probabilities"),
        ({"name": 7}, "name is 7, must be a string"),
        ({"version": None}, "version is null"),
        ({"head_dropout": "x"}, 'head_dropout is "x", must be a number'),
        ({"head_dropout": 5}, "dropout"),
        ({"encoder": "bert"}, 'encoder is "bert", must be an encoder\'s configuration'),
        ({"encoder": []}, "encoder is"),
        ({"encoder": {}}, "encoder has no model_type"),
        ({"encoder": None}, "cannot be loaded"),
        ({"model_type": "bert"}, 'model_type is "bert", must be "khabar"; not a khabar model'),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "has auto_map, which no khabar model has: khabar runs no code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "has quantization_config"),
    ],
)
def test_settings_of_wrong_types_are_named(folder, change, message):
    edit(folder / "config.json", lambda settings: settings.update(change))
    with pytest.raises(ModelFolderError, match=message):
        load_model(folder)


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "embedding_size"])
@pytest.mark.parametrize("value", ["32", -1, 0, None, [3]])
def test_an_encoder_of_no_possible_size_is_refused(folder, key, value):
    edit(folder / "config.json", lambda settings: settings["encoder"].update({key: value}))
    with pytest.raises(KhabarError):
        load_model(folder)


def test_a_claimed_size_takes_no_memory_that_the_weights_do_not_have(folder):
    edit(folder / "config.json", lambda settings: settings["encoder"].update(vocab_size=10**12))
    with pytest.raises(
        ModelFolderError, match=r"model.safetensors does not fit config.json: .* must be \[1000000000000"
    ):
        load_model(folder)


EVIL = (
    "from pathlib import Path\nPath({mark!r}).touch()\nclass Model: pass\nclass Config: pass\nclass Tokenizer: pass\n"
)


@pytest.fixture
def evil(tmp_path):
    """Call it with a folder to put code into it; gives where that code leaves a mark when it is run."""

    def put(folder):
        (folder / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "run")))
        return tmp_path / "run"

    return put


def test_code_of_a_tokenizer_is_not_run_and_nobody_is_asked(folder, evil, capfd):
    mark = evil(folder)
    auto_map = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(auto_map=auto_map))
    load_model(folder)  # with a class that transformers has, the code is not needed
    edit(folder / "tokenizer_config.json", lambda settings: settings.update(tokenizer_class="Tokenizer"))
    with pytest.raises(ModelFolderError, match=r"the tokenizer cannot be read: .* custom code") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")


def test_code_of_an_encoder_is_not_run_and_nobody_is_asked(bert_folder, evil, capfd):
    mark = evil(bert_folder)
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    edit(bert_folder / "config.json", lambda settings: settings.update(auto_map=auto_map))
    assert type(load_encoder(bert_folder)[0]).__module__.startswith("transformers.")
    edit(bert_folder / "config.json", lambda settings: settings.update(model_type="evil"))
    with pytest.raises(ModelFolderError, match="custom code"):
        load_encoder(bert_folder)
    assert not mark.exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["folder", "bert_folder"])
def test_an_adapter_of_another_model_is_refused(request, kind):
    folder = request.getfixturevalue(kind)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/some-model"}')
    with pytest.raises(ModelFolderError, match=r"adapter_config.json: an adapter of another model"):
        (load_model if kind == "folder" else load_encoder)(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no whole safetensors file"),
        (b"\0" * 4, "no whole safetensors file"),
        ((10**15).to_bytes(8, "little") + b"{}", "no whole safetensors file"),
        (pickle.dumps({"crf.start": 1}), "no whole safetensors file"),
    ],
)
def test_weights_that_are_no_safetensors_are_named(folder, content, message):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelFolderError, match=f"model.safetensors: cannot be loaded: {message}"):
        load_model(folder)


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_numbers_of_another_kind_are_named(folder, kind):
    edit_weights(folder, lambda tensors: tensors.update({"crf.start": tensors["crf.start"].to(kind)}))
    with pytest.raises(ModelFolderError, match=r"crf.start has numbers of kind \w+, must be BF16, F16, F32, F64"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_numbers_are_named(folder, bert_folder, value):
    edit_weights(folder, lambda tensors: tensors["crf.start"].fill_(value))
    with pytest.raises(ModelFolderError, match=r"model.safetensors holds NaN or infinity: crf.start"):
        load_model(folder)
    name = "encoder.layer.1.output.dense.bias"
    edit_weights(bert_folder, lambda tensors: tensors[name][3:4].fill_(value))
    with pytest.raises(ModelFolderError, match=f"holds NaN or infinity: {name}"):
        load_encoder(bert_folder)


def test_labels_that_disagree_with_the_head_are_named(folder):
    def fewer(settings):
        settings["topics"] = ["attack"]
        for key in ("topic_thresholds", "topic_temperatures"):
            settings[key] = {"attack": settings[key]["attack"]}

    edit(folder / "config.json", fewer)
    with pytest.raises(ModelFolderError, match=r"topic_head.* has shape \[2.*\], must be \[1"):
        load_model(folder)


def test_a_tokenizer_with_other_pieces_is_refused(folder, tokenizer, other_vocabularies):
    for other in other_vocabularies:
        build_tokenizer(other).save_pretrained(folder)
        with pytest.raises(ModelFolderError, match=r"tokenizer.json has another vocabulary than the model was saved"):
            load_model(folder)
    tokenizer.save_pretrained(folder)
    load_model(folder)


@pytest.mark.parametrize("piece", ["pad", "cls", "sep"])
def test_a_tokenizer_without_a_special_piece_is_refused(folder, piece):
    edit(folder / "tokenizer_config.json", lambda settings: settings.pop(f"{piece}_token"))
    with pytest.raises(ModelFolderError, match=f"the tokenizer has no special piece for {piece}"):
        load_model(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[1]", '{"model": {"type": "BPE"}}', "null", '{"pad_token": 7}'])
def test_a_tokenizer_that_cannot_be_read_is_one_error(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ModelFolderError, match="tokenizer"):
        load_model(folder)


def test_a_file_that_is_no_file_is_missing(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ModelFolderError, match=r"config.json missing"):
        load_model(folder)


def test_settings_made_in_python_are_checked_alike():
    with pytest.raises(ModelFolderError, match=r"topics is .*, must be a list of labels"):
        KhabarConfig(topics="attack")


def test_an_encoder_of_segmented_text_is_refused_before_it_is_fetched():
    with pytest.raises(KhabarError, match="segmented by Farasa"):
        load_encoder("aubmindlab/bert-base-arabertv2")

"""A model exported for ONNX Runtime says what the model says, or is refused; a damaged folder never runs."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import khabar
from khabar.cli import app
from khabar.models.article import Article, Entity
from khabar.models.errors import DeviceError, KhabarError, MissingExtraError, ModelFolderError
from khabar.models.folder import load_model, save_model, vocabulary_digest
from khabar.models.text import build_tokenizer

onnx = pytest.importorskip("onnx", reason="needs khabar[onnx]")
pytest.importorskip("onnxruntime", reason="needs khabar[onnx]")

from khabar.inference.export import export_model  # noqa: E402
from khabar.inference.gate import F1Pair, GateReport, compare, micro_f1  # noqa: E402
from khabar.inference.onnx_model import load_onnx  # noqa: E402
from khabar.inference.tagger import Tagger  # noqa: E402

WORDS = (Path(__file__).parent / "data" / "lines.txt").read_text(encoding="utf-8").split()
TEXTS = [
    "وصل الوزير إلى بغداد.\nوأعلن الجيش العراقي بدء العملية.",
    "قالَ سالِمٌ",
    "",
    " ".join(WORDS[:150]),  # longer than a window
    *(" ".join(WORDS[start : start + 7 + start % 40]) for start in range(0, 400, 25)),
]
SAMPLE = [Article(id=str(number), text=text) for number, text in enumerate([*TEXTS, *TEXTS[3:]])]

one_kind = pytest.mark.parametrize("encoder_config", ["recurrent_config"], indirect=True)


@pytest.fixture
def exported(tiny_model_folder, tmp_path):
    export_model(*load_model(tiny_model_folder), tmp_path / "exported")
    return tmp_path / "exported"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def decisions(results):
    return [
        ([topic.label for topic in result.topics], [(e.label, e.start, e.end) for e in result.entities])
        for result in results
    ]


# --- equality


def test_results_are_torchs(exported, tiny_model_folder):
    standing = list(khabar.load(tiny_model_folder, device="cpu").tag_many(TEXTS))
    found = list(khabar.load(exported, runtime="onnx").tag_many(TEXTS))
    assert any(topics and entities for topics, entities in decisions(standing))
    assert decisions(found) == decisions(standing)
    for one, other in zip(found, standing, strict=True):
        assert one.topic_scores == pytest.approx(other.topic_scores, abs=1e-3)
        assert [e.score for e in one.entities] == pytest.approx([e.score for e in other.entities], abs=1e-3)


def test_memory_that_runs_out_in_onnx_runtime_is_told_like_torchs(exported):
    tagger = khabar.load(exported, runtime="onnx")

    class Session:
        def run(self, *_):
            raise Exception("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 7")

    tagger.model.encoder.session = Session()
    with pytest.raises(khabar.KhabarError, match="needs more memory than cpu has"):
        list(tagger.tag_many(TEXTS))


@one_kind
@pytest.mark.parametrize("n_context_layers", [1, 2])
def test_padding_and_company_change_nothing(tiny_model, tokenizer, tmp_path, n_context_layers):
    from khabar.models.model import KhabarModel

    tiny_model.config.encoder.n_context_layers = n_context_layers
    model = KhabarModel(tiny_model.config).eval()
    export_model(model, tokenizer, tmp_path / "exported")
    encoder = load_onnx(tmp_path / "exported")[0].encoder
    ids = torch.arange(1, 61).reshape(4, 15)
    mask = (torch.arange(15) < torch.tensor([[15], [9], [2], [1]])).long()
    with torch.inference_mode():
        states = encoder(ids, mask).last_hidden_state
        torch.testing.assert_close(
            states[mask.bool()], model.encoder(ids, mask).last_hidden_state[mask.bool()], atol=1e-4, rtol=0
        )
        for row, length in enumerate(mask.sum(1).tolist()):
            alone = encoder(ids[row : row + 1, :length], mask[row : row + 1, :length]).last_hidden_state
            torch.testing.assert_close(states[row : row + 1, :length], alone, atol=1e-4, rtol=0)


@one_kind
def test_thresholds_may_be_changed_after_export(exported):
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    config["topic_thresholds"] = dict.fromkeys(config["topics"], 0.0)
    (exported / "config.json").write_text(json.dumps(config), encoding="utf-8")
    article = khabar.load(exported, runtime="onnx").tag(TEXTS[0])
    assert {topic.label for topic in article.topics} == set(config["topics"])


@one_kind
def test_the_command_exports_and_scores(tiny_model_folder, tmp_path):
    sample = tmp_path / "sample.jsonl"
    sample.write_text("".join(json.dumps(article.to_json()) + "\n" for article in SAMPLE), encoding="utf-8")
    folder = tmp_path / "exported"
    done = run("export", tiny_model_folder, folder, "--sample", sample, "--articles", "25")
    assert done.exit_code == 0, done.stderr
    assert "measured on 25 articles" in done.stdout
    assert "drop 0.00 points" in done.stdout
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert record["precision"] == "float32"
    assert record["gate"]["accepted"]
    assert record["gate"]["n_articles"] == 25
    outputs = []
    for model, runtime in ((tiny_model_folder, "torch"), (folder, "onnx")):
        done = run("score", sample, "--model", model, "--runtime", runtime, "--device", "cpu")
        assert done.exit_code == 0, done.stderr
        outputs.append([json.loads(line) for line in done.stdout.splitlines()])
    for one, other in zip(*outputs, strict=True):
        assert [entity["start"] for entity in one["entities"]] == [entity["start"] for entity in other["entities"]]
        assert one["topic_scores"] == pytest.approx(other["topic_scores"], abs=1e-3)


def test_a_sure_model_passes_in_int8(tiny_model_folder, examples, tmp_path):
    model, tokenizer = load_model(tiny_model_folder)
    with torch.no_grad():
        for parameter in (*model.topic_head.parameters(), *model.entity_head.parameters()):
            parameter.mul_(0.01)
        model.topic_head.out.bias += 3
        model.entity_head.tags.bias[1] += 3  # every word begins an entity of the first label
    save_model(model, tokenizer, tiny_model_folder)
    sample = examples / "corpus" / "dev.jsonl"
    done = run("export", tiny_model_folder, tmp_path / "int8", "--int8", "--sample", sample)
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "int8" / "export.json").read_text(encoding="utf-8"))
    assert (record["precision"], record["gate"]["topics"]["gold"]) == ("int8", "labels")
    assert 0 < record["gate"]["largest_shift"] < 0.05
    assert khabar.load(tmp_path / "int8", runtime="onnx").tag("وصل وزير الدفاع العراقي إلى كركوك.").entities


@pytest.mark.slow
def test_the_embedded_model_is_refused_in_int8_and_passes_in_float32(examples, tmp_path):
    sample = examples / "corpus" / "dev.jsonl"
    done = run("export", "embedded", tmp_path / "int8", "--int8", "--sample", sample)
    assert done.exit_code == 2
    assert "int8 is refused on these 29 articles" in done.stderr
    assert not (tmp_path / "int8").exists()
    done = run("export", "embedded", tmp_path / "fp32", "--sample", sample)
    assert done.exit_code == 0, done.stderr
    assert khabar.load(tmp_path / "fp32", runtime="onnx").tag("وصل وزير الدفاع العراقي إلى كركوك.").entities


# --- the gate


def spoil(model):
    """Let one weight of each gate be so large that in 8 bits the others vanish; as it stands it reads only zeros."""
    encoder = model.encoder
    with torch.no_grad():
        encoder.embedding_norm.weight[0] = 0
        encoder.embedding_norm.bias[0] = 0
        encoder.context.forward_lstm.weight_ih_l0[:, 0] = 1e4
        encoder.context.backward_lstm.weight_ih_l0[:, 0] = 1e4
        encoder.top.mix.weight[:, 0] = 1e4


@one_kind
def test_a_model_that_int8_ruins_is_refused_and_leaves_nothing(tiny_model, tokenizer, tmp_path):
    spoil(tiny_model)
    tagger = Tagger(tiny_model, tokenizer)
    assert any(topics or entities for topics, entities in decisions(tagger.tag_many(TEXTS)))
    with pytest.raises(KhabarError, match="int8 is refused on these") as refusal:
        export_model(tiny_model, tokenizer, tmp_path / "out" / "exported", int8=True, sample=SAMPLE)
    for name in ("topic F1 100.00 -> ", "entity F1 100.00 -> ", "allowed: under 0.5", "allowed: under 0.05"):
        assert name in str(refusal.value)
    assert list((tmp_path / "out").iterdir()) == []
    # In float32 the same model is well.
    report = export_model(tiny_model, tokenizer, tmp_path / "out" / "exported", sample=SAMPLE)
    assert report is not None
    assert report.accepted


@one_kind
def test_labels_are_the_gold_where_there_are_some(tiny_model, tokenizer):
    tagger = Tagger(tiny_model, tokenizer)
    results = [tagger.tag(article) for article in SAMPLE]
    right = [
        replace(
            article,
            topics=tuple(topic.label for topic in result.topics),
            entities=tuple(Entity(start=e.start, end=e.end, label=e.label) for e in result.entities),
        )
        for article, result in zip(SAMPLE, results, strict=True)
    ]
    assert compare(tagger, tagger, right).topics == F1Pair(gold="labels", reference=1.0, candidate=1.0)
    wrong = [replace(article, topics=("protest",), entities=None) for article in SAMPLE]
    report = compare(tagger, tagger, [*wrong, *right])
    assert report.topics.gold == report.entities.gold == "labels"
    assert 0 < report.topics.reference == report.topics.candidate < 1
    assert report.entities.reference == 1.0
    assert compare(tagger, tagger, SAMPLE).topics.gold == "reference"
    nothing = [replace(article, topics=(), entities=()) for article in SAMPLE]
    assert compare(tagger, tagger, nothing).topics.gold == "reference"


@pytest.mark.parametrize(
    ("topic_f1", "entity_f1", "shift", "accepted"),
    [
        (0.896, 0.806, 0.049, True),
        (0.910, 0.820, 0.0, True),
        (0.895, 0.81, 0.0, False),
        (0.90, 0.804, 0.0, False),
        (0.90, 0.81, 0.05, False),
    ],
)
def test_every_bound_counts(topic_f1, entity_f1, shift, accepted):
    report = GateReport(
        n_articles=20,
        topics=F1Pair(gold="labels", reference=0.9, candidate=topic_f1),
        entities=F1Pair(gold="labels", reference=0.81, candidate=entity_f1),
        largest_shift=shift,
        reference_rate=1.0,
        candidate_rate=2.0,
    )
    assert report.accepted is accepted
    assert report.to_json()["accepted"] is accepted


def test_micro_f1_counts_over_all_articles():
    assert micro_f1([{"a", "b"}, set()], [{"a"}, {"c"}]) == pytest.approx(0.5)
    assert micro_f1([set()], [set()]) == 1.0
    assert micro_f1([set()], [{"a"}]) == 0.0


# --- what is refused before any work


@one_kind
def test_unfit_requests_are_refused(tiny_model, tokenizer, tmp_path, exported, monkeypatch):
    new = tmp_path / "new"
    with pytest.raises(KhabarError, match="is there already"):
        export_model(tiny_model, tokenizer, exported)
    with pytest.raises(KhabarError, match="int8 changes results: it needs a sample"):
        export_model(tiny_model, tokenizer, new, int8=True)
    with pytest.raises(KhabarError, match="the sample has 3 articles, must have at least 20"):
        export_model(tiny_model, tokenizer, new, sample=SAMPLE[:3])
    with pytest.raises(KhabarError, match="runtime is 'tensorflow', must be one of torch, compiled, onnx"):
        khabar.load(exported, runtime="tensorflow")
    with pytest.raises(DeviceError, match="runtime onnx runs on the CPU"):
        khabar.load(exported, runtime="onnx", device="cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    for attempt in (lambda: export_model(tiny_model, tokenizer, new), lambda: load_onnx(exported)):
        with pytest.raises(MissingExtraError, match=r"pip install 'khabar\[onnx\]'"):
            attempt()
    assert not new.exists()


@one_kind
def test_an_encoder_that_exports_wrongly_is_refused(tiny_model, tokenizer, tmp_path, monkeypatch):
    """A graph is tried against the encoder it was made from, also without a sample."""
    import khabar.inference.export as module

    right = module.recurrent_graph

    def wrong(encoder):
        changed = right(encoder)
        next(node for node in changed.graph.node if node.op_type == "LSTM").attribute[0].s = b"reverse"
        return changed

    monkeypatch.setattr(module, "recurrent_graph", wrong)
    with pytest.raises(KhabarError, match="states differ by"):
        export_model(tiny_model, tokenizer, tmp_path / "exported")
    assert not [path for path in tmp_path.iterdir() if "exported" in path.name]


# --- folders that do not load


def vouch_for(folder, name):
    """Make the record agree with a changed file, as whoever changed it on purpose would."""
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    record["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "export.json").write_text(json.dumps(record), encoding="utf-8")


def edit_json(path, change):
    settings = json.loads(path.read_text(encoding="utf-8"))
    change(settings)
    path.write_text(json.dumps(settings), encoding="utf-8")


def edit_graph(folder, change):
    model = onnx.load(folder / "model.onnx")
    change(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    vouch_for(folder, "model.onnx")


@one_kind
@pytest.mark.parametrize("name", ["config.json", "model.onnx", "heads.safetensors", "export.json", "tokenizer.json"])
def test_a_missing_file_is_named(exported, name):
    (exported / name).unlink()
    with pytest.raises(ModelFolderError, match=f"{name} missing"):
        load_onnx(exported)


@one_kind
@pytest.mark.parametrize("name", ["config.json", "model.onnx", "heads.safetensors", "export.json", "tokenizer.json"])
def test_a_truncated_file_is_refused(exported, name):
    content = (exported / name).read_bytes()
    (exported / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(KhabarError, match=r"cannot be (loaded|read)|is not the file that was exported|not a record"):
        load_onnx(exported)


@one_kind
def test_files_of_different_models_are_refused(exported, tiny_model, tokenizer, tmp_path):
    torch.nn.init.normal_(tiny_model.encoder.embeddings.weight)
    export_model(tiny_model, tokenizer, tmp_path / "other")
    (exported / "model.onnx").write_bytes((tmp_path / "other" / "model.onnx").read_bytes())
    with pytest.raises(ModelFolderError, match=r"model.onnx is not the file that was exported"):
        load_onnx(exported)


@one_kind
@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["encoder"].update(hidden_size=64),
        lambda config: config.update(topics=config["topics"][::-1]),
        lambda config: config["entity_labels"].append("NEW"),
    ],
)
def test_a_configuration_of_another_model_is_refused(exported, change):
    edit_json(exported / "config.json", change)
    with pytest.raises(ModelFolderError, match=r"config.json has other encoder, topics, entity_labels"):
        load_onnx(exported)


@one_kind
def test_a_configuration_of_another_kind_is_refused(exported):
    edit_json(exported / "config.json", lambda config: config.update(auto_map={"AutoModel": "evil.Model"}))
    with pytest.raises(ModelFolderError, match="has auto_map, which no khabar model has"):
        load_onnx(exported)


@one_kind
def test_a_tokenizer_of_another_model_is_refused(exported, tokenizer, other_vocabularies):
    for other in other_vocabularies:
        build_tokenizer(other).save_pretrained(exported)
        with pytest.raises(ModelFolderError, match=r"tokenizer.json has another vocabulary than the model was saved"):
            load_onnx(exported)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    build_tokenizer([*pieces, "##خبر"]).save_pretrained(exported)
    with pytest.raises(ModelFolderError, match=f"has {len(pieces) + 1} pieces, the encoder embeds only {len(pieces)}"):
        load_onnx(exported)
    tokenizer.save_pretrained(exported)
    load_onnx(exported)


@one_kind
@pytest.mark.parametrize("piece", ["pad", "cls", "sep"])
def test_a_tokenizer_without_a_special_piece_is_refused(exported, piece):
    edit_json(exported / "tokenizer_config.json", lambda settings: settings.pop(f"{piece}_token"))
    with pytest.raises(ModelFolderError, match=f"the tokenizer has no special piece for {piece}"):
        load_onnx(exported)


@one_kind
def test_an_export_notes_the_vocabulary_that_its_model_did_not(tiny_model, tokenizer, tmp_path):
    tiny_model.config.vocabulary = ""
    export_model(tiny_model, tokenizer, tmp_path / "exported")
    config = json.loads((tmp_path / "exported" / "config.json").read_text(encoding="utf-8"))
    assert config["vocabulary"] == vocabulary_digest(tokenizer)


@one_kind
@pytest.mark.parametrize("name", ["vocab.pkl", "pytorch_model.bin"])
def test_a_pickle_in_the_folder_is_refused(exported, name):
    (exported / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelFolderError, match=f"{name}: a pickle, which no khabar model has and khabar never opens"):
        load_onnx(exported)


def to_another_file(graph):
    tensor = next(tensor for tensor in graph.initializer if tensor.name == "embeddings")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")


@one_kind
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (to_another_file, "takes embeddings from another file"),
        (lambda graph: setattr(graph.node[0], "op_type", "NoSuchNode"), "cannot be run"),
        (lambda graph: graph.output.append(graph.input[0]), "into states, input_ids, must turn"),
    ],
)
def test_a_graph_of_another_kind_is_refused(exported, change, message):
    edit_graph(exported, change)
    with pytest.raises(ModelFolderError, match=message):
        load_onnx(exported)


@one_kind
def test_a_graph_of_another_size_is_refused(exported, recurrent_config):
    from khabar.inference.recurrent_graph import recurrent_graph
    from khabar.models.recurrent import RecurrentEncoder

    recurrent_config.hidden_size = 64
    graph = recurrent_graph(RecurrentEncoder(recurrent_config).eval())
    (exported / "model.onnx").write_bytes(graph.SerializeToString())
    vouch_for(exported, "model.onnx")
    with pytest.raises(ModelFolderError, match=r"model.onnx gives states of 64, config.json says 32"):
        load_onnx(exported)


@one_kind
def test_what_is_no_graph_is_refused(exported):
    (exported / "model.onnx").write_bytes(b"\x80\x04not a graph")
    vouch_for(exported, "model.onnx")
    with pytest.raises(ModelFolderError, match=r"model.onnx is not an ONNX file"):
        load_onnx(exported)


@one_kind
def test_heads_that_do_not_fit_are_named(exported):
    from safetensors.torch import load_file, save_file

    heads = load_file(exported / "heads.safetensors")
    heads["crf.end"] = torch.zeros(3)
    heads["extra"] = heads.pop("crf.start")
    save_file(heads, exported / "heads.safetensors")
    vouch_for(exported, "heads.safetensors")
    with pytest.raises(ModelFolderError, match=r"crf.start is missing; extra is not part of this model; crf.end has"):
        load_onnx(exported)


@one_kind
def test_each_runtime_names_the_other(exported, tiny_model_folder, tmp_path):
    with pytest.raises(ModelFolderError, match="runtime onnx loads what `khabar export` wrote"):
        khabar.load(exported)
    with pytest.raises(ModelFolderError, match=r"model.onnx, .* missing; `khabar export MODEL DIR` writes"):
        khabar.load(tiny_model_folder, runtime="onnx")
    with pytest.raises(ModelFolderError, match="no such folder"):
        khabar.load(tmp_path / "nowhere", runtime="onnx")

"""Training from corpus to folder: it learns, it resumes exactly, and it refuses what it cannot use."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, RoFormerConfig, RoFormerModel

from khabar.inference.tagger import load
from khabar.models.errors import KhabarError, ModelFolderError
from khabar.models.folder import EMBEDDED, new_encoder, save_model
from khabar.training.checkpoints import Checkpoints, Progress
from khabar.training.corpora import load_corpus
from khabar.training.evaluate import evaluate, parts_of
from khabar.training.loop import share_of
from khabar.training.settings import read_settings
from khabar.training.train import train

MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
FILES = MODEL_FILES | {"metrics.json", "settings.yaml", "README.md"}


@pytest.fixture
def settings(train_settings):
    return train_settings


def weights(folder):
    return load_file(f"{folder}/model.safetensors")


def test_it_learns_topics_evidence_entities_and_proclitics(settings):
    result = train(replace(settings, epochs=40), progress_bar=False)
    report = evaluate(load(result.folder, device="cpu"), load_corpus(settings.dev)[0].articles)
    assert report["topics"]["article"]["macro"]["f1"] > 0.95
    assert report["topics"]["segment"]["micro"]["f1"] > 0.95
    assert report["entities"]["micro"]["f1"] > 0.95
    tagged = load(result.folder, device="cpu").tag(
        "قتل شخصان بانفجار سيارة مفخخة شمال ببغداد.\nتوقعت هيئة الأرصاد أمطارا غزيرة في عدن."
    )
    assert [(topic.label, topic.segments) for topic in tagged.topics] == [("attack", (0,))]
    assert [entity.text for entity in tagged.entities] == ["بغداد", "عدن"]


def test_left_alone_it_trains_as_long_as_few_articles_need_and_says_how(settings):
    """No epochs, batches or rate given; patience stops nothing."""
    result = train(replace(settings, epochs=None, batch_pieces=None, learning_rate=None), progress_bar=False)
    expected = {"epochs": 40, "batch_pieces": 1024, "learning_rate": 5e-5}
    assert {name: result.metrics["settings"][name] for name in expected} == expected
    assert len(result.metrics["history"]) == 40
    written = read_settings(result.folder / "settings.yaml", {"output": "elsewhere"})
    assert {name: getattr(written, name) for name in expected} == expected
    assert "epochs: 40" in (result.folder / "README.md").read_text(encoding="utf-8")


def test_the_folder_holds_the_best_epoch_and_its_metrics(settings):
    result = train(replace(settings, epochs=4), progress_bar=False)
    assert {path.name for path in result.folder.iterdir()} == FILES
    metrics = json.loads((result.folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics == json.loads(json.dumps(result.metrics))
    scores = [entry["dev"]["score"] for entry in metrics["history"]]
    assert metrics["best_epoch"] == 1 + scores.index(max(scores))
    report = evaluate(load(result.folder, device="cpu"), load_corpus(settings.dev)[0].articles)
    for part, measured in parts_of(report).items():
        assert parts_of(metrics["dev"])[part]["micro"]["f1"] == pytest.approx(measured["micro"]["f1"])
    assert "intervals" in metrics["dev"]["entities"]["micro"]
    assert metrics["settings"]["seed"] == 0
    assert metrics["labels"] == {"topics": ["attack", "statement"], "entity_labels": ["LOCATION"]}


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(settings, tmp_path):
    folders = [
        train(replace(settings, output=str(tmp_path / name), seed=seed), progress_bar=False).folder
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    ]
    one, two, three = map(weights, folders)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


RUN = """
import sys
from khabar.training.settings import read_settings
from khabar.training.train import train
train(read_settings(sys.argv[1], {}), resume=True, progress_bar=False)
"""


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_killed_and_resumed_it_gives_the_same_weights(settings, tmp_path, average_decay):
    settings = replace(settings, epochs=5, checkpoint_steps=1, dev=None, average_decay=average_decay)
    whole = train(replace(settings, output=str(tmp_path / "whole")), progress_bar=False).folder
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**vars(settings), "corpora": list(settings.corpora)}), encoding="utf-8")
    checkpoints = tmp_path / "model" / "checkpoints"
    with subprocess.Popen([sys.executable, "-c", RUN, str(file)], env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while not list(checkpoints.glob("step-[3-9]")):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "model" / "config.json").exists()
    resumed = train(settings, resume=True, progress_bar=False).folder
    before, after = weights(whole), weights(resumed)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not checkpoints.exists()


def test_where_no_bar_is_shown_a_log_says_how_far_it_is(settings, monkeypatch, caplog):
    monkeypatch.setattr("khabar.training.log_lines.SECONDS", 0)
    with caplog.at_level("INFO", logger="khabar"):
        train(settings, progress_bar=False)
    messages = [record.getMessage() for record in caplog.records]
    encoded = [message for message in messages if message.startswith("encoded ")]
    assert re.fullmatch(r"encoded (\d+) of \1 articles", encoded[-1])
    steps = [message for message in messages if message.startswith("step ")]
    n_steps = len(steps)
    assert re.fullmatch(rf"step {n_steps} of {n_steps}, in epoch {settings.epochs}: loss \d+\.\d{{4}}", steps[-1])


@pytest.mark.parametrize("n_moved", [1, 6])
def test_stopped_while_it_saves_it_leaves_no_mixture_and_resumes(settings, monkeypatch, n_moved):
    train(replace(settings, epochs=1, dev=None, seed=5), progress_bar=False)
    before = weights(settings.output)
    moved = []

    def full_disk(path, target, replace=Path.replace):
        if Path(target).parent == Path(settings.output):
            moved.append(target)
            if len(moved) > n_moved:
                raise OSError("no space left")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        train(settings, overwrite=True, progress_bar=False)
    monkeypatch.undo()
    assert not Path(settings.output, "config.json").exists()
    folder = train(settings, resume=True, progress_bar=False).folder
    assert {path.name for path in folder.iterdir()} == FILES
    assert load(folder, device="cpu").topics == ["attack", "statement"]
    assert not torch.equal(before["crf.transition"], weights(folder)["crf.transition"])


def test_killed_while_it_tidies_up_it_leaves_nothing_that_looks_whole(settings, monkeypatch):
    remove = shutil.rmtree

    def killed(path, **options):
        if Path(path).name == ".checkpoints-done" and Path(path).exists():
            remove(Path(path) / "finished")
            raise KeyboardInterrupt
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        train(replace(settings, epochs=1), progress_bar=False)
    monkeypatch.undo()
    assert load(settings.output, device="cpu").topics == ["attack", "statement"]
    assert not Path(settings.output, "checkpoints").exists()
    folder = train(replace(settings, epochs=1), overwrite=True, progress_bar=False).folder
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_best_model_outlives_a_kill_until_a_checkpoint_names_a_better_one(tmp_path):
    from accelerate import Accelerator

    checkpoints = Checkpoints(tmp_path, {})
    for epoch in (1, 2):
        checkpoints.best(epoch).mkdir()
    accelerator = Accelerator(cpu=True)
    checkpoints.save(accelerator, Progress(step=5, best_epoch=1))
    assert checkpoints.best(1).exists()
    assert not checkpoints.best(2).exists()


def test_checkpoints_are_neither_overwritten_nor_resumed_under_other_settings(settings, tmp_path):
    checkpoints = tmp_path / "model" / "checkpoints"
    (checkpoints / "step-2").mkdir(parents=True)
    (checkpoints / "settings.json").write_text(json.dumps({**vars(settings), "seed": 9}), encoding="utf-8")
    with pytest.raises(KhabarError, match="go on with --resume"):
        train(settings, progress_bar=False)
    with pytest.raises(KhabarError, match="seed was 9, is 0"):
        train(settings, resume=True, progress_bar=False)


def stopped_run(settings, monkeypatch):
    save = Checkpoints.save

    def save_and_stop(self, accelerator, progress):
        save(self, accelerator, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(settings, progress_bar=False)
    monkeypatch.undo()


def test_a_run_is_not_gone_on_with_on_other_articles(settings, monkeypatch):
    stopped_run(settings, monkeypatch)
    corpus = Path(settings.corpora[0])
    before = corpus.read_bytes()
    corpus.write_bytes(before + b"\n" + before.splitlines(keepends=True)[0].replace(b'"id": "', b'"id": "again-'))
    with pytest.raises(
        KhabarError, match=r"cannot resume from other material: .*the content of train source 0 \(train.jsonl\) was '"
    ):
        train(settings, resume=True, progress_bar=False)
    corpus.write_bytes(before)
    assert train(settings, resume=True, progress_bar=False).metrics["history"][-1]["epoch"] == settings.epochs


@pytest.mark.parametrize(
    ("file", "name", "value", "seen"),
    [
        ("origin", "processes", 4, "processes was 4, is 1"),
        ("settings", "khabar", "0.7.0", "khabar was '0.7.0'"),
        ("settings", "stride", 96, "stride was 96, is not given"),
    ],
)
def test_a_run_is_not_gone_on_with_otherwise_than_it_was_begun(settings, monkeypatch, file, name, value, seen):
    stopped_run(settings, monkeypatch)
    (origin,) = Path(settings.output).glob(f"checkpoints/{file}.json")
    origin.write_text(json.dumps(json.loads(origin.read_text()) | {name: value}))
    with pytest.raises(KhabarError, match=seen):
        train(settings, resume=True, progress_bar=False)


@pytest.mark.parametrize(("n_batches", "n_processes"), [(1, 1), (7, 2), (3, 3), (2, 4), (1, 5), (3, 8)])
def test_every_process_takes_as_many_batches(n_batches, n_processes):
    shares = [share_of(range(n_batches), process, n_processes) for process in range(n_processes)]
    assert {len(share) for share in shares} == {-(-n_batches // n_processes)}
    assert {batch for share in shares for batch in share} == set(range(n_batches))


def test_patience_ends_a_run_that_no_longer_improves(settings):
    result = train(
        replace(settings, epochs=30, patience=2, learning_rate=1e-9, head_learning_rate=1e-9), progress_bar=False
    )
    assert len(result.metrics["history"]) == result.metrics["best_epoch"] + 2 < 30


def test_several_corpora_with_different_annotations_train_together(settings, tmp_path, news_rows):
    bio = tmp_path / "names.bio"
    bio.write_text(
        "في O\nبغداد B-LOC\n. O\n\nقال O\nسالم B-PERS\nالحداد I-PERS\nمن O\nجنيف B-LOC\n\n", encoding="utf-8"
    )
    topics_only = tmp_path / "topics.jsonl"
    rows = [{"id": f"t{i}", "text": row["text"], "topics": row["topics"]} for i, row in enumerate(news_rows(6))]
    topics_only.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    (tmp_path / "mixed.yaml").write_text(
        "sources:\n"
        "  - path: train.jsonl\n    unannotated: [PERSON]\n"
        "  - path: names.bio\n    entities: {LOC: LOCATION, PERS: PERSON}\n    proclitics: false\n    weight: 0.5\n"
        "  - path: topics.jsonl\n",
        encoding="utf-8",
    )
    mixed = replace(settings, corpora=(str(tmp_path / "mixed.yaml"),), dev=None, epochs=1)
    result = train(mixed, progress_bar=False)
    assert result.metrics["labels"]["entity_labels"] == ["LOCATION", "PERSON"]
    assert result.metrics["n_articles"] == 32
    assert load(result.folder, device="cpu").tag("قال سالم").topic_scores.keys() == {"attack", "statement"}


def test_a_fresh_encoder_needs_no_weights(settings, encoder_folder):
    (encoder_folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"model\.safetensors missing"):
        train(settings, progress_bar=False)
    result = train(replace(settings, from_scratch=True, epochs=1), progress_bar=False)
    assert (result.folder / "model.safetensors").is_file()


def test_a_fresh_encoder_can_be_the_embedded_one_where_its_files_are_linked(tmp_path, monkeypatch):
    for file in EMBEDDED.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.setattr("khabar.models.folder.EMBEDDED", tmp_path)
    encoder, tokenizer = new_encoder("embedded")
    assert encoder.get_input_embeddings().weight.shape[0] == len(tokenizer)


def test_a_fresh_encoder_is_looked_at_like_another(settings, encoder_folder):
    fresh = replace(settings, from_scratch=True, epochs=1)
    file = encoder_folder / "config.json"
    before = json.loads(file.read_text(encoding="utf-8"))
    for changed, message in (
        ({key: value for key, value in before.items() if key != "model_type"}, "cannot be loaded"),
        (before | {"vocab_size": 20}, r"the tokenizer has \d+ pieces, the encoder embeds only 20"),
    ):
        file.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ModelFolderError, match=message):
            train(fresh, progress_bar=False)


def test_a_dev_set_that_says_nothing_is_refused_before_training(settings, tmp_path):
    silent = tmp_path / "silent.jsonl"
    silent.write_text('{"text": "نص لم يقرأه أحد"}\n', encoding="utf-8")
    with pytest.raises(KhabarError, match=r"silent\.jsonl has nothing to measure on"):
        train(replace(settings, dev=str(silent)), progress_bar=False)
    assert not Path(settings.output).exists()


def test_a_fresh_encoder_can_have_the_shape_of_a_model_s(settings, tmp_path):
    first = train(replace(settings, epochs=1, dev=None), progress_bar=False).folder
    fresh = replace(
        settings, encoder=str(first), from_scratch=True, epochs=1, dev=None, output=str(tmp_path / "fresh"), seed=7
    )
    again = train(fresh, progress_bar=False).folder
    assert weights(first).keys() == weights(again).keys()
    name = "encoder.embeddings.weight"
    assert not torch.equal(weights(first)[name], weights(again)[name])


def test_a_hub_id_offline_says_what_to_do(settings):
    with pytest.raises(ModelFolderError, match="Give a local folder"):
        train(replace(settings, encoder="aubmindlab/bert-base-arabertv02"), progress_bar=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "needs a GPU"),
        ({"device": "cuda:99"}, "'cuda:99', must be auto, cpu or cuda; CUDA_VISIBLE_DEVICES=N"),
        ({"encoder": "/nowhere"}, "no such model folder"),
        ({"corpora": ("/nowhere.jsonl",)}, "nowhere.jsonl"),
        ({"stride": 600}, r"^stride is 600, must be in \[1, "),
    ],
)
def test_what_cannot_be_used_is_named(settings, change, message):
    with pytest.raises(KhabarError, match=message):
        train(replace(settings, **change), progress_bar=False)
    assert not Path(settings.output, "config.json").exists()


def test_frozen_epochs_leave_the_pretrained_parts_as_they_are(settings, encoder_folder):
    before = weights(encoder_folder)
    frozen = weights(train(replace(settings, frozen_epochs=2, dev=None), progress_bar=False).folder)
    same = {name for name, value in before.items() if torch.equal(value, frozen[f"encoder.{name}"])}
    assert same == {name for name in before if not name.startswith("top.")}
    thawed = weights(
        train(replace(settings, frozen_epochs=1, dev=None, output=f"{settings.output}-2"), progress_bar=False).folder
    )
    assert not any(torch.equal(value, thawed[f"encoder.{name}"]) for name, value in before.items())


def test_what_an_encoder_holds_fixed_gets_no_gradient(settings, tokenizer, tmp_path):
    """A new RoFormer's table of positions is computed, not learned."""
    config = RoFormerConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    save_model(AutoModel.from_config(config), tokenizer, tmp_path / "roformer")
    seen = []

    def look(module, _inputs):
        seen.extend(one.requires_grad for name, one in module.named_parameters() if "embed_positions" in name)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: look(module, inputs) if isinstance(module, RoFormerModel) else None
    )
    try:
        train(
            replace(settings, encoder=str(tmp_path / "roformer"), from_scratch=True, dev=None, epochs=1),
            progress_bar=False,
        )
    finally:
        hook.remove()
    assert seen
    assert not any(seen)

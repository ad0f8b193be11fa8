"""Pretraining at small scale: both architectures learn, and a killed run goes on exactly."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from khabar.models.errors import KhabarError
from khabar.models.folder import MODEL_FILES, load_encoder
from khabar.models.recurrent import RecurrentConfig, RecurrentEncoder
from khabar.models.text import build_tokenizer, train_vocabulary
from khabar.training import pretrain_loop
from khabar.training.checkpoints import Checkpoints
from khabar.training.pretrain import pretrain
from khabar.training.pretrain_cloze import ClozeObjective, SampledSoftmax
from khabar.training.pretrain_data import PieceBatches, encode_corpus, held_out, read_articles
from khabar.training.pretrain_loop import rate_share
from khabar.training.pretrain_settings import PretrainSettings
from khabar.training.pretrain_transformer import mask_pieces
from khabar.training.vectors import static_vectors

PLACES = ("بغداد", "البصرة", "الموصل", "أربيل", "كركوك", "النجف")
PEOPLE = ("الوزير", "المحافظ", "القائد", "المتحدث", "النائب")
SENTENCES = (
    "وصل {who} إلى مدينة {where} صباح اليوم والتقى عددا من السكان.",
    "قال {who} إن الأوضاع في {where} هادئة ولا تدعو إلى القلق.",
    "افتتح {who} جسرا جديدا في {where} بحضور المهندسين والعمال.",
    "أعلن {who} بدء العمل في مستشفى {where} خلال الشهر المقبل.",
)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of small original articles, three paragraphs each."""
    lines = []
    for number, (who, where) in enumerate((who, where) for who in PEOPLE for where in PLACES):
        lines += [SENTENCES[(number + k) % 4].format(who=who, where=where) for k in range(3)] + [""]
    path = tmp_path_factory.mktemp("text") / "news.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def small_settings(text_file: Path, output: Path, **changes: Any) -> PretrainSettings:
    sizes: dict[str, Any] = {
        "vocab_size": 260, "embedding_size": 16, "context_size": 24, "hidden_size": 16, "layers": 2,
        "heads": 2, "intermediate_size": 24, "vector_passes": 0, "samples": 200, "rows": 8, "length": 16,
        "passes": 2.5, "learning_rate": 1e-2, "held_out": 0.1, "measure_steps": 5,
        "checkpoint_steps": 7, "device": "cpu",
    }  # fmt: skip
    return PretrainSettings(texts=(str(text_file),), output=str(output), **{**sizes, **changes})


def small_encoder(vocab_size: int) -> RecurrentEncoder:
    config = RecurrentConfig(vocab_size=vocab_size, embedding_size=16, context_size=12, hidden_size=8)
    return RecurrentEncoder(config)


VARIANTS = [
    {"architecture": "recurrent"},
    {"architecture": "recurrent", "vector_passes": 1, "context_layers": 2},
    {"architecture": "transformer", "objective": "replaced-token"},
    {"architecture": "transformer", "objective": "masked-lm"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_loss_falls_and_the_folder_is_an_encoder(text_file: Path, tmp_path: Path, variant: dict[str, Any]) -> None:
    result = pretrain(small_settings(text_file, tmp_path, passes=10.0, **variant))
    history = result.metrics["history"]
    assert history[-1]["loss"] < history[0]["loss"] - 0.2
    assert history[-1]["held_out"] < history[0]["held_out"]
    assert all(entry["pieces_a_second"] > 0 and entry["utilisation"] > 0 for entry in history)
    files = {path.name for path in tmp_path.iterdir()}
    assert files >= {*MODEL_FILES, "metrics.json"}
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(result.metrics))
    assert not (tmp_path / "checkpoints").exists()
    encoder, tokenizer = load_encoder(tmp_path)
    assert encoder.config.fine_tuning_rate == 1e-3
    states = encoder(**tokenizer(["وصل الوزير إلى بغداد."], return_tensors="pt")).last_hidden_state
    assert states.shape[-1] == 16
    assert torch.isfinite(states).all()


def test_draws_a_loss_curve(text_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pretrain(small_settings(text_file, tmp_path, passes=1.0))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


class KilledError(Exception):
    pass


def kill_at_the_first_checkpoint(settings: PretrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_loop.Checkpoints, "save", save_and_die)
        with pytest.raises(KilledError):
            pretrain(settings)


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[2]], ids=["recurrent", "transformer"])
def test_a_killed_run_goes_on_exactly(
    text_file: Path, tmp_path: Path, variant: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(small_settings(text_file, tmp_path / "whole", **variant))

    settings = small_settings(text_file, tmp_path / "killed", **variant)
    kill_at_the_first_checkpoint(settings, monkeypatch)
    with pytest.raises(KhabarError, match="go on with --resume"):
        pretrain(settings)
    resumed = pretrain(settings, resume=True)

    weights = [load_encoder(result.folder)[0].state_dict() for result in (whole, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    steps = [entry["step"] for entry in whole.metrics["history"]]
    assert steps == [entry["step"] for entry in resumed.metrics["history"]]


def test_sampled_softmax_estimates_the_full_one() -> None:
    torch.manual_seed(0)
    encoder = small_encoder(300)
    counts = 10_000 / np.arange(1, 301)
    objective = ClozeObjective(encoder, counts, n_samples=100)
    rows = torch.randint(0, 300, (4, 20))
    with torch.no_grad():
        full = float(objective.full_loss(rows))
        sampled = np.mean([float(objective(rows)) for _ in range(200)])
    assert sampled == pytest.approx(full, abs=0.02)


def test_sampled_softmax_gradients() -> None:
    torch.manual_seed(0)
    columns = torch.tensor([-1, 0, 3, -1, 8, 2])
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((6, 5), (9, 5), (9,), (6,))]

    def plainly(hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        logits = hidden @ weight.t() + bias
        logits = logits.masked_fill(torch.arange(9) == columns[:, None], float("-inf"))
        return torch.logaddexp(logits.logsumexp(-1), target) - target

    ours, plain = SampledSoftmax.apply(*inputs, columns), plainly(*inputs)
    torch.testing.assert_close(ours, plain)
    gradients = [torch.autograd.grad(losses.square().sum(), inputs) for losses in (ours, plain)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_cloze_guess_never_sees_its_piece() -> None:
    torch.manual_seed(0)
    encoder = small_encoder(30)
    objective = ClozeObjective(encoder, np.ones(30))
    rows = torch.randint(0, 30, (1, 9))
    changed = rows.clone()
    changed[0, 4] = (rows[0, 4] + 1) % 30
    with torch.no_grad():
        same = torch.isclose(objective.predict(rows), objective.predict(changed)).all(-1)[0]
    assert same.tolist() == [False, False, False, True, False, False, False]


def test_masks_spare_special_pieces() -> None:
    torch.manual_seed(0)
    rows = torch.randint(0, 20, (50, 30))
    positions = mask_pieces(rows, torch.tensor([0, 1, 2, 3]), 6)
    assert positions.shape == (50, 6)
    assert (positions.diff(dim=1) > 0).all()
    assert (rows.gather(1, positions) > 3).all()


def test_stream_holds_every_article_between_special_pieces(text_file: Path) -> None:
    tokenizer = build_tokenizer(train_vocabulary(text_file.read_text(encoding="utf-8").splitlines(), 260))
    stream = encode_corpus([text_file], tokenizer)
    articles = list(read_articles([text_file]))
    assert len(articles) == 30
    assert stream.tolist() == [piece for article in articles for piece in tokenizer(article)["input_ids"]]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_reads_compressed_text_and_misses_its_end(text_file: Path, tmp_path: Path, ending: str) -> None:
    if ending == ".gz":
        content = gzip.compress(text_file.read_bytes())
    else:
        zstandard = pytest.importorskip("zstandard", reason="needs khabar[formats]")
        content = zstandard.ZstdCompressor().compress(text_file.read_bytes())
    packed = tmp_path / f"news.txt{ending}"
    packed.write_bytes(content)
    assert list(read_articles([packed])) == list(read_articles([text_file]))
    packed.write_bytes(content[: len(content) // 2])
    with pytest.raises(KhabarError, match=r"is cut off: its \w+ data lacks its end"):
        list(read_articles([packed]))


def test_text_in_another_encoding_is_named(text_file: Path, tmp_path: Path) -> None:
    text = text_file.read_text(encoding="utf-8")
    other = tmp_path / "windows.txt"
    other.write_bytes(text.encode("cp1256", errors="ignore"))
    with pytest.raises(KhabarError, match=r"windows\.txt is not in UTF-8 and looks like Windows-1256; allowed: UTF-8"):
        list(read_articles([other]))
    other.write_bytes(text.encode() * 40 + b"\nab\xff\n")
    number = 40 * text.count("\n") + 2
    with pytest.raises(KhabarError, match=rf"windows\.txt:{number}: not UTF-8: byte 0xff at byte 3 of the line"):
        list(read_articles([other]))
    other.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert list(read_articles([other])) == list(read_articles([text_file]))


def test_an_encoder_is_not_replaced_unasked(text_file: Path, tmp_path: Path) -> None:
    pretrain(small_settings(text_file, tmp_path, passes=1.0))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = small_settings(text_file, tmp_path, passes=1.0, seed=1)
    with pytest.raises(KhabarError, match=r"already holds config\.json, .*; give another --output, or --overwrite"):
        pretrain(other)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "README.md").write_text("the card of the earlier one", encoding="utf-8")
    (tmp_path / "cache").mkdir()
    pretrain(other, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() != before["model.safetensors"]
    assert not (tmp_path / "README.md").exists()
    assert (tmp_path / "cache").is_dir()


def test_a_run_that_could_not_be_saved_is_made_again(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    settings = small_settings(text_file, tmp_path, passes=1.0, checkpoint_steps=1000)
    with monkeypatch.context() as patch:
        patch.setattr("khabar.training.pretrain.save_loss_curve", Mock(side_effect=OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            pretrain(settings)
    assert not (tmp_path / "config.json").exists()
    pretrain(settings)
    load_encoder(tmp_path)


def test_nothing_is_taken_from_a_run_on_another_text(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    """A run that was killed before its first checkpoint leaves its vocabulary, pieces and vectors behind."""
    changes = {"vector_passes": 1, "passes": 1.0}
    expected = pretrain(small_settings(text_file, tmp_path / "expected", **changes)).folder
    text = text_file.read_text(encoding="utf-8")
    other = tmp_path / "other.txt"
    other.write_text(text.replace("بغداد", "دمشق").replace("جسرا", "نفقا"), encoding="utf-8")
    monkeypatch.setattr("khabar.training.pretrain.build_pretraining", Mock(side_effect=KilledError))
    with pytest.raises(KilledError):
        pretrain(small_settings(other, tmp_path / "out", **changes))
    assert len(list((tmp_path / "out" / "checkpoints" / "material").iterdir())) == 3
    monkeypatch.undo()
    output = pretrain(small_settings(text_file, tmp_path / "out", **changes)).folder
    for name in ("tokenizer.json", "model.safetensors"):
        assert (output / name).read_bytes() == (expected / name).read_bytes()
    assert not (output / "checkpoints").exists()


def test_a_run_does_not_go_on_with_a_changed_text(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    text = tmp_path / "news.txt"
    text.write_bytes(text_file.read_bytes())
    settings = small_settings(text, tmp_path / "out")
    kill_at_the_first_checkpoint(settings, monkeypatch)
    same_length = text.read_text(encoding="utf-8").replace("بغداد", "دغباد")
    text.write_text(same_length, encoding="utf-8")
    with pytest.raises(
        KhabarError, match=r"cannot resume from other material: .*the content of text 1 \(news\.txt\) was"
    ):
        pretrain(settings, resume=True)


def test_two_processes_share_the_rows(text_file: Path, tmp_path: Path) -> None:
    flags = {name: value for name, value in asdict(small_settings(text_file, tmp_path)).items() if value is not None}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if name != "texts"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "khabar")
    done = subprocess.run(
        [sys.executable, *torchrun, "pretrain", str(text_file), *given, "--passes=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training a vocabulary") == 1
    assert done.stderr.count("encoder saved in") == 1
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["processes"] == 2
    load_encoder(tmp_path)


def test_rows_that_processes_cannot_share_are_refused(text_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(KhabarError, match="rows is 8, must be a multiple of the 3 processes"):
        pretrain(small_settings(text_file, tmp_path))


def test_batches_are_arithmetic() -> None:
    batches = PieceBatches(stream=np.arange(1000), rows=4, length=10, seed=3)
    assert batches.steps_a_pass == 24
    one_pass = torch.cat([batches.batch(step) for step in range(24)])
    assert (one_pass.diff(dim=1) == 1).all()  # every row is a stretch of the stream
    assert len(set(one_pass.flatten().tolist())) == 960  # nothing twice in a pass
    assert torch.equal(batches.batch(30), batches.batch(30))
    assert not torch.equal(batches.batch(6), batches.batch(30))  # another order in the next pass
    shares = [batches.batch(7, process, 2) for process in range(2)]
    assert sorted(torch.cat(shares).flatten().tolist()) == sorted(batches.batch(7).flatten().tolist())


def test_too_little_text_is_named() -> None:
    with pytest.raises(KhabarError, match="50 pieces of text are too few for a batch of 4 rows of 20 pieces"):
        PieceBatches(stream=np.arange(50), rows=4, length=20)


def test_held_out_is_the_end() -> None:
    read, kept_back = held_out(np.arange(10), 0.25)
    assert (read.tolist(), kept_back.tolist()) == ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9])


def test_rates_rise_stay_and_fall() -> None:
    shares = [rate_share(step, 10, 0.2, 0.4) for step in range(10)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])


def test_static_vectors_put_like_pieces_together() -> None:
    random = np.random.default_rng(0)
    # Texts of a thousand pieces, each from one of two vocabularies; subsampling leaves few of so frequent pieces.
    texts = [random.integers(1, 21, 1000) + 20 * (number % 2) for number in range(60)]
    vectors = static_vectors(np.concatenate(texts), 50, 8, epochs=20)
    assert vectors.shape == (50, 8)
    assert not vectors[41:].any()
    unit = vectors[1:41] / np.linalg.norm(vectors[1:41], axis=1, keepdims=True)
    likeness = unit @ unit.T
    assert likeness[:20, :20].mean() > likeness[:20, 20:].mean() + 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mamba"}, "architecture is 'mamba', must be one of recurrent, transformer"),
        ({"objective": "masked-lm"}, "objective of a recurrent encoder is 'masked-lm', must be one of cloze"),
        ({"warmup": 0.7, "decay": 0.7}, "warmup 0.7 and decay 0.7 together exceed"),
        ({"seed": 2**32}, r"seed is 4294967296, must be in \[0, 4294967296\)"),
        ({"rows": -1}, "rows is -1, must be at least 1"),
        ({"hidden_size": 15}, "hidden_size is 15, must be even"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KhabarError, match=message):
        PretrainSettings(texts=("news.txt",), output="out", **changes)


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(KhabarError, match=r"nowhere\.txt: no such text file"):
        pretrain(small_settings(tmp_path / "nowhere.txt", tmp_path / "out"))

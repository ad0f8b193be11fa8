"""The recurrent encoder: padding and company change nothing, it saves and loads, it learns in layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from khabar.models.recurrent import RecurrentConfig, RecurrentEncoder, reorder, reversal


def small_config(**changes: float) -> RecurrentConfig:
    sizes = {"vocab_size": 60, "embedding_size": 12, "context_size": 20, "mix_size": 10, "hidden_size": 14}
    return RecurrentConfig(**{**sizes, **changes})


@pytest.fixture
def encoder() -> RecurrentEncoder:
    torch.manual_seed(0)
    return RecurrentEncoder(small_config()).eval()


def padded(rows: list[list[int]], extra: int = 0) -> tuple[Tensor, Tensor]:
    """Pad rows on the right to the longest one and `extra` pieces more."""
    width = max(map(len, rows)) + extra
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


ROWS = [[2, 7, 9, 11, 3], [2, 3], [2, 5, 5, 5, 5, 5, 8, 3], [2]]


@pytest.mark.parametrize("n_context_layers", [1, 2])
def test_padding_and_company_change_nothing(n_context_layers: int) -> None:
    encoder = RecurrentEncoder(small_config(n_context_layers=n_context_layers)).eval()
    ids, mask = padded(ROWS, extra=3)
    with torch.no_grad():
        together = encoder(ids, mask).last_hidden_state
        for row, states in zip(ROWS, together, strict=True):
            alone = encoder(torch.tensor([row])).last_hidden_state[0]
            torch.testing.assert_close(states[: len(row)], alone, atol=1e-5, rtol=0)


def test_each_reader_sees_its_own_side_only(encoder: RecurrentEncoder) -> None:
    ids, changed = torch.tensor([[2, 7, 9, 11, 3]]), torch.tensor([[2, 7, 30, 11, 3]])
    positions = reversal(torch.ones_like(ids))
    with torch.no_grad():
        left, right = encoder.context(encoder.embed(ids), positions)
        left_changed, right_changed = encoder.context(encoder.embed(changed), positions)
    assert torch.equal(left[:, :2], left_changed[:, :2])
    assert torch.equal(right[:, 3:], right_changed[:, 3:])
    assert not torch.isclose(left[:, 2:], left_changed[:, 2:]).all(-1).any()
    assert not torch.isclose(right[:, :3], right_changed[:, :3]).all(-1).any()


def test_reversal_is_its_own_inverse() -> None:
    ids, mask = padded(ROWS)
    positions = reversal(mask)
    assert positions.tolist() == [
        [4, 3, 2, 1, 0, 5, 6, 7],
        [1, 0, 2, 3, 4, 5, 6, 7],
        [7, 6, 5, 4, 3, 2, 1, 0],
        [0, 1, 2, 3, 4, 5, 6, 7],
    ]
    states = torch.randn(*ids.shape, 3)
    assert torch.equal(reorder(reorder(states, positions), positions), states)


def test_left_padding_is_refused(encoder: RecurrentEncoder) -> None:
    with pytest.raises(ValueError, match="needs right-padded rows"):
        encoder(torch.tensor([[0, 2, 3]]), torch.tensor([[0, 1, 1]]))


def test_saves_and_loads_through_the_auto_classes(encoder: RecurrentEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, RecurrentEncoder)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, mask = padded(ROWS)
    with torch.no_grad():
        before, after = encoder(ids, mask), loaded.eval()(ids, mask)
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, RecurrentConfig)
    assert config.hidden_size == 14


def test_half_precision_stays_close(encoder: RecurrentEncoder, tmp_path: Path) -> None:
    encoder.to(torch.bfloat16).save_pretrained(tmp_path)
    ids, mask = padded(ROWS)
    low = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    full = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        states = low(ids, mask).last_hidden_state
        assert states.dtype == torch.bfloat16
        exact = full(ids, mask).last_hidden_state
        torch.testing.assert_close(states.float()[mask.bool()], exact[mask.bool()], atol=0.03, rtol=0)


def test_dropout_only_in_training(encoder: RecurrentEncoder) -> None:
    ids, mask = padded(ROWS)
    with torch.no_grad():
        measured = [encoder(ids, mask).last_hidden_state for _ in range(2)]
        encoder.train()
        trained = [encoder(ids, mask).last_hidden_state for _ in range(2)]
    assert torch.equal(*measured)
    assert not torch.allclose(*trained)


def test_a_feature_is_dropped_along_a_whole_row(encoder: RecurrentEncoder) -> None:
    states = encoder.context_dropout.train()(torch.ones(3, 5, 40))
    assert torch.equal(states, states[:, :1].expand_as(states))
    assert (states == 0).any()


def test_every_weight_learns() -> None:
    encoder = RecurrentEncoder(small_config())
    ids, mask = padded(ROWS)
    (encoder(ids, mask).last_hidden_state * mask[..., None]).square().sum().backward()
    weights = dict(encoder.named_parameters())
    assert [name for name, weight in weights.items() if weight.grad is None or not weight.grad.any()] == []
    groups = {name.split(".")[0] for name in weights}
    assert groups == {"embeddings", "embedding_norm", "context", "top"}


def test_forget_gates_start_open() -> None:
    bias = RecurrentEncoder(small_config()).context.forward_lstm.bias_hh_l0
    assert torch.equal(bias, torch.tensor([0.0] * 20 + [1.0] * 20 + [0.0] * 40))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 15}, "hidden_size is 15, must be even"),
        ({"context_size": 0}, "context_size is 0, must be at least 1"),
        ({"piece_dropout": 1.0}, r"piece_dropout is 1.0, must be in \[0, 1\)"),
    ],
)
def test_wrong_sizes_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)

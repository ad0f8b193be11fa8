import pytest
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import AutoModel, ModernBertConfig

from khabar.models.config import KhabarConfig
from khabar.models.model import KhabarModel
from khabar.training.optimizer import encoder_depths, make_optimizer, make_schedule, moving_average
from khabar.training.settings import TrainSettings

SETTINGS = TrainSettings(
    corpora=("a",), output="o", learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5, weight_decay=0.1
)


def test_berts_depth_runs_from_embeddings_to_the_last_layer(bert_config):
    depths = encoder_depths(AutoModel.from_config(bert_config, add_pooling_layer=False))
    assert {depth for name, depth in depths.items() if name.startswith("embeddings.")} == {0}
    assert {depth for name, depth in depths.items() if ".layer.0." in name} == {1}
    assert {depth for name, depth in depths.items() if ".layer.1." in name} == {2}


def test_modernberts_last_norm_is_as_deep_as_its_last_layer():
    config = ModernBertConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        cls_token_id=1,
        sep_token_id=1,
    )
    depths = encoder_depths(AutoModel.from_config(config))
    assert depths["final_norm.weight"] == 2
    assert depths["embeddings.tok_embeddings.weight"] == 0


def test_a_recurrent_encoders_parts_are_its_layers(recurrent_config):
    depths = encoder_depths(AutoModel.from_config(recurrent_config))
    by_part = {name.split(".")[0]: depth for name, depth in depths.items() if "embed" not in name}
    assert by_part == {"context": 1}  # its top is new, and learns like the heads
    assert {depth for name, depth in depths.items() if "embed" in name} == {0}


@pytest.mark.parametrize("kind", ["bert_config", "recurrent_config"])
def test_rates_fall_with_depth_and_vectors_do_not_decay(kind, request):
    model = KhabarModel(
        KhabarConfig(encoder=request.getfixturevalue(kind), topics=["a"], entity_labels=["X"], window=32, stride=20)
    )
    optimizer = make_optimizer(model, SETTINGS)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(model.named_parameters())
    assert len(group_of) == len(parameters) == sum(len(group["params"]) for group in optimizer.param_groups)
    rate = {name: group_of[id(parameter)]["lr"] for name, parameter in parameters.items()}
    depths = encoder_depths(model.encoder)
    last = max(depths.values())
    for name, parameter in parameters.items():
        depth = depths.get(name.removeprefix("encoder.")) if name.startswith("encoder.") else None
        expected = 1e-2 if depth is None else 1e-3 * 0.5 ** (last - depth)
        assert rate[name] == pytest.approx(expected)
        decays = parameter.ndim > 1 and not name.startswith("crf")
        assert group_of[id(parameter)]["weight_decay"] == (0.1 if decays else 0.0)


def test_rates_rise_then_fall_to_zero(recurrent_config):
    model = KhabarModel(KhabarConfig(encoder=recurrent_config, topics=["a"], entity_labels=[], window=32, stride=20))
    optimizer = make_optimizer(model, SETTINGS)
    schedule = make_schedule(optimizer, n_steps=10, warmup=0.2)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0, 0.5e-2, 1e-2])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert optimizer.param_groups[-1]["lr"] == 0


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_a_young_average_follows_fast_and_an_old_one_slowly(decay):
    weights = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weights.weight)
    average = AveragedModel(weights, multi_avg_fn=moving_average(decay))
    average.update_parameters(weights)
    nn.init.ones_(weights.weight)
    for _ in range(200):
        average.update_parameters(weights)
    assert average.module.weight.item() > 0.99
    average.n_averaged.fill_(100_000)
    nn.init.zeros_(weights.weight)
    before = average.module.weight.item()
    average.update_parameters(weights)
    assert average.module.weight.item() == pytest.approx(decay * before)

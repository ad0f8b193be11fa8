import platform
from copy import deepcopy

import pytest
import torch
from torch import nn

from khabar.inference.prepacked import PrepackedLinear, can_prepack, prepacked
from khabar.inference.tagger import Tagger
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import encode_articles
from khabar.models.folder import load_model, save_model

TEXTS = ["قصف الجيش مواقع في حلب.", "قال المتحدث باسم الحكومة في بغداد إن المفاوضات ستستأنف. " * 4, "زار بغداد"]
LOGITS = ["segment_topic_logits", "article_topic_logits", "emissions", "proclitic_logits"]

pytestmark = pytest.mark.skipif(not can_prepack(), reason="needs an x86 processor and a torch with oneDNN")
needs_bf16 = pytest.mark.skipif(not can_prepack(bf16=True), reason="needs a processor with bfloat16 products in oneDNN")


def run(model, tokenizer, *, bf16=False):
    encoded = encode_articles(TEXTS, tokenizer, max_segment_words=model.config.max_segment_words)
    batch = collate(
        encoded, WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model(**batch.tensors())
    return {name: getattr(output, name) for name in LOGITS}


def linear_layers(model):
    return [module for module in model.encoder.modules() if type(module) is nn.Linear]


@pytest.mark.parametrize(
    "states",
    [
        torch.randn(3, 5, 24),
        torch.randn(24),
        torch.randn(0, 24),
        torch.randn(2, 0, 24),
        torch.randn(5, 3, 24).transpose(0, 1),
        torch.randn(4, 48)[:, ::2],
    ],
    ids=["rows", "one vector", "none", "none of two", "transposed", "every second column"],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
def test_a_prepacked_layer_gives_the_layers_products(states, bias, dtype):
    linear = nn.Linear(24, 40, bias=bias)
    with torch.inference_mode():
        expected = linear.to(dtype)(states.to(dtype))
        product = PrepackedLinear(linear.float(), dtype)(states)
    assert product.dtype == dtype
    assert product.shape == (*states.shape[:-1], 40)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(product, expected, atol=tolerance, rtol=tolerance)


def test_a_prepacked_model_says_what_the_model_says(tiny_model, tokenizer):
    ours = prepacked(tiny_model)
    assert len(linear_layers(tiny_model)) > 0
    assert linear_layers(ours) == []
    expected, seen = run(tiny_model, tokenizer), run(ours, tokenizer)
    for name in LOGITS:
        torch.testing.assert_close(seen[name], expected[name], atol=1e-5, rtol=1e-4)


@needs_bf16
def test_in_bfloat16_weights_are_rounded_as_autocast_rounds_them(tiny_model, tokenizer):
    expected = run(tiny_model, tokenizer, bf16=True)
    seen = run(prepacked(tiny_model, bf16=True), tokenizer, bf16=True)
    for name in LOGITS:
        torch.testing.assert_close(seen[name], expected[name], atol=5e-2, rtol=5e-2)


def test_the_given_model_stays_whole_and_is_what_is_saved(tiny_model, tokenizer, tmp_path):
    before = deepcopy(tiny_model)
    tagger = Tagger(tiny_model, tokenizer)
    tagger.tag(TEXTS[1])
    assert tagger.model is tiny_model
    save_model(tagger.model, tokenizer, tmp_path / "saved")
    saved, _ = load_model(tmp_path / "saved")
    weights = saved.state_dict()
    assert weights.keys() == before.state_dict().keys()
    for name, weight in before.state_dict().items():
        assert torch.equal(weights[name], weight), name


def test_a_model_in_training_can_be_tagged_with_between_steps(tiny_model, tokenizer):
    """Each tagger has the weights of its time, and the model learns on."""
    early = Tagger(tiny_model, tokenizer)
    first = early.tag(TEXTS[1]).topic_scores
    with torch.no_grad():
        for linear in linear_layers(tiny_model):
            linear.weight.mul_(1.5)
    later = Tagger(tiny_model, tokenizer).tag(TEXTS[1]).topic_scores
    assert later == pytest.approx(Tagger(deepcopy(tiny_model), tokenizer).tag(TEXTS[1]).topic_scores)
    assert later != pytest.approx(first, abs=1e-6)
    tiny_model.train()
    states = tiny_model.encoder(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3)).last_hidden_state
    states.sum().backward()
    assert all(linear.weight.grad is not None for linear in linear_layers(tiny_model))


def test_hooks_of_the_given_model_are_called(tiny_model, tokenizer):
    tagger = Tagger(tiny_model, tokenizer)
    seen = []
    tiny_model.encoder.register_forward_pre_hook(lambda *_: seen.append("encoder"))
    tiny_model.register_forward_pre_hook(lambda *_: seen.append("model"))
    tagger.tag(TEXTS[0])
    assert seen == ["model", "encoder"]


@pytest.mark.parametrize("encoder_config", ["bert_config"], indirect=True)
def test_a_layer_in_two_places_stays_one(tiny_model):
    first, second = tiny_model.encoder.encoder.layer[:2]
    second.output.dense = first.output.dense
    ours = prepacked(tiny_model).encoder.encoder.layer
    assert isinstance(ours[0].output.dense, PrepackedLinear)
    assert ours[0].output.dense is ours[1].output.dense
    assert ours[0].output.LayerNorm is first.output.LayerNorm, "what has no products in it is not copied"


def test_other_processors_and_weights_are_left_alone(tiny_model, monkeypatch):
    assert linear_layers(prepacked(tiny_model.bfloat16())) == linear_layers(tiny_model)
    tiny_model.float()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert prepacked(tiny_model, bf16=True) is tiny_model
    assert prepacked(tiny_model) is not tiny_model
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert prepacked(tiny_model) is tiny_model

import pickle
import platform
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from khabar.inference import prepared
from khabar.inference.prepared import PreparedLinear, prepare
from khabar.inference.tagger import Tagger
from khabar.models.batch import WindowSettings, collate
from khabar.models.encoding import encode_articles
from khabar.models.folder import load_model, save_model
from khabar.models.products import onednn_serves, prepacking_pays

TEXTS = ["قصف الجيش مواقع في حلب.", "قال المتحدث باسم الحكومة في بغداد إن المفاوضات ستستأنف. " * 4, "زار بغداد"]
LOGITS = ["segment_topic_logits", "article_topic_logits", "emissions", "proclitic_logits"]

needs_prepacking = pytest.mark.skipif(not onednn_serves(), reason="needs an x86 processor and a torch with oneDNN")
needs_bf16 = pytest.mark.skipif(
    not onednn_serves(bf16=True), reason="needs a processor with bfloat16 products in oneDNN"
)


@pytest.fixture(autouse=True)
def on_a_processor_on_which_it_pays(monkeypatch):
    """Whichever this is."""
    monkeypatch.setattr(prepared, "prepacking_pays", onednn_serves)


def run(model, tokenizer, *, bf16=False):
    encoded = encode_articles(TEXTS, tokenizer, max_segment_words=model.config.max_segment_words)
    batch = collate(
        encoded, WindowSettings.from_tokenizer(tokenizer, window=model.config.window, stride=model.config.stride)
    )
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
        output = model(**batch.tensors())
    return {name: getattr(output, name) for name in LOGITS}


class Operations(TorchDispatchMode):
    """Notes the operations that torch is asked for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def takes_onednn(model, tokenizer, *, bf16=False):
    with Operations() as operations:
        run(model, tokenizer, bf16=bf16)
    return "mkldnn._linear_pointwise.default" in operations.seen


def linear_layers(model):
    return [module for module in model.encoder.modules() if isinstance(module, nn.Linear)]


def packed(layer, dtype=torch.float32):
    return layer._ready[dtype].prepacked


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
@needs_prepacking
def test_a_prepacked_layer_gives_the_layers_products(states, bias, dtype):
    linear = nn.Linear(24, 40, bias=bias)
    bf16 = dtype == torch.bfloat16
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        expected = linear(states)
        prepare(linear, bf16=bf16)
        product = linear(states)
    assert packed(linear, dtype)
    assert product.dtype == dtype
    assert product.shape == (*states.shape[:-1], 40)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(product, expected, atol=tolerance, rtol=tolerance)


@needs_prepacking
def test_a_prepacked_model_says_what_the_model_says(tiny_model, tokenizer):
    expected = run(tiny_model, tokenizer)
    prepare(tiny_model.encoder)
    assert len(linear_layers(tiny_model)) > 0
    assert takes_onednn(tiny_model, tokenizer)
    seen = run(tiny_model, tokenizer)
    for name in LOGITS:
        torch.testing.assert_close(seen[name], expected[name], atol=1e-5, rtol=1e-4)


@needs_bf16
def test_in_bfloat16_prepacked_weights_are_rounded_as_autocast_rounds_them(tiny_model, tokenizer):
    expected = run(tiny_model, tokenizer, bf16=True)
    prepare(tiny_model.encoder, bf16=True)
    seen = run(tiny_model, tokenizer, bf16=True)
    for name in LOGITS:
        torch.testing.assert_close(seen[name], expected[name], atol=5e-2, rtol=5e-2)


def test_elsewhere_bfloat16_weights_are_rounded_once_with_the_same_results(tiny_model, tokenizer, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    expected = run(tiny_model, tokenizer, bf16=True)
    prepare(tiny_model.encoder, bf16=True)
    for layer in linear_layers(tiny_model):
        assert torch.equal(layer._ready[torch.bfloat16].weight, layer.weight.bfloat16())
    seen = run(tiny_model, tokenizer, bf16=True)
    for name in LOGITS:
        assert torch.equal(seen[name], expected[name])
    prepare(tiny_model.encoder)
    assert all(layer._ready == {} for layer in linear_layers(tiny_model)), "in float32 there is nothing to ready"


@pytest.mark.parametrize("encoder_config", ["bert_config"], indirect=True)
def test_without_bfloat16_products_weights_are_rounded(tiny_model, tokenizer, monkeypatch):
    expected = run(tiny_model, tokenizer, bf16=True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    prepare(tiny_model.encoder, bf16=True)
    assert not takes_onednn(tiny_model, tokenizer, bf16=True)
    seen = run(tiny_model, tokenizer, bf16=True)
    for name in LOGITS:
        assert torch.equal(seen[name], expected[name])


@needs_prepacking
@pytest.mark.parametrize(
    ("has", "pays"),
    [({"amx_tile": True, "avx512_bf16": True}, False), ({"avx512_bf16": True}, True), ({}, True), (None, True)],
    ids=["an Intel processor with AMX", "AMD's since Zen 4", "an older one", "an older torch"],
)
def test_in_float32_weights_are_prepacked_where_torchs_own_products_are_slower(
    tiny_model, tokenizer, monkeypatch, has, pays
):
    if has is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    monkeypatch.setattr(prepared, "prepacking_pays", prepacking_pays)
    prepare(tiny_model.encoder)
    assert takes_onednn(tiny_model, tokenizer) == pays
    assert all((torch.float32 in layer._ready) == pays for layer in linear_layers(tiny_model))
    assert prepacking_pays(bf16=True) == onednn_serves(bf16=True)


def test_onednn_can_be_turned_off(tiny_model, tokenizer, monkeypatch):
    expected = run(tiny_model, tokenizer)
    monkeypatch.setattr(type(torch.backends.mkldnn), "enabled", False)
    prepare(tiny_model.encoder)
    assert not takes_onednn(tiny_model, tokenizer)
    seen = run(tiny_model, tokenizer)
    for name in LOGITS:
        assert torch.equal(seen[name], expected[name])


def test_what_is_saved_is_the_model_as_it_was(tiny_model, tokenizer, tmp_path):
    before = deepcopy(tiny_model).state_dict()
    tagger = Tagger(tiny_model, tokenizer)
    tagger.tag(TEXTS[1])
    save_model(tagger.model, tokenizer, tmp_path / "saved")
    saved, _ = load_model(tmp_path / "saved")
    weights = saved.state_dict()
    assert weights.keys() == before.keys()
    for name, weight in before.items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_tagger_follows_weights_that_change(tiny_model, tokenizer, part, bf16):
    tagger = Tagger(tiny_model, tokenizer, bf16=bf16)
    first = tagger.tag(TEXTS[1]).topic_scores
    changed = [getattr(layer, part) for layer in linear_layers(tiny_model) if getattr(layer, part) is not None]
    with torch.no_grad():
        for parameter in changed:
            parameter.mul_(1.5).add_(0.1)
    scores = tagger.tag(TEXTS[1]).topic_scores
    assert scores == Tagger(deepcopy(tiny_model), tokenizer, bf16=bf16).tag(TEXTS[1]).topic_scores
    assert scores != pytest.approx(first, abs=1e-6)


def test_training_goes_on_between_taggers(tiny_model, tokenizer):
    Tagger(tiny_model, tokenizer).tag(TEXTS[1])
    tiny_model.train()
    states = tiny_model.encoder(input_ids=torch.tensor([[1, 2, 3]]), attention_mask=torch.ones(1, 3)).last_hidden_state
    states.sum().backward()
    assert all(layer.weight.grad is not None for layer in linear_layers(tiny_model))
    assert all(layer._ready == {} for layer in linear_layers(tiny_model)), "no second copy is kept meanwhile"


def test_one_model_serves_taggers_of_both_precisions(tiny_model, tokenizer):
    alone = Tagger(deepcopy(tiny_model), tokenizer).tag(TEXTS[1])
    first = Tagger(tiny_model, tokenizer)
    second = Tagger(tiny_model, tokenizer, bf16=True)
    rounded = second.tag(TEXTS[1])
    assert first.tag(TEXTS[1]) == alone
    assert second.tag(TEXTS[1]) == rounded


def test_a_prepared_model_can_be_copied_pickled_and_cast(tiny_model, tokenizer):
    tagger = Tagger(tiny_model, tokenizer)
    scores = tagger.tag(TEXTS[1]).topic_scores
    for copied in (deepcopy(tiny_model), pickle.loads(pickle.dumps(tiny_model))):
        assert Tagger(copied, tokenizer).tag(TEXTS[1]).topic_scores == scores
    tiny_model.double()
    assert tagger.tag(TEXTS[1]).topic_scores == pytest.approx(scores, abs=1e-5)
    tiny_model.float()
    assert tagger.tag(TEXTS[1]).topic_scores == pytest.approx(scores, abs=1e-5)


def test_hooks_of_a_layer_are_called(tiny_model, tokenizer):
    seen = []
    layer = linear_layers(tiny_model)[0]
    layer.register_forward_hook(lambda *_: seen.append("before"))
    tagger = Tagger(tiny_model, tokenizer)
    layer.register_forward_hook(lambda *_: seen.append("after"))
    tagger.tag(TEXTS[0])
    assert seen == ["before", "after"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_layer_whose_weight_a_hook_makes_is_left_alone():
    linear = nn.utils.weight_norm(nn.Linear(4, 4))
    prepare(linear)
    assert type(linear) is nn.Linear
    with torch.inference_mode():
        before = linear(torch.ones(4))
        linear.weight_g.mul_(2)
        torch.testing.assert_close(linear(torch.ones(4)) - linear.bias, 2 * (before - linear.bias))


def test_a_layer_whose_weight_comes_to_be_computed_follows_it():
    linear = nn.Linear(4, 4)
    prepare(linear)
    nn.utils.parametrizations.weight_norm(linear)
    with torch.no_grad():
        linear.parametrizations.weight.original0.mul_(2)
    expected = linear(torch.ones(4))
    with torch.inference_mode():
        torch.testing.assert_close(linear(torch.ones(4)), expected)


def test_weights_that_take_the_place_of_others_are_not_taken_for_them():
    """Replaced twice between two passes, they can come to stand at the address that the first ones had."""
    linear = nn.Linear(384, 1536)
    prepare(linear)
    states = torch.randn(3, 384)
    for _ in range(20):
        with torch.inference_mode():
            linear(states)
        for _ in range(2):
            del linear.weight
            linear.weight = nn.Parameter(torch.randn(1536, 384))
        expected = linear(states)
        with torch.inference_mode():
            torch.testing.assert_close(linear(states), expected, atol=1e-3, rtol=1e-4)


def test_weights_of_inference_mode_are_left_alone():
    with torch.inference_mode():
        linear = nn.Linear(4, 4)
        prepare(linear)
    assert type(linear) is nn.Linear, "torch does not count their changes"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_a_layer_without_weights_is_left_alone(shape):
    linear = nn.Linear(*shape)
    prepare(linear)
    with torch.inference_mode():
        assert linear(torch.ones(2, shape[0])).shape == (2, shape[1])


def test_a_layer_with_weights_of_another_format_is_left_alone():
    class Quantized(torch.Tensor):
        pass

    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(torch.ones(4, 4).as_subclass(Quantized))
    prepare(linear)
    assert type(linear) is nn.Linear


def test_subclasses_of_linear_layers_are_left_alone(tiny_model):
    prepare(tiny_model)
    own = [module for module in tiny_model.topic_head.modules() if isinstance(module, nn.Linear)]
    assert any(type(module) is not PreparedLinear for module in own)


def test_cpus_keep_few_kernels_unless_told_otherwise():
    """In a process of its own: torch reads the environment once."""
    program = (
        "import os; from torch import nn; from khabar.inference.prepared import prepare; prepare(nn.Linear(2, 2));"
        "print(os.environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'], os.environ['LRU_CACHE_CAPACITY'])"
    )
    given = {"PATH": "", "LRU_CACHE_CAPACITY": "7"}
    done = subprocess.run([sys.executable, "-c", program], check=True, env=given, capture_output=True, text=True)
    assert done.stdout.split() == ["64", "7"]

import pickle
import subprocess
import sys
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, BertConfig, ModernBertConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    AttentionMaskInterface,
    bidirectional_mask_function,
    sdpa_mask,
    sliding_window_bidirectional_mask_function,
)
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertAttention,
    ModernBertRotaryEmbedding,
    apply_rotary_pos_emb,
)

from khabar.inference import attention, attention_cpu, attention_gpu
from khabar.inference.attention import attend_as_one_step, attend_on_cpu, compile_attention, suit_attention
from khabar.inference.attention_cpu import hide_on_cpu
from khabar.inference.attention_gpu import hide_on_gpu
from khabar.inference.masks import added_to_scores
from khabar.inference.modernbert import PreparedAttention, turn
from khabar.inference.prepared import prepare
from khabar.models.folder import load_model, save_model
from khabar.models.products import onednn_serves

needs_bf16 = pytest.mark.skipif(
    not onednn_serves(bf16=True), reason="needs a processor with bfloat16 products in oneDNN"
)

OURS = "khabar_on_cpu"
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
CONFIGS = {
    "bert": BertConfig(**SIZES),
    # Two of three layers look 4 pieces far.
    "modernbert": ModernBertConfig(
        **SIZES, local_attention=8, global_attn_every_n_layers=3, pad_token_id=0, cls_token_id=1, sep_token_id=2
    ),
}
MASKS = {
    "all": None,
    "padded": torch.arange(11) < torch.tensor([11, 7, 1])[:, None],
    "nothing to see": torch.zeros(3, 11, dtype=torch.bool),
}


class Layer(nn.Module):
    is_causal = False


@pytest.fixture
def encoder_config(bert_config):
    """Nothing here concerns encoders without attention."""
    return bert_config


@pytest.fixture
def on_its_processor(monkeypatch):
    monkeypatch.setattr(attention_cpu, "torch_multiplies_slowly", lambda: True)


@pytest.fixture(params=[True, False], ids=["fast float32", "slow float32"])
def has_fast_float32(request, monkeypatch):
    monkeypatch.setattr(attention_cpu, "onednn_multiplies", lambda: request.param)
    return request.param


@pytest.fixture
def states():
    torch.manual_seed(0)
    return [torch.randn(3, 11, 4, 8, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)]


@pytest.fixture(params=CONFIGS)
def encoder(request, on_its_processor):
    torch.manual_seed(0)
    return AutoModel.from_config(deepcopy(CONFIGS[request.param])).eval()  # which keeps it, and changes it


def encode(encoder, **given):
    ids = torch.randint(3, 50, (4, 40), generator=torch.Generator().manual_seed(1)).to(encoder.device)
    seen = (torch.arange(40) < torch.tensor([40, 31, 12, 1])[:, None]).to(encoder.device)
    with torch.autocast(encoder.device.type, torch.bfloat16, cache_enabled=False, **given):
        return encoder(input_ids=ids, attention_mask=seen.long()).last_hidden_state[seen]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    "most",
    [1, 400, 1000, 2**20],
    ids=["a head at a time", "three heads at a time", "two rows at a time", "all at once"],
)
@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
def test_written_out_it_attends_as_torchs_kernel_does(states, mask, most, dtype, apart, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_MOST_SCORES", most)
    monkeypatch.setattr(attention_cpu, "onednn_multiplies", lambda: True)
    seen = MASKS[mask]
    mask_ = None if seen is None else seen[:, None, None, :].expand(3, 1, 11, 11)
    expected, _ = sdpa_attention_forward(Layer(), *(one.float() for one in states), mask_, scaling=0.3)
    monkeypatch.setattr(attention, "sdpa_attention_forward", None)
    with torch.inference_mode():
        got, weights = attend_on_cpu(Layer(), *(one.to(dtype) for one in states), mask_, scaling=0.3)
    assert weights is None
    assert got.dtype == dtype
    assert got.shape == (3, 11, 4, 8)
    assert got.isfinite().all()
    if mask != "nothing to see":
        torch.testing.assert_close(got.float(), expected, atol=apart, rtol=apart)


@pytest.mark.parametrize("shape", [(0, 4, 5, 8), (2, 4, 0, 8)], ids=["no rows", "no pieces"])
def test_of_nothing_it_makes_nothing(shape):
    none = torch.zeros(shape, dtype=torch.bfloat16)
    with torch.inference_mode():
        got, _ = attend_on_cpu(Layer(), none, none, none, None)
    assert got.shape == (shape[0], shape[2], 4, 8)


@pytest.mark.parametrize(
    ("dtype", "is_causal", "longest", "given"),
    [
        (torch.float32, False, 99, {}),
        (torch.float64, False, 99, {}),
        (torch.bfloat16, True, 99, {}),
        (torch.bfloat16, False, 99, {"is_causal": True}),
        (torch.bfloat16, False, 10, {}),
        (torch.bfloat16, False, 99, {"attention_mask": -9 * torch.eye(11).bfloat16().expand(3, 1, 11, 11)}),
        (torch.bfloat16, False, 99, {"position_bias": torch.arange(121.0).reshape(1, 1, 11, 11).bfloat16()}),
    ],
    ids=["slow float32", "float64", "causal", "causal for once", "too long", "a mask of numbers", "a bias"],
)
def test_what_it_is_not_made_for_is_left_to_torchs_kernel(states, dtype, is_causal, longest, given, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_LONGEST", longest)
    monkeypatch.setattr(attention_cpu, "onednn_multiplies", lambda: False)
    layer = Layer()
    layer.is_causal = is_causal
    states = [one.to(dtype) for one in states]
    given = {"attention_mask": None, **given}
    with torch.inference_mode():
        expected, _ = sdpa_attention_forward(layer, *states, **given)
        got, _ = attend_on_cpu(layer, *states, **given)
    assert torch.equal(got, expected)


def test_compiled_it_leaves_the_graph_whole(states):
    compiled = torch.compile(partial(attend_on_cpu, Layer()), backend="eager", fullgraph=True)
    with torch.inference_mode():
        expected, _ = sdpa_attention_forward(Layer(), *states, None)
        got, _ = compiled(*states, None)
    assert torch.equal(got, expected)


@pytest.fixture
def compiled():
    """Compiled anew: torch counts what is compiled of a function over all of a process's tests, up to a limit."""
    torch.compiler.reset()
    return torch.compile(partial(attend_as_one_step, Layer()), backend="aot_eager", fullgraph=True, dynamic=True)


@pytest.mark.parametrize("mask", [None, torch.ones(3, 1, 11, 11, dtype=torch.bool).tril()], ids=["all", "some"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_compiled_as_one_step_it_says_what_it_says_written_out(states, mask, dtype, compiled, monkeypatch):
    monkeypatch.setattr(attention_cpu, "onednn_multiplies", lambda: True)
    attention.make_known()
    states = [one.to(dtype) for one in states]
    with torch.inference_mode():
        expected, _ = attend_on_cpu(Layer(), *states, mask, scaling=0.3)
        got, _ = compiled(*states, mask, scaling=0.3)
    assert torch.equal(got, expected)


def test_compiled_as_one_step_it_attends_in_blocks(states, compiled, in_small_blocks, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_is_written_out", lambda _: False)
    attention.make_known()
    with torch.inference_mode():
        expected, _ = attend_on_cpu(Layer(), *states, near(2)[None, None], sliding_window=2)
        got, _ = compiled(*states, near(2)[None, None], sliding_window=2)
    assert torch.equal(got, expected)
    assert in_small_blocks == [(4, 6), (4, 8), (3, 5)] * 2


def test_as_one_step_gradients_are_torchs(states):
    states = [one.requires_grad_() for one in states]
    expected, _ = sdpa_attention_forward(Layer(), *states, None)
    got, _ = attend_as_one_step(Layer(), *states, None)
    assert torch.equal(got, expected)
    assert got.requires_grad


def test_one_mask_can_serve_all_rows(states):
    mask = torch.ones(1, 1, 11, 11, dtype=torch.bool).tril()
    expected, _ = sdpa_attention_forward(Layer(), *(one.float() for one in states), mask)
    with torch.inference_mode():
        got, _ = attend_on_cpu(Layer(), *states, mask)
    torch.testing.assert_close(got.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("as_one_step", [False, True])
def test_an_encoder_says_what_it_said(encoder, as_one_step):
    with torch.inference_mode():
        exact = encode(encoder, enabled=False)
        before = encode(encoder)
        suit_attention(encoder)
        if as_one_step:
            compile_attention(encoder)
        after = encode(encoder)
    assert encoder.config._attn_implementation == ("khabar_as_one_step" if as_one_step else OURS)
    assert not torch.equal(after, before)
    assert (after - exact).abs().max() <= 3 * (before - exact).abs().max()


def test_outside_inference_mode_nothing_changes(encoder):
    before = encode(encoder)
    before.square().sum().backward()
    gradients = [parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None]
    encoder.zero_grad()
    suit_attention(encoder)
    after = encode(encoder)
    after.square().sum().backward()
    assert torch.equal(after, before)
    for parameter, gradient in zip(
        [parameter for parameter in encoder.parameters() if parameter.grad is not None], gradients, strict=True
    ):
        assert torch.equal(parameter.grad, gradient)


def test_in_float32_it_changes_where_products_are_faster(encoder, has_fast_float32):
    with torch.inference_mode():
        before = encode(encoder, enabled=False)
        suit_attention(encoder)
        after = encode(encoder, enabled=False)
    assert torch.equal(after, before) != has_fast_float32
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("has", "does"),
    [
        ({"avx512_bf16": True, "amx_tile": False}, True),
        ({"avx512_bf16": True, "amx_tile": True}, False),
        ({"avx512_bf16": False}, False),
        ({}, False),
        (None, False),
    ],
    ids=["without AMX", "with AMX", "without bfloat16", "nothing", "a torch that does not say"],
)
@needs_bf16
def test_whether_it_is_written_out_goes_by_what_the_processor_has(states, monkeypatch, has, does):
    written = []
    monkeypatch.setattr(attention_cpu, "_write_out", lambda query, *_: written.append(1) or query)
    if has is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    with torch.inference_mode():
        attend_on_cpu(Layer(), *states, None)
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        attend_on_cpu(Layer(), *states, None)
    assert bool(written) == does
    assert len(written) <= 1, "never without oneDNN"


@pytest.fixture
def in_small_blocks(monkeypatch):
    """Blocks of four queries; gives the numbers of queries and keys of each that torch's kernel is asked for."""
    monkeypatch.setattr(attention_cpu, "_BLOCK", 4)
    asked, kernel = [], attention_cpu.by_torchs_kernel

    def ask(query, key, *given):
        asked.append((query.shape[2], key.shape[2]))
        return kernel(query, key, *given)

    monkeypatch.setattr(attention_cpu, "by_torchs_kernel", ask)
    return asked


def near(reach, pieces=11):
    places = torch.arange(pieces)
    return (places[:, None] - places).abs() <= reach


@pytest.mark.parametrize("reach", [0, 1, 3, 5, 11])
@pytest.mark.parametrize("rows_seen", ["all", "padded"])
@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 2e-2), (torch.float32, 1e-5)])
def test_in_blocks_it_attends_as_over_the_whole(
    states, reach, rows_seen, written_out, dtype, apart, in_small_blocks, monkeypatch
):
    monkeypatch.setattr(attention_cpu, "_is_written_out", lambda _: written_out)
    seen = near(reach)[None, None].expand(3, 1, 11, 11)
    if rows_seen == "padded":
        seen = seen & MASKS["padded"][:, None, None]
    expected, _ = sdpa_attention_forward(Layer(), *(one.float() for one in states), seen, scaling=0.3)
    given = [one.to(dtype) for one in states]
    with torch.inference_mode():
        for mask in (seen, added_to_scores(seen, dtype)):
            for window in (reach, reach + 1):  # as transformers' Gemma 4 says it, and its ModernBERT
                got, _ = attend_on_cpu(Layer(), *given, mask, scaling=0.3, sliding_window=window)
                assert got.isfinite().all()
                shown = seen.any(-1).expand(3, 4, 11).transpose(1, 2)
                torch.testing.assert_close(got.float()[shown], expected[shown], atol=apart, rtol=apart)


@pytest.mark.parametrize(
    ("window", "asked_for"),
    [
        (1, [(4, 5), (4, 6), (3, 4)]),
        (3, [(4, 7), (4, 10), (3, 6)]),
        (0, [(4, 4), (4, 4), (3, 3)]),
        (6, [(11, 11)]),
        (None, [(11, 11)]),
    ],
)
def test_a_block_looks_no_further_than_its_queries(states, window, asked_for, in_small_blocks, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_is_written_out", lambda _: False)
    with torch.inference_mode():
        attend_on_cpu(Layer(), *states, near(window or 0)[None, None], sliding_window=window)
        assert in_small_blocks == asked_for
        attend_on_cpu(Layer(), *states, None, sliding_window=window)
    assert in_small_blocks == [*asked_for, (11, 11)], "what the mask does not hide is seen"


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 1, 11), (3, 4, 11, 11), (1, 11, 11), (1, 1, 11), (11, 11)], ids=str)
def test_what_a_mask_shows_is_seen_whatever_the_window(states, shape, written_out, in_small_blocks, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_is_written_out", lambda _: written_out)
    states = [one.float() for one in states]
    torch.manual_seed(0)
    mask = added_to_scores(torch.rand(shape) > 0.3, torch.float32)
    expected, _ = sdpa_attention_forward(Layer(), *states, mask)
    with torch.inference_mode():
        got, _ = attend_on_cpu(Layer(), *states, mask, sliding_window=2)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_an_encoder_of_which_layers_look_only_so_far_says_what_it_said(bf16, written_out, in_small_blocks, monkeypatch):
    monkeypatch.setattr(attention_cpu, "_is_written_out", lambda _: written_out)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(deepcopy(CONFIGS["modernbert"])).eval()
    with torch.inference_mode():
        exact = encode(encoder, enabled=False)
        before = encode(encoder, enabled=bf16)
        prepare(encoder, bf16=bf16)
        after = encode(encoder, enabled=bf16)
    # The first looks at all, the two others 4 pieces far: ten blocks each.
    assert len(in_small_blocks) == (0 if written_out else 1 + 2 * 10)
    assert (after - exact).abs().max() <= (3 * (before - exact).abs().max() if bf16 else 1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_masks_are_made_once_as_what_is_added_to_scores(bf16):
    usual = {"batch_size": 3, "q_length": 11, "kv_length": 11, "device": "cpu", "dtype": torch.float32}
    usual |= {"attention_mask": MASKS["padded"], "allow_is_causal_skip": False, "allow_is_bidirectional_skip": True}
    of_all = usual | {"mask_function": bidirectional_mask_function}
    local = usual | {"mask_function": sliding_window_bidirectional_mask_function(2), "local_size": 2}
    dtype = torch.bfloat16 if bf16 else torch.float32
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for given, shape in ((of_all, (3, 1, 1, 11)), (local, (3, 1, 11, 11))):
            added = hide_on_cpu(**given)
            assert added.shape == shape
            assert added.dtype == dtype
            assert torch.equal((added == 0).expand(3, 1, 11, 11), sdpa_mask(**given))
            assert (added[added != 0] == torch.finfo(dtype).min).all()
        assert hide_on_cpu(**of_all | {"attention_mask": torch.ones(3, 11, dtype=torch.bool)}) is None
    for given in (of_all, local):
        assert torch.equal(hide_on_cpu(**given), sdpa_mask(**given)), "outside inference mode, what transformers makes"


@pytest.mark.parametrize("in_order", [True, False])
def test_queries_and_keys_are_turned_by_their_places(in_order):
    torch.manual_seed(0)
    config = deepcopy(CONFIGS["modernbert"])
    places = torch.arange(11)[None] if in_order else torch.randint(0, 30, (3, 11))
    cosines, sines = ModernBertRotaryEmbedding(config)(torch.randn(3, 11, 32), places, "full_attention")
    states = torch.randn(3, 11, 2, 4, 8)
    expected = apply_rotary_pos_emb(*states.transpose(1, 3).unbind(2), cosines, sines)
    found = turn(states, cosines, sines).transpose(1, 3).unbind(2)
    scores = [query @ key.transpose(-1, -2) for query, key in (expected, found)]
    torch.testing.assert_close(scores[1], scores[0])
    assert turn(states.bfloat16(), cosines, sines).dtype == torch.bfloat16


@pytest.fixture
def modernbert():
    torch.manual_seed(0)
    encoder = AutoModel.from_config(deepcopy(CONFIGS["modernbert"])).eval()
    prepare(encoder)
    assert {type(layer.attn) for layer in encoder.layers} == {PreparedAttention}
    return encoder


@pytest.mark.parametrize("how", ["training", "outside inference mode", "eager attention"])
def test_a_prepared_layer_is_the_layer_it_was_where_it_does_not_suit(modernbert, how, monkeypatch):
    monkeypatch.setattr("khabar.inference.modernbert.turn", None)
    if how == "training":
        modernbert.train()
    if how == "eager attention":
        modernbert.set_attn_implementation("eager")
    with torch.inference_mode(how != "outside inference mode"):
        assert encode(modernbert, enabled=False).isfinite().all()
    if how == "eager attention":
        with torch.inference_mode():
            given = modernbert(input_ids=torch.tensor([[3, 4, 5]]), output_attentions=True)
        assert [weights.shape for weights in given.attentions] == [(1, 4, 3, 3)] * 3


def test_a_prepared_layer_can_be_copied_and_pickled(modernbert):
    with torch.inference_mode():
        expected = encode(modernbert, enabled=False)
        for copy in (deepcopy(modernbert), pickle.loads(pickle.dumps(modernbert))):
            assert type(copy.layers[0].attn) is PreparedAttention
            assert torch.equal(encode(copy, enabled=False), expected)


def test_layers_that_derive_from_modernberts_are_left_alone():
    class Another(ModernBertAttention):
        pass

    encoder = AutoModel.from_config(deepcopy(CONFIGS["modernbert"])).eval()
    encoder.layers[1].attn.__class__ = Another
    prepare(encoder)
    assert [type(layer.attn) for layer in encoder.layers] == [PreparedAttention, Another, PreparedAttention]


def test_a_model_that_attends_otherwise_by_choice_goes_on_so(encoder):
    encoder.set_attn_implementation("eager")
    suit_attention(encoder)
    assert encoder.config._attn_implementation == "eager"


@needs_bf16
def test_nothing_of_it_is_saved(tiny_model, tokenizer, tmp_path, on_its_processor):
    prepare(tiny_model.encoder, bf16=True)
    assert tiny_model.encoder.config._attn_implementation == OURS
    save_model(tiny_model, tokenizer, tmp_path / "saved")
    assert OURS not in (tmp_path / "saved" / "config.json").read_text(encoding="utf-8")
    loaded, _ = load_model(tmp_path / "saved")
    assert loaded.encoder.config._attn_implementation == "sdpa"


@needs_bf16
def test_a_prepared_model_works_in_another_process(tiny_model, tmp_path, on_its_processor):
    prepare(tiny_model.encoder, bf16=True)
    path = tmp_path / "encoder.pickle"
    path.write_bytes(pickle.dumps(tiny_model.encoder))
    program = (
        "import pickle, sys, torch; encoder = pickle.load(open(sys.argv[1], 'rb'))\n"
        "with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):\n"
        "    print(encoder(input_ids=torch.tensor([[3, 4, 5]])).last_hidden_state.shape[1])"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["3"]


@pytest.mark.parametrize("n_keys", [8, 11])
def test_what_is_added_to_scores_hides_what_is_not_seen(n_keys):
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, n_keys, 8)
    seen = torch.rand(2, 1, 5, n_keys) > 0.5
    seen[0, :, 0] = False  # as padding sees nothing far away
    added = added_to_scores(seen, torch.float32, aligned=8)
    assert added.shape == seen.shape
    assert added.stride(-2) % 8 == 0
    expected = functional.scaled_dot_product_attention(query, key, key, attn_mask=seen)
    found = functional.scaled_dot_product_attention(query, key, key, attn_mask=added)
    torch.testing.assert_close(found[seen.any(-1).expand(2, 3, 5)], expected[seen.any(-1).expand(2, 3, 5)])
    assert found.isfinite().all()


def test_a_model_that_comes_back_from_a_gpu_attends_as_before(encoder):
    """Its configuration still says how it was done there."""
    with torch.inference_mode():
        expected = encode(encoder, enabled=False)
        attention.make_known()
        encoder.set_attn_implementation("khabar_on_gpu")
        torch.testing.assert_close(encode(encoder, enabled=False), expected)


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Masks are made as for passes of a GPU in bfloat16; the attending is torch's."""
    attention.make_known()
    made = []

    def hide(**given):
        made.append(hide_on_gpu(**given | {"device": "cuda", "dtype": torch.bfloat16}))
        return made[-1]

    monkeypatch.setattr(attention_gpu, "_has_flash", lambda: True)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "khabar_on_gpu", hide)
    return made


def on_gpu(encoder):
    encoder.set_attn_implementation("khabar_on_gpu")
    return encoder


def test_where_pieces_see_all_but_padding_the_mask_is_its_length(as_on_gpu):
    encoder = AutoModel.from_config(deepcopy(CONFIGS["bert"])).eval()
    with torch.inference_mode():
        expected = encode(encoder)
        torch.testing.assert_close(encode(on_gpu(encoder)), expected, atol=2e-2, rtol=0)
    (lengths,) = as_on_gpu
    assert lengths.dtype == torch.int32
    assert lengths.flatten().tolist() == [40, 31, 12, 1]


@pytest.mark.parametrize(
    "given",
    [
        {"dtype": torch.float32},
        {"mask_function": lambda *_: True},
        {"q_length": 10},
        {"attention_mask": torch.ones(3, 9, dtype=torch.bool)},
    ],
    ids=["float32", "another pattern", "fewer queries", "a mask of other pieces"],
)
def test_other_masks_are_made_whole(as_on_gpu, given, monkeypatch):
    usual = {"batch_size": 3, "q_length": 11, "kv_length": 11, "mask_function": bidirectional_mask_function}
    usual |= {"dtype": torch.bfloat16, "attention_mask": MASKS["padded"], "device": "cuda"}
    monkeypatch.setattr("transformers.masking_utils.sdpa_mask", lambda **_: torch.ones(3, 1, 11, 11, dtype=torch.bool))
    with torch.inference_mode():
        assert hide_on_gpu(**usual).shape == (3, 1, 1, 1)
        whole = hide_on_gpu(**usual | given)
    assert whole.shape == (3, 1, 11, 11)
    assert whole.dtype == given.get("dtype", torch.bfloat16)


@pytest.mark.gpu
def test_of_lengths_a_gpu_takes_flash_attention(monkeypatch):
    encoder = AutoModel.from_config(deepcopy(CONFIGS["bert"])).eval().cuda()
    suit_attention(encoder)
    taken, kernel = [], attention_gpu._by_flash_kernel
    monkeypatch.setattr(attention_gpu, "_by_flash_kernel", lambda *given: taken.append(1) or kernel(*given))
    with torch.inference_mode():
        encode(encoder)
    assert len(taken) == 3, "one for each layer"


@pytest.mark.gpu
@pytest.mark.parametrize("bf16", [False, True])
def test_a_gpu_attends_to_the_same(encoder, bf16, monkeypatch):
    with torch.inference_mode():
        expected = encode(encoder, enabled=False)
        encoder.cuda()
        suit_attention(encoder)
        given = []
        monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *_args, **_kwargs: given.append("sdpa"))
        found = encode(encoder, enabled=bf16).cpu().float()
    assert not given, "all layers took the kernel"
    torch.testing.assert_close(found, expected, atol=0.1 if bf16 else 1e-4, rtol=0)


@pytest.mark.gpu
def test_a_pass_does_not_wait_for_the_gpu(encoder):
    prepare(encoder.cuda(), bf16=True)
    ids, mask = torch.randint(3, 50, (3, 11)).cuda(), MASKS["padded"].long().cuda()
    try:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            encoder(input_ids=ids, attention_mask=mask)
            torch.cuda.set_sync_debug_mode("error")
            assert encoder(input_ids=ids, attention_mask=mask).last_hidden_state.shape == (3, 11, 32)
    finally:
        torch.cuda.set_sync_debug_mode("default")

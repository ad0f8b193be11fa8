import os
import subprocess
import sys

import pytest
import torch

from khabar.inference.attention import attend_on_cpu
from khabar.models import products
from khabar.models.products import multiply_by_onednn, onednn_multiplies, torch_multiplies_slowly

here = pytest.mark.skipif(not torch_multiplies_slowly(), reason="on this processor torch multiplies as fast as it can")


@pytest.fixture
def on_its_processor(monkeypatch):
    """As if on a processor that it serves, without a GPU, whichever this is."""
    monkeypatch.setattr(products, "torch_multiplies_slowly", lambda: True)
    monkeypatch.setattr(products, "_rounds_nothing", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_products_are_left_to_onednn(on_its_processor):
    assert not onednn_multiplies()
    multiply_by_onednn()
    assert torch.get_float32_matmul_precision() == "medium"
    assert onednn_multiplies()


def test_a_precision_that_somebody_chose_stays(on_its_processor):
    torch.set_float32_matmul_precision("high")
    multiply_by_onednn()
    assert torch.get_float32_matmul_precision() == "high"
    assert not onednn_multiplies()


@pytest.mark.skipif(
    not hasattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision"),
    reason="this torch has one setting for all parts",
)
@pytest.mark.parametrize("chosen", ["bf16", "tf32"])
def test_one_that_was_chosen_for_a_part_stays(on_its_processor, chosen):
    torch.backends.mkldnn.matmul.fp32_precision = chosen
    multiply_by_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == chosen
    assert onednn_multiplies() == (chosen == "bf16")


@pytest.mark.parametrize("why", ["the processor", "it rounds", "a GPU"])
def test_elsewhere_nothing_changes(on_its_processor, monkeypatch, why):
    if why == "the processor":
        monkeypatch.setattr(products, "torch_multiplies_slowly", lambda: False)
    elif why == "it rounds":
        monkeypatch.setattr(products, "_rounds_nothing", lambda: False)
    else:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    multiply_by_onednn()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not onednn_multiplies()


def test_without_onednn_it_does_not_multiply(on_its_processor, monkeypatch):
    multiply_by_onednn()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not onednn_multiplies()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whether_products_are_rounded_is_seen(monkeypatch, dtype):
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda one, other: multiply(one.to(dtype).float(), other.to(dtype).float()))
    assert products._rounds_nothing.__wrapped__() == (dtype == torch.float32)


@here
@pytest.mark.parametrize("shape", [(7, 64, 300), (300, 1024, 256), (1, 768, 768)])
def test_products_are_as_exact(shape):
    torch.manual_seed(0)
    rows, inner, columns = shape
    one, other = torch.randn(3, rows, inner), torch.randn(3, columns, inner).transpose(1, 2)
    exact = one.double() @ other.double()
    usual = (one @ other - exact).abs().max()
    multiply_by_onednn()
    assert onednn_multiplies()
    fast = ((one @ other) - exact).abs().max()
    flat = (one[0] @ other[0] - exact[0]).abs().max()
    assert max(fast, flat) <= 4 * usual


@here
def test_attention_goes_by_it():
    """Written out where oneDNN multiplies, by torch's kernel where it does not: another order of the same sums."""
    torch.manual_seed(0)
    states = [torch.randn(2, 4, 300, 16) for _ in range(3)]

    def attend():
        with torch.inference_mode():
            return attend_on_cpu(torch.nn.Module(), *states, None, is_causal=False)[0]

    before = attend()
    multiply_by_onednn()
    after = attend()
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, before)


def test_a_command_multiplies_so_and_the_library_leaves_it(tiny_model_folder, tmp_path):
    """In processes of their own."""
    program = (
        "import sys, torch, khabar\n"
        "from khabar.models import products\n"
        "products.torch_multiplies_slowly = lambda: True\n"
        "products._rounds_nothing = lambda: True\n"
        "torch.cuda.is_available = lambda: False\n"
        "if sys.argv[1] == 'library':\n"
        "    khabar.load(sys.argv[2]).tag('زار الوفد بغداد.')\n"
        "else:\n"
        "    from khabar.cli import app\n"
        "    app(['score', sys.argv[3], '--model', sys.argv[2]], standalone_mode=False)\n"
        "print(torch.get_float32_matmul_precision(), file=sys.stderr)"
    )
    (tmp_path / "articles.jsonl").write_text('{"text": "زار الوفد بغداد."}\n', encoding="utf-8")
    said = {}
    for who in ("library", "command"):
        arguments = [who, str(tiny_model_folder), str(tmp_path / "articles.jsonl")]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True, env={**os.environ}
        )
        said[who] = done.stderr.split()[-1]
    assert said == {"library": "highest", "command": "medium"}

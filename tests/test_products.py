import os
import threading

import pytest
import torch

from khabar.models import products
from khabar.models.products import fast_products, torch_multiplies_slowly

PARTS = (torch.backends.mkldnn, torch.backends.cuda)


def setting():
    """What torch says of its precision: in one word, and of each part where it has its own."""
    parts = [getattr(getattr(part, "matmul", None), "fp32_precision", None) for part in PARTS]
    return [torch.get_float32_matmul_precision(), *parts]


@pytest.fixture(autouse=True)
def as_found():
    before = setting()
    yield
    assert setting() == before


@pytest.fixture
def on_its_processor(monkeypatch):
    """As if on a processor that it serves, whichever this is."""
    monkeypatch.setattr(products, "torch_multiplies_slowly", lambda: True)
    monkeypatch.setattr(products, "_rounds_nothing", lambda: True)


def test_the_setting_is_changed_and_put_back(on_its_processor):
    with fast_products() as serves:
        assert serves
        assert torch.get_float32_matmul_precision() == "medium"


def test_it_is_put_back_after_an_error(on_its_processor):
    with pytest.raises(KeyError), fast_products():
        raise KeyError


def test_it_holds_until_the_last_has_left(on_its_processor):
    entered, may_leave = threading.Event(), threading.Event()

    def other():
        with fast_products():
            entered.set()
            may_leave.wait(10)

    thread = threading.Thread(target=other)
    with fast_products():
        thread.start()
        assert entered.wait(10)
    assert torch.get_float32_matmul_precision() == "medium"
    may_leave.set()
    thread.join(10)


@pytest.fixture
def choose():
    """A function that chooses a precision; it is undone at the end."""
    parts = [getattr(part, "matmul", None) for part in PARTS]
    before = [(part, part.fp32_precision) for part in parts if hasattr(part, "fp32_precision")]
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")
    for part, precision in before:
        part.fp32_precision = precision


@pytest.mark.parametrize("chosen", ["high", "medium"])
def test_a_precision_that_somebody_chose_stays(on_its_processor, choose, chosen):
    choose(chosen)
    with fast_products() as serves:
        assert not serves
        assert torch.get_float32_matmul_precision() == chosen
    assert torch.get_float32_matmul_precision() == chosen


def test_one_that_somebody_chooses_meanwhile_stays(on_its_processor, choose):
    with fast_products():
        choose("high")
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.skipif(setting()[1] is None, reason="this torch has one setting for all parts")
def test_one_that_was_chosen_for_a_part_stays(on_its_processor):
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"
    try:
        with fast_products() as serves:
            assert not serves
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize("why", ["the processor", "it rounds", "a GPU", "no oneDNN"])
def test_elsewhere_nothing_changes(on_its_processor, monkeypatch, why):
    if why == "the processor":
        monkeypatch.setattr(products, "torch_multiplies_slowly", lambda: False)
    elif why == "it rounds":
        monkeypatch.setattr(products, "_rounds_nothing", lambda: False)
    elif why == "a GPU":
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    else:
        monkeypatch.setattr(products.torch.backends.mkldnn, "enabled", False)
    before = setting()
    with fast_products() as serves:
        assert not serves
        assert setting() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whether_products_are_rounded_is_seen(monkeypatch, dtype):
    multiply = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda one, other: multiply(one.to(dtype).float(), other.to(dtype).float()))
    assert products._rounds_nothing.__wrapped__() == (dtype == torch.float32)


@pytest.mark.skipif(not torch_multiplies_slowly(), reason="on this processor torch multiplies as fast as it can")
@pytest.mark.parametrize("shape", [(7, 64, 300), (300, 1024, 256), (1, 768, 768)])
def test_products_are_as_exact(shape):
    torch.manual_seed(0)
    rows, inner, columns = shape
    one, other = torch.randn(3, rows, inner), torch.randn(3, columns, inner).transpose(1, 2)
    exact = one.double() @ other.double()
    usual = (one @ other - exact).abs().max()
    with fast_products() as serves:
        assert serves
        fast = ((one @ other) - exact).abs().max()
        flat = (one[0] @ other[0] - exact[0]).abs().max()
    assert max(fast, flat) <= 4 * usual


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_begins_anew(on_its_processor):
    before = setting()
    with fast_products():
        child = os.fork()
        if child == 0:
            os._exit(0 if setting() == before and products._setting.users == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

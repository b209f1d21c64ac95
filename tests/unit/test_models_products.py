"""oneDNN products: float32 throughout, inside the context only, and never where a gradient is recorded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from emotion_circuits import generate
from emotion_circuits.engine import Sampling
from emotion_circuits.models import load_lm, packing, products
from emotion_circuits.models.products import (
    SETTING,
    SMALLEST,
    bytes_of_copies,
    fast_products,
    inference,
    product_library,
)
from emotion_circuits.types import Prompt


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if products._operator() is None:
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setenv(SETTING, "onednn")
    product_library.cache_clear()
    packing._PACKED.clear()
    yield
    product_library.cache_clear()


def layer(d_in: int, d_out: int, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(d_in, d_out, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [lambda x: x, lambda x: x[:, -1:], lambda x: x[:, ::2], lambda x: x.transpose(0, 1), lambda x: x[:0],
     lambda x: x[0, 0]],
)  # fmt: skip
def test_products_are_float32_products(onednn: None, bias: bool, shape: Callable[[Any], Any]) -> None:
    module, x = layer(256, 512, bias), shape(torch.randn(3, 5, 256))
    exact = nn.functional.linear(
        x.double(), module.weight.double(), None if module.bias is None else module.bias.double()
    )
    with inference(module):
        found = module(x)
    assert found.shape == exact.shape and found.dtype is torch.float32
    # bfloat16 or TF32 would be off by some 1e-3.
    assert torch.allclose(found.double(), exact, rtol=0, atol=1e-5)


def test_another_library_multiplies_inside_the_context_and_only_there(onednn: None) -> None:
    module = nn.Sequential(layer(256, 512))
    assert "forward" not in vars(module[0])
    with inference(module):
        assert "forward" in vars(module[0])
        with inference(module):
            pass
        assert "forward" in vars(module[0]), "an inner context leaves the outer one's layers alone"
    assert "forward" not in vars(module[0])
    with pytest.raises(ZeroDivisionError), inference(module):
        raise ZeroDivisionError
    assert "forward" not in vars(module[0])


def test_gradients_are_recorded_as_ever(onednn: None) -> None:
    module, x = layer(256, 512), torch.randn(2, 256, requires_grad=True)
    with fast_products(module):
        module(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad[0], module.weight.sum(0), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 8, 31, 120, 128, 500])
@pytest.mark.parametrize("size", [(576, 192), (576, 1536), (1536, 576), (100, 3001)])
def test_a_weight_that_is_laid_out_changes_no_bit(
    onednn: None, dtype: torch.dtype, rows: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype is torch.bfloat16 and not packing.bfloat16_in_hardware():
        pytest.skip("this processor does not multiply bfloat16")
    module, x = layer(*size).to(dtype), torch.randn(rows, size[0]).to(dtype)
    with inference(module):
        found = module(x)
    assert (module in packing._PACKED) == (rows > 1 or dtype is torch.bfloat16), "the layout was used"
    monkeypatch.setattr(packing, "SHARE_OF_MACHINE", 0)
    packing._PACKED.clear()
    with inference(module):
        assert torch.equal(module(x), found)
    assert module not in packing._PACKED


@pytest.mark.parametrize(
    "change", ["in place", "another", "in the place of the first", "in inference mode", "unrecorded"]
)
def test_a_changed_weight_is_laid_out_anew(onednn: None, change: str) -> None:
    module, x = layer(256, 512), torch.randn(4, 256)
    with inference(module):
        before = module(x)
    if change == "in place":
        with torch.no_grad():
            module.weight.mul_(2)
    elif change == "another":
        module.weight = nn.Parameter(2 * module.weight.detach())
    elif change == "in the place of the first":
        new = 2 * module.weight.detach().clone()
        del module.weight
        module.weight = nn.Parameter(new)
    elif change == "unrecorded":
        module.weight.data *= 2
    else:
        with torch.inference_mode():
            module.weight.mul_(2)
    with inference(module):
        assert torch.allclose(module(x) - module.bias, 2 * (before - module.bias), atol=1e-5)


def test_copies_are_made_only_where_there_is_room_and_go_with_the_model(
    onednn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = nn.Sequential(layer(256, 512), layer(512, 4)), torch.randn(4, 256)
    assert bytes_of_copies(module) == 4 * 256 * 512, "the small one has none"
    with inference(module):
        module(x)
    assert len(packing._PACKED) == 1
    del module
    gc.collect()
    assert not packing._PACKED
    module = nn.Sequential(layer(256, 512))
    other = layer(256, 512)
    monkeypatch.setattr(packing, "_machine_bytes", lambda: 8 * 6 * 256 * 512)
    with inference(other):
        other(x)
    assert len(packing._PACKED) == 1 and bytes_of_copies(module) == 0, "one more than all may take together"
    packing._PACKED.clear()
    assert bytes_of_copies(module) == 4 * 256 * 512
    monkeypatch.setattr(packing, "free_bytes", lambda device: 4 * 256 * 512)
    assert bytes_of_copies(module) == 0
    with inference(module):
        module(x)
    assert not packing._PACKED


def test_what_is_small_half_precise_or_somebody_elses_is_left_alone(onednn: None) -> None:
    class Own(nn.Linear):
        pass

    wrapped = layer(256, 512)
    vars(wrapped)["forward"] = lambda x: x + 1
    small = layer(8, SMALLEST // 8 - 1)
    left = nn.ModuleList([small, layer(256, 512).half(), Own(256, 512), wrapped])
    with inference(left):
        assert [("forward" in vars(m)) for m in left] == [False, False, False, True]
        assert torch.equal(wrapped(torch.zeros(1)), torch.ones(1))
    assert "forward" in vars(wrapped)


def test_the_setting_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "torch")
    product_library.cache_clear()
    module = layer(256, 512)
    with inference(module):
        assert "forward" not in vars(module)
    product_library.cache_clear()


@pytest.mark.real_model
def test_real_logits_differ_by_rounding_and_texts_are_the_same(
    onednn: None, embedded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded("smollm2-135m")
    lm = load_lm("smollm2-135m", device="cpu")
    prompts = [Prompt("a", "The parcel arrived on Tuesday and"), Prompt("b", "She opened the letter and")]
    ids = torch.tensor([lm.encode(prompts[:1])[0].ids])
    with torch.inference_mode():
        plain = lm.model(input_ids=ids).logits
    with inference(lm.model):
        fast = lm.model(input_ids=ids).logits
    with torch.inference_mode():
        assert torch.equal(lm.model(input_ids=ids).logits, plain), "outside, the model is Hugging Face's again"
    assert 0 < float((fast - plain).abs().max() / plain.std()) < 1e-4
    written = [g.tokens for g in generate(lm, prompts, sampling=Sampling(12))]
    monkeypatch.setenv(SETTING, "torch")
    product_library.cache_clear()
    assert [g.tokens for g in generate(lm, prompts, sampling=Sampling(12))] == written
    assert np.shape(written) == (2, 12)

"""``LM``: sizes from the config, text to ids, and a fingerprint that sees every change."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.types import Prompt
from tiny_models import ARCHITECTURES, tiny_lm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sizes_agree_with_the_modules(tiny, architecture):
    lm = tiny(architecture)
    assert lm.n_heads == 4
    assert lm.d_head == (12 if architecture in ("qwen3", "gemma3_text", "gemma3") else 8)
    assert lm.n_kv_heads == (4 if architecture.startswith("gpt") else 2)
    assert lm.d_mlp == (128 if architecture == "gpt2" else 48)
    assert lm.parallel == (architecture == "gpt_neox")
    assert lm.width("z") == (4, lm.d_head)
    assert lm.width("k") == (lm.n_kv_heads, lm.d_head)
    assert lm.width("resid_post") == (32,)


def test_layers_count_from_either_end(tiny):
    lm = tiny("llama")
    assert lm.layers() == (0, 1, 2)
    assert lm.layers([-1, 0]) == (2, 0)
    for wrong in (3, -4):
        with pytest.raises(UsageError, match=f"layer {wrong} does not exist.*3 layers"):
            lm.layers([wrong])


def test_the_prefix_stands_in_front_once_with_either_tokenizer(tiny):
    for kind in ("byte-level", "metaspace"):
        lm = tiny("gpt2", kind)
        text = "Thank you, naïve 😀 friend."
        (encoded,) = lm.encode([Prompt("p", text)])
        assert encoded.ids[0] == lm.prefix_ids[0]
        assert lm.prefix_ids[0] not in encoded.ids[1:]
        assert lm.tokenizer.decode(encoded.ids[1:]) == text
        assert encoded.offsets[0] == (0, 0)
        assert encoded.offsets[-1][1] == len(text)
    assert tiny("gpt2").encode([]) == []


def test_rows_that_change_places_change_the_fingerprint(tokenizers):
    """Sums over bits must see an exchange at any distance, also at the length of a row of sums (64 KiB)."""
    lm = tiny_lm("gpt2", tokenizers["byte-level"])
    seen = set()
    for swapped in ((), (0, 1), (0, 2), (257, 3)):
        weight = torch.randn(300, 16384, generator=torch.Generator().manual_seed(0))  # one row is 64 KiB
        if swapped:
            weight[list(swapped)] = weight[list(swapped)[::-1]].clone()
        model = copy.deepcopy(lm.model)
        model.register_buffer("large", weight)
        seen.add(dataclasses.replace(lm, model=model).fingerprint)
    assert len(seen) == 4


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_offloaded_weights_are_part_of_the_fingerprint(tokenizers, tmp_path, place):
    lm = tiny_lm("llama", tokenizers["byte-level"])
    offloaded, changed = copy.deepcopy(lm.model), copy.deepcopy(lm.model)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    prints = []
    for number, model in enumerate((offloaded, changed)):
        if place == "cpu":
            cpu_offload(model, execution_device=torch.device("cpu"))
        else:
            disk_offload(model, str(tmp_path / str(number)), execution_device=torch.device("cpu"))
        assert model.model.layers[1].mlp.up_proj.weight.is_meta
        prints.append(dataclasses.replace(lm, model=model).fingerprint)
    assert prints[0] == lm.fingerprint
    assert prints[1] != lm.fingerprint


def test_weights_that_are_nowhere_are_refused(tokenizers):
    lm = tiny_lm("llama", tokenizers["byte-level"])
    with pytest.raises(ModelError, match="not in memory"):
        _ = dataclasses.replace(lm, model=copy.deepcopy(lm.model).to("meta")).fingerprint


def test_any_change_of_weights_prefix_or_dtype_changes_the_fingerprint(tokenizers):
    lm = tiny_lm("gpt2", tokenizers["byte-level"])
    seen = {lm.fingerprint}
    assert tiny_lm("gpt2", tokenizers["byte-level"], attention="eager").fingerprint in seen  # the same function
    changed = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
    with torch.no_grad():
        changed.model.transformer.h[2].mlp.c_proj.bias[5] += 1e-6
    swapped = dataclasses.replace(lm, model=copy.deepcopy(lm.model))
    with torch.no_grad():
        weight = swapped.model.transformer.h[0].mlp.c_fc.weight
        weight[[0, 1]] = weight[[1, 0]]
    for other in (
        changed,
        swapped,
        dataclasses.replace(lm, prefix_ids=(7,)),
        dataclasses.replace(lm, model=copy.deepcopy(lm.model).to(torch.bfloat16)),
        tiny_lm("gpt2", tokenizers["byte-level"], seed=1),
    ):
        assert other.fingerprint not in seen
        seen.add(other.fingerprint)

"""``LM``: sizes from the config, text to ids, and a fingerprint that sees every change."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from emotion_circuits.errors import UsageError
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

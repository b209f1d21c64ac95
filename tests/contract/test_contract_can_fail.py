"""Each clause of the contract can fail: families and models that are broken on purpose are caught, clause by clause."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from emotion_circuits.engine import hooks as hooks_module
from emotion_circuits.engine.clauses import CLAUSES, PROMPTS
from emotion_circuits.engine.verify import verify_family
from emotion_circuits.models.family import QKV, concatenated, interleaved, separate
from tiny_models import tiny_lm

EXACT = "hooks that change nothing are bit-exact"
RESIDUAL = "residual stream adds up"
NORMS = "norms and per-head weights give q, k, v"
QUERIES = "queries and keys belong to their heads"
NEURONS = "neurons + bias = mlp_out"
RESULTS = "head results + bias = attn_out"
VALUES = "z = pattern × v"
PADDING = "left-padded = unpadded"
GENERATE = "own decode = generate"
PACKED = "packed rows = separate runs"
STRENGTH = "strength 0 is bit-exact"
PATTERNS = "patterns read and edited"
SINK = "prefix holds the attention sink"
HOOKS = "no hook left behind"


def failing(lm) -> set[str]:
    return {c.name for c in verify_family(lm) if not c.ok}


def reversed_groups(out, projection, d_head):
    heads = separate(out, projection, d_head)
    return heads if projection == "q" else heads.flip(-2)


def keys_before_queries(out, projection, d_head):
    return concatenated(out, {"q": "k", "k": "q", "v": "v"}[projection], d_head)


WRONG_FAMILIES = {
    "out projection of another module": ("llama", {"out_projection": "q_proj"}, {RESULTS, VALUES}),
    "down projection elsewhere": ("llama", {"down_projection": "up_proj"}, {NEURONS}),
    "MLP norm in front of the attention": ("llama", {"mlp_norm": "input_layernorm"}, {RESIDUAL}),
    "attention norm in front of the MLP": ("llama", {"attention_norm": "post_attention_layernorm"}, {NORMS}),
    "no norm after attention": ("gemma3_text", {"post_attention_norm": None}, {RESIDUAL}),
    "norm weight w instead of 1 + w": ("gemma3_text", {"norm": "rms"}, {NORMS, RESULTS}),
    "RMS instead of LayerNorm": ("gpt2", {"norm": "rms"}, {NORMS}),
    "parallel block called sequential": ("gpt_neox", {"parallel": lambda config: False}, {RESIDUAL}),
    "MLP is the attention": ("llama", {"mlp": "self_attn", "down_projection": "o_proj"}, {RESIDUAL}),
    "final norm is a block's": ("llama", {"final_norm": "layers.0.input_layernorm"}, {NORMS}),
    "interleaved heads in GPT-2": (
        "gpt2", {"qkv": QKV({"q": "c_attn", "k": "c_attn", "v": "c_attn"}, interleaved)}, {VALUES, QUERIES},
    ),
    "concatenated heads in Pythia": (
        "gpt_neox",
        {"qkv": QKV(dict.fromkeys("qkv", "query_key_value"), concatenated)},
        {VALUES, QUERIES},
    ),
    "keys taken for queries": (
        "gpt2", {"qkv": QKV({"q": "c_attn", "k": "c_attn", "v": "c_attn"}, keys_before_queries)}, {QUERIES},
    ),
    "grouped heads in another order": (
        "llama",
        {"qkv": QKV({"q": "q_proj", "k": "k_proj", "v": "v_proj"}, reversed_groups)},
        {VALUES, QUERIES},
    ),
    "values read from the keys": (
        "qwen2", {"qkv": QKV({"q": "q_proj", "k": "k_proj", "v": "k_proj"}, separate)}, {VALUES},
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG_FAMILIES)
def test_a_wrong_family_file_is_caught(tiny, mistake):
    architecture, fields, expected = WRONG_FAMILIES[mistake]
    lm = tiny(architecture)
    wrong = dataclasses.replace(lm, family=dataclasses.replace(lm.family, **fields))
    caught = failing(wrong) - failing(lm)
    assert caught, mistake
    assert expected <= caught


@pytest.fixture
def own(tokenizers):
    """A model that the test may spoil."""
    return lambda architecture: tiny_lm(architecture, tokenizers["byte-level"], attention="eager")


def test_a_model_that_draws_random_numbers_is_not_exact(own):
    lm = own("gpt2")
    for module in lm.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
            module.train()
    assert {EXACT, STRENGTH} <= failing(lm)


def test_a_model_that_ignores_position_ids_is_caught_by_padding(own):
    lm = own("gpt2")
    forward = lm.model.transformer.forward
    lm.model.transformer.forward = lambda *args, position_ids=None, **kwargs: forward(*args, **kwargs)
    assert PADDING in failing(lm)


def test_a_model_that_ignores_the_mask_is_caught_by_padding(own):
    lm = own("llama")
    forward = lm.model.model.forward

    def unmasked(*args, attention_mask=None, **kwargs):
        mask = None if attention_mask is None else torch.ones_like(attention_mask)
        return forward(*args, attention_mask=mask, **kwargs)

    lm.model.model.forward = unmasked
    assert PADDING in failing(lm)


def test_rows_that_see_each_other_are_caught_by_packing(own):
    lm = own("llama")
    lm.blocks[-1].register_forward_hook(lambda module, args, output: output - 0.1 * output.mean(0, keepdim=True))
    assert PACKED in failing(lm)


def test_a_projection_that_is_never_called_is_caught(own):
    lm = own("llama")
    for layer in range(lm.n_layers):
        lm.module(layer, "attention").add_module("spare", copy.deepcopy(lm.module(layer, "out_projection")))
    lm.family = dataclasses.replace(lm.family, out_projection="spare")
    assert {PACKED, RESULTS, VALUES} <= failing(lm)


def test_another_generate_is_caught(own):
    lm = own("llama")
    generate = lm.model.generate

    def shifted(*args, **kwargs):
        out = generate(*args, **kwargs)
        out.sequences[:, -1] = (out.sequences[:, -1] + 1) % lm.vocabulary_size
        return out

    lm.model.generate = shifted
    assert failing(lm) - {SINK} == {GENERATE}


def test_attention_without_softmax_calls_is_caught(own, monkeypatch):
    lm = own("llama")

    def other_softmax(module, query, key, value, attention_mask, scaling, **kwargs):
        from transformers.models.llama.modeling_llama import repeat_kv

        scores = query @ repeat_kv(key, module.num_key_value_groups).transpose(2, 3) * scaling + attention_mask
        pattern = scores.exp() / scores.exp().sum(-1, keepdim=True)
        out = (pattern @ repeat_kv(value, module.num_key_value_groups)).transpose(1, 2).contiguous()
        return out, pattern

    monkeypatch.setattr("transformers.models.llama.modeling_llama.eager_attention_forward", other_softmax)
    assert {PATTERNS, QUERIES} <= failing(lm)


def test_a_first_word_that_holds_the_sink_is_caught(own):
    lm = own("llama")
    first = {e.ids[1] for e in lm.encode(PROMPTS)}
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[list(first)] *= 1000
    assert SINK in failing(lm)


def test_hooks_that_stay_are_caught(own, monkeypatch):
    monkeypatch.setattr(hooks_module.Hooks, "__exit__", lambda self, *exception: None)
    assert HOOKS in failing(own("gpt2"))


def test_every_clause_has_a_test_that_makes_it_fail():
    covered = {EXACT, RESIDUAL, NORMS, QUERIES, RESULTS, NEURONS, VALUES, PADDING, GENERATE}
    covered |= {PACKED, STRENGTH, PATTERNS, SINK, HOOKS}
    assert covered == set(CLAUSES)

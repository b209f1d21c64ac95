"""Per-head weights reproduce what the model's own projections compute, in every family."""

from __future__ import annotations

import pytest
import torch

from emotion_circuits.models.families import family_of, known_families, llama_like
from emotion_circuits.models.weights import head_weights, neuron_outputs, norm_epsilon, output_heads
from tiny_models import ARCHITECTURES


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_head_weights_are_the_projections_cut_into_heads(tiny, architecture):
    lm = tiny(architecture)
    x = torch.randn(5, lm.d_model, generator=torch.Generator().manual_seed(0))
    for layer in range(lm.n_layers):
        w = head_weights(lm, layer)
        assert w.w_q.shape == w.w_k.shape == w.w_v.shape == (4, 32, lm.d_head)
        assert w.w_o.shape == (4, lm.d_head, 32)
        z = torch.randn(5, 4, lm.d_head, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            wanted = lm.module(layer, "out_projection")(z.flatten(1))
            projected = {p: lm.family.qkv.heads(lm.module(layer, p)(x), p, lm.d_head) for p in ("q", "k", "v")}
        torch.testing.assert_close(torch.einsum("nhd,hdm->nm", z, w.w_o) + w.b_o, wanted, rtol=1e-4, atol=1e-4)
        for p, weight, bias in (("q", w.w_q, w.b_q), ("k", w.w_k, w.b_k), ("v", w.w_v, w.b_v)):
            own = torch.einsum("nm,hmd->nhd", x, weight) + bias
            shared = projected[p].repeat_interleave(4 // projected[p].shape[1], 1)
            torch.testing.assert_close(own, shared, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_neuron_outputs_are_rows_of_the_down_projection(tiny, architecture):
    lm = tiny(architecture)
    weight, bias = neuron_outputs(lm, 1)
    one = torch.zeros(1, lm.d_mlp)
    one[0, 7] = 1
    with torch.inference_mode():
        torch.testing.assert_close(lm.module(1, "down_projection")(one)[0], weight[7] + bias)


def test_weights_are_copies_that_do_not_change_the_model(tiny):
    lm = tiny("gpt2")
    before = lm.module(0, "out_projection").weight.clone()
    output_heads(lm, 0)[0].zero_()
    assert torch.equal(lm.module(0, "out_projection").weight, before)


def test_every_supported_model_type_has_one_family():
    claimed = [t for family in known_families() for t in family.model_types]
    assert len(claimed) == len(set(claimed))
    expected = {"gpt2", "gpt_neox", "gpt_neo", "llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma3_text", "gemma3"}
    assert expected <= set(claimed)
    assert family_of("mamba") is None
    assert llama_like().name == "llama"


def test_the_epsilon_of_a_norm_is_read_under_either_name_and_may_be_zero():
    norm = torch.nn.LayerNorm(4, eps=0.0)
    assert norm_epsilon(norm) == 0
    del norm.eps
    norm.variance_epsilon = 1e-5
    assert norm_epsilon(norm) == 1e-5

"""Every family keeps every clause of its contract, with tokenizers of both kinds and both attention implementations."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from transformers import (
    AutoTokenizer,
    FalconConfig,
    GraniteConfig,
    HeliumConfig,
    Olmo2Config,
    Phi3Config,
    StableLmConfig,
)

from emotion_circuits.engine.clauses import ABOUT_WEIGHTS, CLAUSES
from emotion_circuits.engine.verify import require_family, verify_family
from emotion_circuits.errors import ModelError
from emotion_circuits.models import load_lm
from tiny_models import ARCHITECTURES, from_config, tiny_lm, tiny_model


@pytest.fixture(scope="module")
def embedded_tokenizer(embedded):
    return cache(lambda alias: AutoTokenizer.from_pretrained(embedded(alias).folder))


LAYOUT = {name: clause for name, clause in CLAUSES.items() if name not in ABOUT_WEIGHTS}


def broken(lm) -> list[tuple[str, str]]:
    return [(c.name, c.detail) for c in verify_family(lm, LAYOUT) if not c.ok]


@pytest.mark.parametrize("tokenizer", ["byte-level", "metaspace"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_keeps_its_contract(tiny, architecture, tokenizer):
    lm = tiny(architecture, tokenizer)
    assert broken(lm) == []
    assert lm.config._attn_implementation == ("eager" if architecture == "gpt_neo" else "sdpa")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_eager_models_keep_it_too_and_stay_eager(tiny, architecture):
    lm = tiny(architecture, "byte-level", "eager")
    assert broken(lm) == []
    assert lm.config._attn_implementation == "eager"


@pytest.mark.parametrize("seed", [1, 2])
def test_the_contract_does_not_hang_on_one_draw_of_weights(tokenizers, seed):
    for architecture in ("gpt2", "llama", "gemma3_text"):
        assert broken(tiny_lm(architecture, tokenizers["byte-level"], seed=seed)) == []


def test_bfloat16_keeps_it_within_its_own_tolerance(tokenizers):
    lm = load_lm(tiny_model("llama", tokenizers["byte-level"]).to(torch.bfloat16), tokenizers["byte-level"])
    assert lm.dtype == torch.bfloat16
    assert broken(lm) == []


def test_an_unknown_model_with_the_llama_layout_is_taken_with_a_notice(tokenizers):
    lm = load_lm(
        from_config(_unknown(HeliumConfig, tokenizers, num_key_value_heads=2, head_dim=8)), tokenizers["metaspace"]
    )
    assert any("helium" in notice and "llama-like" in notice for notice in lm.notices)
    require_family(lm)


@pytest.mark.parametrize("config", [FalconConfig, Olmo2Config, Phi3Config])
def test_an_unknown_model_with_other_modules_is_refused_by_name_when_loading(tokenizers, config):
    with pytest.raises(ModelError, match=config.model_type):
        load_lm(from_config(_unknown(config, tokenizers)), tokenizers["metaspace"])


@pytest.mark.parametrize(
    ("config", "sizes", "clause"),
    [
        (
            GraniteConfig,
            {"num_key_value_heads": 2, "residual_multiplier": 0.5},
            "residual stream adds up",
        ),  # scales what sublayers write
        (StableLmConfig, {"num_key_value_heads": 2}, "norms"),  # LayerNorm where Llama has RMSNorm
    ],
)
def test_an_unknown_model_that_computes_something_else_is_refused_by_name(tokenizers, config, sizes, clause):
    lm = load_lm(from_config(_unknown(config, tokenizers, **sizes)), tokenizers["metaspace"])
    with pytest.raises(ModelError, match=f"(?s){clause}.*{config.model_type}"):
        require_family(lm)


def _unknown(config, tokenizers, **sizes):
    return config(
        vocab_size=len(tokenizers["metaspace"]), bos_token_id=2, eos_token_id=1, pad_token_id=None, hidden_size=32,
        num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, max_position_embeddings=256, **sizes,
    )  # fmt: skip


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("architecture", "source"),
    [(a, "gemma-3-270m" if a.startswith("gemma") else "smollm2-135m") for a in ARCHITECTURES]
    + [("llama", "gemma-3-270m"), ("gpt2", "gemma-3-270m"), ("gemma3_text", "smollm2-135m")],
)
def test_every_family_with_the_embedded_models_tokenizers(embedded_tokenizer, architecture, source):
    tokenizer = embedded_tokenizer(source)
    assert broken(tiny_lm(architecture, tokenizer)) == []


@pytest.mark.real_model
def test_real_weights_keep_every_clause_and_the_prefix_is_the_sink(smollm2):
    checks = verify_family(smollm2)
    assert [c.name for c in checks] == list(CLAUSES)
    assert [(c.name, c.detail) for c in checks if not c.ok] == []


@pytest.mark.real_model
def test_without_its_prefix_the_first_word_becomes_the_sink(smollm2):
    bare = dataclasses.replace(smollm2, prefix_ids=())
    (check,) = verify_family(bare, {name: CLAUSES[name] for name in ABOUT_WEIGHTS})
    assert not check.ok

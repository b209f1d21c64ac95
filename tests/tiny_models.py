"""Tiny random models of every supported family, and tokenizers of both leading-space kinds.

Every parameter is drawn from a normal distribution, norms and biases included, so that no part of a block is an
identity by accident: a forgotten bias, a skipped norm or two swapped heads change the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from emotion_circuits.models import LM, load_lm

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}
WINDOW = 4

Ids = dict[str, Any]


def _gpt2(ids: Ids) -> PreTrainedConfig:
    return GPT2Config(n_layer=3, n_head=4, n_embd=32, n_positions=256, **ids)


def _gpt_neox(ids: Ids) -> PreTrainedConfig:
    return GPTNeoXConfig(**SIZES, use_parallel_residual=True, **ids)


def _gpt_neox_sequential(ids: Ids) -> PreTrainedConfig:
    return GPTNeoXConfig(**SIZES, use_parallel_residual=False, **ids)


def _gpt_neo(ids: Ids) -> PreTrainedConfig:
    return GPTNeoConfig(
        num_layers=4, num_heads=4, hidden_size=32, intermediate_size=48, max_position_embeddings=256,
        attention_types=[[["global", "local"], 2]], window_size=WINDOW, **ids,
    )  # fmt: skip


def _llama(ids: Ids) -> PreTrainedConfig:
    return LlamaConfig(**GROUPED, **ids)


def _mistral(ids: Ids) -> PreTrainedConfig:
    return MistralConfig(**GROUPED, sliding_window=WINDOW, **ids)


def _qwen2(ids: Ids) -> PreTrainedConfig:
    return Qwen2Config(**GROUPED, **ids)


def _qwen3(ids: Ids) -> PreTrainedConfig:
    return Qwen3Config(**GROUPED, head_dim=12, **ids)


def _smollm3(ids: Ids) -> PreTrainedConfig:
    return SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 1], **ids)


def _gemma3(ids: Ids) -> Gemma3TextConfig:
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3TextConfig(**GROUPED, head_dim=12, sliding_window=WINDOW, layer_types=layers, **ids)


def _gemma3_multimodal(ids: Ids) -> PreTrainedConfig:
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    return Gemma3Config(text_config=_gemma3(ids).to_dict(), vision_config=vision, mm_tokens_per_image=4)


ARCHITECTURES: dict[str, Callable[[Ids], PreTrainedConfig]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gpt_neox_sequential": _gpt_neox_sequential,
    "gpt_neo": _gpt_neo,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "gemma3_text": _gemma3,
    "gemma3": _gemma3_multimodal,
}
"""Every layout that the package supports, by the name the tests give it."""


def tiny_model(
    architecture: str, tokenizer: PreTrainedTokenizerBase, *, attention: str | None = None, seed: int = 0
) -> PreTrainedModel:
    """A random model of one architecture with the tokenizer's vocabulary."""
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": None,
    }
    return from_config(ARCHITECTURES[architecture](ids), attention=attention, seed=seed)


def from_config(config: PreTrainedConfig, *, attention: str | None = None, seed: int = 0) -> PreTrainedModel:
    """A model of any config with every parameter drawn from N(0, .3²)."""
    if isinstance(config, Gemma3Config):
        model = Gemma3ForConditionalGeneration(config)
        model.set_attn_implementation(attention or "sdpa")
    else:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def tiny_lm(
    architecture: str, tokenizer: PreTrainedTokenizerBase, *, attention: str | None = None, seed: int = 0
) -> LM:
    """A tiny random model with its tokenizer, as every other module sees one."""
    return load_lm(tiny_model(architecture, tokenizer, attention=attention, seed=seed), tokenizer)


CORPUS = (
    "Thank you for walking the dog while we were away at the weekend, we are so grateful for your kindness.",
    "I am sorry that I broke the window; I apologise and will pay for the glass on Tuesday morning.",
    "He parked in my space again, which makes me furious, and I had to leave the car three streets away.",
    "The parcel arrived on Tuesday and the bus left the station at noon while it was raining in the street.",
)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose words carry their leading space as ``Ġ``; adds no BOS by itself (GPT-2, SmolLM 2)."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"]
    inner.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=360, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=special[0], eos_token=special[0])


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """BPE with byte fallback whose words carry their leading space as ``▁``; puts ``<bos>`` in front (Gemma)."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=480, special_tokens=[*special, *byte_tokens], show_progress=False)
    )
    inner = Tokenizer.from_str(trained.to_str().replace('"byte_fallback":false', '"byte_fallback":true'))
    assert inner.model.byte_fallback
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    from tokenizers.processors import TemplateProcessing

    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", special.index("<bos>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )

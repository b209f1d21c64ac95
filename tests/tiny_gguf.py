"""A tiny Llama as a GGUF file, written as llama.cpp's converter writes it, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

WORDS = ["th", "an", "ks", "than"]
MERGES = ["t h", "a n", "k s", "th an"]


def tiny_llama() -> LlamaForCausalLM:
    """Two layers with grouped-query attention over the vocabulary of :func:`write_gguf`."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=3 + 256 + len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(model: LlamaForCausalLM, path: Path) -> Path:
    """Write ``model`` as unquantised GGUF (float32), so that a conversion can be compared exactly."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*specials, *bytes_to_unicode().values(), *WORDS])
    writer.add_token_types([3] * len(specials) + [1] * (256 + len(WORDS)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    for name, weights in _tensors(model).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(model: LlamaForCausalLM) -> dict[str, NDArray[np.float32]]:
    config = model.config
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
    }
    parts = {
        "attn_norm": "input_layernorm", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        theirs = f"model.layers.{layer}."
        for short, name in parts.items():
            tensors[f"blk.{layer}.{short}.weight"] = state[f"{theirs}{name}.weight"]
        for short, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            weights = state[f"{theirs}self_attn.{short}_proj.weight"]
            tensors[f"blk.{layer}.attn_{short}.weight"] = _interleaved(weights, heads)
    return tensors


def _interleaved(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rotary halves as neighbouring pairs, the order that GGUF's llama has."""
    rows, columns = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))

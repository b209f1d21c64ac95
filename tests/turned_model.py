"""A copy of a Llama-like model that computes the same in other coordinates: a true positive for question 2.

``python tests/turned_model.py smollm2-135m smollm2-turned`` writes one of an embedded model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from emotion_circuits.models.sources import resolve_source


def save_turned(source: Path, target: Path, seed: int = 0) -> torch.Tensor:
    """Write ``source`` with its residual stream turned; returns R ``[d, d]``, where every residual x becomes x R.

    RMSNorm weights are folded into the matrices that read behind them. Without a weight the norm divides by a length
    only, which no rotation changes, so that readers x W become (x R)(Rᵀ W), writers are multiplied by R, and the
    outputs stay what they were, up to rounding. Embeddings that were tied are untied: the unembedding takes the weight
    of the last norm.
    """
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64)
    d = model.config.hidden_size
    drawn = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    turn = torch.linalg.qr(drawn)[0]
    core = model.model
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
        core.embed_tokens.weight.copy_(core.embed_tokens.weight @ turn)
        _read(core.norm, [model.lm_head], turn)
        for block in core.layers:
            attention, mlp = block.self_attn, block.mlp
            _read(block.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj], turn)
            _read(block.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj], turn)
            for writer in (attention.o_proj, mlp.down_proj):
                writer.weight.copy_(turn.T @ writer.weight)
    model.to(torch.float32).save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return turn


def _read(norm: torch.nn.Module, readers: list[torch.nn.Module], turn: torch.Tensor) -> None:
    for reader in readers:
        reader.weight.copy_(reader.weight * norm.weight @ turn)
    norm.weight.fill_(1)


if __name__ == "__main__":
    save_turned(resolve_source(sys.argv[1]).folder, Path(sys.argv[2]))

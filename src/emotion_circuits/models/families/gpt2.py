"""GPT-2: fused query-key-value ``Conv1D``, learned positions, LayerNorm."""

from emotion_circuits.models.family import QKV, Family, concatenated

FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    blocks="h",
    attention_norm="ln_1",
    attention="attn",
    out_projection="c_proj",
    qkv=QKV({"q": "c_attn", "k": "c_attn", "v": "c_attn"}, concatenated),
    mlp_norm="ln_2",
    down_projection="c_proj",
    final_norm="ln_f",
    norm="layer",
    prefix_tokens=("<|endoftext|>",),
    qk_from_weights=True,
)

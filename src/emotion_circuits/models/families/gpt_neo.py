"""GPT-Neo: global and local layers alternate, scores are not divided by sqrt(d_head)."""

from emotion_circuits.models.family import QKV, Family, separate

FAMILY = Family(
    name="gpt_neo",
    model_types=("gpt_neo",),
    blocks="h",
    attention_norm="ln_1",
    attention="attn.attention",
    out_projection="out_proj",
    qkv=QKV({"q": "q_proj", "k": "k_proj", "v": "v_proj"}, separate),
    mlp_norm="ln_2",
    down_projection="c_proj",
    final_norm="ln_f",
    norm="layer",
    prefix_tokens=("<|endoftext|>",),
    qk_from_weights=True,
)

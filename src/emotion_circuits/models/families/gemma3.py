"""Gemma 3 (text-only, and inside the multimodal wrapper): norms after both sublayers, norm weight 1 + w."""

from emotion_circuits.models.family import Family

FAMILY = Family(
    name="gemma3",
    model_types=("gemma3_text", "gemma3"),
    mlp_norm="pre_feedforward_layernorm",
    post_attention_norm="post_attention_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
    norm="rms-plus-one",
    prefix_tokens=("<bos>",),
)

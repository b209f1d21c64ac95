"""Llama and the models that share its module layout: Mistral, Qwen 2 and 3, SmolLM 2 and 3."""

from emotion_circuits.models.family import Family

FAMILY = Family(
    name="llama",
    model_types=("llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3"),
    prefix_tokens=("<|endoftext|>",),
)

"""GPT-NeoX and Pythia: attention and MLP read the same residual stream in parallel, QKV interleaved per head."""

from typing import Any

from emotion_circuits.models.family import QKV, Family, interleaved


def _parallel(config: Any) -> bool:
    return bool(config.use_parallel_residual)


FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    attention="attention",
    out_projection="dense",
    qkv=QKV({"q": "query_key_value", "k": "query_key_value", "v": "query_key_value"}, interleaved),
    down_projection="dense_4h_to_h",
    final_norm="final_layer_norm",
    norm="layer",
    parallel=_parallel,
    prefix_tokens=("<|endoftext|>",),
)

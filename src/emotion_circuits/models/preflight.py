"""Does a model fit before it is loaded: its weights, its keys and values, its logits, and what one text captures.

Sizes come from the headers of the weight files and from the config; no weight is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.models.registry import find_entry
from emotion_circuits.models.sources.folder import weight_files
from emotion_circuits.store.safetensors_header import HeaderError, read_safetensors_header

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ROW_TOKENS = 128
"""Length of the one text that has to fit beside the weights; longer texts and more rows take more."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True)
class Demand:
    """Bytes that a model needs on one device with one row of ``tokens`` tokens."""

    weights: int
    cache: int
    captures: int
    logits: int
    tokens: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.captures + self.logits

    def __str__(self) -> str:
        return (
            f"{_gb(self.total)}: weights {_gb(self.weights)}, and for one text of {self.tokens} tokens keys and values "
            f"{_gb(self.cache)}, captured activations {_gb(self.captures)}, logits {_gb(self.logits)}"
        )


def demand(config: Mapping[str, Any], weights: int, dtype: str, tokens: int = ROW_TOKENS) -> Demand:
    """What a model with this ``config.json`` needs.

    Keys and values: 2 · layers · KV heads · head width · tokens · bytes of ``dtype``. Captures: the residual stream of
    every layer at every token in float32. Logits: four float32 copies of one token's, as scoring and sampling hold.
    """
    text = {**config, **(config.get("text_config") or {})}
    layers = _first(text, "num_hidden_layers", "n_layer", "num_layers")
    width = _first(text, "hidden_size", "n_embd")
    heads = _first(text, "num_attention_heads", "n_head", "num_heads") or 1
    kv_heads = _first(text, "num_key_value_heads") or heads
    head_width = _first(text, "head_dim") or width // heads
    return Demand(
        weights=weights,
        cache=2 * layers * kv_heads * head_width * tokens * ITEM_BYTES[dtype],
        captures=4 * layers * width * tokens,
        logits=4 * 4 * _first(text, "vocab_size"),
        tokens=tokens,
    )


def weight_bytes(folder: Path, dtype: str) -> int:
    """Bytes of a folder's weights once they are loaded as ``dtype``; damaged files count 0 (loading names them)."""
    total = 0
    try:
        files = weight_files(folder)
    except (OSError, ModelError):
        return 0
    for path in files:
        try:
            with path.open("rb") as file:
                tensors = read_safetensors_header(file).tensors.values()
        except (OSError, HeaderError):
            continue
        for tensor in tensors:
            start, end = tensor["data_offsets"]
            floating = tensor.get("dtype") in _FLOATS
            total += math.prod(tensor["shape"]) * ITEM_BYTES[dtype] if floating else end - start
    return total


def weight_bytes_of_source(source: str, loading: Mapping[str, Any]) -> int | None:
    """Bytes of a model's weights from its folder, its registry entry or the hub's cache; None when nothing tells them.

    Nobody is asked for them: a model that was never fetched is not known beforehand, nor is a GGUF file.
    """
    from emotion_circuits.models.sources.hub import cached_folder

    dtype = loading.get("dtype") or "float32"
    folder: Path | None = Path(source)
    if not Path(source).is_dir():
        if (entry := find_entry(source)) is not None:
            return entry.parameters * ITEM_BYTES[dtype]
        folder = cached_folder(source)
    return None if folder is None else weight_bytes(folder, dtype) or None


def require_room(name: str, folder: Path, dtype: str, free: int, place: str) -> None:
    """Refuse a model that cannot fit into ``free`` bytes on ``place`` ("cuda:0"), before it is loaded.

    Raises:
        ModelError: with what it needs, what there is, and what to change.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        needed = demand(config, weight_bytes(folder, dtype), dtype)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return  # a broken or unusual config: the loader says what is wrong with it
    if needed.total <= free:
        return
    changes = []
    if ITEM_BYTES[dtype] > 2 and demand(config, half := weight_bytes(folder, "bfloat16"), "bfloat16").total <= free:
        changes.append(f"--dtype bfloat16 (weights {_gb(half)})")
    changes.append("--device-map auto (spreads it over the GPUs, then main memory, then the disk)")
    changes.append("a machine with more memory, or a smaller model")
    raise ModelError(f"{name} does not fit on {place}: it needs {needed}; {_gb(free)} are free", "; ".join(changes))


def _first(config: Mapping[str, Any], *names: str) -> int:
    return next((int(config[name]) for name in names if config.get(name) is not None), 0)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"

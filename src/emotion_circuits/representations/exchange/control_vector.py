"""GGUF control vectors, as llama.cpp loads them (``common_control_vector_load``) and repeng writes them.

``general.architecture`` is ``controlvector``; the tensor ``direction.N`` (float32, ``[d_model]``) is added to the
output of block N, counted from 0, which is our ``resid_post`` of layer N: its loader puts ``direction.N`` at
``(N - 1) · d_model`` of one buffer, and block il adds what lies at ``(il - 1) · d_model`` (``llama_adapter_cvec``).
It has no place for block 0. It reads tensors only: ``model_hint`` and ``layer_count``, the number of directions in the
file, are for people and other programs.

llama.cpp adds a vector at every position of the prompt; ``run steer`` begins at the prompt's last one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.exchange.card import Card, VectorFile, card_of, require_length
from emotion_circuits.store.files import replacing

ARCHITECTURE = "controlvector"
CARD_KEY = "emotion_circuits.card"


def write(path: Path, content: VectorFile) -> None:
    """Write the vectors as one control vector at scale 1.

    Raises:
        UsageError: a vector at layer 0.
    """
    from gguf import GGUFWriter

    if 0 in content.vectors:
        raise UsageError(
            "llama.cpp cannot steer the first block, and the expression stands at layer 0", "choose a layer from 1 on"
        )
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", content.card.architecture or "unknown")
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(content.vectors))
        if content.card.expression:
            writer.add_description(f"{content.card.expression} for {content.card.model}")
        writer.add_string(CARD_KEY, json.dumps(content.card.to_dict(), ensure_ascii=False))
        for layer, vector in content.vectors.items():
            writer.add_tensor(f"direction.{layer}", np.asarray(vector, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def read(path: Path, beside: Card) -> VectorFile:
    """The vectors of a control vector, with the card inside it where there is none beside."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise UsageError(f"{path} is no GGUF file: {error}", "give a control vector") from error
    if _text(reader, "general.architecture") != ARCHITECTURE:
        raise UsageError(f"{path} holds no control vector but {_text(reader, 'general.architecture')!r}", "give one")
    vectors = {}
    for tensor in reader.tensors:
        name, _, layer = str(tensor.name).partition(".")
        if name != "direction":
            continue
        if not layer.isdecimal() or tensor.tensor_type.name != "F32":
            raise UsageError(f"{path}: the tensor {tensor.name} is no direction in float32", "export it again")
        vectors[int(layer)] = require_length(np.array(tensor.data, dtype=np.float64), path, int(layer))
    if not vectors:
        raise UsageError(f"{path} has no tensor direction.N", "give a control vector")
    inside = _text(reader, CARD_KEY)
    card = beside if beside != Card() or inside is None else card_of(inside, path)
    if card == Card():
        card = Card(architecture=_text(reader, f"{ARCHITECTURE}.model_hint") or "")
    return VectorFile(dict(sorted(vectors.items())), card)


def _text(reader: Any, key: str) -> str | None:
    found = reader.get_field(key)
    return None if found is None else bytes(found.parts[-1]).decode("utf-8", errors="replace")

"""Neuronpedia vectors: what ``POST https://www.neuronpedia.org/api/vector/new`` takes, one object a layer.

Its fields are those of Neuronpedia's own client (``neuronpedia.requests.vector_request``): ``modelId``, ``layerNumber``
(from 0), ``hookType``, ``vector``, ``vectorDefaultSteerStrength`` and ``vectorLabel``. Strength 1 adds the vector as it
is. ``modelId`` has to be the name that Neuronpedia has for the model (``gemma-2-2b``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.exchange.card import Card, VectorFile, require_length
from emotion_circuits.store.files import write_json

POST, PRE = "hook_resid_post", "hook_resid_pre"
FIELDS = ("modelId", "layerNumber", "hookType", "vector", "vectorDefaultSteerStrength", "vectorLabel")
MOST_NUMBERS = 24_576
"""Longer vectors are refused by Neuronpedia."""


def write(path: Path, content: VectorFile) -> None:
    """Write one object, or a list of them where there are several layers.

    Raises:
        UsageError: a vector that is longer than Neuronpedia takes.
    """
    if max(map(len, content.vectors.values())) > MOST_NUMBERS:
        raise UsageError(f"Neuronpedia takes vectors of up to {MOST_NUMBERS} numbers", "export another format")
    label = content.card.expression or "vector"
    objects = [
        dict(zip(FIELDS, (content.card.model, layer, POST, vector.tolist(), 1.0, label), strict=True))
        for layer, vector in content.vectors.items()
    ]
    write_json(path, objects[0] if len(objects) == 1 else objects)


def read(path: Path, beside: Card) -> VectorFile:
    """The vectors of one object or of a list, each at its default strength."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}", "give a Neuronpedia vector") from error
    objects = content if isinstance(content, list) else [content]
    vectors: dict[int, Any] = {}
    for one in objects:
        layer, vector = _read(one, path)
        if layer in vectors:
            raise UsageError(f"{path} has two vectors at layer {layer}", "give one vector a layer")
        vectors[layer] = vector
    if not vectors:
        raise UsageError(f"{path} holds no vector", f"give an object with {', '.join(FIELDS)}")
    card = beside if beside != Card() else Card(expression=objects[0]["vectorLabel"], model=objects[0]["modelId"])
    return VectorFile(dict(sorted(vectors.items())), card)


def _read(one: Any, path: Path) -> tuple[int, np.ndarray[Any, np.dtype[np.float64]]]:
    missing = [name for name in FIELDS if not isinstance(one, dict) or name not in one]
    if missing:
        raise UsageError(f"{path} has no {missing[0]}", f"give an object with {', '.join(FIELDS)}")
    layer, hook, strength = one["layerNumber"], one["hookType"], one["vectorDefaultSteerStrength"]
    texts = isinstance(one["modelId"], str) and isinstance(one["vectorLabel"], str)
    if type(layer) is not int or type(strength) not in (int, float) or not texts or hook not in (POST, PRE):
        raise UsageError(f"{path}: a field of the vector has a wrong type", f"hookType is {POST} or {PRE}")
    if hook == PRE:  # the input of a block is the output of the one below
        layer -= 1
    if layer < 0:
        raise UsageError(f"{path}: the input of the first block is no block's output", "give a vector of another layer")
    try:
        values = np.array(one["vector"], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path}: the vector is no list of numbers", "export it again") from error
    return layer, require_length(values * strength, path, layer)

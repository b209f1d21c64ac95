"""NumPy archives (``.npz``): ``layer_14`` … as float64, and ``card``, a JSON text. Nothing in them is pickled."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.exchange.card import Card, VectorFile, card_of, require_length
from emotion_circuits.store.files import replacing

PREFIX, CARD = "layer_", "card"


def write(path: Path, content: VectorFile) -> None:
    """Write one array a layer and the card."""
    arrays: dict[str, Any] = {f"{PREFIX}{n}": np.asarray(v, dtype=np.float64) for n, v in content.vectors.items()}
    arrays[CARD] = np.array(json.dumps(content.card.to_dict(), ensure_ascii=False))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(path: Path, beside: Card) -> VectorFile:
    """The arrays ``layer_N`` of an archive, with the card inside it where there is none beside."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise UsageError(f"{path} is no NumPy archive of plain arrays: {error}", "give a .npz file") from error
    vectors = {
        int(name.removeprefix(PREFIX)): require_length(np.asarray(array, np.float64), path, 0)
        for name, array in arrays.items()
        if name.startswith(PREFIX) and name.removeprefix(PREFIX).isdecimal() and array.dtype.kind == "f"
    }
    if not vectors:
        raise UsageError(f"{path} has no array {PREFIX}N", f"name the array of layer 14 {PREFIX}14")
    inside = arrays.get(CARD)
    card = beside if beside != Card() or inside is None else card_of(str(inside), path)
    return VectorFile(dict(sorted(vectors.items())), card)

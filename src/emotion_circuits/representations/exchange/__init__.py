"""Vectors in other programs' formats, with a card that says what they are.

What is exported is what an expression adds to the residual stream (``resid_post``), one vector a layer. The suffix of a
file names its format:

=========  ===========================================================  ==========================
suffix     read by                                                      numbers
=========  ===========================================================  ==========================
``.gguf``  llama.cpp (``--control-vector FILE``), repeng                float32
``.json``  Neuronpedia (``POST /api/vector/new``)                       float64, exact
``.npz``   NumPy (``np.load``, no pickle)                               float64, exact
``.csv``   anything; a column a layer, a row a dimension                float64, exact
=========  ===========================================================  ==========================
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.exchange.card import (
    CARD_SUFFIX,
    Card,
    VectorFile,
    expressed,
    read_card,
    write_card,
)

__all__ = ["CARD_SUFFIX", "SUFFIXES", "Card", "VectorFile", "expressed", "read_vectors", "write_vectors"]

_MODULES = {".gguf": "control_vector", ".json": "neuronpedia", ".npz": "numpy_archive", ".csv": "table"}
SUFFIXES = tuple(_MODULES)


def write_vectors(path: Path, content: VectorFile) -> tuple[Path, Path]:
    """Write vectors in the format that the suffix names, and their card beside them; returns both paths.

    Raises:
        UsageError: an unknown suffix, a layer that the format cannot hold. StoreError: it cannot be written.
    """
    _format(path).write(path, content)
    return path, write_card(path, content.card)


def read_vectors(path: Path) -> VectorFile:
    """Vectors of a file that this package or another program wrote; without a card beside it, the card is empty.

    Raises:
        UsageError: no such file, an unknown suffix, content that is not what the suffix says.
    """
    chosen = _format(path)
    if not path.is_file():
        raise UsageError(f"there is no file {path}", "check the path")
    found: VectorFile = chosen.read(path, read_card(path))
    return found


def _format(path: Path) -> Any:
    name = _MODULES.get(path.suffix.lower())
    if name is None:
        raise UsageError(
            f"{path.name} does not say in which format vectors are", f"give it one of the endings {', '.join(SUFFIXES)}"
        )
    return importlib.import_module(f"{__name__}.{name}")

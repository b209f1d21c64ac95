"""Models: where they come from, how their families are laid out, and their per-head weights.

The names below are imported on first use: listing models must not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM, Encoded
    from emotion_circuits.models.load import load_lm

__all__ = ["LM", "Encoded", "load_lm"]

_HOME = {"LM": "lm", "Encoded": "lm", "load_lm": "load"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

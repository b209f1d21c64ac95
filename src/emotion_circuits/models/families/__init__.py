"""One small file per model family: where its blocks, projections and norms are.

A new family is one new module in this folder that defines ``FAMILY``; nothing else changes.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from emotion_circuits.models.family import Family


@cache
def known_families() -> tuple[Family, ...]:
    """Every family with a module in this folder, in alphabetical order of the module."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(importlib.import_module(f"{__name__}.{name}").FAMILY for name in names)


def family_of(model_type: str) -> Family | None:
    """The family that claims a Hugging Face ``config.model_type``, or None (then llama-like is tried and verified)."""
    return next((f for f in known_families() if model_type in f.model_types), None)


def llama_like() -> Family:
    """The layout most decoder models share; tried for unknown model types and refused if its contract fails."""
    from emotion_circuits.models.families import llama

    return llama.FAMILY

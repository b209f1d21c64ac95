"""Where language models hold emotions, whether two models share them, and what they cause.

The dozen public names; each is imported on first use, so that ``emotion-circuits --help`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Prompt": "types",
    "Site": "types",
    "Positions": "types",
    "Activations": "types",
    "Direction": "types",
    "Intervention": "types",
    "Condition": "types",
    "EmotionCircuitsError": "errors",
    "load_lm": "models",
    "LM": "models",
    "load_prompts": "prompts",
    "capture": "engine",
    "generate": "engine",
    "verify_family": "engine",
    "extract_directions": "representations",
    "run_experiment": "experiments",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from emotion_circuits.errors import EmotionCircuitsError
    from emotion_circuits.types import Activations, Condition, Direction, Intervention, Positions, Prompt, Site


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

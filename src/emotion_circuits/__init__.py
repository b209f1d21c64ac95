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
    "readout": "representations.readout",
    "steering_condition": "representations.expression",
    "run_experiment": "experiments",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:  # the same names for type checkers; `as` marks a re-export
    from emotion_circuits.engine import capture as capture
    from emotion_circuits.engine import generate as generate
    from emotion_circuits.engine import verify_family as verify_family
    from emotion_circuits.errors import EmotionCircuitsError as EmotionCircuitsError
    from emotion_circuits.experiments import run_experiment as run_experiment
    from emotion_circuits.models import LM as LM
    from emotion_circuits.models import load_lm as load_lm
    from emotion_circuits.prompts import load_prompts as load_prompts
    from emotion_circuits.representations import extract_directions as extract_directions
    from emotion_circuits.representations.expression import steering_condition as steering_condition
    from emotion_circuits.representations.readout import readout as readout
    from emotion_circuits.types import Activations as Activations
    from emotion_circuits.types import Condition as Condition
    from emotion_circuits.types import Direction as Direction
    from emotion_circuits.types import Intervention as Intervention
    from emotion_circuits.types import Positions as Positions
    from emotion_circuits.types import Prompt as Prompt
    from emotion_circuits.types import Site as Site


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

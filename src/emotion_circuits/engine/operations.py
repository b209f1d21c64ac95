"""What each operation of an intervention computes, in float32, and when it changes nothing."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emotion_circuits.types import Intervention


def acts(op: str, strength: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether a strength changes anything: a factor other than 1 for ``scale``, other than 0 for the rest.

    What changes nothing is not computed at all: x + 0 · v turns -0 into 0, and 0 · infinity is NaN.
    """
    return strength != 1 if op == "scale" else strength != 0


def changes_something(intervention: Intervention) -> bool:
    """Whether any step of the intervention changes anything, in the precision of the edit."""
    strengths = np.float32(intervention.strength) * np.asarray(intervention.schedule, np.float32)
    return bool((strengths != (1 if intervention.op == "scale" else 0)).any())


def operate(op: str, x: Tensor, v: Tensor | None, s: Tensor) -> Tensor:
    """``x`` ``[n, token, …]``, ``v`` ``[n, 1 or token, …]``, ``s`` ``[n, 1, …]`` in float32."""
    if op == "zero":
        # As `set` to 0: exactly 0 at strength 1, part of the way otherwise.
        return torch.where(s == 1, torch.zeros_like(x), x * (1 - s))
    if op == "scale":
        return x * s
    assert v is not None
    if op == "add":
        return x + s * v
    if op == "set":
        # Exactly v at strength 1, part of the way otherwise.
        return torch.where(s == 1, v, x + s * (v - x))
    axes = tuple(range(2, v.ndim))  # none for a single neuron: its activation is the component
    unit = v / (v.square().sum(axes, keepdim=True) if axes else v.square()).sqrt().clamp_min(1e-12)
    along = (x * unit).sum(axes, keepdim=True) if axes else x * unit
    return x - s * along * unit

"""Could the map have carried this direction at all? κ, the share of a direction inside what the map reads."""

from __future__ import annotations

import numpy as np

from emotion_circuits.representations.labelled import FloatArray

MINIMUM_KAPPA = 0.15
"""Below this a failed transfer says nothing: "not identified", not "not shared"."""


def identifiability(directions: FloatArray, basis: FloatArray, *, retained: bool = True) -> tuple[FloatArray, float]:
    """κ per direction and for all together.

    κ = ‖Pᵀv‖² / ‖v‖² − rank/d: the share of the direction's energy inside the components that cross-validation
    retained, less what a random direction has there. Standard coordinates.

    Args:
        directions: ``[emotion, d]``. basis: ``[d, rank]`` orthonormal columns. retained: False where cross-validation
            found no linear relation at all, so that nothing is retained and κ = 0.

    Returns:
        κ ``[emotion]`` and κ of the set (energies summed over emotions first).
    """
    if not retained:
        return np.zeros(len(directions)), 0.0
    inside, whole = ((directions @ basis) ** 2).sum(axis=1), (directions**2).sum(axis=1)
    chance = basis.shape[1] / basis.shape[0]
    tiny = np.finfo(np.float64).tiny
    return inside / np.maximum(whole, tiny) - chance, float(inside.sum() / max(float(whole.sum()), tiny) - chance)

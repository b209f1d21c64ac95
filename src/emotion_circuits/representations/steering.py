"""From a direction to an intervention: units of strength, and adding the vector at a site.

A strength means something only in a unit. ``fraction`` is the share of the mean residual norm at the steered positions
(attention sink left out), which compares across layers and models; ``sd`` counts standard deviations of neutral text
along the direction; ``raw`` multiplies the mean-difference vector itself.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.types import Direction, Intervention, Positions, Site

Unit = Literal["fraction", "raw", "sd"]
UNITS: tuple[Unit, ...] = get_args(Unit)
ONWARD = Positions("onward")


def unit_vector(vector: NDArray[Any]) -> Float[np.ndarray[Any, Any], " d"]:
    """The vector at length 1; raises for one without length or with NaN."""
    length = float(np.linalg.norm(np.asarray(vector, dtype=np.float64)))
    if not math.isfinite(length) or length == 0:
        raise UsageError(
            "a steering vector has no direction (its length is 0 or not finite)",
            "check the texts the direction was fitted on",
        )
    return np.asarray(vector, dtype=np.float64) / length


def scale_of(direction: Direction, unit: Unit, residual_norm: float | None = None) -> float:
    """Length of the added vector at strength 1, in the residual stream's own units.

    ``residual_norm`` is the mean norm at the positions that are steered; the one the direction was read at stands in
    where it is not given (a mean over tokens is shorter than its tokens).
    """
    if unit == "fraction":
        return direction.residual_norm if residual_norm is None else residual_norm
    if unit == "sd":
        return direction.neutral_sd()
    if unit == "raw":
        return float(np.linalg.norm(direction.vector))
    raise unknown_name("unit", unit, list(UNITS))


def steer(
    direction: Direction,
    strength: float,
    unit: Unit = "fraction",
    *,
    residual_norm: float | None = None,
    positions: Positions = ONWARD,
    schedule: tuple[float, ...] = (1.0,),
) -> Intervention:
    """Add ``strength`` × ``unit`` along the direction at its own site (Turner et al. 2023; Rimsky et al. 2024).

    Raises:
        UsageError: a strength that is NaN or infinite, a direction without length, unit ``sd`` where the neutral texts
            are not at hand.
    """
    length = scale_of(direction, unit, residual_norm)
    return add_at(direction.site, direction.vector, strength * length, positions=positions, schedule=schedule)


def add_at(
    site: Site,
    vector: NDArray[Any],
    length: float,
    *,
    positions: Positions = ONWARD,
    schedule: tuple[float, ...] = (1.0,),
) -> Intervention:
    """Add a vector of this direction and of exactly this ``length`` (negative: the other way)."""
    if not math.isfinite(length):
        raise UsageError(f"a steering strength of {length} is no number", "give finite strengths, such as -0.3 0 0.3")
    return Intervention(site, "add", positions, unit_vector(vector).astype(np.float32), length, schedule)

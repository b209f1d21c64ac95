"""Interventions by name: what is done to an activation, with checked arguments.

Each function returns an :class:`~emotion_circuits.types.Intervention`. Values are ``[d]`` of the site, that is
``[head, d_head]`` for a whole q, k, v or z, or one row per position, ``[token, d]``: the n-th row goes to the n-th
prompt position that ``positions`` names, and tokens generated later are left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.engine.schedules import Schedule, constant
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Intervention, Positions, Site

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ALL = Positions("all")
ONWARD = Positions("onward")
CONSTANT = constant()


def add(
    site: Site, vector: ArrayLike, strength: float, positions: Positions = ONWARD, *, schedule: Schedule = CONSTANT
) -> Intervention:
    """x + strength · vector; by default at the prompt's last token and everything generated."""
    return Intervention(site, "add", positions, _values(vector), strength, schedule)


def swap(site: Site, values: ArrayLike, positions: Positions) -> Intervention:
    """Put the activation of another run in place of this one's (activation patching)."""
    return Intervention(site, "set", positions, _values(values))


def scale(site: Site, factor: float, positions: Positions = ALL, *, schedule: Schedule = CONSTANT) -> Intervention:
    """factor · x; 1 changes nothing."""
    return Intervention(site, "scale", positions, None, factor, schedule)


def project_out(site: Site, vector: ArrayLike, positions: Positions = ALL, *, strength: float = 1.0) -> Intervention:
    """Remove the component along ``vector`` (its length does not matter); strength 2 reflects it."""
    values = _values(vector)
    if not values.any():
        raise UsageError(f"{site}: a vector of zeros has no direction to remove", "give a direction other than 0")
    return Intervention(site, "project_out", positions, values, strength)


def zero(site: Site, positions: Positions = ALL) -> Intervention:
    """Zero ablation."""
    return Intervention(site, "zero", positions)


def mean_ablation(site: Site, mean: ArrayLike, positions: Positions = ALL) -> Intervention:
    """Put the mean activation over a reference set in place of the prompt's own."""
    return Intervention(site, "set", positions, _values(mean))


def resample_ablation(site: Site, donor_values: ArrayLike, positions: Positions = ALL) -> Intervention:
    """Put the activation that another text has there in place of the prompt's own."""
    return Intervention(site, "set", positions, _values(donor_values))


def _values(values: ArrayLike) -> NDArray[np.floating[Any]]:
    found = np.asarray(values)
    if not np.issubdtype(found.dtype, np.number) or not np.isfinite(found).all():
        raise UsageError(
            "the values of an intervention contain NaN, infinity or no numbers at all",
            "check where they were computed: a direction of a broken capture has NaN",
        )
    return found if np.issubdtype(found.dtype, np.floating) else found.astype(np.float64)

"""The ladder of maps: how complex a relation between two models has to be, and which is the simplest that suffices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike, NDArray

from emotion_circuits.representations.alignment import HeldOut, nested_r2
from emotion_circuits.representations.alignment_map import MapMethod

LADDER: tuple[MapMethod, ...] = ("procrustes", "reduced-rank", "ridge")
"""From the most constrained to the least: a rotation with one scale, a map of low rank, any linear map."""

SUFFICIENT = 0.95
"""A map suffices when its held-out R² is at least this share of the best one's."""


@dataclass(frozen=True)
class Ladder:
    """Nested held-out R² of every rung and the ``simplest`` that suffices (None where none predicts anything)."""

    held_out: Mapping[MapMethod, HeldOut]
    simplest: MapMethod | None


def map_ladder(
    source: ArrayLike,
    target: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    seed: int = 0,
) -> Ladder:
    """Judge every rung on rows that neither it nor its selection saw; arguments as in ``fit_alignment``."""
    held_out = {method: nested_r2(source, target, groups, method=method, seed=seed) for method in LADDER}
    best = max(h.total for h in held_out.values())
    enough = [m for m in LADDER if best > 0 and held_out[m].total >= SUFFICIENT * best]
    return Ladder(held_out, enough[0] if enough else None)

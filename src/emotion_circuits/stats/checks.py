"""What is refused before anything is computed, each with what to do instead."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.interval import FloatArray


def finite(values: ArrayLike, name: str) -> FloatArray:
    """``values`` as float64; raises on NaN and infinity, because a silently dropped value changes the unit count."""
    array = np.asarray(values, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise UsageError(
            f"{name} holds {bad} value(s) that are NaN or infinite out of {array.size}",
            "find out why they are missing; drop whole units (in every arm) before the test if that is justified",
        )
    return array


def at_least(count: int, minimum: int, name: str, why: str) -> None:
    """Raises when there are fewer than ``minimum`` of something."""
    if count < minimum:
        raise UsageError(f"{count} {name}: {why} needs at least {minimum}", f"collect more {name}")


def varying(values: FloatArray, name: str, axis: int = -1) -> None:
    """Raises when a cell has no variance: its standardised effect, t and p are undefined, not infinite."""
    spread = np.ptp(values, axis=axis)
    scale = np.maximum(np.abs(values).max(axis=axis), np.finfo(np.float64).tiny)
    constant = spread <= 1e-12 * scale
    if np.any(constant):
        raise UsageError(
            f"{name} has zero variance in {int(np.count_nonzero(constant))} cell(s): every unit gave the same value",
            "check that the intervention reached the model and that the scorer is not saturated; report the raw value",
        )


def cluster_codes(clusters: Sequence[Hashable] | NDArray[Any], n: int) -> tuple[NDArray[np.intp], int]:
    """Integer code ``[n]`` of each unit's cluster and the number of clusters; raises when one is missing."""
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise UsageError(f"clusters have shape {labels.shape} for {n} units", "give one cluster id per unit")
    if any(label is None or label != label for label in labels.tolist()):
        raise UsageError("a unit has no cluster (None or NaN)", "name the scenario or prompt of every unit")
    _, codes = np.unique(labels, return_inverse=True)
    return codes.astype(np.intp), int(codes.max()) + 1 if n else 0


def probability(value: float, name: str) -> float:
    """``value`` if it lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UsageError(f"{name} must lie between 0 and 1, not {value}", "write .95 for 95 percent, .05 for alpha")
    return float(value)

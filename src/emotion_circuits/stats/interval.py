"""The noun that every estimate is reported with: an interval that says how it was made and from how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def wilson_limits(rate: FloatArray, n: FloatArray, z: float) -> tuple[FloatArray, FloatArray]:
    """Limits of a rate of ``n`` units at ``z`` standard deviations (Wilson 1927), per cell, within [0, 1]."""
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits, over any number of cells at once.

    ``estimate``, ``low`` and ``high`` have the same shape (``[cell]``, or ``[]`` for one cell); ``confidence`` is the
    nominal two-sided level, ``method`` names how the limits were made, ``n`` counts the values and ``clusters`` the
    independent groups behind them (equal to ``n`` where nothing is clustered).
    """

    estimate: FloatArray
    low: FloatArray
    high: FloatArray
    confidence: float
    method: str
    n: int
    clusters: int

    def __getitem__(self, cell: Any) -> Interval:
        """The interval of one cell, or of a selection of cells."""
        return Interval(
            np.asarray(self.estimate)[cell],
            np.asarray(self.low)[cell],
            np.asarray(self.high)[cell],
            self.confidence,
            self.method,
            self.n,
            self.clusters,
        )

    def contains(self, value: float | FloatArray) -> NDArray[np.bool_]:
        """Whether each cell's limits enclose ``value``."""
        return np.asarray((self.low <= value) & (value <= self.high))

"""Standard coordinates of one model: centred and scaled by the map set's own means and SDs, per dimension.

A residual stream may have a norm of 10⁴ in a few dimensions; without scaling a map would explain those and little else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.stats.checks import at_least, finite


@dataclass(frozen=True)
class Scaling:
    """Mean and SD ``[d]`` of neutral text in one model."""

    mean: FloatArray
    sd: FloatArray

    def standardise(self, x: ArrayLike) -> FloatArray:
        """Points ``[..., d]`` in standard coordinates: (x − mean) / sd."""
        return np.asarray((np.asarray(x, dtype=np.float64) - self.mean) / self.sd)


def fit_scaling(x: ArrayLike, name: str = "the map set") -> Scaling:
    """Scaling from ``[n, d]`` rows; the SD of a dimension that never varies is held at 1e-3 of the median SD."""
    rows = finite(x, name)
    at_least(len(rows), 2, "rows", "means and SDs of the map set")
    sd = rows.std(axis=0, ddof=1)
    middle = float(np.median(sd))
    return Scaling(rows.mean(axis=0), np.maximum(sd, 1e-3 * middle + 1e-12 * max(1.0, float(np.abs(rows).max()))))


def principal_components(z: FloatArray, limit: int) -> tuple[FloatArray, FloatArray]:
    """Orthonormal columns ``[d, r]`` and singular values ``[r]`` of centred rows ``[n, d]``, at most ``limit``.

    From the eigenvectors of the smaller Gram matrix, which is several times faster than an SVD; components below 1e-5
    of the largest, whose digits that would cost, are left out.
    """
    n, d = z.shape
    limit = min(limit, n, d)
    wide = d > n
    gram = z @ z.T if wide else z.T @ z
    values, vectors = linalg.eigh(gram, subset_by_index=[len(gram) - limit, len(gram) - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > 1e-10 * max(float(values[0]), np.finfo(np.float64).tiny)
    values, vectors = values[kept], vectors[:, kept]
    singular = np.sqrt(values)
    return (z.T @ vectors / singular if wide else vectors), singular

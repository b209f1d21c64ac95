"""Summaries that the distribution figures draw in place of every value: 100,000 values stay a small page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

Floats = NDArray[np.float64]

GRID = 96
"""Points at which a density is evaluated."""
MOST_BINS = 60
_DENSITY_SAMPLE = 20_000
"""A density of more values than this is estimated from evenly spaced order statistics (same shape, bounded time)."""


@dataclass(frozen=True)
class Summary:
    """One arm: ``n`` values, their quartiles, and a density over ``at`` (both ``[grid]``; empty where undefined)."""

    n: int
    first_quartile: float
    median: float
    third_quartile: float
    at: Floats
    density: Floats


def summarise(values: list[float]) -> Summary:
    """Quartiles and a Gaussian kernel density (Scott's rule) of at least one finite value.

    Fewer than three values, or values that are all the same, have no density.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    first, middle, third = np.quantile(ordered, [0.25, 0.5, 0.75])
    spread = float(np.std(ordered))
    at = density = np.empty(0)
    if len(ordered) >= 3 and spread > 1e-12 * max(1.0, float(np.abs(ordered).max())):
        step = max(1, len(ordered) // _DENSITY_SAMPLE)
        at = np.linspace(ordered[0], ordered[-1], GRID)
        density = gaussian_kde(ordered[::step])(at)
    return Summary(len(ordered), float(first), float(middle), float(third), at, density)


def bin_edges(values: list[float]) -> Floats:
    """Equal bins over all series together (NumPy's ``auto`` rule, at most ``MOST_BINS``)."""
    edges = np.histogram_bin_edges(np.asarray(values, dtype=np.float64), bins="fd" if len(values) > 10_000 else "auto")
    if len(edges) - 1 > MOST_BINS:
        edges = np.linspace(edges[0], edges[-1], MOST_BINS + 1)
    return edges

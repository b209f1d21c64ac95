"""Would other texts have given the same circuit? Selection repeated over bootstrap draws of the scenarios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import cluster_draws, cluster_totals
from emotion_circuits.stats.checks import cluster_codes, finite


@dataclass(frozen=True)
class Stability:
    """``share`` ``[node]``: how often each node is selected; ``jaccard``: mean overlap of a draw with the selection.

    ``chance`` is the overlap that random selections of the same size would have.
    """

    share: NDArray[np.float64]
    jaccard: float
    chance: float
    resamples: int


def selection_stability(
    changes: Float[NDArray[np.float64], "node pair"],
    clusters: Sequence[str],
    size: int,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Stability:
    """Select the ``size`` nodes with the largest |mean change| in each draw of scenarios with replacement.

    Raises:
        UsageError: a size outside the number of nodes, NaN, fewer than 2 scenarios.
    """
    values = finite(changes, "the changes")
    if not 0 < size < len(values):
        raise UsageError(f"cannot select {size} of {len(values)} nodes", f"choose a size from 1 to {len(values) - 1}")
    codes, count = cluster_codes(clusters, values.shape[1])
    if count < 2:
        raise UsageError("stability needs at least two scenarios", "give more texts")
    totals = cluster_totals(values, codes, count)
    drawn = cluster_draws(count, resamples, np.random.default_rng(seed)) @ totals.T  # [draw, node]
    top = np.argsort(-np.abs(drawn), axis=1, kind="stable")[:, :size]
    selected = np.zeros((resamples, len(values)), dtype=bool)
    np.put_along_axis(selected, top, True, axis=1)
    own = np.zeros(len(values), dtype=bool)
    own[np.argsort(-np.abs(values.sum(1)), kind="stable")[:size]] = True
    shared = (selected & own).sum(1)
    expected = size * size / len(values)
    return Stability(
        selected.mean(0), float((shared / (2 * size - shared)).mean()), expected / (2 * size - expected), resamples
    )

"""Mutual nearest neighbours, calibrated by permutation (Huh et al. 2024 use the raw share)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.similarity import Similarity
from emotion_circuits.stats.checks import at_least, finite
from emotion_circuits.stats.permutation import permutation_p


def mutual_neighbours(
    source: ArrayLike, target: ArrayLike, k: int = 10, *, permutations: int = 999, seed: int = 0
) -> Similarity:
    """Mean share of each text's k nearest neighbours (cosine, centred) that both models agree on, with p by shuffling.

    Chance is k/(n − 1), which ``null_mean`` estimates; the raw share says nothing without it.

    Args:
        source, target: ``[n, d_a]`` and ``[n, d_b]``, row i of the same text; n > k.
    """
    a, b = finite(source, "the source rows"), finite(target, "the target rows")
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise UsageError(f"rows have shapes {a.shape} and {b.shape}", "give paired rows [n, d_a] and [n, d_b]")
    at_least(k, 1, "neighbours", "their agreement")
    at_least(len(a), k + 2, "paired rows", f"{k} nearest neighbours")
    first, second = _neighbours(a, k), _neighbours(b, k)
    n = len(a)
    rows, columns = np.nonzero(first)
    value = float(second[rows, columns].sum() / (n * k))
    rng = np.random.default_rng(seed)
    null = np.array(
        [
            second[move[rows], move[columns]].sum() / (n * k)
            for move in (rng.permutation(n) for _ in range(permutations))
        ]
    )
    return Similarity(value, float(null.mean()), float(permutation_p(value, null)), permutations, f"mutual {k}-NN")


def _neighbours(x: FloatArray, k: int) -> NDArray[np.bool_]:
    """``[n, n]``: j is among the k nearest of i."""
    centred = x - x.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    nearest = np.argpartition(-cosine, k, axis=1)[:, :k]
    found = np.zeros(cosine.shape, dtype=np.bool_)
    np.put_along_axis(found, nearest, True, axis=1)
    return found

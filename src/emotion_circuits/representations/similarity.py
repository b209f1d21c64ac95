"""Secondary evidence that two models arrange the same texts alike: CKA, never the headline.

CKA compares all structure, so it is significant even against an untrained network; it cannot tell shared emotion from
shared words. The biased estimator is near 1 whenever d is large against n, whatever the data; it is here to show that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.spatial import distance

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.transfer_nulls import relabellings
from emotion_circuits.stats.checks import at_least, finite
from emotion_circuits.stats.permutation import permutation_p


@dataclass(frozen=True)
class Similarity:
    """A similarity with its null: ``null_mean`` under shuffled rows (or labels) and the permutation ``p``."""

    value: float
    null_mean: float
    p: float
    permutations: int
    method: str


def debiased_cka(source: ArrayLike, target: ArrayLike, *, permutations: int = 999, seed: int = 0) -> Similarity:
    """Linear CKA from the unbiased HSIC (Song et al. 2012; Nguyen, Raghu & Kornblith 2021), p by shuffled rows.

    Args:
        source, target: ``[n, d_a]`` and ``[n, d_b]``, row i of the same text. Invariant to rotation and scale of
            either side. Its null mean is 0; it may be negative.
    """
    a, b = _paired(source, target, 4)
    k, h = _without_diagonal(a), _without_diagonal(b)
    u, v = _centred(k), _centred(h)
    scale = np.sqrt(max(_inner(u, u), 0.0) * max(_inner(v, v), 0.0))
    if scale == 0:
        raise UsageError("one side has no structure (all rows alike)", "check the activations")
    rng = np.random.default_rng(seed)
    n = len(a)
    null = np.array([_inner(u, v[np.ix_(move, move)]) for move in (rng.permutation(n) for _ in range(permutations))])
    value = _inner(u, v) / scale
    p = float(permutation_p(value, null / scale)) if permutations else float("nan")
    mean = float(null.mean() / scale) if permutations else float("nan")
    return Similarity(float(value), mean, p, permutations, "debiased CKA")


def biased_cka(source: ArrayLike, target: ArrayLike) -> float:
    """Linear CKA (Kornblith et al. 2019). Near 1 for independent data with d ≫ n: for comparison only."""
    a, b = _paired(source, target, 2)
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    k, h = a @ a.T, b @ b.T
    return float((k * h).sum() / np.sqrt((k**2).sum() * (h**2).sum()))


def centroid_similarity(
    source: ArrayLike, target: ArrayLike, *, permutations: int = 10_000, seed: int = 0
) -> Similarity:
    """RSA of emotion centroids (Kriegeskorte et al. 2008): Spearman correlation of their distances, relabelling p.

    Args:
        source, target: ``[emotion, d_a]`` and ``[emotion, d_b]`` centroids in the same order of emotions, in each
            model's standard coordinates. Up to 7 emotions all relabellings are enumerated and the smallest p is 1/E!.
    """
    a, b = _paired(source, target, 3)
    at_least(len(a), 4, "emotions", "a correlation of distances")
    first, second = (stats.rankdata(distance.pdist(x)) for x in (a, b))
    first, second = first - first.mean(), second - second.mean()
    table = distance.squareform(second)
    moves = relabellings(len(a), permutations, seed)
    i, j = np.triu_indices(len(a), 1)
    null = table[moves[:, i], moves[:, j]] @ first / np.sqrt((first @ first) * (second @ second))
    value = float(first @ second / np.sqrt((first @ first) * (second @ second)))
    exact = np.array_equal(moves[0], np.arange(len(a)))
    p = float(np.mean(null >= value - 1e-10)) if exact else float(permutation_p(value, null))
    return Similarity(value, float(null.mean()), p, len(moves), "RSA of centroids (Spearman)")


def _paired(source: ArrayLike, target: ArrayLike, minimum: int) -> tuple[FloatArray, FloatArray]:
    a, b = finite(source, "the source rows"), finite(target, "the target rows")
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise UsageError(f"rows have shapes {a.shape} and {b.shape}", "give paired rows [n, d_a] and [n, d_b]")
    at_least(len(a), minimum, "paired rows", "a similarity of representations")
    return a, b


def _without_diagonal(x: FloatArray) -> FloatArray:
    centred = x - x.mean(axis=0)
    gram = centred @ centred.T
    np.fill_diagonal(gram, 0.0)
    return np.asarray(gram)


def _centred(gram: FloatArray) -> FloatArray:
    """U-centring (Székely & Rizzo 2014): ⟨Ũ, Ṽ⟩/(n(n−3)) is the unbiased HSIC."""
    n = len(gram)
    rows = gram.sum(axis=1)
    out = gram - rows[:, None] / (n - 2) - rows / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0.0)
    return np.asarray(out)


def _inner(u: FloatArray, v: FloatArray) -> float:
    return float((u * v).sum() / (len(u) * (len(u) - 3)))

"""Do the texts of one emotion lie together? Silhouette with a permutation p, centroid distances and a dendrogram."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy
from scipy.spatial import distance

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.stats.checks import at_least, finite, units_and_clusters
from emotion_circuits.stats.permutation import permutation_p, relabelled


@dataclass(frozen=True)
class Clusterability:
    """``silhouette`` in [−1, 1] over all texts and per emotion, its permutation ``p``, distances between centroids.

    ``linkage`` is scipy's ``[E − 1, 4]`` table of an average-linkage dendrogram whose leaves are ``emotions``.
    """

    emotions: tuple[str, ...]
    silhouette: float
    per_emotion: FloatArray
    null_mean: float
    p: float
    centroid_distances: FloatArray
    linkage: FloatArray
    permutations: int


def clusterability(
    x: ArrayLike,
    labels: Sequence[str] | NDArray[Any],
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    permutations: int = 999,
    seed: int = 0,
) -> Clusterability:
    """Silhouette of emotion labels (Rousseeuw 1987) with labels permuted within scenarios.

    Args:
        x: ``[text, d]``; standardise by the neutral SD first where a few dimensions are massive.
        labels: ``[text]``, at least two emotions with two texts each.
        clusters: ``[text]`` scenario; labels change places within it, and between scenarios that hold one emotion
            only (``stats.permutation.exchangeable_units``). Without clusters all texts change places.

    Distances are Euclidean and computed once; a permutation is one matrix product.
    """
    values, names = finite(x, "the activations"), np.asarray(labels)
    if values.ndim != 2 or names.shape != values.shape[:1]:
        raise UsageError(f"activations {values.shape} do not match labels {names.shape}", "give [text, d] and [text]")
    emotions = tuple(dict.fromkeys(names.tolist()))
    at_least(len(emotions), 2, "emotions", "clusterability")
    codes = np.array([emotions.index(name) for name in names.tolist()])
    at_least(int(np.bincount(codes).min()), 2, "texts of an emotion", "a silhouette")
    groups, _ = units_and_clusters(len(names), clusters, None)
    between = distance.squareform(distance.pdist(values))
    own = _silhouettes(between, codes, len(emotions))
    rng = np.random.default_rng(seed)
    drawn = relabelled(codes, groups, permutations, rng)
    null = np.array([_silhouettes(between, row, len(emotions)).mean() for row in drawn])
    centroids = np.stack([values[codes == i].mean(axis=0) for i in range(len(emotions))])
    gaps = distance.pdist(centroids)
    return Clusterability(
        emotions=tuple(str(e) for e in emotions),
        silhouette=float(own.mean()),
        per_emotion=np.array([own[codes == i].mean() for i in range(len(emotions))]),
        null_mean=float(null.mean()),
        p=float(permutation_p(own.mean(), null)),
        centroid_distances=np.asarray(distance.squareform(gaps)),
        linkage=np.asarray(hierarchy.linkage(gaps, method="average")),
        permutations=permutations,
    )


def _silhouettes(distances: FloatArray, codes: NDArray[np.intp], count: int) -> FloatArray:
    """``[text]`` (b − a) / max(a, b): a the mean distance within, b to the nearest other label; 0 for a text alone."""
    member = np.eye(count)[codes]
    sums, sizes = distances @ member, member.sum(axis=0)
    rows = np.arange(len(codes))
    within = sums[rows, codes] / np.maximum(sizes[codes] - 1, 1)
    between = sums / sizes
    between[rows, codes] = np.inf
    nearest = between.min(axis=1)
    found = (nearest - within) / np.maximum(np.maximum(nearest, within), np.finfo(np.float64).tiny)
    return np.asarray(np.where(sizes[codes] > 1, found, 0.0))

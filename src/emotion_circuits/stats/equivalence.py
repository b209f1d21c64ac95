"""Two claims that need their own tests: "no difference that matters", and "all of these nulls are rejected"."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.checks import finite, probability
from emotion_circuits.stats.cluster_t import cluster_t
from emotion_circuits.stats.interval import FloatArray, Interval


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests: ``p`` of lying outside ±``bound``; ``interval`` is the 1 - 2·alpha interval to look at."""

    p: FloatArray
    bound: float
    interval: Interval
    equivalent: NDArray[np.bool_]


def equivalence_test(
    differences: ArrayLike,
    bound: float,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    alpha: float = 0.05,
) -> Equivalence:
    """TOST: is the mean difference smaller than ``bound`` in size (Schuirmann 1987)?

    p = max(p of mean > -bound, p of mean < bound), one-sided cluster-robust t tests; equivalent at ``alpha`` exactly
    when the 1 - 2·alpha interval lies inside ±bound. "Not significant" never means "no effect"; this does.

    Args:
        differences: ``[..., n]`` paired differences.
        bound: largest difference that does not matter, in the units of ``differences``, declared before looking.
    """
    if not np.isfinite(bound) or bound <= 0:
        raise UsageError(f"an equivalence bound of {bound} says nothing", "declare a positive bound in outcome units")
    probability(alpha, "alpha")
    above = cluster_t(differences, clusters, null=-bound, alternative="greater", confidence=1 - 2 * alpha)
    below = cluster_t(differences, clusters, null=bound, alternative="less", confidence=1 - 2 * alpha)
    p = np.maximum(above.p, below.p)
    return Equivalence(p, float(bound), above.mean, np.asarray(p <= alpha))


@dataclass(frozen=True)
class IntersectionUnion:
    """The largest p, and the null that limits the claim."""

    p: float
    limiting: str


def intersection_union(p_values: Mapping[str, float]) -> IntersectionUnion:
    """p of "every one of these nulls is false": the largest of their p-values, with no correction (Berger 1982).

    For a claim that must beat each of several controls (isotropic and covariance-matched and label-shuffled). Each p
    must be valid alone. Not for "at least one": that is a family, see ``multiplicity``.
    """
    if not p_values:
        raise UsageError("no null hypotheses were given", "name each null with its p-value")
    values = finite(list(p_values.values()), "the p-values")
    if np.any((values < 0) | (values > 1)):
        raise UsageError("p-values lie outside [0, 1]", "pass p, not t")
    worst = int(np.argmax(values))
    return IntersectionUnion(float(values[worst]), list(p_values)[worst])

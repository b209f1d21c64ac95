"""The mean with a cluster-robust standard error and Student's t: the default below about 50 clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from emotion_circuits.errors import unknown_name
from emotion_circuits.stats.bootstrap import cluster_totals
from emotion_circuits.stats.checks import at_least, finite, probability, units_and_clusters, varying
from emotion_circuits.stats.interval import FloatArray, Interval
from emotion_circuits.stats.permutation import Alternative


@dataclass(frozen=True)
class ClusterT:
    """Cluster-robust one-sample t test: ``mean`` with limits, standard ``error``, ``t``, ``df`` and ``p``, per cell."""

    mean: Interval
    error: FloatArray
    t: FloatArray
    df: int
    p: FloatArray


def cluster_t(
    values: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    null: float = 0.0,
    alternative: Alternative = "two-sided",
    confidence: float = 0.95,
    texts: Sequence[str] | None = None,
) -> ClusterT:
    """Test and interval of the mean over units whose clusters are independent.

    se² = G/(G-1) · Σ_g (Σ_{i in g} (x_i - x̄))² / n², t = (x̄ - null)/se with G - 1 degrees of freedom (Liang & Zeger
    1986; the G - 1 reference as in Cameron & Miller 2015). Without clusters this is the ordinary one-sample t test.

    Args:
        values: ``[..., n]``, one value per unit (for a paired design: the differences).
        clusters: ``[n]`` scenario or prompt of each unit.

    Returns:
        :class:`ClusterT` with arrays ``[...]``.

    When not to use it: very unequal cluster sizes (one cluster with most of the units) or fewer than about 10
    clusters of skewed values; average within clusters first, or use bootstrap-t. Zero variance raises.
    """
    array = finite(values, "values")
    at_least(array.shape[-1] if array.ndim else 0, 2, "units", "a t test")
    n = array.shape[-1]
    codes, count = units_and_clusters(n, clusters, texts)
    at_least(count, 2, "clusters", "a t test")
    probability(confidence, "confidence")
    varying(array, "the t test's data")
    cells = array.reshape(-1, n)
    mean = cells.mean(axis=-1)
    totals = cluster_totals(cells - mean[:, None], codes, count)
    varying(np.concatenate([totals, np.zeros((len(totals), 1))], axis=1), "the clusters' totals")
    error = np.sqrt(count / (count - 1) * (totals**2).sum(axis=-1)) / n
    df = count - 1
    t = (mean - null) / error
    half = error * float(special.stdtrit(df, 0.5 + confidence / 2))
    shape = array.shape[:-1]
    interval = Interval(
        mean.reshape(shape),
        (mean - half).reshape(shape),
        (mean + half).reshape(shape),
        confidence,
        "cluster t",
        n,
        count,
    )
    return ClusterT(interval, error.reshape(shape), t.reshape(shape), df, student_p(t, df, alternative).reshape(shape))


def student_p(t: FloatArray, df: float | FloatArray, alternative: Alternative) -> FloatArray:
    """p of Student's t with ``df`` degrees of freedom."""
    if alternative == "two-sided":
        return np.asarray(2 * special.stdtr(df, -np.abs(t)))
    if alternative == "greater":
        return np.asarray(special.stdtr(df, -t))
    if alternative == "less":
        return np.asarray(special.stdtr(df, t))
    raise unknown_name("alternative", alternative, ["greater", "less", "two-sided"])

"""Standardised and raw effects of paired and independent designs, with exact intervals where they exist."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import bootstrap_totals, cluster_totals
from emotion_circuits.stats.checks import (
    at_least,
    finite,
    independent_texts,
    paired,
    probability,
    units_and_clusters,
    varying,
)
from emotion_circuits.stats.cluster_t import ClusterT, cluster_t, student_p
from emotion_circuits.stats.interval import FloatArray, Interval, wilson_limits


@dataclass(frozen=True)
class PairedEffect:
    """A paired effect per cell: how large in raw units, in standard deviations, and for how many units.

    ``test`` holds the raw mean difference with its (cluster-robust) t interval, t and p. ``g_z`` is the standardised
    difference, ``d_av`` the difference over the arms' average SD, ``positive`` is P(Δ > 0), ties one half.
    """

    test: ClusterT
    g_z: Interval
    d_av: FloatArray
    positive: Interval


@dataclass(frozen=True)
class IndependentEffect:
    """Two independent groups: raw ``difference`` (Welch limits), ``g`` (Hedges), Welch's ``t``, ``df`` and ``p``."""

    difference: Interval
    g: Interval
    t: FloatArray
    df: FloatArray
    p: FloatArray


LARGE_T = 1000.0
"""From here on the non-central t is a scaled chi to four digits, and scipy's search no better."""


def hedges_correction(df: ArrayLike) -> FloatArray:
    """J(df) = Γ(df/2) / (√(df/2) Γ((df-1)/2)) removes the small-sample bias of d (Hedges 1981)."""
    half = np.asarray(df, dtype=np.float64) / 2
    return np.asarray(np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half))


def noncentral_limits(t: ArrayLike, df: ArrayLike, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Exact limits of the non-centrality of an observed t: the values at which t is the 97.5 % and the 2.5 % point.

    Through ``scipy.special.nctdtrinc`` (Cumming & Finch 2001), whose search does not end for t of 10⁷ (differences that
    hardly vary). Above ``LARGE_T`` the normal part of T = (Z + δ) / √(V / df) is negligible and δ = t √(χ²_q / df),
    which agrees with the exact limits to four digits there. Negative t is solved as positive by symmetry.
    """
    seen, freedom = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(df, dtype=np.float64))
    tail = (1 - confidence) / 2
    size = np.abs(seen)
    moderate = np.minimum(size, LARGE_T)
    near, far = (
        np.where(
            size > LARGE_T,
            size * np.sqrt(special.chdtri(freedom, q) / freedom),
            special.nctdtrinc(freedom, q, moderate),
        )
        for q in (1 - tail, tail)
    )
    return np.where(seen < 0, -far, near), np.where(seen < 0, -near, far)


def standardised_mean(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """g_z = J(n-1) · D̄ / s_D of paired differences ``[..., n]``, with its interval.

    Independent units: the exact non-central-t interval of δ = E(D)/σ_D with df = n - 1, limits nc/√n. (J corrects the
    estimate; the limits are for δ itself and need no correction.) Units in clusters: the exact interval does not
    hold, and limits come from a BCa bootstrap over clusters at the expanded
    quantile.

    Zero variance raises: no standardised effect exists, report the raw difference. Not comparable with d of independent
    groups: s_D shrinks as the arms correlate.
    """
    array = finite(differences, "differences")
    at_least(array.shape[-1] if array.ndim else 0, 2, "units", "a standardised effect")
    n = array.shape[-1]
    codes, count = units_and_clusters(n, clusters, None)
    at_least(count, 2, "clusters", "a standardised effect")
    probability(confidence, "confidence")
    varying(array, "the paired differences")
    cells = array.reshape(-1, n)
    correction = float(hedges_correction(n - 1))
    if count == n:
        raw = cells.mean(axis=-1) / cells.std(axis=-1, ddof=1)
        low, high = noncentral_limits(raw * np.sqrt(n), n - 1, confidence)
        result = Interval(correction * raw, low / np.sqrt(n), high / np.sqrt(n), confidence, "noncentral t", n, n)
    else:
        result = bootstrap_totals(
            (
                cluster_totals(cells, codes, count),
                cluster_totals(cells**2, codes, count),
                np.bincount(codes, minlength=count).astype(np.float64)[None],
            ),
            lambda total, square, size: _corrected(total, square, size, correction),
            n=n,
            resamples=resamples,
            confidence=confidence,
            seed=seed,
        )
    shape = array.shape[:-1]
    return Interval(
        result.estimate.reshape(shape),
        result.low.reshape(shape),
        result.high.reshape(shape),
        confidence,
        result.method,
        n,
        count,
    )


def paired_effect(
    arm: ArrayLike,
    baseline: ArrayLike,
    *,
    arm_units: Sequence[Hashable] | None = None,
    baseline_units: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    texts: Sequence[str] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedEffect:
    """Effect of an arm against the baseline of the same units, for any number of cells.

    Args:
        arm: ``[..., n]``, one value per unit (the mean of its samples).
        baseline: ``[..., n]``, the same units in the same order, or ``[n]`` shared by all cells.
        arm_units, baseline_units: ids of the ``n`` units; unequal, repeated or reordered ids raise.
        clusters: ``[n]`` scenario of each unit; intervals and p then hold for other scenarios.
        texts: ``[n]`` the units' texts; a text in two clusters raises.

    Returns:
        :class:`PairedEffect`. g_z and its interval as in :func:`standardised_mean`; d_av = J · D̄ / √((s₁² + s₂²)/2)
        (Cumming 2012), to compare with independent designs; P(Δ > 0) with a Wilson interval whose n is divided by the
        design effect of the clusters.

    Not for arms measured on different units (:func:`independent_effect`), nor for samples of one prompt as units.
    """
    first, second = finite(arm, "the arm"), finite(baseline, "the baseline")
    if first.ndim == 0 or second.ndim == 0 or first.shape[-1] != second.shape[-1]:
        raise UsageError(
            f"the arm has shape {first.shape} and the baseline {second.shape}: they are not paired",
            "give one value per unit in both arms",
        )
    first, second = np.broadcast_arrays(first, second)
    n = first.shape[-1]
    at_least(n, 2, "units", "a paired effect")
    paired(arm_units, baseline_units, n)
    codes, _ = units_and_clusters(n, clusters, texts)
    difference = first - second
    spread = np.sqrt((first.var(axis=-1, ddof=1) + second.var(axis=-1, ddof=1)) / 2)
    correction = float(hedges_correction(n - 1))
    return PairedEffect(
        test=cluster_t(difference, codes, confidence=confidence),
        g_z=standardised_mean(difference, codes, confidence=confidence, seed=seed),
        d_av=np.asarray(correction * difference.mean(axis=-1) / np.where(spread > 0, spread, np.nan)),
        positive=share_positive(difference, codes, confidence=confidence),
    )


def share_positive(
    differences: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any] | None = None, *, confidence: float = 0.95
) -> Interval:
    """P(Δ > 0), ties one half: the share of units that move the right way, with a Wilson interval.

    Clusters enter as a design effect: the effective n is p(1-p) over the cluster-robust variance, within
    [clusters, units] (Korn & Graubard 1998). ``differences`` is ``[..., n]``.
    """
    array = finite(differences, "differences")
    at_least(array.shape[-1] if array.ndim else 0, 2, "units", "a share")
    n = array.shape[-1]
    codes, count = units_and_clusters(n, clusters, None)
    probability(confidence, "confidence")
    wins = ((np.sign(array) + 1) / 2).reshape(-1, n)
    share = wins.mean(axis=-1)
    totals = cluster_totals(wins - share[:, None], codes, count)
    variance = count / max(count - 1, 1) * (totals**2).sum(axis=-1) / n**2
    effective = np.clip(share * (1 - share) / np.where(variance > 0, variance, np.nan), count, n)
    size = np.where(np.isfinite(effective), effective, count)
    z = float(special.ndtri(0.5 + confidence / 2))
    low, high = wilson_limits(share, size, z)
    shape = array.shape[:-1]
    return Interval(
        share.reshape(shape),
        low.reshape(shape),
        high.reshape(shape),
        confidence,
        "Wilson with design effect",
        n,
        count,
    )


def independent_effect(
    treated: ArrayLike,
    control: ArrayLike,
    *,
    treated_texts: Sequence[str] | None = None,
    control_texts: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> IndependentEffect:
    """Hedges g of two independent groups, ``[..., n₁]`` and ``[..., n₂]``.

    g = J(n₁+n₂-2) · (x̄₁ - x̄₂)/s_pooled with the exact non-central-t interval, non-centrality δ √(n₁n₂/(n₁+n₂))
    (Hedges & Olkin 1985; assumes equal variances and normal values). The raw difference has Welch's interval and p,
    which do not assume equal variances. A text that occurs twice, in one group or in both, raises.

    Not for the same prompts under two conditions (paired), nor for clustered texts (average within clusters first).
    """
    one, two = finite(treated, "the treated group"), finite(control, "the control group")
    if one.ndim == 0 or two.ndim == 0 or one.shape[:-1] != two.shape[:-1]:
        raise UsageError(f"groups have shapes {one.shape} and {two.shape}", "give equal leading axes")
    n1, n2 = one.shape[-1], two.shape[-1]
    at_least(min(n1, n2), 2, "units in a group", "an independent effect")
    probability(confidence, "confidence")
    if treated_texts is not None and control_texts is not None:
        both = [*treated_texts, *control_texts]
        independent_texts(both, np.arange(len(both)))
    centred = np.concatenate([one - one.mean(axis=-1, keepdims=True), two - two.mean(axis=-1, keepdims=True)], axis=-1)
    varying(centred, "the groups")
    raw = one.mean(axis=-1) - two.mean(axis=-1)
    v1, v2 = one.var(axis=-1, ddof=1), two.var(axis=-1, ddof=1)
    freedom = n1 + n2 - 2
    pooled = np.sqrt(((n1 - 1) * v1 + (n2 - 1) * v2) / freedom)
    scale = np.sqrt(n1 * n2 / (n1 + n2))
    low, high = noncentral_limits(raw / pooled * scale, freedom, confidence)
    correction = float(hedges_correction(freedom))
    error = np.sqrt(v1 / n1 + v2 / n2)
    df = np.asarray(error**4 / ((v1 / n1) ** 2 / (n1 - 1) + (v2 / n2) ** 2 / (n2 - 1)))
    t = np.asarray(raw / error)
    half = error * special.stdtrit(df, 0.5 + confidence / 2)
    n = n1 + n2
    return IndependentEffect(
        difference=Interval(raw, raw - half, raw + half, confidence, "Welch t", n, n),
        g=Interval(np.asarray(correction * raw / pooled), low / scale, high / scale, confidence, "noncentral t", n, n),
        t=t,
        df=df,
        p=student_p(t, df, "two-sided"),
    )


def _corrected(total: FloatArray, square: FloatArray, size: FloatArray, correction: float) -> FloatArray:
    """g_z from sums, sums of squares and counts; 0 where a resample has no variance."""
    mean = total / size
    variance = np.maximum(square - size * mean**2, 0) / np.maximum(size - 1, 1)
    return np.asarray(correction * mean / np.sqrt(np.where(variance > 0, variance, np.inf)))

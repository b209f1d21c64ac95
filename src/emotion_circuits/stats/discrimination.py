"""AUROC of scores against two labels, with intervals that respect clusters.

AUROC = P(positive > negative) + P(tie) / 2, the Mann-Whitney statistic over n₊·n₋. Texts written for one scenario are
not independent, so the interval resamples scenarios; DeLong's (1988) formula is the cross-check and assumes
independent texts unless clusters are given.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import BootstrapMethod, bootstrap_limits, chunks, cluster_draws, limit_quantile
from emotion_circuits.stats.checks import at_least, finite, probability, units_and_clusters
from emotion_circuits.stats.interval import FloatArray, Interval
from emotion_circuits.stats.permutation import MaxTest, max_statistic_p, permutation_p, permuted_within

__all__ = [
    "auroc",
    "auroc_interval",
    "auroc_max_test",
    "auroc_null",
    "delong_interval",
    "max_statistic_p",
    "permutation_p",
]


def auroc(positive: ArrayLike, negative: ArrayLike) -> FloatArray:
    """AUROC per cell: (Σ mid-ranks of the positives - n₊(n₊+1)/2) / (n₊ n₋), ties one half (Hanley & McNeil 1982).

    A description of these texts; for a claim about other texts take :func:`auroc_interval`. Not comparable between
    sets of different difficulty.

    Args:
        positive: scores of the positive texts, ``[..., n_positive]``.
        negative: scores of the negative texts, ``[..., n_negative]``, same leading axes.

    Returns:
        ``[...]`` in [0, 1]; .5 is chance. A 0-d array for one cell.
    """
    up, down = finite(positive, "positive scores"), finite(negative, "negative scores")
    if up.ndim == 0 or down.ndim == 0 or up.shape[:-1] != down.shape[:-1]:
        raise UsageError(
            f"positive scores {up.shape} and negative scores {down.shape} do not have the same cells",
            "give [..., n_positive] and [..., n_negative] with equal leading axes",
        )
    n_up, n_down = up.shape[-1], down.shape[-1]
    at_least(min(n_up, n_down), 1, "texts of one label", "AUROC")
    ranks = stats.rankdata(np.concatenate([up, down], axis=-1), axis=-1)
    wins = ranks[..., :n_up].sum(axis=-1) - n_up * (n_up + 1) / 2
    return np.asarray(wins / (n_up * n_down), dtype=np.float64)


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    method: BootstrapMethod = "expanded-bca",
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> Interval:
    """Cluster-bootstrap interval of AUROC; all cells share the resampled clusters.

    Whole clusters are drawn with replacement. With W the multiplicity of each cluster and K[a, b] the wins of cluster
    a's positive texts over cluster b's negative texts, one resample's AUROC is WᵀKW / (Wᵀn₊ · Wᵀn₋): the texts are
    compared once, and every resample is a small quadratic form. The methods are those of
    :func:`~emotion_circuits.stats.bootstrap.bootstrap_interval`: BCa with the jackknife over clusters (Efron 1987), by
    default at the expanded quantile, without which few clusters cover too little.

    Where the labels are separated perfectly (AUROC 0 or 1) resampling shows no spread. The limit is then the exact
    binomial one for "no cluster with an error among G": (α/2)^(1/G), instead of a width of 0.

    Args:
        scores: ``[cell, n]`` (or ``[n]`` for one cell).
        labels: ``[n]`` bool, True for positive texts.
        clusters: ``[n]``, the scenario of each text. Texts of one scenario, and copies of one text, are one cluster.
        resamples: bootstrap draws; 2000 gives limits to about .003.
        seed: the same seed draws the same clusters, so that intervals of one data set are comparable.
        texts: ``[n]`` optional; a text that stands in two clusters raises.

    Returns:
        :class:`Interval` with ``[cell]`` arrays. Not for fewer than five clusters (raises): use a permutation test.
    """
    cells, positive, codes, count = _labelled(scores, labels, clusters, texts)
    at_least(count, 5, "clusters", "a cluster bootstrap of AUROC")
    probability(confidence, "confidence")
    at_least(resamples, 200, "resamples", "a bootstrap interval")
    weights = _cluster_weights(count, resamples, positive, codes, np.random.default_rng(seed))
    ups = np.bincount(codes[positive], minlength=count).astype(np.float64)
    downs = np.bincount(codes[~positive], minlength=count).astype(np.float64)
    pairs = (weights @ ups) * (weights @ downs)
    z = limit_quantile(method, confidence, count)
    estimate, low, high = np.empty((3, len(cells)))
    for rows in chunks(len(cells), max(int(ups.sum() * downs.sum()), count * count, resamples * count)):
        wins = _cluster_wins(cells[rows], positive, codes, count)
        estimate[rows] = wins.sum(axis=(1, 2)) / (ups.sum() * downs.sum())
        replicates = np.einsum("crb,rb->cr", weights @ wins, weights) / pairs
        jackknife = _leave_one_out(wins, ups, downs)
        limits = bootstrap_limits(replicates, estimate[rows], jackknife, z, method)
        low[rows], high[rows] = np.minimum(limits[0], estimate[rows]), np.maximum(limits[1], estimate[rows])
    edge = ((1 - confidence) / 2) ** (1 / count)
    low = np.where(estimate >= 1, edge, np.where(estimate <= 0, 0.0, low))
    high = np.where(estimate <= 0, 1 - edge, np.where(estimate >= 1, 1.0, high))
    shape = np.shape(scores)[:-1]
    return Interval(
        estimate.reshape(shape),
        low.reshape(shape),
        high.reshape(shape),
        confidence,
        f"cluster bootstrap ({method}, {resamples} resamples)",
        len(positive),
        count,
    )


def delong_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    confidence: float = 0.95,
) -> Interval:
    """Interval of AUROC from the variance of its structural components, on the logit scale.

    V₁₀(i) is the share of negatives below positive i, V₀₁(j) the share of positives above negative j; variance =
    S₁₀/n₊ + S₀₁/n₋ (DeLong, DeLong & Clarke-Pearson 1988). With ``clusters`` the components are summed within clusters
    first (Obuchowski 1997). An asymptotic cross-check of :func:`auroc_interval`, too narrow below about 30 clusters; at
    AUROC 0 or 1 its variance is 0, the limits are NaN, and the bootstrap is the one to read.

    Args and shapes as :func:`auroc_interval`; without ``clusters`` every text counts as independent.
    """
    n = np.shape(labels)[0] if np.ndim(labels) else 0
    cells, positive, codes, count = _labelled(scores, labels, np.arange(n) if clusters is None else clusters)
    probability(confidence, "confidence")
    ups, downs = int(positive.sum()), int((~positive).sum())
    at_least(min(ups, downs), 2, "texts of one label", "the DeLong variance")
    ranks = stats.rankdata(cells, axis=-1)
    above = (ranks[:, positive] - stats.rankdata(cells[:, positive], axis=-1)) / downs
    below = 1 - (ranks[:, ~positive] - stats.rankdata(cells[:, ~positive], axis=-1)) / ups
    estimate = above.mean(axis=-1)
    if clusters is None:
        variance = above.var(axis=-1, ddof=1) / ups + below.var(axis=-1, ddof=1) / downs
    else:
        scaled = np.zeros((len(cells), count))
        for part, centre, index, size in (
            (above, estimate, codes[positive], ups),
            (below, estimate, codes[~positive], downs),
        ):
            member = (index[:, None] == np.arange(count)).astype(np.float64)
            scaled += (part - centre[:, None]) @ member / size
        variance = count / (count - 1) * (scaled**2).sum(axis=-1)
    inner = (estimate > 0) & (estimate < 1)
    logit = special.logit(np.where(inner, estimate, 0.5))
    half = special.ndtri(0.5 + confidence / 2) * np.sqrt(variance) / np.where(inner, estimate * (1 - estimate), 1.0)
    low = np.where(inner, special.expit(logit - half), np.nan)
    high = np.where(inner, special.expit(logit + half), np.nan)
    shape = np.shape(scores)[:-1]
    return Interval(
        estimate.reshape(shape), low.reshape(shape), high.reshape(shape), confidence, "DeLong (logit)", n, count
    )


def auroc_null(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> FloatArray:
    """AUROC ``[permutation, cell]`` under labels shuffled within clusters, one arrangement shared by all cells.

    Args and shapes as :func:`auroc_interval`. Raises when no cluster holds both labels.
    """
    cells, positive, codes, count = _labelled(scores, labels, clusters)
    both = sum(len(set(positive[codes == c].tolist())) == 2 for c in range(count))
    at_least(both, 1, "clusters with both labels", "a within-cluster permutation")
    ranks = stats.rankdata(cells, axis=-1)
    n_up = int(positive.sum())
    pairs = n_up * (len(positive) - n_up)
    rng = np.random.default_rng(seed)
    null = np.empty((permutations, len(cells)))
    for rows in chunks(permutations, 3 * len(positive)):
        shuffled = positive[permuted_within(codes, rows.stop - rows.start, rng)].astype(np.float64)
        null[rows] = (shuffled @ ranks.T - n_up * (n_up + 1) / 2) / pairs
    return null


def auroc_max_test(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> MaxTest:
    """Is any cell's AUROC above chance? Labels are shuffled within clusters, the same way for all cells (max-T).

    For matched sets (each scenario has both labels), where labels are exchangeable inside a scenario under the null.
    Raises when no cluster holds both labels. Not valid for scores that were fitted on these texts.
    """
    flags = np.asarray(labels)
    null = auroc_null(scores, flags, clusters, permutations=permutations, seed=seed)
    cells = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    return max_statistic_p(auroc(cells[:, flags], cells[:, ~flags]), null)


def _labelled(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    texts: Sequence[str] | None = None,
) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.intp], int]:
    """Scores as ``[cell, n]``, labels, cluster codes and their number, all checked against each other."""
    values = finite(scores, "scores")
    flags = np.asarray(labels)
    if flags.dtype != np.bool_:
        raise UsageError(f"labels have type {flags.dtype}", "give booleans, True for positive texts")
    if values.ndim == 0 or flags.shape != values.shape[-1:]:
        raise UsageError(
            f"scores {values.shape} do not match labels {flags.shape}", "give scores [cells, n] and labels [n]"
        )
    at_least(min(int(flags.sum()), int((~flags).sum())), 1, "texts of one label", "AUROC")
    codes, count = units_and_clusters(len(flags), clusters, texts)
    return values.reshape(-1, len(flags)), flags, codes, count


def _cluster_wins(cells: FloatArray, positive: NDArray[np.bool_], codes: NDArray[np.intp], count: int) -> FloatArray:
    """``[cell, cluster a, cluster b]``: wins (ties ½) of a's positive texts over b's negative texts."""
    up, down = cells[:, positive, None], cells[:, None, ~positive]
    wins = (np.sign(up - down) + 1) / 2
    identity = np.arange(count)
    rows = (identity[:, None] == codes[positive]).astype(np.float64)
    columns = (codes[~positive][:, None] == identity).astype(np.float64)
    return np.asarray(rows @ wins @ columns)


def _cluster_weights(
    count: int, resamples: int, positive: NDArray[np.bool_], codes: NDArray[np.intp], rng: np.random.Generator
) -> FloatArray:
    """``[resample, cluster]`` multiplicities; draws without any text of one label are drawn again."""
    has_up = np.bincount(codes[positive], minlength=count) > 0
    has_down = np.bincount(codes[~positive], minlength=count) > 0
    weights = cluster_draws(count, resamples, rng)
    for _ in range(100):
        empty = (weights @ has_up == 0) | (weights @ has_down == 0)
        if not empty.any():
            return weights
        weights[empty] = cluster_draws(count, int(empty.sum()), rng)
    raise UsageError("almost every resample lacks one label", "collect more clusters of the rarer label")


def _leave_one_out(wins: FloatArray, ups: FloatArray, downs: FloatArray) -> FloatArray:
    """``[cell, cluster]`` AUROC without each cluster (NaN where a label would be empty)."""
    total = wins.sum(axis=(1, 2))[:, None]
    own = np.diagonal(wins, axis1=1, axis2=2)
    kept = total - wins.sum(axis=2) - wins.sum(axis=1) + own
    pairs = (ups.sum() - ups) * (downs.sum() - downs)
    return np.asarray(kept / np.where(pairs > 0, pairs, np.nan))

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
from emotion_circuits.stats.permutation import MaxTest, max_statistic_p, permutation_p, permuted_labels

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
    default at the expanded quantile, without which few clusters cover too little. What counts as few is G, the number
    of clusters that hold the rarer label: three positives say little however many neutral texts stand against them.

    Where the labels are separated (nearly) perfectly, resampling shows (nearly) no spread. No lower limit is therefore
    above (α/2)^(1/G), and no upper one below 1 - (α/2)^(1/G). That is the binomial bound on the share of clusters with
    an error after none was seen among G; AUROC is at least 1 minus that share, so for AUROC the limit is conservative.

    Args:
        scores: ``[cell, n]`` (or ``[n]`` for one cell).
        labels: ``[n]`` bool, True for positive texts.
        clusters: ``[n]``, the scenario of each text. Texts of one scenario, and copies of one text, are one cluster.
        resamples: bootstrap draws; 2000 gives limits to about .003.
        seed: the same seed draws the same clusters, so that intervals of one data set are comparable.
        texts: ``[n]`` optional; a text that stands in two clusters raises.

    Returns:
        :class:`Interval` with ``[cell]`` arrays. Not for fewer than five clusters, or fewer than two that hold a label
        (raises): use a permutation test. Below six clusters of a label no interval of AUROC excludes .5.
    """
    cells, positive, codes, count = _labelled(scores, labels, clusters, texts)
    at_least(count, 5, "clusters", "a cluster bootstrap of AUROC")
    probability(confidence, "confidence")
    at_least(resamples, 200, "resamples", "a bootstrap interval")
    rarer = _clusters_of_rarer_label(positive, codes)
    at_least(rarer, 2, "clusters of one label", "a cluster bootstrap of AUROC")
    weights = _cluster_weights(count, resamples, positive, codes, np.random.default_rng(seed))
    ups = np.bincount(codes[positive], minlength=count).astype(np.float64)
    downs = np.bincount(codes[~positive], minlength=count).astype(np.float64)
    pairs = (weights @ ups) * (weights @ downs)
    z = limit_quantile(method, confidence, rarer)
    estimate, low, high = np.empty((3, len(cells)))
    for rows in chunks(len(cells), max(int(ups.sum() * downs.sum()), count * count, resamples * count)):
        wins = _cluster_wins(cells[rows], positive, codes, count)
        estimate[rows] = wins.sum(axis=(1, 2)) / (ups.sum() * downs.sum())
        replicates = np.einsum("crb,rb->cr", weights @ wins, weights) / pairs
        jackknife = _leave_one_out(wins, ups, downs)
        limits = bootstrap_limits(replicates, estimate[rows], jackknife, z, method)
        low[rows], high[rows] = np.minimum(limits[0], estimate[rows]), np.maximum(limits[1], estimate[rows])
    low, high = _beyond_the_edge(estimate, low, high, confidence, rarer)
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
    """Interval of AUROC from the variance of its structural components, on the logit scale; for large sets.

    V₁₀(i) is the share of negatives below positive i, V₀₁(j) the share of positives above negative j; variance =
    S₁₀/n₊ + S₀₁/n₋ (DeLong, DeLong & Clarke-Pearson 1988). With ``clusters`` the components are summed within clusters
    first (Obuchowski 1997). An asymptotic cross-check of :func:`auroc_interval`, and its stand-in for thousands of
    clusters. The quantile is Student's with G - 1 degrees of freedom, G the clusters of the rarer label; near AUROC 0
    and 1 the limits are held at (α/2)^(1/G), as there. Time and memory grow with texts, not with texts × clusters.

    Args and shapes as :func:`auroc_interval`; without ``clusters`` every text counts as independent.
    """
    n = np.shape(labels)[0] if np.ndim(labels) else 0
    cells, positive, codes, count = _labelled(scores, labels, np.arange(n) if clusters is None else clusters)
    probability(confidence, "confidence")
    ups, downs = int(positive.sum()), int((~positive).sum())
    rarer = _clusters_of_rarer_label(positive, codes)
    at_least(min(ups, downs), 2, "texts of one label", "the DeLong variance")
    at_least(rarer, 2, "clusters of one label", "the DeLong variance")
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
            for row, deviation in zip(scaled, part - centre[:, None], strict=True):
                row += np.bincount(index, weights=deviation, minlength=count) / size
        variance = count / (count - 1) * (scaled**2).sum(axis=-1)
    inner = (estimate > 0) & (estimate < 1)
    logit = special.logit(np.where(inner, estimate, 0.5))
    quantile = special.stdtrit(rarer - 1, 0.5 + confidence / 2)
    half = quantile * np.sqrt(variance) / np.where(inner, estimate * (1 - estimate), 1.0)
    low, high = _beyond_the_edge(estimate, special.expit(logit - half), special.expit(logit + half), confidence, rarer)
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
    """AUROC ``[permutation, cell]`` under labels rearranged as the clusters allow, one arrangement for all cells.

    Labels are shuffled within clusters that hold both, and swapped between whole clusters that hold one; see
    :func:`~emotion_circuits.stats.permutation.permuted_labels`. Args and shapes as :func:`auroc_interval`.
    """
    cells, positive, codes, _ = _labelled(scores, labels, clusters)
    ranks = stats.rankdata(cells, axis=-1)
    rng = np.random.default_rng(seed)
    null = np.empty((permutations, len(cells)))
    for rows in chunks(permutations, 3 * len(positive)):
        shuffled = permuted_labels(positive, codes, rows.stop - rows.start, rng).astype(np.float64)
        # Whole clusters of unequal size change places, so the number of positive texts may differ by arrangement.
        n_up = shuffled.sum(axis=1, keepdims=True)
        null[rows] = (shuffled @ ranks.T - n_up * (n_up + 1) / 2) / (n_up * (len(positive) - n_up))
    return null


def auroc_max_test(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    permutations: int = 9999,
    seed: int = 0,
) -> MaxTest:
    """Is any cell's AUROC above chance? Labels are rearranged as in :func:`auroc_null`, alike for all cells (max-T).

    In matched sets labels are exchangeable inside a scenario under the null; in unpaired ones whole clusters are, which
    supposes that a cluster's size does not go with its label. Not valid for scores that were fitted on these texts.
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


def _clusters_of_rarer_label(positive: NDArray[np.bool_], codes: NDArray[np.intp]) -> int:
    """Number of clusters that hold the label found in fewer of them."""
    return min(len(np.unique(codes[positive])), len(np.unique(codes[~positive])))


def _beyond_the_edge(
    estimate: FloatArray, low: FloatArray, high: FloatArray, confidence: float, clusters: int
) -> tuple[FloatArray, FloatArray]:
    """Limits moved out to (α/2)^(1/G) and 1 - (α/2)^(1/G), and to 0 or 1 where no pair, or every pair, is won."""
    edge = ((1 - confidence) / 2) ** (1 / clusters)
    low = np.where(estimate <= 0, 0.0, np.where(estimate >= 1, edge, np.minimum(low, edge)))
    high = np.where(estimate >= 1, 1.0, np.where(estimate <= 0, 1 - edge, np.maximum(high, 1 - edge)))
    return low, high


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

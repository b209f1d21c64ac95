"""Bootstrap intervals of means, ratios and other smooth functions of cluster totals, for all cells at once.

A resample of clusters is a vector of multiplicities W, so the resampled total of every cell is one matrix product
W · totals: 10,000 resamples × 1,000 cells × 50 clusters are 5·10⁸ multiplications, and nothing is gathered. Cells share
the resampled clusters. Work proceeds in chunks of cells, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.stats.checks import at_least, finite, probability, units_and_clusters, varying
from emotion_circuits.stats.interval import FloatArray, Interval

Clusters = Sequence[Hashable] | NDArray[Any]
BootstrapMethod = Literal["expanded-bca", "bca", "percentile"]
Statistic = Callable[..., FloatArray]

CHUNK = 1_000_000
"""Numbers that one step holds at once: 8 MB, so that memory is bounded and a step stays near the processor's cache."""


def bootstrap_interval(
    values: ArrayLike,
    clusters: Clusters | None = None,
    *,
    method: BootstrapMethod = "expanded-bca",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> Interval:
    """Cluster-bootstrap interval of the mean over units.

    Whole clusters are drawn with replacement; the mean is Σ totals / Σ sizes of the drawn clusters. ``bca`` corrects
    bias and skew with the jackknife over clusters (Efron 1987) and equals ``scipy.stats.bootstrap`` for single units;
    ``expanded-bca`` reads the same distribution at :func:`expanded_quantile`, without which 20 to 50 clusters cover
    .92-.94 instead of .95; ``percentile`` takes plain quantiles.

    Args:
        values: ``[..., n]``, one value per unit (average samples within a prompt first), any number of cells in front.
        clusters: ``[n]`` scenario of each unit; without it every unit is independent.
        resamples: draws; 10,000 give limits to about 1 % of the interval's width.
        texts: ``[n]`` optional; a text that stands in two clusters raises.

    Returns:
        :class:`Interval` with arrays ``[...]``.

    When not to use it: below about 20 clusters use :func:`~emotion_circuits.stats.cluster_t.cluster_t`, or
    :func:`bootstrap_t_interval` for skewed values.
    """
    cells, codes, count = _cells(values, clusters, texts)
    sizes = np.bincount(codes, minlength=count).astype(np.float64)
    totals = cluster_totals(cells, codes, count)
    result = bootstrap_totals(
        (totals, sizes[None]),
        lambda total, size: total / size,
        method=method,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
        n=cells.shape[-1],
    )
    return _reshaped(result, np.shape(values)[:-1])


class UnclearDenominatorError(UsageError):
    """A ratio was asked for whose denominator may be 0."""


def ratio_interval(
    numerator: ArrayLike,
    denominator: ArrayLike,
    clusters: Clusters | None = None,
    *,
    method: BootstrapMethod = "expanded-bca",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> Interval:
    """Cluster-bootstrap interval of a ratio of means, mean(numerator) / mean(denominator).

    For recovered shares such as patching, (patched - corrupt) over (clean - corrupt): a mean of per-prompt ratios
    would be ruled by the prompts whose denominator is near 0. Shapes ``[..., n]`` as in :func:`bootstrap_interval`.
    Not for a denominator whose own interval includes 0 (raises :class:`UnclearDenominatorError` when resampled
    denominators change sign).
    """
    top, codes, count = _cells(numerator, clusters, texts)
    bottom = np.broadcast_to(finite(denominator, "the denominator"), np.shape(numerator)).reshape(top.shape)
    parts = cluster_totals(top, codes, count), cluster_totals(bottom, codes, count)

    def ratio(over: FloatArray, under: FloatArray) -> FloatArray:
        mixed = (under.min(axis=-1) <= 0) & (under.max(axis=-1) >= 0)
        if np.any(mixed):
            raise UnclearDenominatorError(
                f"the denominator of {int(np.count_nonzero(mixed))} cell(s) is not separated from 0",
                "report the difference instead of the ratio, or choose pairs with a larger clean-corrupt gap",
            )
        return np.asarray(over / under)

    result = bootstrap_totals(
        parts, ratio, method=method, resamples=resamples, confidence=confidence, seed=seed, n=top.shape[-1]
    )
    return _reshaped(result, np.shape(numerator)[:-1])


def bootstrap_totals(
    totals: Sequence[FloatArray],
    statistic: Statistic,
    *,
    n: int,
    method: BootstrapMethod = "expanded-bca",
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of any smooth function of cluster totals: the engine behind means, ratios and standardised effects.

    Args:
        totals: arrays ``[cell, cluster]``, each the sum over a cluster's units of one quantity (value, square, …), or
            ``[1, cluster]`` where all cells share it (the number of units).
        statistic: takes the summed totals ``[cell or 1, draw]`` in the same order and returns ``[cell, draw]``.
        n: number of units behind the totals (reported).

    The acceleration of BCa is the jackknife over clusters: a = Σd³ / (6 (Σd²)^1.5), d the deviations of the leave-one-
    cluster-out values from their mean.
    """
    cells, count = max(len(part) for part in totals), totals[0].shape[1]
    at_least(count, 2, "clusters", "a bootstrap interval")
    at_least(resamples, 200, "resamples", "a bootstrap interval")
    probability(confidence, "confidence")
    weights = cluster_draws(count, resamples, np.random.default_rng(seed))
    z = limit_quantile(method, confidence, count)
    shared = [part @ weights.T if len(part) == 1 else None for part in totals]
    estimate, low, high = np.empty((3, cells))
    for rows in chunks(cells, resamples * len(totals)):
        parts = [part if len(part) == 1 else part[rows] for part in totals]
        sums = [part.sum(axis=-1, keepdims=True) for part in parts]
        estimate[rows] = statistic(*sums)[:, 0]
        drawn = [part @ weights.T if ready is None else ready for part, ready in zip(parts, shared, strict=True)]
        replicates = statistic(*drawn)
        jackknife = statistic(*(whole - part for whole, part in zip(sums, parts, strict=True)))
        low[rows], high[rows] = bootstrap_limits(replicates, estimate[rows], jackknife, z, method)
    return Interval(estimate, low, high, confidence, f"cluster bootstrap ({method}, {resamples} resamples)", n, count)


def bootstrap_limits(
    replicates: FloatArray, estimate: FloatArray, jackknife: FloatArray, z: float, method: BootstrapMethod
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper limit per cell from ``[cell, draw]`` replicates and ``[cell, cluster]`` jackknife values.

    ``z`` comes from :func:`limit_quantile`. Sorts ``replicates`` in place; NaN in ``jackknife`` (a statistic undefined
    without one cluster) is left out of the acceleration.
    """
    draws = replicates.shape[1]
    replicates.sort(axis=1)
    if method == "percentile":
        shift = acceleration = np.zeros(len(estimate))
    elif method in ("bca", "expanded-bca"):
        below = np.array(
            [
                (row.searchsorted(value, "left") + row.searchsorted(value, "right")) / (2 * draws)
                for row, value in zip(replicates, estimate, strict=True)
            ]
        )
        shift = special.ndtri(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
        deviation = np.nanmean(jackknife, axis=1, keepdims=True) - jackknife
        squares = np.nansum(deviation**2, axis=1)
        acceleration = np.nansum(deviation**3, axis=1) / (6 * np.where(squares > 0, squares, 1.0) ** 1.5)
    else:
        raise unknown_name("bootstrap method", method, ["expanded-bca", "bca", "percentile"])
    rows = np.arange(len(estimate))
    limits = []
    for moved in (shift - z, shift + z):
        level = special.ndtr(shift + moved / np.maximum(1 - acceleration * moved, 1e-3))
        place = np.clip(level * (draws + 1) - 1, 0, draws - 1)
        floor = place.astype(np.intp)
        share = place - floor
        limits.append(
            replicates[rows, floor] * (1 - share) + replicates[rows, np.minimum(floor + 1, draws - 1)] * share
        )
    return limits[0], limits[1]


def bootstrap_t_interval(
    values: ArrayLike,
    clusters: Clusters | None = None,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> Interval:
    """Bootstrap-t interval of the mean: for small and skewed samples, where BCa and Student's t cover too little.

    Each resample is studentised with its own cluster-robust standard error, and the quantiles of t* replace Student's:
    [mean - t*₀.₉₇₅ se, mean - t*₀.₀₂₅ se] (Efron & Tibshirani 1993, ch. 12; Hall 1988). With S and m a cluster's
    total and size, se² = G/(G-1) · Σ (S - mean·m)² / (Σm)², expanded so that every resample is a matrix product.

    Shapes as :func:`bootstrap_interval`. Needs 5 clusters; with fewer than about 10, or heavy ties, single resamples
    have nearly no variance and the limits become very wide. Zero variance raises.
    """
    cells, codes, count = _cells(values, clusters, texts)
    at_least(count, 5, "clusters", "bootstrap-t")
    varying(cells, "bootstrap-t data")
    at_least(resamples, 200, "resamples", "a bootstrap interval")
    probability(confidence, "confidence")
    centre = cells.mean(axis=-1)
    sizes = np.bincount(codes, minlength=count).astype(np.float64)
    # Centred totals keep the expanded square free of cancellation.
    totals = cluster_totals(cells - centre[:, None], codes, count)
    weights = cluster_draws(count, resamples, np.random.default_rng(seed))
    drawn = weights @ sizes
    size_squares = weights @ sizes**2
    tail = (1 - confidence) / 2
    factor = count / (count - 1)
    error = np.sqrt(factor * (totals**2).sum(axis=-1)) / sizes.sum()
    low, high = np.empty((2, len(cells)))
    for rows in chunks(len(cells), 4 * resamples):
        part = totals[rows]
        mean = part @ weights.T / drawn
        spread = part**2 @ weights.T - 2 * mean * ((part * sizes) @ weights.T) + mean**2 * size_squares
        floor = 1e-12 * (part**2).sum(axis=-1, keepdims=True)
        pivots = mean * drawn / np.sqrt(factor * np.maximum(spread, floor))
        lower, upper = _tails(pivots, tail)
        low[rows], high[rows] = centre[rows] - upper * error[rows], centre[rows] - lower * error[rows]
    result = Interval(centre, low, high, confidence, f"bootstrap-t ({resamples} resamples)", cells.shape[-1], count)
    return _reshaped(result, np.shape(values)[:-1])


def two_way_interval(
    values: ArrayLike,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the grand mean of a prompts × vectors table, so that a claim holds for other prompts *and* vectors.

    Prompts (rows) and vectors (columns) are drawn with replacement independently and crossed (Owen 2007, "pigeonhole
    bootstrap"): both kinds of variation enter; the cell noise enters up to three times, so the interval is
    conservative. Quantile levels are widened to Student's t with the smaller count minus 1 degrees of freedom
    (Hesterberg 2015).

    Args:
        values: ``[..., prompt, vector]``, every prompt measured under every vector. Average prompts of one scenario
            first.

    Returns:
        :class:`Interval` of shape ``[...]``; ``n`` = prompts × vectors, ``clusters`` = the smaller of the two counts.
        Needs at least 5 of each: with fewer vectors say so and rank the vector among random ones instead.
    """
    table = finite(values, "the prompt × vector table")
    if table.ndim < 2:
        raise UsageError(f"values have shape {table.shape}", "give [..., prompt, vector]")
    prompts, vectors = table.shape[-2:]
    smaller = min(prompts, vectors)
    at_least(smaller, 5, "prompts or vectors", "the two-way bootstrap")
    at_least(resamples, 200, "resamples", "a bootstrap interval")
    probability(confidence, "confidence")
    rng = np.random.default_rng(seed)
    by_prompt = cluster_draws(prompts, resamples, rng) / prompts
    by_vector = cluster_draws(vectors, resamples, rng) / vectors
    cells = table.reshape(-1, prompts, vectors)
    tail = float(special.ndtr(-expanded_quantile(confidence, smaller)))
    low, high = np.empty((2, len(cells)))
    for rows in chunks(len(cells), resamples * vectors):
        replicates = np.einsum("crv,rv->cr", by_prompt @ cells[rows], by_vector)
        low[rows], high[rows] = _tails(np.asarray(replicates), tail)
    result = Interval(
        cells.mean(axis=(1, 2)),
        low,
        high,
        confidence,
        f"two-way bootstrap ({resamples} resamples)",
        prompts * vectors,
        smaller,
    )
    return _reshaped(result, table.shape[:-2])


def limit_quantile(method: BootstrapMethod, confidence: float, clusters: int) -> float:
    """Standard quantile at which a method reads its limits: z (1.96 for .95), or :func:`expanded_quantile`."""
    if method == "expanded-bca":
        return expanded_quantile(confidence, clusters)
    return float(special.ndtri(0.5 + confidence / 2))


def expanded_quantile(confidence: float, clusters: int) -> float:
    """sqrt(G/(G-1)) · t(G-1): the quantile at which a percentile interval of few clusters covers what it says.

    The bootstrap's spread is too small by (G-1)/G and knows nothing of t (Hesterberg 2015, "expanded percentile").
    """
    widened = np.sqrt(clusters / (clusters - 1)) * special.stdtrit(clusters - 1, 0.5 + confidence / 2)
    return float(widened)


def _tails(draws: FloatArray, tail: float) -> tuple[FloatArray, FloatArray]:
    """Quantiles ``tail`` and 1 - ``tail`` of each row, interpolated; sorts in place (faster than selecting)."""
    draws.sort(axis=1)
    last = draws.shape[1] - 1
    floor = min(int(tail * last), last - 1)
    share = tail * last - floor
    low = draws[:, floor] * (1 - share) + draws[:, floor + 1] * share
    return low, draws[:, last - floor] * (1 - share) + draws[:, last - floor - 1] * share


def cluster_totals(cells: FloatArray, codes: NDArray[np.intp], count: int) -> FloatArray:
    """``[cell, cluster]`` sums of ``[cell, n]`` values over the units of each cluster."""
    if count == cells.shape[-1]:
        totals = np.empty_like(cells)
        totals[:, codes] = cells
        return totals
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(count))
    return np.asarray(np.add.reduceat(cells[:, order], starts, axis=-1))


def cluster_draws(count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """``[resample, cluster]`` multiplicities of ``count`` clusters drawn with replacement."""
    # Counting drawn indices is twenty times faster than a multinomial generator.
    drawn = rng.integers(0, count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def chunks(items: int, size: int) -> Iterator[slice]:
    """Slices of ``range(items)`` such that ``size`` numbers an item stay under :data:`CHUNK`."""
    step = max(1, CHUNK // max(size, 1))
    for start in range(0, items, step):
        yield slice(start, min(start + step, items))


def _cells(
    values: ArrayLike, clusters: Clusters | None, texts: Sequence[str] | None
) -> tuple[FloatArray, NDArray[np.intp], int]:
    """Values as ``[cell, n]`` with checked cluster codes."""
    array = finite(values, "values")
    if array.ndim == 0:
        raise UsageError("a single number has no interval", "give [..., n] values")
    at_least(array.shape[-1], 2, "units", "an interval")
    codes, count = units_and_clusters(array.shape[-1], clusters, texts)
    at_least(count, 2, "clusters", "an interval")
    return array.reshape(-1, array.shape[-1]), codes, count


def _reshaped(interval: Interval, shape: tuple[int, ...]) -> Interval:
    """The interval with its cells in the caller's shape."""
    return Interval(
        interval.estimate.reshape(shape),
        interval.low.reshape(shape),
        interval.high.reshape(shape),
        interval.confidence,
        interval.method,
        interval.n,
        interval.clusters,
    )

"""Intervals over prompts *and* vectors where some texts could not be measured, or several prompts share a scenario."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import Clusters, chunks, cluster_draws, expanded_quantile, two_way_interval
from emotion_circuits.stats.checks import at_least, cluster_codes, probability
from emotion_circuits.stats.interval import FloatArray, Interval


def crossed_interval(
    values: ArrayLike,
    clusters: Clusters | None = None,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over prompts of each prompt's mean over the vectors under which it was measured.

    Clusters of prompts and vectors are drawn with replacement independently and crossed, as in
    :func:`~emotion_circuits.stats.bootstrap.two_way_interval`, which this is where every prompt was measured under
    every vector and is a cluster of its own. Every resample computes the estimate itself, so that what is missing, and
    scenarios with more prompts than others, weigh in it as they do in the estimate.

    Args:
        values: ``[prompt, vector]``; NaN where nothing was measured. A prompt or a vector without any number is left
            out. clusters: ``[prompt]`` scenario of each prompt; without it every prompt is its own.

    Returns:
        :class:`Interval` of numbers; ``n`` = measured (prompt, vector) pairs, ``clusters`` = the smaller count of
        scenarios and vectors.

    Raises:
        UsageError: not a table, or fewer than 5 scenarios or vectors are left.

    When not to use it: where whether a text can be measured depends on what it would have said. The mean over the
    known is then another quantity, and no interval around it says so.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2:
        raise UsageError(f"values have shape {table.shape}", "give [prompt, vector]")
    codes, _ = cluster_codes(np.arange(len(table)) if clusters is None else clusters, len(table))
    known = np.isfinite(table)
    prompts, vectors = known.any(axis=1), known.any(axis=0)
    some = np.ix_(prompts, vectors)
    table, known = table[some], known[some]
    codes = np.unique(codes[prompts], return_inverse=True)[1]
    count = int(codes.max()) + 1 if len(codes) else 0
    smaller = min(count, table.shape[1])
    at_least(smaller, 5, "prompts or vectors", "the two-way bootstrap")
    if known.all() and count == len(table):
        return two_way_interval(table, resamples=resamples, confidence=confidence, seed=seed)
    at_least(resamples, 200, "resamples", "a bootstrap interval")
    probability(confidence, "confidence")
    rng = np.random.default_rng(seed)
    by_prompt = cluster_draws(count, resamples, rng)[:, codes]
    by_vector = cluster_draws(table.shape[1], resamples, rng)
    filled, counted = np.where(known, table, 0.0), known.astype(np.float64)
    draws = np.concatenate([
        _means(filled, counted, by_prompt[part], by_vector[part]) for part in chunks(resamples, len(table))
    ])  # fmt: skip
    draws = draws[np.isfinite(draws)]  # a sparse table may have resamples of which nothing is known
    tail = float(special.ndtr(-expanded_quantile(confidence, smaller)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    (estimate,) = _means(filled, counted, np.ones((1, len(table))), np.ones((1, table.shape[1])))
    method = f"two-way bootstrap of the known ({resamples} resamples)"
    limits = np.asarray(estimate), np.asarray(low), np.asarray(high)
    return Interval(*limits, confidence, method, int(known.sum()), smaller)


def _means(filled: FloatArray, counted: FloatArray, by_prompt: FloatArray, by_vector: FloatArray) -> FloatArray:
    """``[resample]`` estimates; NaN where no drawn prompt was measured under any drawn vector."""
    weights = by_vector @ counted.T
    means = np.divide(by_vector @ filled.T, weights, out=np.zeros_like(weights), where=weights > 0)
    shares = by_prompt * (weights > 0)
    total = shares.sum(axis=1)
    found = (shares * means).sum(axis=1)
    return np.asarray(np.divide(found, total, out=np.full_like(total, np.nan), where=total > 0))

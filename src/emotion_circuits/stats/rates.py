"""Differences and odds of rates: share of texts with a keyword, of answers with a label, of empty continuations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.checks import at_least, probability
from emotion_circuits.stats.interval import FloatArray, Interval, wilson_limits


@dataclass(frozen=True)
class RateEffect:
    """Risk ``difference`` and ``odds`` ratio with intervals, and the exact ``p`` of no difference, per cell."""

    difference: Interval
    odds: Interval
    p: FloatArray


def paired_rates(arm: ArrayLike, baseline: ArrayLike, *, confidence: float = 0.95) -> RateEffect:
    """Two rates of the same units: with b = only in the arm and c = only in the baseline,

    - risk difference (b - c)/n, adjusted Wald interval with one discordant unit added to each side (Bonett & Price
    2012); - conditional odds ratio b/c, exact limits from the Clopper-Pearson interval of b/(b + c) (0 or infinite at
    an edge); - p: exact McNemar (binomial) test.

    Args:
        arm, baseline: bool ``[..., n]``, the same independent units in the same order. Not for several samples or
            clustered prompts as units: use the paired effect on shares per prompt.
    """
    first, second = _flags(arm), _flags(baseline)
    if first.shape != second.shape or first.ndim == 0:
        raise UsageError(
            f"arms have shapes {first.shape} and {second.shape}: not paired", "give the same units in both"
        )
    n = first.shape[-1]
    at_least(n, 2, "units", "a rate difference")
    probability(confidence, "confidence")
    gained, lost = (first & ~second).sum(axis=-1), (second & ~first).sum(axis=-1)
    z = float(special.ndtri(0.5 + confidence / 2))
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * np.sqrt((up + down - (up - down) ** 2) / (n + 2))
    low, high = np.maximum(up - down - half, -1), np.minimum(up - down + half, 1)
    tail = (1 - confidence) / 2
    floor = np.where(gained > 0, special.betaincinv(np.maximum(gained, 1), lost + 1, tail), 0.0)
    ceiling = np.where(lost > 0, special.betaincinv(gained + 1, np.maximum(lost, 1), 1 - tail), 1.0)
    discordant = gained + lost
    fewer = np.minimum(gained, lost)
    p = np.where(discordant > 0, np.minimum(1, 2 * stats.binom.cdf(fewer, np.maximum(discordant, 1), 0.5)), 1.0)
    return RateEffect(
        Interval((gained - lost) / n, low, high, confidence, "Bonett-Price", n, n),
        Interval(_odds(gained, lost), _odds(floor, 1 - floor), _odds(ceiling, 1 - ceiling), confidence, "exact", n, n),
        np.asarray(p),
    )


def independent_rates(
    successes: ArrayLike, n: ArrayLike, control_successes: ArrayLike, control_n: ArrayLike, *, confidence: float = 0.95
) -> RateEffect:
    """Two rates of independent groups, from counts ``[...]``.

    - risk difference with Newcombe's (1998) hybrid of two Wilson intervals;
    - odds ratio with one half added to each count and the logit interval (Agresti 1999): never 0 or infinite;
    - p: Fisher's exact test per cell.

    Not for the same prompts under two conditions (:func:`paired_rates`).
    """
    a, n1, c, n2 = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (successes, n, control_successes, control_n))
    )
    if not all(np.isfinite(v).all() for v in (a, n1, c, n2)) or np.any((a < 0) | (a > n1) | (c < 0) | (c > n2)):
        raise UsageError("successes must be counts between 0 and n", "give counts, not rates")
    at_least(int(min(n1.min(), n2.min())), 2, "units in a group", "a rate difference")
    probability(confidence, "confidence")
    z = float(special.ndtri(0.5 + confidence / 2))
    p1, p2 = a / n1, c / n2
    (low1, high1), (low2, high2) = wilson_limits(p1, n1, z), wilson_limits(p2, n2, z)
    difference = p1 - p2
    low = difference - np.sqrt((p1 - low1) ** 2 + (high2 - p2) ** 2)
    high = difference + np.sqrt((high1 - p1) ** 2 + (p2 - low2) ** 2)
    cells = [a + 0.5, n1 - a + 0.5, c + 0.5, n2 - c + 0.5]
    log_odds = np.log(cells[0]) - np.log(cells[1]) - np.log(cells[2]) + np.log(cells[3])
    half = z * np.sqrt(sum(1 / cell for cell in cells))
    tables = np.stack([a, n1 - a, c, n2 - c], axis=-1).reshape(-1, 2, 2)
    p = np.array([stats.fisher_exact(table).pvalue for table in tables]).reshape(a.shape)
    total = int(n1.max() + n2.max())
    return RateEffect(
        Interval(difference, low, high, confidence, "Newcombe", total, total),
        Interval(
            np.exp(log_odds), np.exp(log_odds - half), np.exp(log_odds + half), confidence, "logit + ½", total, total
        ),
        p,
    )


def _flags(values: ArrayLike) -> NDArray[np.bool_]:
    flags = np.asarray(values)
    if flags.dtype != np.bool_:
        raise UsageError(f"a rate needs booleans, not {flags.dtype}", "compare the score with a threshold first")
    return flags


def _odds(part: ArrayLike, rest: ArrayLike) -> FloatArray:
    """part/rest with 0/0 = NaN (no discordant unit says nothing about the ratio) and x/0 = infinity."""
    top, bottom = np.asarray(part, dtype=np.float64), np.asarray(rest, dtype=np.float64)
    edge = np.where(top > 0, np.inf, np.nan)
    return np.asarray(np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), edge))

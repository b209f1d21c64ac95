"""Power, always looking forward: n for a declared effect, and what a finished run could have detected.

There is no power of an observed effect here: it is a function of p and says nothing more (Hoenig & Heisey 2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.stats.checks import at_least, finite, probability
from emotion_circuits.stats.cluster_t import cluster_t
from emotion_circuits.stats.interval import FloatArray

Design = Literal["paired", "independent"]
DESIGNS: tuple[Design, ...] = ("paired", "independent")
_LARGEST_N = 2**30


def prospective_power(effect: ArrayLike, n: ArrayLike, *, design: Design = "paired", alpha: float = 0.05) -> FloatArray:
    """Power of the two-sided t test for a *declared* standardised effect, exact under normality.

    1 - F(t_c; df, nc) + F(-t_c; df, nc), F the non-central t distribution; paired: df = n - 1, nc = d_z √n;
    independent: ``n`` per group, df = 2n - 2, nc = d √(n/2) (Cohen 1988). ``effect`` is the smallest effect worth
    knowing, never the observed one. Equals ``statsmodels`` TTestPower and TTestIndPower.
    """
    sizes, wanted = finite(n, "n"), np.abs(finite(effect, "the effect"))
    at_least(int(sizes.min()), 2, "units", "a t test")
    probability(alpha, "alpha")
    df, scale = _frame(sizes, design)
    critical = special.stdtrit(df, 1 - alpha / 2)
    nc = wanted * scale
    # Both tails from lower-tail calls with a positive bound: nctdtr is inaccurate far in the negative tail.
    power = 1 - special.nctdtr(df, nc, critical) + (1 - special.nctdtr(df, -nc, critical))
    # Far from the critical value the series gives NaN; there the power is 1 to every digit.
    return np.asarray(np.where(np.isnan(power) & (nc > critical + 40), 1.0, power))


def required_n(
    effect: float,
    *,
    power: float = 0.8,
    design: Design = "paired",
    alpha: float = 0.05,
    per_cluster: float = 1.0,
    icc: float = 0.0,
) -> int:
    """Smallest n (per group for ``independent``) whose power for ``effect`` reaches ``power``.

    With ``per_cluster`` units per cluster and intraclass correlation ``icc`` the n is inflated by the design effect
    1 + (per_cluster - 1)·icc (Kish 1965) and rounded up to whole units.

    For planning only: ``effect`` is the smallest one worth knowing. An effect that was observed in the same run, put in
    here, gives a number that follows from its p.
    """
    probability(power, "power")
    probability(alpha, "alpha")
    if not math.isfinite(effect) or effect == 0:
        raise UsageError(f"no sample size detects an effect of {effect}", "declare the smallest effect that matters")
    if per_cluster < 1 or not 0 <= icc <= 1:
        raise UsageError(
            f"per_cluster {per_cluster} and icc {icc} are impossible", "use per_cluster ≥ 1, icc in [0, 1]"
        )
    if design not in DESIGNS:
        raise unknown_name("design", design, list(DESIGNS))

    def reached(n: int) -> bool:
        return float(prospective_power(effect, n, design=design, alpha=alpha)) >= power

    high = 2
    while not reached(high):
        high *= 2
        if high > _LARGEST_N:
            raise UsageError(f"an effect of {effect} needs more than {_LARGEST_N:,} units", "declare a larger effect")
    low = high // 2
    # Power rises with n, so halving the bracket finds the smallest n (statsmodels' solver meets NaN for some effects).
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return math.ceil(round(high * (1 + (per_cluster - 1) * icc), 6))


def minimal_detectable_effect(
    n: ArrayLike, *, power: float = 0.8, design: Design = "paired", alpha: float = 0.05
) -> FloatArray:
    """Smallest standardised effect that ``n`` independent units (per group) detect with ``power``.

    The non-centrality at which the critical t is the (1 - power) point, over √n (paired) or √(n/2): the far tail, below
    α/2, is left out. It depends on n alone, not on what was observed. For clustered runs see
    :func:`detectable_difference`.
    """
    sizes = finite(n, "n")
    at_least(int(sizes.min()), 2, "units", "a t test")
    probability(power, "power")
    probability(alpha, "alpha")
    df, scale = _frame(sizes, design)
    return np.asarray(special.nctdtrinc(df, 1 - power, special.stdtrit(df, 1 - alpha / 2)) / scale)


def detectable_difference(
    error: ArrayLike, clusters: ArrayLike, *, power: float = 0.8, alpha: float = 0.05
) -> FloatArray:
    """Smallest raw difference that a finished run could detect, from its (cluster-robust) standard error.

    nc(clusters - 1, power) × error. Uses the run's noise and design, not its effect; divide by the SD of the
    differences for standardised units.
    """
    groups = finite(clusters, "clusters")
    at_least(int(groups.min()), 2, "clusters", "a t test")
    return np.asarray(
        finite(error, "standard errors") * minimal_detectable_effect(groups, power=power, alpha=alpha) * np.sqrt(groups)
    )


@dataclass(frozen=True)
class SimulatedPower:
    """Share of simulated runs that reject, with its Monte-Carlo standard ``error``."""

    power: float
    error: float
    simulations: int


def clustered_power(
    effect: float,
    *,
    clusters: int,
    per_cluster: int,
    icc: float,
    simulations: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> SimulatedPower:
    """Power of the cluster-robust t test by simulation: ``clusters`` scenarios with ``per_cluster`` prompts each.

    Differences are effect + √icc · scenario + √(1 - icc) · prompt, both standard normal, so ``effect`` is in units of
    the total SD. For planning a design that no formula covers; ``effect`` is declared, not observed.
    """
    at_least(clusters, 2, "clusters", "a clustered design")
    at_least(per_cluster, 1, "units per cluster", "a clustered design")
    at_least(simulations, 100, "simulations", "a power estimate")
    if not 0 <= icc <= 1 or not math.isfinite(effect):
        raise UsageError(f"icc {icc} or effect {effect} is impossible", "use icc in [0, 1] and a finite effect")
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(simulations, clusters, 1)) * math.sqrt(icc)
    own = rng.normal(size=(simulations, clusters, per_cluster)) * math.sqrt(1 - icc)
    values = (effect + shared + own).reshape(simulations, -1)
    codes = np.repeat(np.arange(clusters), per_cluster)
    rejected = float(np.mean(cluster_t(values, codes).p <= alpha))
    return SimulatedPower(rejected, math.sqrt(rejected * (1 - rejected) / simulations), simulations)


def intraclass_correlation(values: ArrayLike, clusters: ArrayLike) -> FloatArray:
    """ICC(1) of ``[..., n]`` values by one-way analysis of variance, for planning; negative estimates are kept.

    (MSB - MSW) / (MSB + (m₀ - 1) MSW), m₀ the average cluster size corrected for imbalance (Donner 1986). Raises when
    no cluster holds two units, or when all values are equal.
    """
    array = finite(values, "values")
    n = array.shape[-1]
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(codes.max()) + 1
    if count == n or count < 2:
        raise UsageError("no within-cluster variation to estimate", "an ICC needs two clusters and one with two units")
    sizes = np.bincount(codes, minlength=count)
    cells = array.reshape(-1, n)
    member = (codes[:, None] == np.arange(count)).astype(np.float64)
    means = cells @ member / sizes
    between = (sizes * (means - cells.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1) / (count - 1)
    within = ((cells - means[:, codes]) ** 2).sum(axis=-1) / (n - count)
    average = (n - (sizes**2).sum() / n) / (count - 1)
    total = between + (average - 1) * within
    if np.any(total <= 0):
        raise UsageError("values have zero variance", "an ICC needs values that differ")
    return np.asarray((between - within) / total).reshape(array.shape[:-1])


def _frame(n: FloatArray, design: Design) -> tuple[FloatArray, FloatArray]:
    """Degrees of freedom and the factor from standardised effect to non-centrality."""
    if design == "paired":
        return n - 1, np.sqrt(n)
    if design == "independent":
        return 2 * n - 2, np.sqrt(n / 2)
    raise unknown_name("design", design, list(DESIGNS))

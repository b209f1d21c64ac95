"""Tests 18-22 and 25-26: effects, intervals, p-values, multiplicity and power on planted data."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from emotion_circuits.stats.bootstrap import bootstrap_interval, bootstrap_t_interval, two_way_interval
from emotion_circuits.stats.calibration import Check
from emotion_circuits.stats.cluster_t import cluster_t
from emotion_circuits.stats.discrimination import auroc_interval, auroc_max_test, delong_interval
from emotion_circuits.stats.effects import independent_effect, noncentral_limits, standardised_mean
from emotion_circuits.stats.interval import FloatArray
from emotion_circuits.stats.multiplicity import adjust
from emotion_circuits.stats.power import clustered_power, prospective_power
from emotion_circuits.stats.sign_flip import sign_flip_test, two_group_test

RATE = math.sqrt(0.05 * 0.95)
"""Standard deviation of one simulated rejection at α = .05 (and of one miss at 95 % coverage)."""

LEVEL = 0.073
"""Largest type I error that 1000 simulations of a test at .05 may show (3.3 standard errors above)."""


def clustered(cells: int, clusters: int, size: int, icc: float, rng: np.random.Generator) -> FloatArray:
    """``[cell, clusters · size]`` standard normal values with intraclass correlation ``icc``, clusters contiguous."""
    shared = rng.normal(size=(cells, clusters, 1)) * math.sqrt(icc)
    own = rng.normal(size=(cells, clusters, size)) * math.sqrt(1 - icc)
    return np.asarray((shared + own).reshape(cells, -1))


def g_z_bias(simulations: int, seed: int) -> float:
    """An uncorrected d overstates the effect by 9 % at n = 10; the correction must remove that."""
    values = np.random.default_rng(seed).normal(0.5, 1, size=(simulations, 10))
    return float(abs(standardised_mean(values).estimate.mean() - 0.5))


def g_z_coverage(simulations: int, seed: int) -> float:
    """The exact interval must cover the true δ as often as it says, where approximations fail."""
    values = np.random.default_rng(seed).normal(0.5, 1, size=(simulations, 10))
    return float(standardised_mean(values).contains(0.5).mean())


def noncentral_nan(simulations: int, seed: int) -> float:
    """scipy's non-central t distribution gave NaN on hundreds of grid points: the limits may on none."""
    t = np.linspace(-300, 300, 601)
    df = np.array([1, 2, 3, 4, 5, 7, 9, 14, 19, 29, 49, 89, 199, 499, 999])[:, None]
    low, high = noncentral_limits(t, df, 0.95)
    return float(np.count_nonzero(~(np.isfinite(low) & np.isfinite(high) & (low < high))))


def hedges_coverage(simulations: int, seed: int) -> float:
    """The independent-groups g with unequal sizes has its own non-centrality: an n₁/n₂ mix-up would show here."""
    rng = np.random.default_rng(seed)
    effect = independent_effect(rng.normal(0.8, 1, (simulations, 8)), rng.normal(0, 1, (simulations, 24)))
    return float(effect.g.contains(0.8).mean())


def permutation_uniform(simulations: int, seed: int) -> float:
    """Under the null p must be uniform on its steps, heavy tails or not: largest distance from that."""
    values = np.random.default_rng(seed).laplace(size=(simulations, 25))
    test = sign_flip_test(values, permutations=199, seed=seed)
    steps = np.arange(1, 201) / 200
    reached = np.searchsorted(np.sort(test.p), steps + 1e-9, side="right") / simulations
    return float(np.abs(reached - steps).max())


def permutation_minimum(simulations: int, seed: int) -> float:
    """p counts the observed arrangement, so an overwhelming effect gives exactly 1/(m + 1), never 0."""
    values = np.random.default_rng(seed).normal(50, 1, size=(1, 60))
    return float(sign_flip_test(values, permutations=999, seed=seed).p[0] * 1000)


def two_group_type_one(simulations: int, seed: int) -> float:
    """Dealing labels anew must keep its level for skewed data in groups of unequal size."""
    values = np.random.default_rng(seed).exponential(size=(simulations, 30))
    return float((two_group_test(values, np.arange(30) < 10, permutations=999, seed=seed).p <= 0.05).mean())


def max_t_type_one(simulations: int, seed: int) -> float:
    """Searching 24 correlated layers and reporting the best: max-T must keep the chance of any false claim at α."""
    rng = np.random.default_rng(seed)
    hits = 0
    for run in range(simulations):
        layers = 0.8 * rng.normal(size=(1, 20)) + 0.6 * rng.normal(size=(24, 20))
        hits += bool(sign_flip_test(layers, permutations=499, seed=seed + run).p_max.min() <= 0.05)
    return hits / simulations


def bootstrap_t_coverage(simulations: int, seed: int) -> float:
    """Student's t covers too little for log-normal data at n = 20; bootstrap-t is the remedy offered and must work."""
    values = np.random.default_rng(seed).lognormal(size=(simulations, 20))
    return float(bootstrap_t_interval(values, resamples=4000, seed=seed).contains(math.exp(0.5)).mean())


def cluster_t_coverage(simulations: int, seed: int) -> float:
    """Five texts per scenario are not five times the evidence: the interval over clusters must cover."""
    values = clustered(simulations, 20, 5, 0.3, np.random.default_rng(seed))
    return float(cluster_t(values, np.repeat(np.arange(20), 5)).mean.contains(0.0).mean())


def naive_coverage(simulations: int, seed: int) -> float:
    """The same data with texts taken as independent must cover badly, or that check would prove nothing."""
    values = clustered(simulations, 20, 5, 0.3, np.random.default_rng(seed))
    return float(cluster_t(values).mean.contains(0.0).mean())


def bca_coverage(simulations: int, seed: int) -> float:
    """The cluster bootstrap of the mean with 50 scenarios, a usual size of a prompt set, must cover as it says."""
    values = clustered(simulations, 50, 3, 0.3, np.random.default_rng(seed))
    interval = bootstrap_interval(values, np.repeat(np.arange(50), 3), resamples=4000, seed=seed)
    return float(interval.contains(0.0).mean())


def clustered_g_z_coverage(simulations: int, seed: int) -> float:
    """The exact g_z interval fails for clustered prompts; its bootstrap replacement must cover the same δ."""
    values = 0.5 + clustered(simulations, 40, 3, 0.3, np.random.default_rng(seed))
    interval = standardised_mean(values, np.repeat(np.arange(40), 3), resamples=2000, seed=seed)
    return float(interval.contains(0.5).mean())


def two_way_coverage(simulations: int, seed: int) -> float:
    """A claim about other prompts and other vectors varies with both; both must enter the interval."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.normal(size=(simulations, 30, 1)), rng.normal(size=(simulations, 1, 12))
    table = 0.5 * rows + 0.5 * columns + 0.5 * rng.normal(size=(simulations, 30, 12))
    return float(two_way_interval(table, resamples=2000, seed=seed).contains(0.0).mean())


def auroc_runs(simulations: int, seed: int) -> list[tuple[FloatArray, np.ndarray, np.ndarray]]:
    """21 scenarios with three texts of each label whose scores share a scenario part; true AUROC = Φ(1/√2)."""
    rng = np.random.default_rng(seed)
    codes = np.tile(np.repeat(np.arange(21), 3), 2)
    labels = np.arange(126) < 63
    scenario = rng.normal(size=(simulations, 21))[:, codes] * math.sqrt(0.4)
    scores = labels * 1.0 + scenario + rng.normal(size=(simulations, 126)) * math.sqrt(0.6)
    return [(row, labels, codes) for row in scores]


def auroc_coverage(simulations: int, seed: int) -> float:
    """Every claim about a direction is an AUROC with this interval, over as few as 21 scenarios."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    return float(
        np.mean(
            [auroc_interval(*run, seed=seed + i).contains(truth) for i, run in enumerate(auroc_runs(simulations, seed))]
        )
    )


def delong_coverage(simulations: int, seed: int) -> float:
    """The cross-check of the bootstrap: clustered DeLong, an asymptotic formula, must not be far off either."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    return float(np.mean([delong_interval(*run).contains(truth) for run in auroc_runs(simulations, seed)]))


def auroc_max_type_one(simulations: int, seed: int) -> float:
    """The best of 12 layers always looks above chance; max-T over layers must not call it so."""
    rng = np.random.default_rng(seed)
    labels, codes = np.arange(60) < 30, np.tile(np.arange(30), 2)
    hits = 0
    for run in range(simulations):
        scores = rng.normal(size=(1, 60)) + rng.normal(size=(12, 60))
        hits += auroc_max_test(scores, labels, codes, permutations=399, seed=seed + run).overall <= 0.05
    return hits / simulations


def samples_type_one(simulations: int, seed: int) -> float:
    """Ten samples of one prompt share its quirks; with prompts as clusters the level must hold."""
    values = clustered(simulations, 50, 10, 0.3, np.random.default_rng(seed))
    return float((cluster_t(values, np.repeat(np.arange(50), 10)).p <= 0.05).mean())


def samples_flip_type_one(simulations: int, seed: int) -> float:
    """The permutation twin of the check above: signs are flipped for whole prompts."""
    values = clustered(simulations, 50, 10, 0.3, np.random.default_rng(seed))
    test = sign_flip_test(values, np.repeat(np.arange(50), 10), permutations=999, seed=seed)
    return float((test.p <= 0.05).mean())


def samples_naive(simulations: int, seed: int) -> float:
    """Samples as units must visibly break the level (about .30), or the checks above would prove nothing."""
    values = clustered(simulations, 50, 10, 0.3, np.random.default_rng(seed))
    return float((cluster_t(values).p <= 0.05).mean())


def false_discovery(correlation: float, simulations: int, seed: int) -> float:
    """Share of false ones among the rejected, 100 tests of which 20 have an effect, equicorrelated."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(simulations, 1)) * math.sqrt(correlation)
    z = shared + rng.normal(size=(simulations, 100)) * math.sqrt(1 - correlation)
    z[:, :20] += 3
    rejected = adjust(stats.norm.sf(z), family="simulated", method="bh").rejected
    return float((rejected[:, 20:].sum(axis=1) / np.maximum(rejected.sum(axis=1), 1)).mean())


def fdr_independent(simulations: int, seed: int) -> float:
    """BH promises that at most α of the discoveries are false; exploratory cells are reported with it."""
    return false_discovery(0.0, simulations, seed)


def fdr_correlated(simulations: int, seed: int) -> float:
    """Cells share prompts, so tests are correlated: BH must keep its promise at ρ = .5."""
    return false_discovery(0.5, simulations, seed)


def corrections_agree(simulations: int, seed: int) -> float:
    """All four corrections against an independent implementation, ties included: largest difference."""
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(seed)
    names = {"bonferroni": "bonferroni", "holm": "holm", "bh": "fdr_bh", "by": "fdr_by"}
    worst = 0.0
    for size in (1, 2, 7, 40, 300):
        p = np.round(rng.random(size) ** 2, 2)
        for ours, theirs in names.items():
            mine = adjust(p, family="simulated", method=ours).p  # type: ignore[arg-type]
            worst = max(worst, float(np.abs(mine - multipletests(p, method=theirs)[1]).max()))
    return worst


def power_simulated(simulations: int, seed: int) -> float:
    """The planned n = 90 must really detect d_z = .3 four times in five."""
    values = np.random.default_rng(seed).normal(0.3, 1, size=(simulations, 90))
    return float((cluster_t(values).p <= 0.05).mean())


def power_formula(simulations: int, seed: int) -> float:
    """The same power by the formula that plans studies."""
    return float(prospective_power(0.3, 90))


def power_clustered(simulations: int, seed: int) -> float:
    """For clusters of one prompt the simulated power must agree with the formula."""
    simulated = clustered_power(0.5, clusters=34, per_cluster=1, icc=0.0, simulations=simulations, seed=seed)
    return float(simulated.power - prospective_power(0.5, 34))


CHECKS = [
    Check(18, "g_z bias", "n = 10, δ = .5, normal", g_z_bias, 20_000, high=0.02, spread=0.4, quick=4000),
    Check(18, "g_z coverage", "n = 10, δ = .5, exact interval", g_z_coverage, 10_000, low=0.935, high=0.965,
          spread=RATE, quick=2000),
    Check(18, "g_z limits that fail", "15 df × 601 t from -300 to 300", noncentral_nan, 1, low=0, high=0, quick=1),
    Check(18, "Hedges g coverage", "8 against 24, δ = .8", hedges_coverage, 10_000, low=0.935, high=0.965,
          spread=RATE, quick=2000, library="independent_effect"),
    Check(19, "permutation p uniform (distance)", "Laplace, n = 25, m = 199", permutation_uniform, 4000, high=0.03,
          spread=0.5, quick=1000),
    Check(19, "smallest permutation p × (m + 1)", "n = 60, mean 50 SD, m = 999", permutation_minimum, 1, low=1, high=1,
          quick=1),
    Check(19, "two-group permutation type I", "exponential, 10 against 20", two_group_type_one, 1000, high=LEVEL,
          spread=RATE, library="two_group_test"),
    Check(19, "max-T family-wise type I", "24 layers, r = .64, n = 20", max_t_type_one, 1000, high=LEVEL,
          spread=RATE, quick=200),
    Check(20, "bootstrap-t coverage", "log-normal, n = 20", bootstrap_t_coverage, 2000, low=0.91, spread=0.26,
          library="bootstrap_t_interval"),
    Check(21, "cluster-t coverage", "20 clusters × 5, ICC .3", cluster_t_coverage, 4000, low=0.925, spread=RATE),
    Check(21, "naive t coverage (must fail)", "the same, texts as units", naive_coverage, 4000, high=0.85, spread=0.4),
    Check(21, "cluster bootstrap coverage", "50 clusters × 3, ICC .3", bca_coverage, 4000, low=0.935, high=0.965,
          spread=RATE),
    Check(21, "clustered g_z coverage", "40 clusters × 3, ICC .3, δ = .5", clustered_g_z_coverage, 2000, low=0.925,
          high=0.97, spread=RATE),
    Check(21, "two-way bootstrap coverage", "30 prompts × 12 vectors, both random", two_way_coverage, 1000, low=0.925,
          spread=RATE, quick=200),
    Check(21, "AUROC coverage", "21 scenarios × 3 per label, AUROC .76", auroc_coverage, 2000, low=0.935, high=0.965,
          spread=RATE, quick=300),
    Check(21, "DeLong coverage", "the same, clustered", delong_coverage, 2000, low=0.915, high=0.97, spread=RATE),
    Check(21, "AUROC max-T type I", "best of 12 layers, 30 scenarios", auroc_max_type_one, 1000, high=LEVEL,
          spread=RATE, quick=200, library="auroc_max_test"),
    Check(22, "type I, prompts as clusters", "50 prompts × 10 samples, ICC .3", samples_type_one, 1000, high=LEVEL,
          spread=RATE),
    Check(22, "type I, sign flips of prompts", "the same", samples_flip_type_one, 1000, high=LEVEL, spread=RATE),
    Check(22, "type I, samples as units (must fail)", "the same", samples_naive, 1000, low=0.2, spread=0.46),
    Check(25, "BH false discovery rate", "100 tests, 20 true, independent", fdr_independent, 2000, high=0.06,
          spread=0.06),
    Check(25, "BH false discovery rate", "100 tests, 20 true, ρ = .5", fdr_correlated, 4000, high=0.06, spread=0.15),
    Check(25, "difference from statsmodels", "four corrections, ties", corrections_agree, 1, high=1e-12, quick=1),
    Check(26, "power, simulated", "d_z = .3, n = 90", power_simulated, 10_000, low=0.78, high=0.82, spread=0.4,
          quick=2000),
    Check(26, "power, formula", "d_z = .3, n = 90", power_formula, 1, low=0.78, high=0.82, quick=1),
    Check(26, "clustered power minus formula", "34 clusters of one", power_clustered, 10_000, low=-0.02, high=0.02,
          spread=0.4, quick=2000, library="clustered_power"),
]  # fmt: skip
"""Checks of this module, run by ``python -m emotion_circuits.stats.calibration``."""

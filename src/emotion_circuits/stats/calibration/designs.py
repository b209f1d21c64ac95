"""Tests 23, 24 and 27: designs that protect a claim from its own search, on planted data."""

from __future__ import annotations

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.calibration import Check
from emotion_circuits.stats.calibration.inference import LEVEL, RATE
from emotion_circuits.stats.cluster_t import cluster_t
from emotion_circuits.stats.dose_response import odd_even_slopes, page_trend, prompt_slopes
from emotion_circuits.stats.effects import standardised_mean
from emotion_circuits.stats.equivalence import equivalence_test
from emotion_circuits.stats.interval import FloatArray
from emotion_circuits.stats.k_selection import select_k
from emotion_circuits.stats.random_controls import random_control_test, required_controls
from emotion_circuits.stats.selection import select_best

DOSES = np.array([-0.6, -0.3, -0.15, 0.0, 0.15, 0.3, 0.6])


def random_slopes(simulations: int, seed: int) -> float:
    """Prompts react differently to a dose; a regression over pooled points would take that for an effect."""
    rng = np.random.default_rng(seed)
    slope = rng.normal(size=(simulations, 30, 1)) * 2
    outcome = rng.normal(size=(simulations, 30, 1)) + slope * DOSES + 0.5 * rng.normal(size=(simulations, 30, 7))
    return float((cluster_t(prompt_slopes(outcome, DOSES)).p <= 0.05).mean())


def pooled_slopes(simulations: int, seed: int) -> float:
    """The same data with every point as a unit must break the level, or the check above would prove nothing."""
    rng = np.random.default_rng(seed)
    slope = rng.normal(size=(simulations, 30, 1)) * 2
    outcome = rng.normal(size=(simulations, 30, 1)) + slope * DOSES + 0.5 * rng.normal(size=(simulations, 30, 7))
    contributions = (outcome - outcome.mean(axis=2, keepdims=True)) * DOSES
    return float((cluster_t(contributions.reshape(simulations, -1)).p <= 0.05).mean())


def even_outcomes(simulations: int, seed: int) -> FloatArray:
    """``[simulation, prompt, dose]``: every prompt is disrupted by |dose|, more or less, whatever the sign."""
    rng = np.random.default_rng(seed)
    disruption = rng.normal(3, 1, size=(simulations, 30, 1)) * np.abs(DOSES)
    return np.asarray(rng.normal(size=(simulations, 30, 1)) + disruption + 0.5 * rng.normal(size=(simulations, 30, 7)))


def pure_even(simulations: int, seed: int) -> float:
    """Disruption grows with the dose in both directions; the odd test must not take it for meaning."""
    odd, _ = odd_even_slopes(even_outcomes(simulations, seed), DOSES)
    return float((cluster_t(odd).p <= 0.05).mean())


def pure_even_found(simulations: int, seed: int) -> float:
    """The even test must see that same disruption, or the odd test's silence would only be a lack of power."""
    _, even = odd_even_slopes(even_outcomes(simulations, seed), DOSES)
    return float((cluster_t(even).p <= 0.05).mean())


def pure_even_trend(simulations: int, seed: int) -> float:
    """Page's trend test over signed doses must not fire on disruption either."""
    return float((page_trend(even_outcomes(simulations, seed), DOSES) <= 0.05).mean())


def flat_trend(simulations: int, seed: int) -> float:
    """Page's trend test on no effect at all: the approximation must keep its level at 15 prompts."""
    outcome = np.random.default_rng(seed).normal(size=(simulations, 15, 5))
    return float((page_trend(outcome, DOSES[:5]) <= 0.05).mean())


def split_runs(simulations: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """p and standardised effect on test of the cell that is best on dev, in a 12 × 7 grid without any effect."""
    rng = np.random.default_rng(seed)
    p, g = np.empty((2, simulations))
    dev, test = [f"dev-{i}" for i in range(30)], [f"test-{i}" for i in range(30)]
    for run in range(simulations):
        chosen = select_best(rng.normal(size=(84, 30)), dev)
        result = chosen.test(rng.normal(size=(84, 30)), test)
        p[run], g[run] = result.test.p, result.g_z.estimate
    return p, g


def split_type_one(simulations: int, seed: int) -> float:
    """A layer × strength grid is searched in every study; on the other split the chosen cell must keep the level."""
    return float((split_runs(simulations, seed)[0] <= 0.05).mean())


def split_bias(simulations: int, seed: int) -> float:
    """The effect reported for the chosen cell must not carry the luck of the search: |mean g_z| under the null."""
    return float(abs(split_runs(simulations, seed)[1].mean()))


def naive_grid(simulations: int, seed: int) -> float:
    """Testing the best cell on the data that chose it must reject most of the time: the mistake the guard refuses."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(simulations):
        grid = rng.normal(size=(84, 30))
        hits += bool(cluster_t(grid[np.argmax(grid.mean(axis=1))]).p <= 0.05)
    return hits / simulations


def guard_refuses(simulations: int, seed: int) -> float:
    """The guard must refuse the selecting data under its own cluster names, under others, and when only some recur."""
    values = np.random.default_rng(seed).normal(size=(84, 30))
    names = [f"scenario-{i}" for i in range(30)]
    chosen = select_best(values, names)
    attempts = [
        (values, names),
        (values, [f"new-{i}" for i in range(30)]),
        (values[:, ::-1] + 1, [*names[:1], *range(29)]),
    ]
    refused = 0
    for data, clusters in attempts:
        try:
            chosen.test(data, clusters)
        except UsageError:
            refused += 1
    return float(refused)


def control_uniform(simulations: int, seed: int) -> float:
    """If the vector is one more random vector, its rank is uniform: distance of p's distribution from its steps."""
    rng = np.random.default_rng(seed)
    p = random_control_test(rng.standard_t(3, size=simulations), rng.standard_t(3, size=(99, simulations))).p
    steps = np.arange(1, 101) / 100
    reached = np.searchsorted(np.sort(p), steps + 1e-9, side="right") / simulations
    return float(np.abs(reached - steps).max())


def control_type_one(simulations: int, seed: int) -> float:
    """The same as a test at α: never more often than it says."""
    rng = np.random.default_rng(seed)
    p = random_control_test(rng.normal(size=simulations), rng.normal(size=(99, simulations))).p
    return float((p <= 0.05).mean())


def control_refusals(simulations: int, seed: int) -> float:
    """Ten random vectors cannot reach .05/12; a claim must be refused exactly when m cannot support it."""
    wrong = 0
    for comparisons in (1, 2, 12, 84):
        needed = required_controls(alpha=0.05, comparisons=comparisons)
        for m in (needed - 1, needed):
            supported = 1 / (m + 1) <= 0.05 / comparisons + 1e-12
            try:
                random_control_test(1.0, np.zeros(m), comparisons=comparisons)
                answered = True
            except UsageError:
                answered = False
            wrong += answered != supported
    return float(wrong)


def equivalence_type_one(simulations: int, seed: int) -> float:
    """At a true difference exactly on the bound, "equivalent" is false and may be said only α of the time."""
    values = np.random.default_rng(seed).normal(0.5, 1, size=(simulations, 40))
    return float(equivalence_test(values, 0.5).equivalent.mean())


def k_found(simulations: int, seed: int) -> float:
    """Scores that stop rising at k = 4 must give k = 4; taking the best score would do so one time in three."""
    rng = np.random.default_rng(seed)
    truth = np.array([0.55, 0.65, 0.80, 0.80, 0.80])[:, None]
    hits = 0
    for _ in range(simulations):
        shared = 0.1 * rng.normal(size=(1, 40))
        scores = truth + shared + 0.03 * rng.normal(size=(5, 40))
        hits += select_k(scores, [1, 2, 4, 8, 16], range(40), resamples=200).k == 4
    return hits / simulations


def effect_after_selection_naive(simulations: int, seed: int) -> float:
    """The estimate of the best of 84 null cells on its own data: a medium effect out of nothing."""
    rng = np.random.default_rng(seed)
    best = []
    for _ in range(simulations):
        grid = rng.normal(size=(84, 30))
        best.append(float(standardised_mean(grid[np.argmax(grid.mean(axis=1))]).estimate))
    return float(np.mean(best))


CHECKS = [
    Check(23, "random slopes type I", "30 prompts × 7 doses, slope SD 2", random_slopes, 1000, high=LEVEL, spread=RATE,
          library="prompt_slopes"),
    Check(23, "pooled points type I (must fail)", "the same, points as units", pooled_slopes, 1000, low=0.2,
          spread=0.5),
    Check(23, "odd test on a pure even effect", "30 prompts, doses ±.15 ±.3 ±.6", pure_even, 1000, high=LEVEL,
          spread=RATE),
    Check(23, "even test on a pure even effect", "the same", pure_even_found, 1000, low=0.99, spread=0.1),
    Check(23, "trend test on a pure even effect", "the same", pure_even_trend, 1000, high=LEVEL, spread=RATE,
          quick=200),
    Check(23, "trend test on no effect", "15 prompts × 5 doses", flat_trend, 1000, quick=200, high=LEVEL, spread=RATE),
    Check(24, "type I after selection on dev", "12 × 7 null cells, 30 + 30 prompts", split_type_one, 2000, high=LEVEL,
          spread=RATE, library="select_best"),
    Check(24, "bias of g_z after selection on dev", "the same", split_bias, 2000, high=0.02, spread=0.18,
          library="select_best"),
    Check(24, "type I on the selecting data (must fail)", "the same, no split", naive_grid, 1000, low=0.6, spread=0.4),
    Check(24, "g_z on the selecting data (must fail)", "the same, no split", effect_after_selection_naive, 1000,
          low=0.3,
          spread=0.1),
    Check(24, "refusals of the selecting data", "same names, new names, one shared", guard_refuses, 1, low=3, high=3,
          quick=1, library="select_best"),
    Check(24, "k found by held-out score", "score rises to k = 4, 40 scenarios", k_found, 400, low=0.65, spread=0.45,
          quick=100),
    Check(27, "random-control p uniform (distance)", "t(3) effects, m = 99", control_uniform, 4000, high=0.03,
          spread=0.5,
          quick=1000, library="random_control_test"),
    Check(27, "random-control type I", "m = 99", control_type_one, 1000, high=LEVEL, spread=RATE,
          library="random_control_test"),
    Check(27, "wrong refusals of small m", "1, 2, 12, 84 comparisons", control_refusals, 1, low=0, high=0, quick=1,
          library="random_control_test"),
    Check(27, "equivalence type I on the bound", "n = 40, true difference = bound", equivalence_type_one, 2000,
          high=LEVEL,
          spread=RATE, library="equivalence_test"),
]  # fmt: skip
"""Checks of this module, run by ``python -m emotion_circuits.stats.calibration``."""

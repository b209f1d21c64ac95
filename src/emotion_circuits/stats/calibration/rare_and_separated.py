"""AUROC where prompt sets really stand: rare labels, unpaired clusters, separation that is nearly or wholly perfect."""

from __future__ import annotations

import math

import numpy as np
from scipy import special, stats

from emotion_circuits.stats.calibration import Check
from emotion_circuits.stats.calibration.inference import LEVEL, RATE
from emotion_circuits.stats.discrimination import auroc_interval, auroc_max_test, delong_interval


def coverage(truth: float, positives: int, negatives: int, simulations: int, seed: int) -> float:
    """Share of intervals over single texts with Gaussian scores that hold the true AUROC."""
    rng = np.random.default_rng(seed)
    labels = np.arange(positives + negatives) < positives
    scores = rng.normal(size=(simulations, len(labels))) + labels * math.sqrt(2) * special.ndtri(truth)
    interval = auroc_interval(scores, labels, np.arange(len(labels)), resamples=1000, seed=seed)
    return float(interval.contains(truth).mean())


def rare_coverage(simulations: int, seed: int) -> float:
    """In users' sets neutral texts outnumber an emotion twenty to one; the ten emotional ones set the precision."""
    return coverage(0.8, 10, 200, simulations, seed)


def very_rare_coverage(simulations: int, seed: int) -> float:
    """Five positives among three hundred texts: taken as 305 clusters the interval covered .89."""
    return coverage(0.8, 5, 300, simulations, seed)


def edge_coverage(simulations: int, seed: int) -> float:
    """Six against six separate perfectly in most runs at a true AUROC of .98: the edge must still hold the truth."""
    return coverage(0.98, 6, 6, simulations, seed)


def high_coverage(simulations: int, seed: int) -> float:
    """Emotion directions reach .98 on 21 test scenarios of three texts a label; resampling shows few errors there."""
    rng = np.random.default_rng(seed)
    codes, labels = np.tile(np.repeat(np.arange(21), 3), 2), np.arange(126) < 63
    shared = rng.normal(size=(simulations, 21))[:, codes] * math.sqrt(0.4)
    scores = labels * math.sqrt(2) * special.ndtri(0.98) + shared + rng.normal(size=(simulations, 126)) * math.sqrt(0.6)
    return float(auroc_interval(scores, labels, codes, resamples=1000, seed=seed).contains(0.98).mean())


def large_coverage(simulations: int, seed: int) -> float:
    """Large sets are judged by the clustered DeLong interval; 15 positive scenarios among 315 must not fool it."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(315), 2)
    labels = codes < 15
    shared = rng.normal(size=(simulations, 315))[:, codes] * math.sqrt(0.4)
    scores = labels * 1.0 + shared + rng.normal(size=(simulations, 630)) * math.sqrt(0.6)
    truth = float(stats.norm.cdf(1 / math.sqrt(2)))
    return float(delong_interval(scores, labels, codes).contains(truth).mean())


def unpaired_type_one(simulations: int, seed: int) -> float:
    """Texts of one author or thread resemble each other and share their label; shuffled singly, p ≤ .05 came at .18."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(20), 4)
    labels = codes < 10
    hits = 0
    for run in range(simulations):
        scores = rng.normal(size=(3, 20))[:, codes] * 0.8 + rng.normal(size=(3, 80)) * 0.6
        hits += auroc_max_test(scores, labels, codes, permutations=199, seed=seed + run).overall <= 0.05
    return hits / simulations


CHECKS = [
    Check(21, "AUROC coverage, rare label", "10 against 200, AUROC .8", rare_coverage, 1000, low=0.925, spread=RATE,
          quick=100),
    Check(21, "AUROC coverage, very rare label", "5 against 300, AUROC .8", very_rare_coverage, 1000, low=0.925,
          spread=RATE, quick=100),
    Check(21, "AUROC coverage, separated", "6 against 6, AUROC .98", edge_coverage, 1000, low=0.925, spread=RATE,
          quick=200),
    Check(21, "AUROC coverage, high", "21 scenarios × 3 per label, AUROC .98", high_coverage, 1000, low=0.925,
          spread=RATE, quick=100),
    Check(21, "DeLong coverage, rare label", "15 against 300 scenarios × 2, AUROC .76", large_coverage, 1000, low=0.915,
          high=0.975, spread=RATE, quick=300),
    Check(21, "AUROC max-T type I, unpaired", "20 clusters × 4 of one label each, ICC .64", unpaired_type_one, 1000,
          high=LEVEL, spread=RATE, quick=200, library="auroc_max_test"),
]  # fmt: skip

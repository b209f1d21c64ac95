"""Tests 1-3, 5 and 15-17: subspaces, their chance overlap, similarity measures, and what PCA within a label loses."""

from __future__ import annotations

import math
import warnings

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment_cca import canonical_correlations
from emotion_circuits.representations.calibration.worlds import linear_world
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.principal_angles import chance_overlap, overlap, principal_angles
from emotion_circuits.representations.similarity import biased_cka, debiased_cka
from emotion_circuits.representations.similarity_neighbours import mutual_neighbours
from emotion_circuits.representations.subspaces import (
    Subspace,
    WithinLabelWarning,
    contrast_subspace,
    within_label_subspace,
)
from emotion_circuits.stats.calibration import Check


def bases(count: int, k: int, d: int, rng: np.random.Generator) -> Subspace:
    """``[count, k, d]`` uniformly random subspaces."""
    columns = np.linalg.qr(rng.normal(size=(count, d, k)))[0]
    return Subspace(np.swapaxes(columns, -1, -2), np.ones((count, k)), "random")


def random_overlap(simulations: int, seed: int) -> float:
    """Two random subspaces overlap by k/d, not by 0: an overlap of .013 at k = 10 in 768 dimensions is nothing."""
    rng = np.random.default_rng(seed)
    return float(_overlaps(simulations, rng).mean() - chance_overlap(768, 10)[0])


def random_overlap_sd(simulations: int, seed: int) -> float:
    """The spread that is printed beside chance must be the true one, or every overlap would look significant."""
    rng = np.random.default_rng(seed)
    return float(_overlaps(simulations, rng).std() / chance_overlap(768, 10)[1])


def _overlaps(simulations: int, rng: np.random.Generator) -> FloatArray:
    parts = [min(50, simulations - start) for start in range(0, simulations, 50)]
    return np.concatenate([overlap(bases(n, 10, 768, rng), bases(n, 10, 768, rng)).value for n in parts])


def row_mixing(simulations: int, seed: int) -> float:
    """A subspace has no preferred rows: an invertible mixing of them may change no overlap."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(simulations):
        one, two = rng.normal(size=(2, 5, 64))
        mixed = (rng.normal(size=(5, 5)) + 3 * np.eye(5)) @ one
        values = [float(overlap(a, two).value) for a in (one, mixed)]
        complement = np.linalg.qr(one.T, mode="complete")[0].T[5:]
        limits = [abs(float(overlap(one, one).value) - 1), abs(float(overlap(one, complement).value))]
        worst = max(worst, abs(values[0] - values[1]), *limits)
        if not 0 <= values[0] <= 1:
            return math.inf
    return worst


def planted_angles(simulations: int, seed: int) -> float:
    """Angles near 0 are lost to rounding when they come from cosines alone: largest error in radians."""
    rng = np.random.default_rng(seed)
    angles = np.radians([0.0, 15.0, 45.0, 80.0])
    worst = 0.0
    for _ in range(simulations):
        rows = np.linalg.qr(rng.normal(size=(100, 8)))[0].T
        turned = np.cos(angles)[:, None] * rows[:4] + np.sin(angles)[:, None] * rows[4:]
        mixed = (rng.normal(size=(4, 4)) + 3 * np.eye(4)) @ turned
        worst = max(worst, float(np.abs(principal_angles(rows[:4], mixed) - angles).max()))
    return worst


def unequal_widths(simulations: int, seed: int) -> float:
    """Two models of different width share no coordinates: without a map the comparison is refused, not padded."""
    one, two = bases(1, 3, 20, np.random.default_rng(seed)), bases(1, 3, 30, np.random.default_rng(seed))
    refused = 0
    for compare in (overlap, principal_angles):
        try:
            compare(one, two)
        except UsageError:
            refused += 1
    return float(refused)


def debiased_null(simulations: int, seed: int) -> float:
    """For independent models of d = 768 and n = 100 texts the debiased CKA must be 0 on average."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(simulations):
        a, b = rng.normal(size=(2, 100, 768))
        values.append(debiased_cka(a, b, permutations=0).value)
    return float(abs(np.mean(values)))


def biased_null(simulations: int, seed: int) -> float:
    """The usual CKA calls the same independent models nearly identical."""
    rng = np.random.default_rng(seed)
    return float(np.mean([biased_cka(*rng.normal(size=(2, 100, 768))) for _ in range(simulations)]))


def cka_rotation(simulations: int, seed: int) -> float:
    """Rotating or scaling a model changes nothing about it: largest change of the debiased CKA."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 60, 40))
    b = b + a
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    values = [debiased_cka(x, b, permutations=0).value for x in (a, 7.0 * a @ turn)]
    return abs(values[0] - values[1])


def neighbour_null(simulations: int, seed: int) -> float:
    """Mutual neighbours of independent models agree by k/(n − 1): observed mean less chance, in units of chance."""
    rng = np.random.default_rng(seed)
    chance = 10 / 149
    values = []
    for _ in range(simulations):
        a, b = rng.normal(size=(2, 150, 64))
        values.append(mutual_neighbours(a, b, 10, permutations=19).value)
    return float(np.mean(values) / chance - 1)


def neighbour_type_one(simulations: int, seed: int) -> float:
    """The permutation p of mutual neighbours must keep its level."""
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(simulations):
        a, b = rng.normal(size=(2, 60, 32))
        hits += mutual_neighbours(a, b, 5, permutations=99).p <= 0.05
    return hits / simulations


def cca_refused(simulations: int, seed: int) -> float:
    """With n ≤ d every canonical correlation of independent data is 1: below ten rows a dimension CCA is refused."""
    rng = np.random.default_rng(seed)
    refused = 0
    for n, components in ((70, None), (768, None), (300, 31)):
        a, b = rng.normal(size=(2, n, 768))
        try:
            canonical_correlations(a, b, components)
        except UsageError:
            refused += 1
    return float(refused)


def contrast_energy(simulations: int, seed: int) -> float:
    """The contrast SVD must keep the planted direction."""
    return _energy(simulations, seed, within=False)


def within_label_energy(simulations: int, seed: int) -> float:
    """PCA centred within one label throws the emotion away with the mean; it warns."""
    return _energy(simulations, seed, within=True)


def _energy(simulations: int, seed: int, *, within: bool) -> float:
    kept = []
    for run in range(simulations):
        rng = np.random.default_rng(seed + run)
        world = linear_world("shared", n=2, emotions=3, scenarios=40, q=60, widths=(128, 128), seed=seed + run)
        x, labels = np.asarray(world.source.x), np.asarray(world.source.labels)
        # The planted direction of an emotion is the difference it makes to the mean of infinitely many texts.
        clean = linear_world(
            "shared", n=2, emotions=3, scenarios=40, q=60, widths=(128, 128), strength=0.0, seed=seed + run
        )
        truth = (x - np.asarray(clean.source.x))[labels == "emotion-0"].mean(axis=0)
        neutral = np.asarray(clean.source.x)[rng.permutation(len(x))]
        if within:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                space = within_label_subspace(x[labels == "emotion-0"], 3)
            if not any(issubclass(w.category, WithinLabelWarning) for w in caught):
                return math.inf
        else:
            both = np.concatenate([x, neutral])
            names = np.concatenate([labels, np.full(len(neutral), "neutral")])
            space = contrast_subspace(both, names, [f"emotion-{i}" for i in range(3)], baseline="neutral")
        kept.append(float(space.energy(truth[None])[0]))
    return float(np.mean(kept))


CHECKS = [
    Check(1, "random overlap minus k/d", "d = 768, k = 10", random_overlap, 400, low=-3.3e-4, high=3.3e-4,
          spread=0.0018, quick=60),
    Check(1, "random overlap, SD over stated SD", "d = 768, k = 10", random_overlap_sd, 400, low=0.88, high=1.12,
          spread=0.75, quick=60),
    Check(2, "overlap under row mixing", "k = 5, d = 64; itself 1, complement 0", row_mixing, 200, high=1e-10,
          quick=20),
    Check(3, "planted principal angles, error (rad)", "0, 15, 45, 80°", planted_angles, 200, high=1e-7, quick=20),
    Check(5, "refusals of unequal widths", "overlap and angles, 20 against 30", unequal_widths, 1, low=2, high=2,
          quick=1),
    Check(15, "debiased CKA of independent models", "n = 100, d = 768", debiased_null, 200, high=0.02, spread=0.02,
          quick=20),
    Check(15, "biased CKA of the same (must fail)", "n = 100, d = 768", biased_null, 50, low=0.85, quick=5),
    Check(15, "debiased CKA under rotation and scale", "n = 60, d = 40", cka_rotation, 1, high=1e-9, quick=1),
    Check(16, "mutual neighbours over chance − 1", "n = 150, k = 10, independent", neighbour_null, 100, low=-0.03,
          high=0.03, spread=0.08, quick=20),
    Check(16, "mutual neighbours, type I", "n = 60, k = 5", neighbour_type_one, 400, high=0.086,
          spread=math.sqrt(0.05 * 0.95), quick=60),
    Check(16, "refusals of CCA", "n = 70 and 768 in d = 768; 31 components of 300", cca_refused, 1, low=3, high=3,
          quick=1),
    Check(17, "energy of the planted direction, contrast SVD", "3 emotions, 40 scenarios", contrast_energy, 50, low=0.8,
          spread=0.1, quick=10),
    Check(17, "the same, PCA within a label (must fail)", "k = 3, with its warning", within_label_energy, 50, high=0.4,
          spread=0.1, quick=10),
]  # fmt: skip

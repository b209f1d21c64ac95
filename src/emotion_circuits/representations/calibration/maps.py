"""Tests 4 and 6-9: maps on data whose relation is known, and what they may not find where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emotion_circuits.representations.alignment import fit_alignment, nested_r2, orthogonal_map, reduce_pairs
from emotion_circuits.representations.calibration.worlds import linear_world
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.principal_angles import overlap
from emotion_circuits.representations.sharing import sharing_test
from emotion_circuits.representations.spectral_cv import folded_design, held_out_r2, ridge_filters
from emotion_circuits.stats.calibration import Check
from emotion_circuits.stats.discrimination import auroc


def map_scale(simulations: int, seed: int) -> float:
    """Overlap, cosine and AUROC after a map have no unit: scaling it by 1e-3, 10 or 1e3 may change none of them."""
    world = linear_world("shared", n=120, q=40, widths=(64, 80), seed=seed)
    fitted = fit_alignment(world.map_source, world.map_target)
    rng = np.random.default_rng(seed)
    vectors, native = rng.normal(size=(3, 64)), rng.normal(size=(3, 80))
    x = np.asarray(world.target.x)

    def figures(factor: float) -> list[float]:
        pushed = replace(fitted, weights=fitted.weights * factor).push(vectors)
        scores = x @ pushed[0]
        cosine = pushed[0] @ native[0] / np.linalg.norm(pushed[0]) / np.linalg.norm(native[0])
        return [float(overlap(pushed, native).value), float(cosine), float(auroc(scores[:100], scores[100:]))]

    base = np.array(figures(1.0))
    return float(max(np.abs(figures(f) - base).max() for f in (1e-3, 10.0, 1e3)))


def procrustes_error(simulations: int, seed: int) -> float:
    """A planted rotation under noise must be recovered: mean relative Frobenius error."""
    errors = []
    for run in range(simulations):
        x, y, turn, _ = _rotated(seed + run)
        errors.append(np.linalg.norm(orthogonal_map(x, y)[0] - turn) / np.linalg.norm(turn))
    return float(np.mean(errors))


def procrustes_r2(simulations: int, seed: int) -> float:
    """And the rotation must predict rows that it was not fitted on."""
    values = []
    for run in range(simulations):
        x, y, turn, rng = _rotated(seed + run)
        rotation, scale = orthogonal_map(x, y)
        new = rng.normal(size=(200, 50))
        truth = new @ turn + 0.1 * rng.normal(size=(200, 50))
        guess = (new - x.mean(axis=0)) @ rotation * scale + y.mean(axis=0)
        values.append(1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())
    return float(np.mean(values))


def _rotated(seed: int) -> tuple[FloatArray, FloatArray, FloatArray, np.random.Generator]:
    """Source rows, target rows, the planted rotation, and the generator to draw new rows with."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(50, 50)))[0]
    x = rng.normal(size=(500, 50))
    return x, x @ turn + 0.1 * rng.normal(size=(500, 50)), turn, rng


def least_squares_train(simulations: int, seed: int) -> float:
    """Plain least squares from 70 rows in 768 dimensions "explains" independent models perfectly."""
    world = linear_world("nothing", n=70, seed=seed)
    a, b = world.map_source - world.map_source.mean(0), world.map_target - world.map_target.mean(0)
    weights = np.linalg.lstsq(a, b, rcond=None)[0]
    return float(1 - ((b - a @ weights) ** 2).sum() / (b**2).sum())


def least_squares_held_out(simulations: int, seed: int) -> float:
    """The same map predicts nothing on rows it has not seen."""
    values = []
    for run in range(simulations):
        world = linear_world("nothing", n=140, seed=seed + run)
        a, b = world.map_source, world.map_target
        centre, mean = a[:70].mean(axis=0), b[:70].mean(axis=0)
        weights = np.linalg.lstsq(a[:70] - centre, b[:70] - mean, rcond=None)[0]
        missed = b[70:] - mean - (a[70:] - centre) @ weights
        values.append(1 - (missed**2).sum() / ((b[70:] - mean) ** 2).sum())
    return float(np.mean(values))


def not_identified(simulations: int, seed: int) -> float:
    """So the answer there is "not identified": the data cannot speak about emotions at all."""
    found = []
    for run in range(simulations):
        world = linear_world("nothing", n=70, seed=seed + run)
        result = sharing_test(
            world.source, world.target, world.map_source, world.map_target, permutations=99, resamples=20, seed=run
        )
        found.append(result.verdict == "not identified")
    return float(np.mean(found))


def nested_null(simulations: int, seed: int) -> float:
    """Choosing rank and penalty on the judged rows would report skill; nested cross-validation reports none."""
    values = []
    for run in range(simulations):
        world = linear_world("nothing", n=100, widths=(256, 256), q=100, seed=seed + run)
        values.append(nested_r2(world.map_source, world.map_target, seed=run).total)
    return float(np.mean(values))


def leave_one_out_r2(simulations: int, seed: int) -> float:
    """Shared content is predicted although 70 rows are few against 768 dimensions.

    Both sides are reduced to 30 components of the map set; every row is predicted by a ridge fitted on the others.
    """
    world = linear_world("shared", n=70, seed=seed)
    reduction = reduce_pairs(world.map_source, world.map_target, rank=30)
    design = folded_design(reduction.features, [np.array([row]) for row in range(70)])
    return float(held_out_r2(design, reduction.criterion[:, :30], ridge_filters()).max())


CHECKS = [
    Check(4, "change under a scaled map", "factors 1e-3, 10, 1e3; overlap, cosine, AUROC", map_scale, 1, high=1e-8,
          quick=1),
    Check(6, "Procrustes, relative error", "d = 50, n = 500, σ = .1", procrustes_error, 50, high=0.035, quick=5),
    Check(6, "Procrustes, held-out R²", "the same", procrustes_r2, 50, low=0.98, quick=5),
    Check(7, "least squares, train R² (must be 1)", "independent, n = 70, d = 768", least_squares_train, 1,
          low=0.999999, high=1.000001, quick=1),
    Check(7, "least squares, held-out R²", "the same", least_squares_held_out, 20, high=0.0, quick=3),
    Check(7, "share of verdicts not identified", "the same", not_identified, 200, low=0.9, spread=0.22, quick=12),
    Check(8, "nested ridge, mean held-out R²", "independent, n = 100, d = 256", nested_null, 50, low=-0.15, high=0.02,
          quick=4),
    Check(9, "leave-one-out R²", "shared content, n = 70, rank 30", leave_one_out_r2, 1, low=0.85, quick=1),
]  # fmt: skip

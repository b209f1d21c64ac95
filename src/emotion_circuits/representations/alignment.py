"""Maps between two models from paired neutral activations, and how well they predict rows that they never saw.

The ladder: orthogonal Procrustes (a rotation of the leading components and one scale) → ridge (any linear map). Beside
it stand reduced-rank regression and CCA (:mod:`alignment_cca`). All work in standard coordinates
(:mod:`alignment_scaling`) in float64. The source is reduced to the components that principal-component regression
retains under cross-validation, then the ridge penalty is chosen under cross-validation.

Fit on neutral text only; a map that has seen emotions says nothing about whether they are shared.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.representations.alignment_cca import fit_cca_weights
from emotion_circuits.representations.alignment_map import MAP_METHODS, AlignmentMap, MapMethod
from emotion_circuits.representations.alignment_scaling import Scaling, fit_scaling, principal_components
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.spectral_cv import (
    PENALTIES,
    RANKS,
    FoldedDesign,
    fold_rows,
    folded_design,
    held_out_r2,
    rank_filters,
    ridge_filters,
)
from emotion_circuits.stats.checks import at_least, finite

FOLDS = 5
MINIMUM_ROWS = 20
CRITERION_COMPONENTS = 100
"""Selection looks at this many principal components of the target: they hold nearly all of its variance."""


@dataclass(frozen=True)
class HeldOut:
    """Nested cross-validated R²: all of model selection is repeated without the rows that are judged.

    ``total`` is over all standardised target dimensions; ``components`` ``[c]`` over the target's leading principal
    components one by one, because a few large ones decide the total.
    """

    total: float
    components: FloatArray
    ranks: tuple[int, ...]
    n: int


@dataclass(frozen=True)
class Reduction:
    """Both sides of a map set in standard coordinates, reduced: what fitting and every null share.

    ``basis`` ``[d_a, rank]`` and ``features`` ``[n, rank]`` of the source; ``criterion`` ``[n, q]`` the target's
    leading component scores, on which selection is judged; ``rank_r2`` the cross-validated R² of every rank tried.
    """

    source: Scaling
    target: Scaling
    z_target: FloatArray
    basis: FloatArray
    features: FloatArray
    criterion: FloatArray
    design: FoldedDesign
    ranks: tuple[int, ...]
    rank_r2: FloatArray

    @property
    def rank(self) -> int:
        """Source components that cross-validation retained."""
        return int(self.basis.shape[1])


def reduce_pairs(
    source: ArrayLike,
    target: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    rank: int | None = None,
    seed: int = 0,
) -> Reduction:
    """Standardise both sides of the paired rows and choose how many source components the map reads.

    Args:
        source: ``[n, d_a]``; target: ``[n, d_b]``, row i paired with row i. groups: ``[n]``, rows that belong
            together (the words of one text) and stay in one fold. rank: fixed instead of chosen.
    """
    a, b, codes = check_pairs(source, target, groups)
    scale_a, scale_b = fit_scaling(a, "the source's map set"), fit_scaling(b, "the target's map set")
    z_a, z_b = scale_a.standardise(a), scale_b.standardise(b)
    folds = fold_rows(len(a), FOLDS, codes, seed)
    limit = len(a) - max(len(f) for f in folds) - 2
    basis, _ = principal_components(z_a, min(limit, max(RANKS)) if rank is None else rank)
    columns, _ = principal_components(z_b, CRITERION_COMPONENTS)
    criterion = z_b @ columns
    ranks = tuple(k for k in RANKS if k <= basis.shape[1]) if rank is None else (basis.shape[1],)
    r2 = held_out_r2(folded_design(z_a @ basis, folds), criterion, rank_filters(ranks))
    kept = basis[:, : ranks[int(np.argmax(r2))]]
    features = z_a @ kept
    design = folded_design(features, folds)
    return Reduction(scale_a, scale_b, z_b, kept, features, criterion, design, ranks, r2)


def ridge_weights(features: FloatArray, z_target: FloatArray, penalty: float) -> FloatArray:
    """(FᵀF + λ n I)⁻¹ Fᵀ Z for centred features ``[n, r]``; λ is per row."""
    gram = features.T @ features
    gram[np.diag_indices_from(gram)] += penalty * len(features)
    return np.asarray(linalg.solve(gram, features.T @ z_target, assume_a="pos"))


def fit_alignment(
    source: ArrayLike,
    target: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    method: MapMethod = "ridge",
    rank: int | None = None,
    seed: int = 0,
    spec: Mapping[str, str] | None = None,
) -> AlignmentMap:
    """The map source → target; for the way back, fit another one with the arguments exchanged.

    Args:
        source: ``[n, d_a]``, target: ``[n, d_b]``: neutral activations, row i paired with row i.
        groups: ``[n]``, rows that must stay in one fold. rank: source components (default: by cross-validation).
        spec: what the map was made from, saved with it.

    Raises:
        UsageError: NaN (named by side), too few rows, unequal numbers of rows, CCA with too few rows.
    """
    if method not in MAP_METHODS:
        raise unknown_name("map", method, list(MAP_METHODS))
    reduction = reduce_pairs(source, target, groups, rank=rank, seed=seed)
    about = dict(spec or {})
    if method == "procrustes":
        return replace(_procrustes_map(reduction), spec=about)
    by_penalty = held_out_r2(reduction.design, reduction.criterion, ridge_filters())
    best = int(np.argmax(by_penalty))
    penalty, r2 = float(PENALTIES[best]), float(by_penalty[best])
    if method == "cca":
        weights = fit_cca_weights(reduction.features, reduction.z_target)
        penalty, r2 = 0.0, float("nan")
    else:
        weights = ridge_weights(reduction.features, reduction.z_target, penalty)
    if method == "reduced-rank":
        weights, r2 = _reduced_rank(reduction, penalty)
    return AlignmentMap(
        method,
        reduction.source,
        reduction.target,
        reduction.basis,
        weights,
        penalty,
        r2,
        len(reduction.features),
        about,
    )


def shuffled_weights(reduction: Reduction, method: MapMethod, move: NDArray[np.intp]) -> FloatArray:
    """Weights ``[rank, d_b]`` of the map whose source row i is paired with target row ``move[i]``.

    Equal to fitting again with the same source components: scaling and components do not depend on the pairing, and
    what is chosen by cross-validation (penalty, rank of the prediction) is chosen anew.
    """
    moved = replace(reduction, z_target=reduction.z_target[move], criterion=reduction.criterion[move])
    if method == "procrustes":
        return _procrustes_weights(moved.features, moved.z_target)
    if method == "cca":
        return fit_cca_weights(moved.features, moved.z_target)
    by_penalty = held_out_r2(moved.design, moved.criterion, ridge_filters())
    penalty = float(PENALTIES[int(np.argmax(by_penalty))])
    if method == "reduced-rank":
        return _reduced_rank(moved, penalty)[0]
    return ridge_weights(moved.features, moved.z_target, penalty)


def nested_r2(
    source: ArrayLike,
    target: ArrayLike,
    groups: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    method: MapMethod = "ridge",
    folds: int = FOLDS,
    components: int = 30,
    rank: int | None = None,
    seed: int = 0,
) -> HeldOut:
    """Held-out R² with scaling, components, rank and penalty chosen anew without each fold.

    ``folds`` = n gives leave-one-out. Components are those of the whole target, standardised.
    """
    a, b, codes = check_pairs(source, target, groups)
    scaling = fit_scaling(b)
    columns, _ = principal_components(scaling.standardise(b), components)
    error, spread = np.zeros(len(columns)), np.zeros(len(columns))
    along, along_spread = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    ranks = []
    for held in fold_rows(len(a), folds, codes, seed + 1):
        train = np.setdiff1d(np.arange(len(a)), held)
        own = None if codes is None else codes[train]
        fitted = fit_alignment(a[train], b[train], own, method=method, rank=rank, seed=seed)
        ranks.append(fitted.rank)
        missed = (b[held] - fitted.predict(a[held])) / scaling.sd
        varied = (b[held] - b[train].mean(axis=0)) / scaling.sd
        error += (missed**2).sum(axis=0)
        spread += (varied**2).sum(axis=0)
        along += ((missed @ columns) ** 2).sum(axis=0)
        along_spread += ((varied @ columns) ** 2).sum(axis=0)
    return HeldOut(1 - float(error.sum() / spread.sum()), 1 - along / along_spread, tuple(ranks), len(a))


def leave_one_group_out_maps(
    source: ArrayLike,
    target: ArrayLike,
    left_out: Sequence[str] | NDArray[Any],
    groups: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    method: MapMethod = "ridge",
    seed: int = 0,
) -> dict[str, AlignmentMap]:
    """A second estimate: one map per group of rows (an emotion), fitted on all rows but those.

    ``left_out`` ``[n]`` names the group of every row; rows named ``""`` (neutral text) are in every map.
    """
    a, b, codes = check_pairs(source, target, groups)
    names = np.asarray(left_out)
    if names.shape != (len(a),):
        raise UsageError(f"{names.shape} names for {len(a)} rows", "name the group of every row, or write ''")
    maps = {}
    for name in dict.fromkeys(str(n) for n in names.tolist() if n):
        kept = names != name
        own = None if codes is None else codes[kept]
        maps[name] = fit_alignment(a[kept], b[kept], own, method=method, seed=seed, spec={"left_out": name})
    return maps


def orthogonal_map(source: ArrayLike, target: ArrayLike) -> tuple[FloatArray, float]:
    """Rotation R ``[d, d]`` and scale c that minimise ‖Y − c X R‖ for centred rows of equal width (Schönemann 1966)."""
    a, b, _ = check_pairs(source, target, None)
    if a.shape != b.shape:
        raise UsageError(
            f"an orthogonal map needs equal widths, not {a.shape[1]} and {b.shape[1]}", "use method='ridge'"
        )
    x, y = a - a.mean(axis=0), b - b.mean(axis=0)
    rotation, trace = linalg.orthogonal_procrustes(x, y)
    return rotation, float(trace / (x**2).sum())


def check_pairs(
    source: ArrayLike, target: ArrayLike, groups: Sequence[Hashable] | NDArray[Any] | None
) -> tuple[FloatArray, FloatArray, NDArray[np.intp] | None]:
    """Both sides as float64 ``[n, d]`` and group codes; raises naming the side that is wrong."""
    a, b = finite(source, "the source's map set"), finite(target, "the target's map set")
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise UsageError(
            f"the map set has shapes {a.shape} and {b.shape}", "give [n, d_source] and [n, d_target] with paired rows"
        )
    at_least(len(a), MINIMUM_ROWS, "paired neutral rows", "a cross-validated map")
    if groups is None:
        return a, b, None
    names = np.asarray(groups)
    if names.shape != (len(a),):
        raise UsageError(f"{names.shape} groups for {len(a)} paired rows", "give one group per row")
    return a, b, np.unique(names, return_inverse=True)[1].astype(np.intp)


def _reduced_rank(reduction: Reduction, penalty: float) -> tuple[FloatArray, float]:
    """Ridge followed by projection on the leading directions of its predictions (Izenman 1975), rank by CV."""
    f, z = reduction.features, reduction.z_target
    ranks = [k for k in RANKS if k <= min(f.shape[1], z.shape[1])]
    error, spread = np.zeros(len(ranks)), 0.0
    for fold in reduction.design.folds:
        train = np.setdiff1d(np.arange(len(f)), fold.held)
        centre, mean = f[train].mean(axis=0), z[train].mean(axis=0)
        weights = ridge_weights(f[train] - centre, z[train] - mean, penalty)
        directions = np.linalg.svd((f[train] - centre) @ weights, full_matrices=False)[2]
        truth, guess = z[fold.held] - mean, (f[fold.held] - centre) @ weights
        spread += float((truth**2).sum())
        for i, k in enumerate(ranks):
            error[i] += float(((truth - guess @ directions[:k].T @ directions[:k]) ** 2).sum())
    best = int(np.argmin(error))
    weights = ridge_weights(f, z, penalty)
    directions = np.linalg.svd(f @ weights, full_matrices=False)[2][: ranks[best]]
    return weights @ directions.T @ directions, 1 - float(error[best] / spread)


def _procrustes_map(reduction: Reduction) -> AlignmentMap:
    """Rotate the source's leading components onto as many of the target's; one common scale."""
    f, z = reduction.features, reduction.z_target
    error, spread = 0.0, 0.0
    for fold in reduction.design.folds:
        train = np.setdiff1d(np.arange(len(f)), fold.held)
        centre, mean = f[train].mean(axis=0), z[train].mean(axis=0)
        weights = _procrustes_weights(f[train] - centre, z[train] - mean)
        truth = (z[fold.held] - mean) @ _leading(z[train] - mean, CRITERION_COMPONENTS)
        guess = (f[fold.held] - centre) @ weights @ _leading(z[train] - mean, CRITERION_COMPONENTS)
        error, spread = error + float(((truth - guess) ** 2).sum()), spread + float((truth**2).sum())
    weights = _procrustes_weights(f, z)
    return AlignmentMap(
        "procrustes", reduction.source, reduction.target, reduction.basis, weights, 0.0, 1 - error / spread, len(f)
    )


def _procrustes_weights(f: FloatArray, z: FloatArray) -> FloatArray:
    columns = _leading(z, f.shape[1])
    scores = z @ columns
    left, values, right = np.linalg.svd(f.T @ scores, full_matrices=False)
    return np.asarray(values.sum() / (f**2).sum() * (left @ right) @ columns.T)


def _leading(z: FloatArray, k: int) -> FloatArray:
    return principal_components(z, k)[0]

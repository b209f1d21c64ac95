"""Cross-validation of every ridge penalty and every rank at once, for one pairing of rows or for thousands of them.

Within a training fold, write the centred features as U S Vᵀ. Ridge and principal-component regression are spectral
filters: prediction = R_held · diag(filter(s²)) · (R_trainᵀ Y_train), R being the features rotated by V. The held-out
error is then

    ‖Y_held‖² − 2 Σ_k f_k ⟨X_k, Q_k⟩ + Σ_kl f_k f_l (R_heldᵀR_held)_kl (Q Qᵀ)_kl,
    X = R_heldᵀ Y_held,  Q = R_trainᵀ Y_train,

so the products with Y are made once and every filter costs a small quadratic form (Golub, Heath & Wahba 1979 for one
matrix). Shuffling pairs only moves the rows of Y: decompositions are shared by all shuffles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations import spectral_cv_forms
from emotion_circuits.representations.labelled import FloatArray

Filter = Callable[[FloatArray, int], FloatArray]
"""From the eigenvalues ``[r]`` of RᵀR and the number of training rows to filters ``[filter, r]``."""

PENALTIES: FloatArray = 10.0 ** np.arange(-2.0, 6.01, 0.5)
"""Ridge penalties per row that are tried; standardised features have eigenvalues per row from about 1e-2 to d."""

RANKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200)
"""Numbers of source components that are tried. In models a few hundred wide, more of them fit better and identify
nothing: a map of nearly all dimensions carries a random direction as well as an emotion's."""

CHUNK = 4_000_000
"""Numbers that one block of rearranged targets may hold (32 MB)."""


@dataclass(frozen=True)
class _Fold:
    held: NDArray[np.intp]
    mean: FloatArray
    rotation: FloatArray
    eigenvalues: FloatArray
    held_gram: FloatArray


@dataclass(frozen=True)
class FoldedDesign:
    """Centred features ``[n, r]`` with what every fold needs of them; shared by all targets and all pairings."""

    features: FloatArray
    folds: tuple[_Fold, ...]


def fold_rows(n: int, folds: int, groups: NDArray[np.intp] | None, seed: int) -> list[NDArray[np.intp]]:
    """Row indices of each held-out fold; rows of one group (the words of one text) stay together."""
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(codes.max()) + 1
    if count < folds:
        raise UsageError(f"{count} independent rows for {folds} folds", "give more neutral texts")
    place = np.random.default_rng(seed).permutation(count) % folds
    return [np.flatnonzero(place[codes] == f) for f in range(folds)]


def folded_design(features: FloatArray, folds: Sequence[NDArray[np.intp]]) -> FoldedDesign:
    """Decompose the training part of every fold. ``features`` ``[n, r]`` are centred over all rows first."""
    f = features - features.mean(axis=0)
    gram = f.T @ f
    made = []
    for held in folds:
        part = f[held]
        n_train = len(f) - len(held)
        mean = -part.sum(axis=0) / n_train
        train = gram - part.T @ part - n_train * np.outer(mean, mean)
        values, vectors = np.linalg.eigh(train)
        order = np.argsort(values)[::-1]
        rotation = vectors[:, order]
        rotated = (part - mean) @ rotation
        made.append(_Fold(held, mean, rotation, np.maximum(values[order], 0.0), rotated.T @ rotated))
    return FoldedDesign(f, tuple(made))


def ridge_filters(penalties: FloatArray = PENALTIES) -> Filter:
    """1 / (s² + λ·n_train) for every penalty per row λ."""
    return lambda values, rows: 1.0 / (values + penalties[:, None] * rows)


def rank_filters(ranks: Sequence[int]) -> Filter:
    """1 / s² for the first k components, 0 for the others: principal-component regression of rank k."""

    def filters(values: FloatArray, rows: int) -> FloatArray:
        safe = np.where(values > 1e-12 * max(float(values[0]), 1e-300), values, np.inf)
        return np.asarray((np.arange(len(values)) < np.asarray(ranks)[:, None]) / safe)

    return filters


def held_out_r2(
    design: FoldedDesign, target: FloatArray, filters: Filter, moves: NDArray[np.intp] | None = None
) -> FloatArray:
    """Held-out R² of every filter ``[filter]``, or ``[move, filter]`` with the target's rows rearranged by ``moves``.

    R² = 1 − Σ‖y − ŷ‖² / Σ‖y − mean of the training rows‖² over all held-out rows and target columns.

    Args:
        target: ``[n, q]``. moves: ``[move, n]``; row i is paired with target row ``moves[m, i]``.
    """
    y = target - target.mean(axis=0)
    if moves is not None and len(moves) > 20 and len(y) <= spectral_cv_forms.MOST_ROWS:
        return spectral_cv_forms.shuffled_r2(design, y, filters, moves)
    rows = np.arange(len(y))[None] if moves is None else moves
    step = max(1, CHUNK // max(1, y.size))
    parts = [_r2(design, y, filters, rows[start : start + step]) for start in range(0, len(rows), step)]
    result = np.concatenate(parts)
    return result[0] if moves is None else result


def _r2(design: FoldedDesign, y: FloatArray, filters: Filter, moves: NDArray[np.intp]) -> FloatArray:
    f, q, count = design.features, y.shape[1], len(moves)
    held_y = [y[moves[:, fold.held].T] for fold in design.folds]  # [held, move, q]
    products = [
        (f[fold.held].T @ part.reshape(len(part), -1)).reshape(-1, count, q)
        for fold, part in zip(design.folds, held_y, strict=True)
    ]
    total = np.sum(products, axis=0)
    error: FloatArray | float = 0.0
    spread: FloatArray | float = 0.0
    for fold, part, product in zip(design.folds, held_y, products, strict=True):
        n_held = len(part)
        n_train = len(f) - n_held
        sums = part.sum(axis=0)  # [move, q]; all rows sum to 0
        mean = -sums / n_train
        feature_sum = -n_train * fold.mean  # of the held-out rows
        train = total - product - n_train * fold.mean[:, None, None] * mean
        held = product - fold.mean[:, None, None] * sums - (feature_sum - n_held * fold.mean)[:, None, None] * mean
        turned = fold.rotation.T @ np.concatenate([train, held], axis=1).reshape(len(fold.mean), -1)
        both = turned.reshape(-1, 2, count, q)
        qs, xs = both[:, 0].transpose(1, 0, 2), both[:, 1].transpose(1, 0, 2)  # [move, r, q]
        weight = filters(fold.eigenvalues, n_train)  # [filter, r]
        cross = (xs * qs).sum(axis=2) @ weight.T
        gram = (qs @ qs.transpose(0, 2, 1)) * fold.held_gram
        square = ((gram @ weight.T) * weight.T).sum(axis=1)
        own = (part**2).sum(axis=(0, 2)) - 2 * (mean * sums).sum(axis=1) + n_held * (mean**2).sum(axis=1)
        error = error + own[:, None] - 2 * cross + square
        spread = spread + own[:, None]
    return np.asarray(1 - error / np.maximum(spread, np.finfo(np.float64).tiny))

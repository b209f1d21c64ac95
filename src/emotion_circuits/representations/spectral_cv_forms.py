"""Held-out error of every filter as a quadratic form in the target's rows: the quick way for many shuffles of few rows.

The residuals of a fold are A Y, with A fixed by the features and the filter. So the error summed over folds is
tr(M Y Yᵀ) with M = Σ AᵀA ``[n, n]``, and for a shuffle of the rows it is Σ_ij M_ij K_{π(i)π(j)} with K = Y Yᵀ: one
gather of K, and one matrix product for all shuffles and filters. It costs n² a shuffle whatever the rank; for more than
:data:`MOST_ROWS` rows the products of :mod:`spectral_cv` are cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.representations.labelled import FloatArray

if TYPE_CHECKING:
    from emotion_circuits.representations.spectral_cv import FoldedDesign

MOST_ROWS = 800
CHUNK = 8_000_000
"""Numbers that one block of rearranged Gram matrices may hold (64 MB)."""


def shuffled_r2(
    design: FoldedDesign,
    target: FloatArray,
    filters: Callable[[FloatArray, int], FloatArray],
    moves: NDArray[np.intp],
) -> FloatArray:
    """``[move, filter]`` held-out R²; arguments as in :func:`spectral_cv.held_out_r2`."""
    forms = _forms(design, filters)
    gram = target @ target.T
    n = len(gram)
    values = np.empty((len(moves), len(forms)))
    step = max(1, CHUNK // (n * n))
    for start in range(0, len(moves), step):
        part = moves[start : start + step]
        block = np.stack([gram[move][:, move].ravel() for move in part])
        values[start : start + step] = block @ forms.reshape(len(forms), -1).T
    return np.asarray(1 - values[:, :-1] / np.maximum(values[:, -1:], np.finfo(np.float64).tiny))


def _forms(design: FoldedDesign, filters: Callable[[FloatArray, int], FloatArray]) -> FloatArray:
    """``[filter + 1, n, n]``: M of every filter, and last that of predicting the training mean (the spread)."""
    f = design.features
    n = len(f)
    total: FloatArray | None = None
    for fold in design.folds:
        train = np.setdiff1d(np.arange(n), fold.held)
        held, fitted = (f[fold.held] - fold.mean) @ fold.rotation, (f[train] - fold.mean) @ fold.rotation
        weights = filters(fold.eigenvalues, len(train))
        weights = np.concatenate([weights, np.zeros((1, weights.shape[1]))])
        if total is None:
            total = np.zeros((len(weights), n, n))
        residual = np.zeros((len(fold.held), n))
        residual[np.arange(len(fold.held)), fold.held] = 1.0
        for form, weight in zip(total, weights, strict=True):
            residual[:, train] = -(held * weight) @ fitted.T - 1 / len(train)
            form += residual.T @ residual
    if total is None:
        raise ValueError("a design has at least one fold")
    return total

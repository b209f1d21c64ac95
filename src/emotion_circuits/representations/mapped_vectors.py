"""Emotion vectors of one model as vectors of another: through a fitted map, and through maps of shuffled pairs.

A direction d of the source becomes d P (FᵀF + λnI)⁻¹ Fᵀ Z in the target's standard coordinates (P the retained
components, F = Z_A P the source's map set in them, Z the target's map set): a weighted sum of the target's map rows. A
map of shuffled pairs puts the same weights on other rows, so a family of them costs one product each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.representations.alignment import Reduction
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.spectral_cv import PENALTIES, held_out_r2, ridge_filters
from emotion_circuits.representations.transfer_nulls import dual_weights


@dataclass(frozen=True)
class MappedVectors:
    """``vectors`` ``[map, emotion, d_target]`` in the target's own coordinates (differences, not points); for every map
    the penalty per row that cross-validation chose, and its held-out ``r2``."""

    vectors: FloatArray
    penalties: FloatArray
    r2: FloatArray


def mapped_vectors(reduction: Reduction, directions: FloatArray, moves: NDArray[np.intp]) -> MappedVectors:
    """Push directions through the ridge map of every pairing of rows; the penalty is chosen anew for each.

    Args:
        directions: ``[emotion, d_source]`` differences in the source's own coordinates.
        moves: ``[map, n]``; source row i is paired with target row ``moves[m, i]`` (``arange(n)``: the true pairs).
    """
    by_penalty = held_out_r2(reduction.design, reduction.criterion, ridge_filters(), moves)
    best = np.argmax(by_penalty, axis=1)
    weights = dual_weights(reduction.features, np.asarray(directions) / reduction.source.sd @ reduction.basis)
    vectors = np.empty((len(moves), len(directions), reduction.z_target.shape[1]))
    placed = np.empty(weights.shape[1:])
    for m, move in enumerate(moves):
        placed[:, move] = weights[best[m]]
        vectors[m] = placed @ reduction.z_target * reduction.target.sd
    return MappedVectors(vectors, PENALTIES[best], by_penalty.max(axis=1))


def cosines(one: FloatArray, other: FloatArray, sd: FloatArray) -> FloatArray:
    """``[emotion]`` cosines of two sets of vectors ``[emotion, d]`` with every dimension divided by ``sd``."""
    a, b = one / sd, other / sd
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray((a * b).sum(axis=-1) / np.maximum(size, np.finfo(np.float64).tiny))

"""What transfer would be if nothing were shared: three null distributions, each aimed at one way to be fooled.

- :func:`relabelling_p`: A's directions name the wrong emotions. Exact over all E! assignments up to 10,000 of them.
- :func:`shuffled_map_null`: the map pairs unrelated texts; the penalty is chosen anew for every shuffle.
- :func:`covariance_null`: directions that follow A's covariance but no emotion, pushed through the true map.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.spectral_cv import PENALTIES, held_out_r2, ridge_filters
from emotion_circuits.representations.transfer import TransferProblem, own_aurocs, push_matrix
from emotion_circuits.stats.permutation import permutation_p

ALL_RELABELLINGS = 10_000


@dataclass(frozen=True)
class MapNull:
    """Transfers through maps of shuffled pairs: ``own`` ``[m, emotion]``, best cross-validated ``r2`` ``[m]``, and the
    ``penalties`` ``[m]`` chosen."""

    own: FloatArray
    r2: FloatArray
    penalties: FloatArray


def relabellings(emotions: int, limit: int = ALL_RELABELLINGS, seed: int = 0) -> NDArray[np.intp]:
    """``[m, emotion]`` assignments of directions to emotions: all E!, identity first, or ``limit`` random ones."""
    if math.factorial(emotions) <= limit:
        return np.array(list(itertools.permutations(range(emotions))), dtype=np.intp)
    rng = np.random.default_rng(seed)
    return rng.permuted(np.broadcast_to(np.arange(emotions), (limit, emotions)), axis=1)


def relabelling_null(matrix: FloatArray, assignments: NDArray[np.intp]) -> FloatArray:
    """Σ_i T[i, σ(i)] / E for every assignment σ: ``[..., E, E]`` → ``[m, ...]``."""
    rows = np.arange(matrix.shape[-1])
    return np.moveaxis(matrix[..., rows, assignments].mean(axis=-1), -1, 0)


def relabelling_p(matrix: FloatArray, *, seed: int = 0) -> float:
    """p of trace(T)/E. With all E! assignments the share that reach it (the identity is among them), else (b+1)/(m+1).

    The smallest p is 1/E!: with three emotions 1/6, so no claim about which emotion is shared can be made.
    """
    null = relabelling_null(matrix, relabellings(len(matrix), seed=seed))
    observed = np.trace(matrix) / len(matrix)
    if math.factorial(len(matrix)) <= ALL_RELABELLINGS:
        return float(np.mean(null >= observed - 1e-10))
    return float(permutation_p(observed, null))


def shuffled_rows(groups: NDArray[np.intp] | None, n: int, shuffles: int, seed: int) -> NDArray[np.intp]:
    """``[shuffles, n]`` target rows that each source row is paired with.

    Single rows change places at random. Rows of one group (the words of one text) resemble each other, so whole groups
    are put in random order and the sequence is turned by a random amount: neighbours stay neighbours.
    """
    rng = np.random.default_rng(seed)
    if groups is None or len(np.unique(groups)) == n:
        return rng.permuted(np.broadcast_to(np.arange(n), (shuffles, n)), axis=1)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    source = np.concatenate(members)
    moves = np.empty((shuffles, n), dtype=np.intp)
    for row in moves:
        shuffled = np.concatenate([members[g] for g in rng.permutation(len(members))])
        row[source] = np.roll(shuffled, rng.integers(n))
    return moves


def shuffled_map_null(problem: TransferProblem, moves: NDArray[np.intp]) -> MapNull:
    """Refit the map for every shuffle of its pairs, λ by cross-validation each time, and transfer through it.

    Equal to fitting a ridge per shuffle, fold and penalty, but the decompositions of the source are shared: a shuffle
    moves the rows of the target, and scores are one product of rearranged dual weights with the kernel.
    """
    directions = problem.directions
    by_penalty = held_out_r2(problem.reduction.design, problem.reduction.criterion, ridge_filters(), moves)
    best = np.argmax(by_penalty, axis=1)
    dual = dual_weights(problem.features, directions)
    emotions, n = dual.shape[1:]
    own = np.empty((len(moves), emotions))
    step = max(1, 4_000_000 // (emotions * n))
    for start in range(0, len(moves), step):
        part = moves[start : start + step]
        placed = np.empty((len(part), emotions, n))
        np.put_along_axis(
            placed, np.broadcast_to(part[:, None], placed.shape), dual[best[start : start + step]], axis=2
        )
        scores = (placed.reshape(-1, n) @ problem.kernel).reshape(len(part), emotions, -1)
        own[start : start + step] = own_aurocs(scores, problem.test.codes, emotions)
    return MapNull(own, by_penalty.max(axis=1), PENALTIES[best])


def dual_weights(features: FloatArray, directions: FloatArray) -> FloatArray:
    """``[penalty, emotion, n]`` weights of the map set's target rows that sum to a direction's image under ridge.

    d (FᵀF + λnI)⁻¹ Fᵀ for directions ``[emotion, rank]`` and every penalty of ``PENALTIES``. Pairing source row i with
    target row m(i) moves weight i to row m(i) and changes nothing else.
    """
    values, vectors = np.linalg.eigh(features.T @ features)
    shrunk = directions @ vectors / (values + PENALTIES[:, None, None] * len(features))  # [penalty, emotion, rank]
    return np.asarray(shrunk @ (features @ vectors).T)


def covariance_null(problem: TransferProblem, draws: int, seed: int) -> FloatArray:
    """``[draws, emotion]`` own AUROCs of random directions with the covariance of A's neutral text, centred over E.

    A Gaussian combination of the map set's rows has its covariance; in the retained components that is normal with
    covariance FᵀF.
    """
    rng = np.random.default_rng(seed)
    f = problem.features
    values, vectors = np.linalg.eigh(f.T @ f)
    normal = rng.normal(size=(draws, problem.emotions, f.shape[1]))
    directions = normal * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    directions -= directions.mean(axis=1, keepdims=True)
    scores = directions @ push_matrix(f, problem.kernel, problem.penalty)
    return own_aurocs(scores, problem.test.codes, problem.emotions)

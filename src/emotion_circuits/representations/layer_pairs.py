"""Which layer of one model corresponds to which of the other, without fooling oneself by taking the best of many.

Either the pair is chosen on dev texts and tested on test texts, or all pairs are tested together: the same relabelling
is applied to every pair, and each is compared with the largest statistic of its relabelling (max-T). The best of 36
pairs taken at face value is "significant" for about every second pair of unrelated models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment import reduce_pairs
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_arrays import EmotionArrays, check_texts
from emotion_circuits.representations.transfer import transfer_matrix, transfer_problem, transfer_scores
from emotion_circuits.representations.transfer_nulls import relabelling_null, relabellings
from emotion_circuits.stats.checks import finite
from emotion_circuits.stats.permutation import max_statistic_p


@dataclass(frozen=True)
class LayerPairs:
    """Transfer of every layer pair: ``transfer`` ``[a, b]`` = trace(T)/E, family-wise ``p`` ``[a, b]`` by max-T,
    ``p_naive`` uncorrected, ``threshold`` the .95 quantile of the largest statistic, ``best`` = (a, b)."""

    transfer: FloatArray
    p: FloatArray
    p_naive: FloatArray
    p_best: float
    threshold: float
    best: tuple[int, int]
    relabellings: int


def compare_layer_pairs(matrices: ArrayLike, *, seed: int = 0) -> LayerPairs:
    """Max-T over a grid of transfer matrices ``[a, b, emotion, emotion]``.

    The identity is one of the relabellings where all E! are enumerated, so the smallest p is 1/E! there.
    """
    grid = finite(matrices, "the transfer matrices")
    if grid.ndim != 4 or grid.shape[2] != grid.shape[3]:
        raise UsageError(f"transfer matrices have shape {grid.shape}", "give [layer_a, layer_b, emotion, emotion]")
    moves = relabellings(grid.shape[-1], seed=seed)
    exact = bool(np.array_equal(moves[0], np.arange(grid.shape[-1])))
    null = relabelling_null(grid, moves[1:] if exact else moves)
    observed = np.trace(grid, axis1=2, axis2=3) / grid.shape[-1]
    tested = max_statistic_p(observed, null)
    naive = (np.count_nonzero(null >= observed - 1e-10, axis=0) + 1) / (len(null) + 1)
    a, b = np.unravel_index(tested.best, observed.shape)
    largest = np.append(null.reshape(len(null), -1).max(axis=1), observed.max())
    threshold = float(np.quantile(largest, 0.95))
    return LayerPairs(observed, tested.p, naive, tested.overall, threshold, (int(a), int(b)), len(null) + 1)


def transfer_grid(
    source: Sequence[EmotionArrays],
    target: Sequence[EmotionArrays],
    map_source: Sequence[ArrayLike],
    map_target: Sequence[ArrayLike],
    *,
    map_groups: Sequence[Any] | NDArray[Any] | None = None,
    seed: int = 0,
) -> FloatArray:
    """``[a, b, i, j]`` transfer matrices of every pair of the layers handed in; a map is fitted for every pair.

    For a choice on dev, hand in arrays whose ``splits`` name the dev texts ``test``.
    """
    if len(source) != len(map_source) or len(target) != len(map_target):
        raise UsageError("every layer needs its emotional texts and its map set", "give lists of equal length")
    rows = []
    for arrays_a, map_a in zip(source, map_source, strict=True):
        row = []
        for arrays_b, map_b in zip(target, map_target, strict=True):
            texts = check_texts(arrays_a, arrays_b)
            codes = None if map_groups is None else np.unique(np.asarray(map_groups), return_inverse=True)[1]
            reduction = reduce_pairs(map_a, map_b, codes, seed=seed)
            problem = transfer_problem(reduction, texts.source_fit, texts.target_test, len(texts.emotions))
            row.append(transfer_matrix(transfer_scores(problem), texts.target_test.codes, len(texts.emotions)))
        rows.append(row)
    return np.array(rows)


def choose_layer_pair(matrices: ArrayLike, depths: Mapping[str, Sequence[float]]) -> tuple[int, int]:
    """The pair with the best dev transfer; among those within .005 of it, the one nearest in relative depth.

    Args:
        matrices: ``[a, b, emotion, emotion]`` from dev texts. depths: ``source`` and ``target`` → relative depth in
            [0, 1] of each layer handed in (leave the last two layers of a model out beforehand).
    """
    grid = finite(matrices, "the transfer matrices")
    observed = np.trace(grid, axis1=2, axis2=3) / grid.shape[-1]
    gap = np.abs(np.subtract.outer(np.asarray(depths["source"]), np.asarray(depths["target"])))
    if gap.shape != observed.shape:
        raise UsageError(f"{gap.shape} depths for a grid of {observed.shape}", "give one relative depth per layer")
    near = np.where(observed >= observed.max() - 0.005, gap, np.inf)
    a, b = np.unravel_index(int(np.argmin(near)), near.shape)
    return int(a), int(b)

"""Do two models hold the same emotions up to a linear change of coordinates? One test from arrays to a verdict.

1. A map source → target is fitted on paired **neutral** activations only (:mod:`alignment`).
2. The source's emotion directions (class means centred over the emotions, fit split) are pushed through it and score
   the target's test texts: T[i, j] (:mod:`transfer`).
3. trace(T)/E is held against relabelled emotions, maps of shuffled pairs (refitted, penalty chosen anew) and random
   directions with the source's covariance (:mod:`transfer_nulls`), and against the floors: the same transfer into an
   untrained target, into the target's embedding layer and from the source's embedding layer.
4. τ places it between the highest floor and a native probe, with a cluster bootstrap that refits everything
   (:mod:`sharing_bootstrap`); the rule of :mod:`sharing_verdict` turns this into a verdict, for the set and for every
   emotion.

No model is needed: planted worlds enter the same function as captures.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment import check_pairs, reduce_pairs
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.native_probe import native_probe
from emotion_circuits.representations.sharing_arrays import (
    CheckedTexts,
    EmotionArrays,
    FloorArrays,
    Floors,
    check_texts,
)
from emotion_circuits.representations.sharing_bootstrap import resampled
from emotion_circuits.representations.sharing_result import EmotionSharing, SharingResult
from emotion_circuits.representations.sharing_summary import FLOOR_NAMES, Arms, summarise
from emotion_circuits.representations.transfer import TransferProblem, own_aurocs, transfer_problem
from emotion_circuits.representations.transfer_nulls import covariance_null, shuffled_map_null, shuffled_rows
from emotion_circuits.stats.checks import at_least, finite

MINIMUM_PAIRS = 50
"""With fewer paired neutral rows nothing is fitted: the answer is "not identified"."""


def sharing_test(
    source: EmotionArrays,
    target: EmotionArrays,
    map_source: ArrayLike,
    map_target: ArrayLike,
    floors: Floors | None = None,
    *,
    map_groups: Sequence[Hashable] | NDArray[Any] | None = None,
    permutations: int = 999,
    resamples: int = 1000,
    seed: int = 0,
) -> SharingResult:
    """Test whether the target holds the source's emotions at one pair of layers.

    Args:
        source, target: emotional activations of the two models (widths may differ; texts, clusters and splits are
            matched by cluster name, see :class:`EmotionArrays`).
        map_source, map_target: ``[n, d_a]`` and ``[n, d_b]`` **neutral** activations, row i of the same sentence or
            word in both.
        floors: transfers that the true one must exceed; those not handed in are not tested and reported as ``None``.
        map_groups: ``[n]`` text of each row where rows are words; folds, shuffles and resamples then move whole texts.
        permutations: shuffled maps and random directions, each. resamples: of the bootstrap.

    Returns:
        :class:`SharingResult`; ``to_dict()`` gives plain JSON.

    Raises:
        UsageError: NaN or infinity (naming the array), shapes that do not match, an emotion missing in one model, fit
            and test texts that share a cluster.
    """
    texts = check_texts(source, target)
    a, b = finite(map_source, "the source's map set"), finite(map_target, "the target's map set")
    for name, rows, part in (("source", a, texts.source_fit), ("target", b, texts.target_fit)):
        if rows.ndim != 2 or rows.shape[1] != part.x.shape[1]:
            raise UsageError(
                f"{name}: the map set {rows.shape} and the emotional texts {part.x.shape} differ in width",
                "give both from the same layer",
            )
    independent = len(a) if map_groups is None else len(np.unique(np.asarray(map_groups)))
    if independent < MINIMUM_PAIRS and len(a) == len(b):
        return _too_few(texts, independent, (a.shape[1], b.shape[1]))
    at_least(permutations, 99, "permutations", "a null distribution")
    a, b, groups = check_pairs(a, b, map_groups)
    problem = _problem(a, b, groups, texts, seed=seed)
    moves = shuffled_rows(groups, len(a), permutations, seed + 1)
    shuffled = shuffled_map_null(problem, moves)
    random = covariance_null(problem, permutations, seed + 2)
    rivals = _floor_problems(floors, source, target, a, b, groups, texts, seed)
    native = native_probe(texts.target_fit, texts.target_test, len(texts.emotions), problem.reduction.target)
    draws = resampled(texts, problem, native, rivals, groups, resamples=resamples, seed=seed + 3)
    native_own = own_aurocs(native.scores(), texts.target_test.codes, len(texts.emotions))
    arms = Arms(texts, problem, shuffled, random, rivals, native_own, draws)
    return summarise(arms, permutations, resamples, seed)


def _problem(
    a: FloatArray, b: FloatArray, groups: NDArray[np.intp] | None, texts: CheckedTexts, *, seed: int
) -> TransferProblem:
    reduction = reduce_pairs(a, b, groups, seed=seed)
    return transfer_problem(reduction, texts.source_fit, texts.target_test, len(texts.emotions))


def _floor_problems(
    floors: Floors | None,
    source: EmotionArrays,
    target: EmotionArrays,
    a: FloatArray,
    b: FloatArray,
    groups: NDArray[np.intp] | None,
    texts: CheckedTexts,
    seed: int,
) -> dict[str, TransferProblem]:
    """The same transfer problem with one side exchanged."""
    problems = {}
    for name, side in (("untrained", target), ("embedding_target", target), ("embedding_source", source)):
        arrays: FloorArrays | None = getattr(floors, name, None)
        if arrays is None:
            continue
        x, map_x = finite(arrays.x, f"the {name} floor's texts"), finite(arrays.map_x, f"the {name} floor's map set")
        if x.ndim != 2 or map_x.ndim != 2 or len(x) != len(np.asarray(side.labels)) or len(map_x) != len(a):
            raise UsageError(
                f"the {name} floor has shapes {x.shape} and {map_x.shape}",
                f"give {len(np.asarray(side.labels))} texts and {len(a)} map rows, those of the main arrays",
            )
        other = EmotionArrays(x, side.labels, side.clusters, side.splits)
        if side is target:
            problems[name] = _problem(a, map_x, groups, check_texts(source, other), seed=seed)
        else:
            problems[name] = _problem(map_x, b, groups, check_texts(other, target), seed=seed)
    return problems


def _too_few(texts: CheckedTexts, pairs: int, d: tuple[int, int]) -> SharingResult:
    """The answer where no map can be fitted."""
    nan = float("nan")
    limits = (nan, nan)
    reason = f"{pairs} independent paired neutral rows; at least {MINIMUM_PAIRS} are needed to fit a map"
    missing: dict[str, float | None] = dict.fromkeys(("relabel", "shuffled_map", "covariance", "above_floor", "max"))
    return SharingResult(
        verdict="not identified", reason=reason, tau=nan, ci=limits, transfer=nan, transfer_ci=limits, native=nan,
        native_ci=limits,
        floor=dict.fromkeys(FLOOR_NAMES),
        differences={}, kappa=0.0, rank=0, n_map=pairs, d=d, p=missing,
        per_emotion=tuple(
            EmotionSharing(e, "not identified", reason, nan, limits, nan, nan, nan, nan, 0.0, "", missing)
            for e in texts.emotions
        ),
        emotions=texts.emotions, matrix=None, map={}, permutations=0, resamples=0,
    )  # fmt: skip

"""The shuffled-map null of the sharing test, against refitting ridge with scikit-learn for every shuffle.

Both choose the penalty anew for every shuffle by 5-fold cross-validation on the same folds, fit the map, push the
emotion directions through it and take own-vs-rest AUROCs. Also: a whole sharing test with all floors, and a grid of
layer pairs. Run: ``python benchmarks/transfer.py``.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from sklearn.linear_model import Ridge

from emotion_circuits.representations.alignment import FOLDS, reduce_pairs
from emotion_circuits.representations.calibration.worlds import PlantedPair, linear_world
from emotion_circuits.representations.sharing import sharing_test
from emotion_circuits.representations.sharing_arrays import CheckedTexts, FloorArrays, Floors, check_texts
from emotion_circuits.representations.spectral_cv import PENALTIES, fold_rows
from emotion_circuits.representations.transfer import TransferProblem, transfer_matrix, transfer_problem
from emotion_circuits.representations.transfer_nulls import shuffled_map_null, shuffled_rows


def refitted(problem: TransferProblem, texts: CheckedTexts, moves: np.ndarray) -> np.ndarray:
    """``[shuffle, emotion]`` own AUROCs, every ridge fitted from scratch."""
    reduction, n = problem.reduction, len(problem.features)
    f, z = reduction.features, reduction.z_target
    z_test = reduction.target.standardise(texts.target_test.x)
    folds = fold_rows(n, FOLDS, None, 0)
    rows = []
    for move in moves:
        errors = np.zeros(len(PENALTIES))
        for held in folds:
            train = np.setdiff1d(np.arange(n), held)
            for p, penalty in enumerate(PENALTIES):
                model = Ridge(alpha=penalty * len(train)).fit(f[train], reduction.criterion[move[train]])
                errors[p] += ((reduction.criterion[move[held]] - model.predict(f[held])) ** 2).sum()
        fitted = Ridge(alpha=PENALTIES[int(np.argmin(errors))] * n).fit(f, z[move])
        scores = problem.directions @ fitted.coef_.T @ z_test.T
        rows.append(np.diag(transfer_matrix(scores, texts.target_test.codes, problem.emotions)))
    return np.array(rows)


def whole_test(world: PlantedPair, chosen: argparse.Namespace) -> float:
    """Seconds of one sharing test with the three floors (arrays of the same sizes stand in for them)."""
    target = FloorArrays(world.target.x, world.map_target)
    floors = Floors(target, target, FloorArrays(world.source.x, world.map_source))
    start = time.perf_counter()
    sharing_test(
        world.source, world.target, world.map_source, world.map_target, floors,
        permutations=chosen.shuffles, resamples=chosen.resamples,
    )  # fmt: skip
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300, help="paired neutral rows")
    parser.add_argument("--shuffles", type=int, default=999)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--refits", type=int, default=5, help="shuffles that scikit-learn refits (scaled up)")
    parser.add_argument("--goal", type=float, default=50.0, help="smallest ratio that counts as passed")
    chosen = parser.parse_args()
    world = linear_world("shared", n=chosen.rows, emotions=8, scenarios=40, widths=(576, 640))
    texts = check_texts(world.source, world.target)

    start = time.perf_counter()
    reduction = reduce_pairs(world.map_source, world.map_target)
    problem = transfer_problem(reduction, texts.source_fit, texts.target_test, 8)
    fit_seconds = time.perf_counter() - start
    moves = shuffled_rows(None, chosen.rows, chosen.shuffles, 0)
    shuffled_map_null(problem, moves[:2])
    start = time.perf_counter()
    ours = shuffled_map_null(problem, moves)
    our_seconds = time.perf_counter() - start
    start = time.perf_counter()
    theirs = refitted(problem, texts, moves[: chosen.refits])
    their_seconds = (time.perf_counter() - start) / chosen.refits * chosen.shuffles

    gap = float(np.abs(ours.own[: chosen.refits] - theirs).max())
    ratio = their_seconds / our_seconds
    print(f"{chosen.rows} rows, 576 -> 640 dimensions, rank {problem.reduction.rank}, 8 emotions")
    print(f"one layer pair: map and transfer      {fit_seconds:8.3f} s   (a 6 x 6 grid: {36 * fit_seconds:.1f} s)")
    print(f"{chosen.shuffles} shuffled maps, this package     {our_seconds:8.3f} s")
    print(f"the same, scikit-learn, extrapolated  {their_seconds:8.1f} s   from {chosen.refits} shuffles")
    print(f"ratio                                 {ratio:8.1f}   (goal {chosen.goal:g})")
    print(f"largest difference of an AUROC        {gap:8.1e}   (goal 1e-06)")
    print(f"whole sharing test with three floors  {whole_test(world, chosen):8.1f} s")
    return 0 if ratio >= chosen.goal and gap <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())

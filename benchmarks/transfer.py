"""The shuffled-map null of the sharing test, against refitting ridge with scikit-learn for every shuffle.

Both choose the penalty anew for every shuffle by 5-fold cross-validation on the same folds, fit the map, push the
emotion directions through it and take own-vs-rest AUROCs. Ours is timed with the decompositions that all shuffles
share. Also: a whole sharing test with all floors. Run: ``python benchmarks/transfer.py``.
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
from ratios import finish, interleaved, parser, progress, ratio, summary

RATIO_GOAL = 50.0


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
    options = parser(__doc__, repeats=3)
    options.add_argument("--rows", type=int, default=300, help="paired neutral rows")
    options.add_argument("--shuffles", type=int, default=999)
    options.add_argument("--resamples", type=int, default=1000)
    options.add_argument("--refits", type=int, default=5, help="shuffles that scikit-learn refits (scaled up)")
    chosen = options.parse_args()
    world = linear_world("shared", n=chosen.rows, emotions=8, scenarios=40, widths=(576, 640))
    texts = check_texts(world.source, world.target)
    start = time.perf_counter()
    reduction = reduce_pairs(world.map_source, world.map_target)
    problem = transfer_problem(reduction, texts.source_fit, texts.target_test, 8)
    progress(f"one layer pair, map and transfer: {time.perf_counter() - start:.2f} s; rank {reduction.rank}")

    def prepared() -> TransferProblem:
        reduced = reduce_pairs(world.map_source, world.map_target)
        return transfer_problem(reduced, texts.source_fit, texts.target_test, 8)

    moves = shuffled_rows(None, chosen.rows, chosen.shuffles, 0)
    few = moves[: chosen.refits]
    seconds = interleaved(
        {
            "this package": lambda: shuffled_map_null(prepared(), moves),
            "scikit-learn": lambda: refitted(problem, texts, few),
        },
        chosen.repeats,
    )
    gap = float(np.abs(shuffled_map_null(problem, few).own - refitted(problem, texts, few)).max())
    progress(f"whole sharing test with three floors: {whole_test(world, chosen):.1f} s")
    scaled = [s / chosen.refits * chosen.shuffles for s in seconds["scikit-learn"]]
    return finish(
        [
            ratio("transfer permutations vs refitting", scaled, seconds["this package"], RATIO_GOAL),
            summary("largest difference of an AUROC", [gap], 1e-6, "at most"),
        ],
        chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())

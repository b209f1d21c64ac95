"""Cluster bootstrap of the mean over many cells, against a loop over ``scipy.stats.bootstrap``.

Both make BCa intervals from the same number of resamples of the same clusters. Scipy has no clusters, so it is given
the cluster means (all clusters have one size, so the mean of means is the mean). Ours draws one set of resamples for
all cells, which share their clusters; scipy draws one a cell. Run: ``python benchmarks/stats.py``.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from scipy import stats

from emotion_circuits.stats import bootstrap_interval, sign_flip_test
from ratios import finish, interleaved, parser, progress, ratio, summary

RATIO_GOAL = 15.0
GAP_GOAL = 1.5
"""How much more our limits may differ from scipy's than two runs of scipy differ from each other."""


def main() -> int:
    options = parser(__doc__, repeats=3)
    options.add_argument("--cells", type=int, default=1000)
    options.add_argument("--clusters", type=int, default=50)
    options.add_argument("--per-cluster", type=int, default=4)
    options.add_argument("--resamples", type=int, default=10_000)
    options.add_argument("--loop", type=int, default=100, help="cells of the scipy loop (its time is scaled up)")
    chosen = options.parse_args()
    loop = min(chosen.loop, chosen.cells)
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(chosen.clusters), chosen.per_cluster)
    shared = rng.exponential(size=(chosen.cells, chosen.clusters))
    values = shared[:, codes] + rng.normal(size=(chosen.cells, len(codes)))
    means = values.reshape(chosen.cells, chosen.clusters, chosen.per_cluster).mean(axis=2)

    def ours() -> np.ndarray:
        found = bootstrap_interval(values, codes, method="bca", resamples=chosen.resamples)
        return np.stack([found.low, found.high], axis=1)

    def scipys() -> np.ndarray:
        found = [
            stats.bootstrap((row,), np.mean, n_resamples=chosen.resamples, method="BCa", rng=rng).confidence_interval
            for row in means[:loop]
        ]
        return np.array([(interval.low, interval.high) for interval in found])

    bootstrap_interval(values[:2], codes, method="bca", resamples=chosen.resamples)  # imports stay outside
    seconds = interleaved({"ours": ours, "scipy": scipys}, chosen.repeats)
    first, again = scipys(), scipys()
    width = (first[:, 1] - first[:, 0])[:, None]
    gap, noise = (float((np.abs(limits - first) / width).mean()) for limits in (ours()[:loop], again))
    progress(f"limits differ by {gap:.4f} of the width on average, two runs of scipy by {noise:.4f}")
    start = time.perf_counter()
    sign_flip_test(values, codes, permutations=chosen.resamples)
    progress(f"sign flips with max-T of the same cells: {time.perf_counter() - start:.2f} s")
    scaled = [s * chosen.cells / loop for s in seconds["scipy"]]
    return finish(
        [
            ratio("BCa of the mean vs scipy loop", scaled, seconds["ours"], RATIO_GOAL),
            summary("its limits' gap / scipy's own noise", [gap / noise], GAP_GOAL, "at most"),
        ],
        chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())

"""Cluster bootstrap of the mean over many cells, against a loop over ``scipy.stats.bootstrap``.

Both make BCa intervals from the same number of resamples of the same clusters. Scipy has no clusters, so it is given
the cluster means (all clusters have one size, so the mean of means is the mean). Run: ``python benchmarks/stats.py``.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from scipy import stats

from emotion_circuits.stats import bootstrap_interval, sign_flip_test


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--per-cluster", type=int, default=4)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--goal", type=float, default=10.0, help="smallest ratio that counts as passed")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(chosen.clusters), chosen.per_cluster)
    shared = rng.exponential(size=(chosen.cells, chosen.clusters))
    values = shared[:, codes] + rng.normal(size=(chosen.cells, len(codes)))
    means = values.reshape(chosen.cells, chosen.clusters, chosen.per_cluster).mean(axis=2)
    settings = {"method": "bca", "resamples": chosen.resamples}

    bootstrap_interval(values[:2], codes, **settings)  # imports and first-call costs of both sides stay outside
    stats.bootstrap((means[0],), np.mean, n_resamples=chosen.resamples, method="BCa", rng=rng)
    our_times = []
    for _ in range(5):
        start = time.perf_counter()
        ours = bootstrap_interval(values, codes, **settings)
        our_times.append(time.perf_counter() - start)
    our_seconds = float(np.median(our_times))
    start = time.perf_counter()
    theirs = [
        stats.bootstrap((row,), np.mean, n_resamples=chosen.resamples, method="BCa", rng=rng).confidence_interval
        for row in means
    ]
    their_seconds = time.perf_counter() - start
    start = time.perf_counter()
    sign_flip_test(values, codes, permutations=chosen.resamples)
    flip_seconds = time.perf_counter() - start

    limits = np.array([(interval.low, interval.high) for interval in theirs])
    width = (limits[:, 1] - limits[:, 0])[:, None]
    gap = np.abs(np.stack([ours.low, ours.high], axis=1) - limits) / width
    # What two runs of one method differ by: scipy again on some cells, with other draws.
    again = np.array(
        [
            (i.low, i.high)
            for i in (
                stats.bootstrap(
                    (row,), np.mean, n_resamples=chosen.resamples, method="BCa", rng=rng
                ).confidence_interval
                for row in means[:100]
            )
        ]
    )
    noise = np.abs(again - limits[:100]) / width[:100]
    ratio = their_seconds / our_seconds
    agree = gap.mean() <= 1.5 * noise.mean()
    print(f"{chosen.cells} cells, {chosen.clusters} clusters x {chosen.per_cluster}, {chosen.resamples} resamples, BCa")
    print(f"this package       {our_seconds:8.3f} s   (median of {len(our_times)})")
    print(f"scipy, every cell  {their_seconds:8.3f} s")
    print(f"ratio              {ratio:8.1f}   (goal {chosen.goal:g})")
    print(f"limits differ by   {gap.mean():8.4f} of the width on average, {gap.max():.4f} at most")
    print(f"scipy with itself  {noise.mean():8.4f} of the width on average, {noise.max():.4f} at most")
    print(f"sign flips, max-T  {flip_seconds:8.3f} s for the same cells")
    print("same intervals to Monte-Carlo error" if agree else "intervals differ by more than Monte-Carlo error")
    return 0 if ratio >= chosen.goal and agree else 1


if __name__ == "__main__":
    sys.exit(main())

"""Sign-flip and two-group permutation tests over many cells, with one arrangement shared by all of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.stats.bootstrap import chunks, cluster_totals
from emotion_circuits.stats.checks import at_least, finite, units_and_clusters
from emotion_circuits.stats.interval import FloatArray
from emotion_circuits.stats.permutation import TIE, Alternative


@dataclass(frozen=True)
class PermutationTest:
    """``p`` per cell, ``p_max`` per cell corrected over all cells by max-T, and the number of arrangements.

    ``statistic`` is the t of each cell. ``exact`` says that every arrangement was visited; the smallest possible p is
    1 / (permutations + 1).
    """

    statistic: FloatArray
    p: FloatArray
    p_max: FloatArray
    permutations: int
    exact: bool


def sign_flip_test(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    permutations: int = 9999,
    alternative: Alternative = "two-sided",
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> PermutationTest:
    """Paired permutation test: under the null each cluster's difference could as well have had the other sign.

    The statistic is t of the cluster totals, T / sqrt(G/(G-1) · (Σ S_g² - T²/G)) with T = Σ S_g; flips change T but not
    Σ S_g², so all cells and all arrangements are one matrix product. All 2^G arrangements are visited when they are no
    more than ``permutations``. p = (b + 1) / (m + 1); ``two-sided`` compares |t|.

    Args:
        differences: ``[..., n]`` paired differences (arm minus baseline), one per unit.
        clusters: ``[n]``; flips are applied to whole clusters.

    Assumes that differences are symmetric about 0 under the null; not for means of skewed one-sample data. A cell whose
    differences are all 0 has p = 1.
    """
    array = finite(differences, "differences")
    at_least(array.shape[-1] if array.ndim else 0, 2, "units", "a sign-flip test")
    codes, count = units_and_clusters(array.shape[-1], clusters, texts)
    at_least(count, 2, "clusters", "a sign-flip test")
    totals = cluster_totals(array.reshape(-1, array.shape[-1]), codes, count)
    return _reshaped(
        flip_totals(totals, permutations=permutations, alternative=alternative, seed=seed), array.shape[:-1]
    )


def flip_totals(
    totals: FloatArray,
    present: NDArray[np.bool_] | None = None,
    *,
    permutations: int,
    alternative: Alternative = "two-sided",
    seed: int = 0,
) -> PermutationTest:
    """:func:`sign_flip_test` on ``[cell, cluster]`` totals; a cell may lack clusters (``present`` False, total 0)."""
    cells, count = totals.shape
    at_least(permutations, 99, "permutations", "a permutation test")
    counts = np.full(cells, count) if present is None else present.sum(axis=1)
    squares = (totals**2).sum(axis=1)
    exact = count <= 40 and 2**count - 1 <= permutations
    arrangements = 2**count - 1 if exact else permutations

    def t_of(sums: FloatArray) -> FloatArray:
        variance = counts / np.maximum(counts - 1, 1) * (squares - sums**2 / np.maximum(counts, 1))
        # All totals equal: t is infinite in the observed arrangement only; the floor keeps the order of |T|.
        return np.asarray(sums / np.sqrt(np.maximum(variance, 1e-12 * squares + np.finfo(np.float64).tiny)))

    signs = _all_signs(count) if exact else _random_signs(count, permutations, max(cells, count), seed)
    observed = t_of(totals.sum(axis=1))
    tally = _Tally(observed, alternative)
    for block in signs:
        for rows in chunks(len(block), max(cells, 1)):
            tally.add(t_of(block[rows] @ totals.T))
    return tally.result(arrangements, exact)


def two_group_test(
    values: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    permutations: int = 9999,
    alternative: Alternative = "two-sided",
    seed: int = 0,
    texts: Sequence[str] | None = None,
) -> PermutationTest:
    """Permutation test of the difference of two independent groups' means; labels are dealt anew, alike for all cells.

    Clusters that lie wholly in one group are averaged first and become the units that labels are dealt to. The
    statistic is Welch's t. p = (b + 1) / (m + 1); ``p_max`` corrects over cells (max-T).

    Args:
        values: ``[..., n]``; ``labels``: ``[n]`` bool, True for the group that should be larger; ``clusters``: ``[n]``.

    Not for clusters that hold both labels (raises): that is a paired design, use :func:`sign_flip_test` on differences.
    """
    array, flags = finite(values, "values"), np.asarray(labels)
    if flags.dtype != np.bool_ or array.ndim == 0 or flags.shape != array.shape[-1:]:
        raise UsageError(f"labels {flags.dtype} {flags.shape} do not match values {array.shape}", "give n booleans")
    codes, count = units_and_clusters(len(flags), clusters, texts)
    cells = array.reshape(-1, len(flags))
    if count < len(flags):
        sizes = np.bincount(codes, minlength=count)
        share = np.bincount(codes, weights=flags.astype(np.float64), minlength=count) / sizes
        if np.any((share > 0) & (share < 1)):
            raise UsageError(
                "a cluster holds both labels, so the groups are not independent",
                "take differences within clusters and use the sign-flip test",
            )
        cells, flags = cluster_totals(cells, codes, count) / sizes, share == 1
    up = int(flags.sum())
    down = len(flags) - up
    at_least(min(up, down), 2, "units in one group", "a two-group test")
    at_least(permutations, 99, "permutations", "a permutation test")
    cells = cells - cells.mean(axis=1, keepdims=True)
    squared = cells**2
    total, total_squares = cells.sum(axis=1), squared.sum(axis=1)

    def t_of(chosen: FloatArray) -> FloatArray:
        sums, squares = chosen @ cells.T, chosen @ squared.T
        first, second = sums / up, (total - sums) / down
        spread = (squares - up * first**2) / (up - 1) / up
        spread = spread + (total_squares - squares - down * second**2) / (down - 1) / down
        floor = 1e-12 * total_squares + np.finfo(np.float64).tiny
        return np.asarray((first - second) / np.sqrt(np.maximum(spread, floor)))

    rng = np.random.default_rng(seed)
    tally = _Tally(t_of(flags[None].astype(np.float64))[0], alternative)
    for rows in chunks(permutations, max(len(flags), len(cells))):
        dealt = rng.permuted(np.broadcast_to(flags, (rows.stop - rows.start, len(flags))), axis=1)
        tally.add(t_of(dealt.astype(np.float64)))
    return _reshaped(tally.result(permutations, False), array.shape[:-1])


class _Tally:
    """Counts, chunk by chunk, how often an arrangement reaches each cell's statistic, alone and as the largest."""

    def __init__(self, observed: FloatArray, alternative: Alternative) -> None:
        if alternative not in ("two-sided", "greater", "less"):
            raise unknown_name("alternative", alternative, ["greater", "less", "two-sided"])
        self.alternative = alternative
        self.statistic = observed
        self.observed = self._oriented(observed)
        self.threshold = self.observed - TIE * np.abs(self.observed)
        self.own = np.zeros(len(observed), dtype=np.int64)
        self.largest = np.zeros(len(observed), dtype=np.int64)

    def _oriented(self, t: FloatArray) -> FloatArray:
        if self.alternative == "two-sided":
            return np.abs(t)
        return t if self.alternative == "greater" else -t

    def add(self, null: FloatArray) -> None:
        """Count a block ``[arrangement, cell]``."""
        oriented = self._oriented(null)
        self.own += np.count_nonzero(oriented >= self.threshold, axis=0)
        largest = np.sort(oriented.max(axis=1))
        self.largest += len(largest) - np.searchsorted(largest, self.threshold, side="left")

    def result(self, arrangements: int, exact: bool) -> PermutationTest:
        """p per cell and corrected over cells."""
        return PermutationTest(
            self.statistic,
            (self.own + 1) / (arrangements + 1),
            (self.largest + 1) / (arrangements + 1),
            arrangements,
            exact,
        )


def _all_signs(count: int) -> Iterator[FloatArray]:
    """Every arrangement of ``count`` signs except the observed one."""
    numbers = np.arange(1, 2**count, dtype=np.int64)
    bits = (numbers[:, None] >> np.arange(count)) & 1
    yield 1.0 - 2.0 * bits.astype(np.float64)


def _random_signs(count: int, permutations: int, width: int, seed: int) -> Iterator[FloatArray]:
    """Random arrangements in blocks; ``width`` numbers an arrangement are held at once."""
    rng = np.random.default_rng(seed)
    for rows in chunks(permutations, width):
        yield rng.integers(0, 2, size=(rows.stop - rows.start, count)).astype(np.float64) * 2.0 - 1.0


def _reshaped(test: PermutationTest, shape: tuple[int, ...]) -> PermutationTest:
    return PermutationTest(
        test.statistic.reshape(shape), test.p.reshape(shape), test.p_max.reshape(shape), test.permutations, test.exact
    )

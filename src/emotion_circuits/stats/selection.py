"""Choose a cell on dev, test it on test: the object that keeps the two apart.

The best of many noisy cells looks good on the data that chose it (with 84 null cells the naive test rejects most of the
time, and the estimate is biased whatever the correction). A :class:`Selection` therefore remembers the clusters and the
values it was made from and refuses to report on any of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import cluster_totals
from emotion_circuits.stats.checks import at_least, finite, units_and_clusters
from emotion_circuits.stats.cluster_t import ClusterT, cluster_t
from emotion_circuits.stats.effects import standardised_mean
from emotion_circuits.stats.interval import FloatArray, Interval


@dataclass(frozen=True)
class DeclaredEffect:
    """The effect of a cell chosen elsewhere: raw ``test`` and standardised ``g_z`` on data that did not choose it."""

    cell: Hashable
    test: ClusterT
    g_z: Interval


@dataclass(frozen=True)
class Selection:
    """A cell, the rule that chose it, and the data that it may no longer be tested on."""

    cell: Hashable
    index: int
    rule: str
    candidates: int
    clusters: frozenset[str]
    fingerprint: str

    def check(self, values: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any]) -> None:
        """Raises if any cluster, or the very values, took part in the selection."""
        shared = sorted({_name(c) for c in np.asarray(clusters).tolist()} & self.clusters)
        if shared:
            raise UsageError(
                f"cell {self.cell!r} was selected on {len(shared)} of these clusters ({', '.join(shared[:3])}): "
                "testing it there reports the luck of the selection",
                "test it on the test split, whose scenarios were not used to choose",
            )
        if self.fingerprint and fingerprint(finite(values, "values")) == self.fingerprint:
            raise UsageError(
                f"cell {self.cell!r} was selected on exactly these values, under other cluster names",
                "test it on data that was not used to choose",
            )

    def test(
        self,
        values: ArrayLike,
        clusters: Sequence[Hashable] | NDArray[Any],
        *,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> DeclaredEffect:
        """The selected cell's effect on new data: ``values`` is ``[n]`` (of this cell) or ``[cell, n]`` (all
        candidates).

        ``values`` are paired differences, ``clusters`` their scenarios. Raises when any of them chose the cell.
        """
        array = finite(values, "values")
        if array.ndim == 2:
            if len(array) != self.candidates:
                raise UsageError(f"{len(array)} cells, but {self.candidates} were searched", "give the same cells")
            array = array[self.index]
        if array.ndim != 1:
            raise UsageError(f"values have shape {array.shape}", "give [n] or [cell, n]")
        self.check(array, clusters)
        return DeclaredEffect(
            self.cell,
            cluster_t(array, clusters, confidence=confidence),
            standardised_mean(array, clusters, confidence=confidence, seed=seed),
        )


def select_best(
    values: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    cells: Sequence[Hashable] | None = None,
) -> Selection:
    """The cell with the largest mean over clusters on the dev split (sample splitting, Cox 1975).

    For unordered cells. Among neighbouring layers take :func:`select_plateau_middle`, which is less driven by noise;
    for a claim over all cells at once, without a split, use max-T instead.

    Args:
        values: ``[cell, n]`` dev differences or scores, larger is better.
        clusters: ``[n]`` scenario ids, the same ids that the test split is checked against.
        cells: names of the cells; their index otherwise.
    """
    means, _, names, used, print_of = _dev(values, clusters, cells)
    best = int(np.argmax(means.mean(axis=1)))
    return Selection(names[best], best, "largest dev mean", len(names), used, print_of[best])


def select_plateau_middle(
    values: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    cells: Sequence[Hashable] | None = None,
    exclude_last: int = 2,
) -> Selection:
    """The middle of the run of layers around the best that lie within one standard error of it.

    For cells that are ordered (layers). The standard error is that of the best layer's mean over clusters; the
    plateau is the unbroken run that holds the best one. The last ``exclude_last`` layers are never chosen: they
    encode the next token. Shapes as :func:`select_best`.
    """
    means, error, names, used, print_of = _dev(values, clusters, cells)
    allowed = len(names) - exclude_last
    at_least(allowed, 1, "layers before the excluded last ones", "a plateau")
    centre = means.mean(axis=1)[:allowed]
    first, best, last = plateau(centre, error[:allowed])
    middle = (first + last) // 2
    rule = f"middle of the plateau {names[first]}…{names[last]} within one standard error of {names[best]}"
    return Selection(names[middle], middle, rule, len(names), used, print_of[middle])


def plateau(values: FloatArray, errors: FloatArray) -> tuple[int, int, int]:
    """First, best and last index of the unbroken run around the best value that lies within its standard error.

    Where several layers tie for the best (a perfect AUROC on a small dev split), the longest run that holds one of them
    is taken: an isolated tie says less than a stretch of layers. Of equally long runs the earlier.

    Args:
        values, errors: ``[layer]``, in the order of the layers, without those that may not be chosen.
    """
    best_value = values.max()
    ties = np.flatnonzero(values == best_value)
    inside = values >= best_value - errors[ties[0]]
    runs = [_run(inside, int(best)) for best in ties]
    longest = max(range(len(runs)), key=lambda i: (runs[i][1] - runs[i][0], -i))
    first, last = runs[longest]
    return first, int(ties[longest]), last


def _run(inside: NDArray[np.bool_], index: int) -> tuple[int, int]:
    """The first and last index of the unbroken true stretch around ``index``."""
    first = last = index
    while first > 0 and inside[first - 1]:
        first -= 1
    while last < len(inside) - 1 and inside[last + 1]:
        last += 1
    return first, last


def _dev(
    values: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any], cells: Sequence[Hashable] | None
) -> tuple[FloatArray, FloatArray, list[Hashable], frozenset[str], list[str]]:
    """Cluster means ``[cell, cluster]``, their standard error, names, used clusters and a fingerprint per cell."""
    array = finite(values, "dev values")
    if array.ndim != 2 or not len(array):
        raise UsageError(f"dev values have shape {array.shape}", "give [cell, n]")
    codes, count = units_and_clusters(array.shape[1], clusters, None)
    at_least(count, 2, "dev clusters", "a selection")
    names: list[Hashable] = list(range(len(array))) if cells is None else list(cells)
    if len(names) != len(array):
        raise UsageError(f"{len(names)} names for {len(array)} cells", "give one name per cell")
    means = cluster_totals(array, codes, count) / np.bincount(codes, minlength=count)
    error = np.asarray(means.std(axis=1, ddof=1) / np.sqrt(count))
    used = frozenset(_name(c) for c in np.asarray(clusters).tolist())
    return means, error, names, used, [fingerprint(row) for row in array]


def _name(cluster: Hashable) -> str:
    return str(cluster)


def fingerprint(values: FloatArray) -> str:
    """Order-free hash of a cell's values; empty for coarse values (counts, yes or no) that agree by chance."""
    ordered = np.sort(values, axis=None)
    if len(np.unique(ordered)) <= max(2, len(ordered) // 2):
        return ""
    return hashlib.sha256(ordered.tobytes()).hexdigest()

"""Permutation p-values: one statistic, and the largest of many (max-T).

p = (b + 1) / (m + 1) with b the number of the m random statistics that are at least as extreme as the observed one: the
observed data are one of the equally likely arrangements, so p is never 0 (Phipson & Smyth 2010).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.stats.checks import finite
from emotion_circuits.stats.interval import FloatArray

Alternative = Literal["greater", "less", "two-sided"]

TIE = 1e-10
"""Share of the observed value: an arrangement that gives it up to rounding is a tie and must count."""


def permutation_p(observed: ArrayLike, null: ArrayLike, alternative: Alternative = "greater") -> FloatArray:
    """p of each cell against its own null statistics: (b + 1) / (m + 1).

    Args:
        observed: statistic of the data, ``[...]``.
        null: statistics of ``m`` random arrangements, ``[m, ...]`` (or ``[m]``, then shared by every cell).
        alternative: ``greater``, ``less``, or ``two-sided`` = twice the smaller tail, at most 1.

    Returns:
        p, shape of ``observed``. Uncorrected: for many cells use :func:`max_statistic_p` or a declared family.
    """
    seen, random = finite(observed, "the observed statistic"), finite(null, "the null statistics")
    if random.ndim == 1 and seen.ndim:
        random = random.reshape(-1, *([1] * seen.ndim))
    if random.ndim != seen.ndim + 1 or not len(random):
        raise UsageError(
            f"null statistics have shape {random.shape} for observed ones of shape {seen.shape}",
            "give null as [permutations, cells] with at least one permutation",
        )
    m = len(random)
    slack = TIE * np.abs(seen)
    greater = (np.count_nonzero(random >= seen - slack, axis=0) + 1) / (m + 1)
    less = (np.count_nonzero(random <= seen + slack, axis=0) + 1) / (m + 1)
    if alternative == "greater":
        return np.asarray(greater, dtype=np.float64)
    if alternative == "less":
        return np.asarray(less, dtype=np.float64)
    if alternative == "two-sided":
        return np.asarray(np.minimum(1.0, 2 * np.minimum(greater, less)), dtype=np.float64)
    raise unknown_name("alternative", alternative, ["greater", "less", "two-sided"])


@dataclass(frozen=True)
class MaxTest:
    """Result of a max-T test: ``p`` per cell (family-wise), the ``overall`` p of the best cell, and its index."""

    p: FloatArray
    overall: float
    best: int
    permutations: int


def max_statistic_p(
    observed: ArrayLike, null: ArrayLike, alternative: Literal["greater", "two-sided"] = "greater"
) -> MaxTest:
    """Single-step max-T: each cell against the largest statistic over all cells of the same arrangement.

    Controls the family-wise error over cells (layers, layer pairs, strengths) whatever their dependence, because one
    arrangement is shared by all cells (Westfall & Young 1993). The cells must be on one scale: use AUROC, t or z, not
    raw differences of unlike quantities. ``two-sided`` compares absolute values, so centre the statistic at 0 first
    (AUROC - .5).

    Args:
        observed: ``[cell]`` (any shape; flattened for ``best``).
        null: ``[permutation, cell]``: row r holds every cell's statistic under arrangement r.

    Returns:
        :class:`MaxTest`; p has the shape of ``observed``.
    """
    seen, random = finite(observed, "the observed statistics"), finite(null, "the null statistics")
    if random.shape[1:] != seen.shape or not len(random) or not seen.size:
        raise UsageError(
            f"null statistics have shape {random.shape} for observed ones of shape {seen.shape}",
            "give null as [permutations, cells], with the same arrangement for all cells of a row",
        )
    if alternative == "two-sided":
        seen, random = np.abs(seen), np.abs(random)
    elif alternative != "greater":
        raise unknown_name("alternative", alternative, ["greater", "two-sided"])
    largest = np.sort(random.reshape(len(random), -1).max(axis=1))
    m = len(largest)
    reached = m - np.searchsorted(largest, seen - TIE * np.abs(seen), side="left")
    p = np.asarray((reached + 1) / (m + 1), dtype=np.float64)
    return MaxTest(p, float(p.min()), int(np.argmax(seen)), m)


def permuted_within(codes: NDArray[np.intp], permutations: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """``[permutations, n]`` index arrays that shuffle units only inside their group (``codes``, one per unit)."""
    n = len(codes)
    order = np.argsort(codes, kind="stable")
    keys = rng.random((permutations, n))
    # Sorting by (group, random key) keeps groups in place and shuffles inside them.
    shuffled = np.lexsort((keys, np.broadcast_to(codes, keys.shape)), axis=-1)
    index = np.empty_like(shuffled)
    index[:, order] = shuffled
    return index


def exchangeable_units(labels: NDArray[Any], codes: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The unit of every text ``[n]`` and the group of every unit ``[unit]``: units of one group may change places.

    Labels that say nothing about the texts could as well stand otherwise in two ways. Inside a cluster that holds
    several labels (a scenario written with and without the emotion) texts change places. Clusters that hold one label
    change places as wholes: their texts resemble each other, so texts shuffled singly would vary too little. Where all
    of these hold the same label, nothing of theirs moves.

    Args:
        labels: ``[n]`` of any kind. codes: ``[n]`` cluster of each text, 0 … G - 1, every one in use.
    """
    n, whole = len(labels), ~_mixed(labels, codes)[codes]
    if len(np.unique(labels[whole])) < 2:
        whole = np.zeros(n, dtype=np.bool_)
    # A whole cluster is named by its first text, so that units are in the texts' order.
    _, first = np.unique(codes, return_index=True)
    heads, unit = np.unique(np.where(whole, first[codes], np.arange(n)), return_inverse=True)
    return unit.astype(np.intp), np.where(whole[heads], len(first), codes[heads])


def relabelled(
    labels: NDArray[Any], codes: NDArray[np.intp], permutations: int, rng: np.random.Generator
) -> NDArray[Any]:
    """``[permutations, n]`` labels of :func:`exchangeable_units` that changed places; arguments as there."""
    unit, group = exchangeable_units(labels, codes)
    own = labels[np.unique(unit, return_index=True)[1]]
    return np.asarray(own[permuted_within(group, permutations, rng)][:, unit])


def fewest_texts(labels: NDArray[Any], codes: NDArray[np.intp]) -> int:
    """The least number of texts that a label can be left with by :func:`relabelled`; arguments as there.

    Clusters that change places as wholes may be of unequal size: a label may get the smallest of them.
    """
    unit, group = exchangeable_units(labels, codes)
    own, whole = labels[np.unique(unit, return_index=True)[1]], _wholes(group, codes)
    smallest = np.cumsum([0, *np.sort(np.bincount(unit)[whole])])
    # Inside a cluster of several labels single texts change places, so each label keeps its number of them.
    left = [np.count_nonzero(labels[~whole[unit]] == e) + smallest[np.count_nonzero(own[whole] == e)]
            for e in np.unique(labels)]  # fmt: skip
    return int(min(left))


def moves_wholes(labels: NDArray[Any], codes: NDArray[np.intp]) -> bool:
    """Whether clusters change places as wholes beside texts that do so inside theirs, or with several texts each."""
    unit, group = exchangeable_units(labels, codes)
    wholes = _wholes(group, codes)
    return bool(wholes.any() and (not wholes.all() or len(group) < len(unit)))


def permuted_labels(
    labels: NDArray[np.bool_], codes: NDArray[np.intp], permutations: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """``[permutations, n]`` labels: what :func:`relabelled` does, in other draws.

    It exists to keep its draws, which finished p values rest on: they differ wherever scenarios of one label change
    places (where all scenarios hold both labels, the two agree). Use :func:`relabelled` in anything new.

    Args:
        labels: ``[n]`` bool. codes: ``[n]`` cluster of each text, 0 … G - 1, every one in use.
    """
    unit, group = exchangeable_units(labels, codes)
    if _mixed(labels, codes).any():
        out = labels[permuted_within(codes, permutations, rng)]
    else:
        out = np.tile(labels, (permutations, 1))
    texts = _wholes(group, codes)[unit]
    if texts.any():
        _, first, whole = np.unique(codes[texts], return_index=True, return_inverse=True)
        own = labels[texts][first]
        out[:, texts] = rng.permuted(np.tile(own, (permutations, 1)), axis=1)[:, whole]
    return out


def exchangeable_clusters(labels: NDArray[Any], codes: NDArray[np.intp]) -> int:
    """How many clusters take part when labels change places: those of several labels, and those that move as wholes."""
    _, group = exchangeable_units(labels, codes)
    return int(_mixed(labels, codes).sum() + _wholes(group, codes).sum())


def _wholes(group: NDArray[np.intp], codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """``[unit]``: a whole cluster, by the groups of :func:`exchangeable_units`."""
    return np.asarray(group == codes.max() + 1)


def _mixed(labels: NDArray[Any], codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """``[cluster]``: holds several labels."""
    number = np.unique(labels, return_inverse=True)[1]
    held = np.zeros((int(codes.max()) + 1, int(number.max()) + 1), dtype=np.bool_)
    held[codes, number] = True
    return np.asarray(held.sum(axis=1) > 1)

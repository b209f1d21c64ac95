"""What is refused before anything is computed, each with what to do instead."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.interval import FloatArray


def finite(values: ArrayLike, name: str) -> FloatArray:
    """``values`` as float64; raises on NaN and infinity, because a silently dropped value changes the unit count."""
    array = np.asarray(values, dtype=np.float64)
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise UsageError(
            f"{name} holds {bad} value(s) that are NaN or infinite out of {array.size}",
            "find out why they are missing; drop whole units (in every arm) before the test if that is justified",
        )
    return array


def at_least(count: int, minimum: int, name: str, why: str) -> None:
    """Raises when there are fewer than ``minimum`` of something."""
    if count < minimum:
        raise UsageError(f"{count} {name}: {why} needs at least {minimum}", f"collect more {name}")


def varying(values: FloatArray, name: str, axis: int = -1) -> None:
    """Raises when a cell has no variance: its standardised effect, t and p are undefined, not infinite."""
    spread = np.ptp(values, axis=axis)
    scale = np.maximum(np.abs(values).max(axis=axis), np.finfo(np.float64).tiny)
    constant = spread <= 1e-12 * scale
    if np.any(constant):
        raise UsageError(
            f"{name} has zero variance in {int(np.count_nonzero(constant))} cell(s): every unit gave the same value",
            "check that the intervention reached the model and that the scorer is not saturated; report the raw value",
        )


def cluster_codes(clusters: Sequence[Hashable] | NDArray[Any], n: int) -> tuple[NDArray[np.intp], int]:
    """Integer code ``[n]`` of each unit's cluster and the number of clusters; raises when one is missing."""
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise UsageError(f"clusters have shape {labels.shape} for {n} units", "give one cluster id per unit")
    if any(label is None or label != label for label in labels.tolist()):
        raise UsageError("a unit has no cluster (None or NaN)", "name the scenario or prompt of every unit")
    _, codes = np.unique(labels, return_inverse=True)
    return codes.astype(np.intp), int(codes.max()) + 1 if n else 0


def probability(value: float, name: str) -> float:
    """``value`` if it lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise UsageError(f"{name} must lie between 0 and 1, not {value}", "write .95 for 95 percent, .05 for alpha")
    return float(value)


def units_and_clusters(
    n: int,
    clusters: Sequence[Hashable] | NDArray[Any] | None,
    texts: Sequence[str] | None,
) -> tuple[NDArray[np.intp], int]:
    """Cluster code of each of ``n`` units (every unit its own cluster when none are named) and their number.

    ``texts``, where known, are compared after folding case and white space: a text that returns in another cluster is
    one sample that would be counted twice, so it raises.
    """
    codes, count = cluster_codes(np.arange(n) if clusters is None else clusters, n)
    if texts is not None:
        independent_texts(texts, codes)
    return codes, count


def independent_texts(texts: Sequence[str], codes: NDArray[np.intp]) -> None:
    """Raises when one text stands in two clusters, that is, when a copy would count as an independent sample."""
    if len(texts) != len(codes):
        raise UsageError(f"{len(texts)} texts for {len(codes)} units", "give one text per unit")
    home: dict[str, int] = {}
    for text, code in zip(texts, codes.tolist(), strict=True):
        key = " ".join(text.casefold().split())
        if home.setdefault(key, code) != code:
            raise UsageError(
                f"the text {text[:60]!r} occurs more than once as if its copies were independent samples",
                "remove the copies, average them into one unit, or give them the same cluster",
            )


def paired(first: Sequence[Hashable] | None, second: Sequence[Hashable] | None, n: int) -> None:
    """Raises unless both arms name the same ``n`` units, once each and in the same order."""
    if (first is None) != (second is None):
        raise UsageError("only one arm names its units", "name the units of both arms, or of neither")
    if first is None or second is None:
        return
    one, two = list(first), list(second)
    if len(one) != n or len(two) != n:
        raise UsageError(f"{len(one)} and {len(two)} unit ids for {n} values", "give one unit id per value")
    if len(set(one)) < n:
        raise UsageError("a unit occurs more than once in an arm", "average the samples of a unit before the test")
    if set(one) != set(two):
        odd = sorted(map(str, set(one) ^ set(two)))
        raise UsageError(
            f"the arms are not paired: {len(odd)} unit(s) stand in one arm only ({', '.join(odd[:5])})",
            "measure every unit in both arms, or use the independent-groups effect",
        )
    if one != two:
        raise UsageError("the arms name the same units in another order", "sort both arms by unit id")

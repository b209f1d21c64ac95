"""Correction over a declared family of tests. The family is an argument: name it before looking at any p."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.stats.checks import finite, probability
from emotion_circuits.stats.interval import FloatArray

Correction = Literal["bonferroni", "holm", "bh", "by"]


@dataclass(frozen=True)
class Adjusted:
    """Adjusted p of one family; ``rejected`` are those at or below ``alpha``."""

    family: str
    method: Correction
    size: int
    alpha: float
    p: FloatArray
    rejected: NDArray[np.bool_]


def adjust(p: ArrayLike, *, family: str = "", method: Correction = "holm", alpha: float = 0.05) -> Adjusted:
    """Adjusted p-values of one family, along the last axis.

    - ``bonferroni``: m·p; ``holm``: step-down, never weaker than Bonferroni (Holm 1979). Both bound the chance of any
      false rejection, whatever the dependence.
    - ``bh``: bounds the expected share of false rejections for independent or positively dependent tests (Benjamini &
      Hochberg 1995); ``by``: under any dependence (Benjamini & Yekutieli 2001).

    Args:
        p: ``[..., test]``; NaN raises, because dropping it would change the family's size.
        family: what the tests are (required): for example ``"steering, smollm2-135m, logits"``.

    Not for choosing a cell and then testing it on the same data: no correction repairs the estimate (see
    ``selection``).
    """
    if not str(family or "").strip():
        raise UsageError(
            "the family of tests is not named",
            "pass family='…' that says which tests belong together, decided before looking at the p-values",
        )
    values = finite(p, "the p-values")
    probability(alpha, "alpha")
    if values.ndim == 0 or not values.shape[-1]:
        raise UsageError("a family needs at least one p-value", "give [..., test]")
    if np.any((values < 0) | (values > 1)):
        raise UsageError("p-values lie outside [0, 1]", "pass p, not t or -log10(p)")
    adjusted = _adjusted(values, method)
    return Adjusted(str(family), method, values.shape[-1], alpha, adjusted, adjusted <= alpha)


def adjust_families(
    p: ArrayLike, families: Sequence[Hashable] | NDArray[Any], *, method: Correction = "holm", alpha: float = 0.05
) -> FloatArray:
    """Adjusted p of ``[test]`` p-values, each corrected within its own family (``families``: one name per test)."""
    values = finite(p, "the p-values")
    names = np.asarray(families, dtype=object)
    if values.ndim != 1 or names.shape != values.shape:
        raise UsageError(f"{values.shape} p-values for {names.shape} family names", "give one family per p-value")
    adjusted = np.empty_like(values)
    for name in dict.fromkeys(names.tolist()):
        member = names == name
        family = "" if name is None or name != name else str(name)
        adjusted[member] = adjust(values[member], family=family, method=method, alpha=alpha).p
    return adjusted


def _adjusted(values: FloatArray, method: Correction) -> FloatArray:
    size = values.shape[-1]
    if method == "bonferroni":
        return np.asarray(np.minimum(values * size, 1.0))
    if method == "holm":
        order = np.argsort(values, axis=-1, kind="stable")
        steps = np.take_along_axis(values, order, axis=-1) * np.arange(size, 0, -1)
        stepped = np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0)
        adjusted = np.empty_like(values)
        np.put_along_axis(adjusted, order, stepped, axis=-1)
        return adjusted
    if method in ("bh", "by"):
        return np.asarray(stats.false_discovery_control(values, axis=-1, method=method))
    raise unknown_name("correction", method, ["bonferroni", "holm", "bh", "by"])

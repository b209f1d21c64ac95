"""Is this vector better than matched random ones? A rank among m, honest about what m can support."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.checks import at_least, finite, probability
from emotion_circuits.stats.interval import FloatArray
from emotion_circuits.stats.permutation import Alternative, permutation_p


@dataclass(frozen=True)
class ControlTest:
    """p of each cell among its random controls and corrected (Bonferroni) over the declared comparisons."""

    p: FloatArray
    p_corrected: FloatArray
    controls: int
    comparisons: int


def random_control_test(
    observed: ArrayLike,
    controls: ArrayLike,
    *,
    comparisons: int = 1,
    alpha: float = 0.05,
    alternative: Alternative = "greater",
) -> ControlTest:
    """Rank of the vector's effect among those of ``m`` random vectors: p = (b + 1)/(m + 1).

    Valid when the vector would be one more draw of the random family under the null, so match norm (and report matched
    KL): the family is the null hypothesis. An isotropic family alone is a straw man.

    Args:
        observed: effect of the vector, ``[...]``.
        controls: effects of the random vectors, ``[m, ...]``, on the same prompts.
        comparisons: number of tests that the claim is corrected over (Bonferroni); declared before looking.
        alpha: level of the claim.

    Raises when m is too small: the smallest p, 1/(m + 1) (2/(m + 1) two-sided), must reach alpha / comparisons.
    """
    random = finite(controls, "the controls")
    m = len(random) if random.ndim else 0
    needed = required_controls(alpha=alpha, comparisons=comparisons, alternative=alternative)
    if m < needed:
        raise UsageError(
            f"{m} random vectors cannot support a claim at {alpha} over {comparisons} comparison(s): "
            f"the smallest possible p is {(2 if alternative == 'two-sided' else 1) / (m + 1):.3g}",
            f"run at least {needed} random vectors, or declare fewer comparisons",
        )
    p = permutation_p(observed, random, alternative)
    return ControlTest(p, np.minimum(p * comparisons, 1.0), m, comparisons)


def required_controls(*, alpha: float = 0.05, comparisons: int = 1, alternative: Alternative = "greater") -> int:
    """Smallest m whose best possible p survives Bonferroni: ⌈comparisons / alpha⌉ - 1 (twice the tails two-sided)."""
    probability(alpha, "alpha")
    at_least(comparisons, 1, "comparisons", "a corrected claim")
    tails = 2 if alternative == "two-sided" else 1
    return math.ceil(round(tails * comparisons / alpha, 9)) - 1

"""Does the outcome follow the dose, in the direction's own sense?

Adding a vector does two things: what its direction means, which turns round with its sign, and general disruption,
which does not. With doses ±α the outcome s splits exactly into an odd part (s(α) - s(-α))/2 and an even part (s(α) +
s(-α))/2 - s(0). Only the odd part is evidence for the direction.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import cluster_totals
from emotion_circuits.stats.checks import at_least, finite, units_and_clusters
from emotion_circuits.stats.cluster_t import ClusterT, cluster_t
from emotion_circuits.stats.effects import share_positive
from emotion_circuits.stats.interval import FloatArray, Interval


@dataclass(frozen=True)
class DoseResponse:
    """Dose-response of each cell.

    ``odd`` tests the mean of the prompts' odd slopes (outcome per unit of dose): the direction-specific effect.
    ``even`` tests the even slopes (outcome per unit of |dose|): disruption. ``trend`` is Page's one-sided p that the
    outcome rises with the dose. ``wrong_way`` is the share of prompts whose odd slope is against the mean's sign.
    """

    odd: ClusterT
    even: ClusterT
    trend: FloatArray
    wrong_way: Interval


def prompt_slopes(values: ArrayLike, doses: ArrayLike) -> FloatArray:
    """Least-squares slope of each prompt over all doses (with intercept): ``[..., prompt, dose]`` to ``[..., prompt]``.

    Test it over prompts with :func:`~emotion_circuits.stats.cluster_t.cluster_t`: slopes vary from prompt to prompt,
    and a regression over pooled points would count doses as independent. Without negative doses a slope cannot tell
    direction from disruption.
    """
    table, dose = _table(values, doses)
    centred = dose - dose.mean()
    return np.asarray(table @ centred / (centred @ centred))


def odd_even_slopes(values: ArrayLike, doses: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Each prompt's odd and even slope, ``[..., prompt]`` each, from outcomes ``[..., prompt, dose]`` at doses ±α and
    0.

    odd = Σ α·(s(α) - s(-α))/2 / Σ α², even = Σ α·((s(α) + s(-α))/2 - s(0)) / Σ α², sums over α > 0. Raises when a dose
    lacks its mirror image or the dose 0 is missing.
    """
    table, dose = _table(values, doses)
    order = np.argsort(dose)
    dose, table = dose[order], table[..., order]
    if len(dose) % 2 == 0 or not np.allclose(dose, -dose[::-1], rtol=1e-9, atol=0):
        raise UsageError(
            f"doses {dose.tolist()} are not symmetric about 0 with 0 among them",
            "run every strength with both signs, and the baseline as dose 0",
        )
    middle = len(dose) // 2
    up, down, alpha = table[..., middle + 1 :], table[..., :middle][..., ::-1], dose[middle + 1 :]
    weight = alpha / (alpha @ alpha)
    odd = ((up - down) / 2) @ weight
    even = ((up + down) / 2 - table[..., middle : middle + 1]) @ weight
    return np.asarray(odd), np.asarray(even)


def dose_response(
    values: ArrayLike,
    doses: ArrayLike,
    clusters: Sequence[Hashable] | NDArray[Any] | None = None,
    *,
    confidence: float = 0.95,
) -> DoseResponse:
    """Odd and even slope, monotone trend and share of prompts that go the wrong way.

    Args:
        values: ``[..., prompt, dose]`` outcome (mean of a prompt's samples), every prompt at every dose.
        doses: ``[dose]`` signed strengths, symmetric about 0 with 0 among them, in one unit (fraction of residual
            norm).
        clusters: ``[prompt]`` scenario of each prompt.

    Returns:
        :class:`DoseResponse`; the slopes' tests are cluster-robust t tests over prompts (random slopes are allowed
        for).

    Page's test (1963; ``scipy.stats.page_trend_test``) ranks doses within each scenario's mean and needs three doses; a
    pure even effect leaves its expectation at the null value.
    """
    odd, even = odd_even_slopes(values, doses)
    codes, count = units_and_clusters(odd.shape[-1], clusters, None)
    at_least(count, 2, "clusters", "a dose-response test")
    wrong = share_positive(-odd * np.sign(odd.mean(axis=-1, keepdims=True)), codes, confidence=confidence)
    return DoseResponse(
        odd=cluster_t(odd, codes, confidence=confidence),
        even=cluster_t(even, codes, confidence=confidence),
        trend=page_trend(values, doses, codes),
        wrong_way=wrong,
    )


def page_trend(
    values: ArrayLike, doses: ArrayLike, clusters: Sequence[Hashable] | NDArray[Any] | None = None
) -> FloatArray:
    """Page's one-sided p that the outcome rises with the dose, ``[..., prompt, dose]`` to ``[...]``.

    Rows of one cluster are averaged first, because the test takes rows as independent. Uses the mid-ranks of ties and
    the normal approximation of L, (12 L - 3 m k (k+1)²) / √(m k² (k² - 1)(k + 1)), m rows and k doses.
    """
    table, dose = _table(values, doses)
    at_least(len(dose), 3, "doses", "Page's trend test")
    codes, count = units_and_clusters(table.shape[-2], clusters, None)
    at_least(count, 2, "clusters", "Page's trend test")
    columns = np.moveaxis(table, -1, -2).reshape(-1, table.shape[-2])
    rows = cluster_totals(columns, codes, count) / np.bincount(codes, minlength=count)
    cells = np.moveaxis(rows.reshape(-1, len(dose), count), -1, -2)[..., np.argsort(dose)]
    p = [stats.page_trend_test(cell, method="asymptotic").pvalue for cell in cells]
    return np.array(p, dtype=np.float64).reshape(table.shape[:-2])


def _table(values: ArrayLike, doses: ArrayLike) -> tuple[FloatArray, FloatArray]:
    table, dose = finite(values, "outcomes"), finite(doses, "doses")
    if table.ndim < 2 or dose.shape != table.shape[-1:]:
        raise UsageError(f"outcomes {table.shape} do not match doses {dose.shape}", "give [..., prompt, dose]")
    at_least(len(dose), 2, "doses", "a slope")
    at_least(table.shape[-2], 2, "prompts", "a slope test")
    if len(np.unique(dose)) < len(dose):
        raise UsageError(f"a dose occurs twice in {dose.tolist()}", "average the repeats of a dose first")
    return table, dose

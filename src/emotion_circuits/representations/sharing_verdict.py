"""The verdict rule: declared once, the same for the set and for every emotion, and never tuned to a pair of models.

shared ⇔ identified ∧ max p ≤ .05 ∧ τ_low > .5 · partly shared ⇔ identified ∧ max p ≤ .05 ∧ τ_low > .2 ·
not shared ⇔ identified ∧ τ_high < .2 · not identified · else inconclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

SharingVerdict = Literal["shared", "partly shared", "not shared", "not identified", "inconclusive"]

ALPHA = 0.05
SHARED, PARTLY = 0.5, 0.2
MINIMUM_EMOTIONS = 6
"""With fewer, a claim about *which* emotion is shared has too few relabellings behind it."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with the reason for it, one clause."""

    verdict: SharingVerdict
    reason: str


def judge(
    *, identified: bool, p_max: float, low: float, high: float, emotions: int, own_is_largest: bool = True
) -> Judgement:
    """Apply the rule.

    Args:
        p_max: the largest of the null p values. low, high: limits of τ (NaN where τ is undefined).
        emotions: number of emotions compared. own_is_largest: for one emotion, whether its direction picks its own
            texts best of all emotions' texts; with E emotions a relabelling p of one of them cannot go below 1/E, so
            this stands beside the set's p.
    """
    if not identified:
        return Judgement("not identified", "the map does not read the components that hold the emotion")
    if not np.isfinite([low, high]).all():
        return Judgement("inconclusive", "the native probe is not above the floors, so there is nothing to transfer")
    if high < PARTLY:
        return Judgement("not shared", f"transfer stays below {PARTLY} of the way from the floor to the native probe")
    if not p_max <= ALPHA:
        return Judgement("inconclusive", f"the largest null p is {p_max:.3g}")
    if low <= PARTLY:
        return Judgement("inconclusive", f"the lower limit of tau, {low:.2f}, is not above {PARTLY}")
    if emotions < MINIMUM_EMOTIONS:
        return Judgement(
            "inconclusive", f"{emotions} emotions cannot show which emotion is shared; at least {MINIMUM_EMOTIONS} can"
        )
    if not own_is_largest:
        return Judgement("inconclusive", "the direction picks another emotion's texts better than its own")
    verdict: SharingVerdict = "shared" if low > SHARED else "partly shared"
    return Judgement(verdict, f"the lower limit of tau is {low:.2f}, every null p at most {p_max:.3g}")

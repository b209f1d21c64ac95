"""What a test of a mapped vector may claim: one rule for every emotion, from intervals and ranks to a verdict.

The limits are those of ``transfer``: of the share of the native effect as of τ, and of κ, below which a map could not
have carried the vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from emotion_circuits.representations.identifiability import MINIMUM_KAPPA
from emotion_circuits.representations.sharing_verdict import ALPHA, PARTLY, SHARED

Interval = tuple[float, float]
SteerVerdict = Literal[
    "transfers", "transfers in part", "not distinguishable from controls", "no effect shown", "not identified",
    "moves the other way", "text broken", "inconclusive",
]  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What was measured for one emotion on test prompts.

    ``effect`` is the interval of the mapped vector's odd effect (None: it cannot be computed), ``share`` that of mapped
    / native (None: the target's own vector has no clear effect to be a share of). ``p`` are ranks among control
    families, ``above`` intervals of the difference to single control vectors and floors, both by name. ``text_shift``
    is the classifier's shift in written texts (None: it has no label for the emotion). ``sound``: the damage gate.
    """

    effect: Interval | None
    p: Mapping[str, float]
    above: Mapping[str, Interval | None] = field(default_factory=dict)
    share: Interval | None = None
    sound: bool = True
    text_shift: float | None = None
    kappa: float = 1.0


@dataclass(frozen=True)
class SteerJudged:
    """A verdict and the one reason that decided it."""

    verdict: SteerVerdict
    reason: str


def judge_steering(found: Evidence) -> SteerJudged:
    """The verdict, in this order: broken text, no clear effect, controls that do as well, then the share.

    "No effect shown" is not "no effect": the interval may reach far above 0. "Not distinguishable" says that the test
    shows nothing for this emotion, whatever the size of the effect. κ matters only where there is no effect: a vector
    that works beyond its controls has been carried.
    """
    if not found.sound:
        return SteerJudged("text broken", "the mapped vector's texts fail the damage gate, so its effect means nothing")
    if found.effect is None:
        return SteerJudged("inconclusive", "too few prompts, or nothing varies: no interval")
    if found.effect[0] <= 0:
        if found.kappa < MINIMUM_KAPPA:
            return SteerJudged(
                "not identified", f"κ {found.kappa:.2f} is below {MINIMUM_KAPPA}: the map could not have carried it"
            )
        if found.effect[1] < 0:
            return SteerJudged("moves the other way", "the mapped vector makes the emotion's words less likely")
        return SteerJudged("no effect shown", "the interval of the mapped vector's effect is not above 0")
    if blocked := _as_good_as(found):
        return SteerJudged("not distinguishable from controls", f"{blocked}: this test shows nothing for this emotion")
    if found.share is None:
        return SteerJudged("inconclusive", "the target's own vector has no clear effect here to compare with")
    if found.text_shift is not None and found.text_shift <= 0:
        return SteerJudged("inconclusive", "the classifier of the written texts does not move the same way")
    unread = "; no evaluator of texts knows this emotion" if found.text_shift is None else ""
    if found.share[0] > SHARED:
        return SteerJudged("transfers", f"at least {found.share[0]:.0%} of the native effect{unread}")
    if found.share[0] > PARTLY:
        return SteerJudged("transfers in part", f"at least {found.share[0]:.0%} of the native effect{unread}")
    return SteerJudged("inconclusive", f"the lower limit of its share of the native effect is {found.share[0]:.0%}")


def _as_good_as(found: Evidence) -> str:
    """The first control that the mapped vector does not clearly beat; empty where it beats all."""
    for name, p in found.p.items():
        if not p <= ALPHA:
            return f"rank p {p:.2g} among {name}"
    for name, interval in found.above.items():
        if interval is None or interval[0] <= 0:
            return f"not clearly above {name}"
    return ""

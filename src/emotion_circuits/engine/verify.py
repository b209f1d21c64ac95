"""``verify_family``: does a model keep the contract that everything else relies on?

It runs on tiny random models in the tests and on real weights in ``emotion-circuits doctor``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from emotion_circuits.engine.clauses import ABOUT_WEIGHTS, CLAUSES, Clause
from emotion_circuits.errors import EmotionCircuitsError, ModelError
from emotion_circuits.models.lm import LM


@dataclass(frozen=True)
class Check:
    """One clause of the contract: whether it holds, the figure that was measured, and how long it took."""

    name: str
    ok: bool
    detail: str
    seconds: float


def verify_family(lm: LM, clauses: Mapping[str, Clause] | None = None) -> list[Check]:
    """Run every clause of the contract, or those given; a clause that raises is a clause that does not hold."""
    checks = []
    for name, clause in (CLAUSES if clauses is None else clauses).items():
        start = time.perf_counter()
        try:
            ok, detail = clause(lm)
        except (EmotionCircuitsError, RuntimeError, ValueError, AttributeError, TypeError, LookupError) as error:
            ok, detail = False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        checks.append(Check(name, ok, detail, time.perf_counter() - start))
    return checks


def require_family(lm: LM) -> None:
    """Raise :class:`ModelError` naming the first clause that the model's *layout* does not keep.

    The attention sink is left to `doctor`: it is about trained weights and the choice of prefix, not about the family.
    """
    layout = {name: clause for name, clause in CLAUSES.items() if name not in ABOUT_WEIGHTS}
    broken = [c for c in verify_family(lm, layout) if not c.ok]
    if broken:
        raise ModelError(
            f"{lm.name} does not keep the contract of family {lm.family.name!r}: {broken[0].name} ({broken[0].detail})",
            f"model type {lm.model.config.model_type!r} is not supported: add a family file, or choose another model",
        )

"""The damage meter: what steering did to a text as text, measure by measure, and which of them is outside its limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.scorers.fluency import (
    DISTINCT2_RATIO,
    EMPTY_RISE,
    FEWEST_TOKENS,
    PPL_RATIO,
    REP4_RISE,
    damage_gate,
    fluency,
)

if TYPE_CHECKING:
    from emotion_circuits.engine.generation import Generation
    from emotion_circuits.models.lm import LM
    from emotion_circuits.types import Prompt


def damage(lm: LM, prompt: Prompt, baseline: Generation, steered: Generation) -> dict[str, Any]:
    """The gate of :func:`~emotion_circuits.scorers.fluency.damage_gate` on one text beside the baseline's.

    Returns:
        ``ok`` and ``said`` (the verdict in words); ``measures``, a row each with the value of both arms, the change
        that is judged, its limit, and whether it keeps it (None: not judged).
    """
    written = (baseline, steered)
    columns = fluency(lm, [(prompt, g.tokens) for g in written], [g.text for g in written])
    base, arm = ({name: values[i : i + 1] for name, values in columns.items()} for i in (0, 1))
    gate = damage_gate(base, arm)
    least, most = PPL_RATIO
    measures = [
        _measure("perplexity under the unsteered model", np.exp(columns["log_perplexity"]), gate.median_ppl_ratio,
                 f"{least:g} to {most:g} times", (least, most)),
        _measure("repeated 4-grams (rep-4)", columns["rep4"], gate.rep4 - gate.rep4_baseline,
                 f"at most {REP4_RISE:.2f} more", (-math.inf, REP4_RISE)),
        _measure("distinct 2-grams", columns["distinct2"], gate.distinct2_ratio,
                 f"at least {DISTINCT2_RATIO:g} times", (DISTINCT2_RATIO, math.inf)),
        _measure("nothing written", columns["empty"], gate.empty - gate.empty_baseline,
                 f"at most {EMPTY_RISE:.2f} more", (-math.inf, EMPTY_RISE)),
    ]  # fmt: skip
    outside = [m["measure"] for m in measures if m["ok"] is False]
    if outside:
        said = f"Broken text: {', '.join(outside)} outside the limit."
    elif gate.ok:
        said = "Sound: no sign of broken text."
    else:
        said = f"Too short to be judged: fewer than {FEWEST_TOKENS} tokens in one of the texts."
    return {"ok": gate.ok, "said": said, "measures": measures}


def _measure(
    name: str, values: np.ndarray[Any, Any], change: float, limit: str, kept: tuple[float, float]
) -> dict[str, Any]:
    ok = kept[0] <= change <= kept[1] if math.isfinite(change) else None
    return {"measure": name, "baseline": _finite(values[0]), "steered": _finite(values[1]), "change": _finite(change),
            "limit": limit, "ok": ok}  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

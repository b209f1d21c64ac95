"""``doctor``: does this model keep the contract that every other experiment relies on?"""

from __future__ import annotations

import shlex
from typing import Any

from emotion_circuits.errors import ModelError
from emotion_circuits.experiments._contract import Context, ExperimentParams, Outcome, UncountedExperiment
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import Section, Table


@experiment("doctor", "Check the model: exactness, head results, patterns, decoding, prefix token.")
class Doctor(UncountedExperiment):
    """Runs every clause of the family contract on the model itself; a clause that does not hold ends the study."""

    def summarise(self, context: Context, params: ExperimentParams) -> Outcome:
        from emotion_circuits.engine.verify import verify_family

        lm = context.lm
        checks = verify_family(lm)
        rows: list[dict[str, Any]] = [{"check": c.name, "holds": c.ok, "measured": c.detail} for c in checks]
        command = shlex.join(["emotion-circuits", "doctor", lm.address or lm.name])
        if broken := [f"{c.name} ({c.detail})" for c in checks if not c.ok]:
            raise ModelError(
                f"{lm.name} fails {len(broken)} of {len(checks)} checks, so that results on it would not mean what "
                f"they say: {'; '.join(broken)}",
                f"see `{command}`; choose another model or add a family file for it",
            )
        verdict = f"{lm.name}: all {len(checks)} checks hold"
        columns = {"check": "check", "holds": "holds", "measured": "measured"}
        section = Section(
            "doctor",
            f"Is {lm.name} measured correctly?",
            [f"{verdict} ({lm.source}; {lm.family.name} family, {lm.n_layers} layers, {lm.n_heads} heads)."],
            tables=[Table("contract", "Contract of the model", "Measured on four short texts.", columns, rows)],
        )
        return Outcome({"checks": rows, "ok": True}, [verdict], section)

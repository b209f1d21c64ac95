"""``heads.match``: do the top heads of two models match in relative depth and in role more than random heads?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.heads_screen import HeadsScreen
from emotion_circuits.types import Section, Table

if TYPE_CHECKING:
    from emotion_circuits.circuits.cross_model import HeadProfile
    from emotion_circuits.store import Run

SCREEN_OF = {"source": "source-screen", "target": "target-screen"}
ROLE = ("emotion_mean_attn", "neutral_mean_attn")
"""What a head does: how its attention is shared between emotion words and matched neutral ones. The change when it is
ablated selects the top heads, and what a head writes directly is a part of that change; so neither is part of their
role: any two selections would agree in it, and unrelated models would seem to match."""


@experiment("heads.match", "Do the top heads of two models match in role and relative depth more than random heads?")
class HeadsMatch(PairExperiment):
    """The null hypothesis: the target's top heads are like any other heads of it."""

    version = 5

    class Params(HeadsScreen.Params):
        """Parameters of ``heads.match``: those of both screens, and the test."""

        size: int = Field(10, ge=1, description="Top heads of each model.")
        draws: int = Field(999, ge=99, description="Random sets of heads of the target.")

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        if params.exact:
            raise UsageError(
                "a shortlist cannot be matched: random heads of the target would be heads that nobody measured",
                "run heads.match without --exact",
            )
        own = {name: getattr(params, name) for name in HeadsScreen.Params.model_fields}
        screen = HeadsScreen.Params(**own)
        return [
            PairNeeded(SCREEN_OF["source"], "source", "heads.screen", screen),
            PairNeeded(SCREEN_OF["target"], "target", "heads.screen", screen),
        ]

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        from emotion_circuits.circuits.cross_model import match_heads

        runs = [context.runs[SCREEN_OF[side]] for side in ("source", "target")]
        names = [{r["emotion"] for r in run.read_summary()["scores"]} for run in runs]
        emotions = [e for e in dict.fromkeys(r["emotion"] for r in runs[0].read_summary()["scores"]) if e in names[1]]
        rows: list[dict[str, Any]] = []
        said = []
        for emotion in emotions:
            a, b = (_profile(run, emotion) for run in runs)
            size = min(params.size, a.importance.size // 2, b.importance.size // 2)
            found = match_heads(a, b, size, draws=params.draws, seed=context.seed)
            said.append(f"{emotion}: {found.sentence(_why_unmeasured(runs, (a, b), emotion))}")
            rows.append({
                "emotion": emotion, "depth_distance": found.depth, "p_depth": found.p_depth,
                "role_distance": found.role, "p_role": found.p_role, "draws": found.draws,
                "pairs": [[str(i), str(j)] for i, j in found.pairs],
            })  # fmt: skip
        if not rows:
            raise UsageError("the two models were screened for different emotions", "name them with --emotions")
        columns = {"emotion": "emotion", "depth_distance": "distance of depths", "p_depth": "p",
                   "role_distance": "distance of roles", "p_role": "p (roles)"}  # fmt: skip
        table = Table("heads-match", "Top heads of both models", "Against random heads of the target.", columns, rows)
        section = Section("heads-match", "Do the heads of both models match?", [s + "." for s in said], tables=[table])
        return Outcome({"results": rows}, said, section)


def _profile(run: Run, emotion: str) -> HeadProfile:
    """One model's heads: importance is the support they give, minus the change when ablated (0 for opposing heads).

    Figures are there only if the screen measured all of them: texts without emotion words have no attention to them.
    """
    import numpy as np

    from emotion_circuits.circuits.cross_model import HeadProfile

    summary = run.read_summary()
    shape = (summary["layers"], summary["heads_per_layer"])
    importance, figures = np.zeros(shape), np.full((*shape, len(ROLE)), np.nan)
    for r in summary["scores"]:
        if r["emotion"] == emotion:
            importance[r["layer"], r["head"]] = max(-r["ablation"], 0.0)
            figures[r["layer"], r["head"]] = [np.nan if r[f] is None else r[f] for f in ROLE]
    return HeadProfile(run.model, importance, figures if np.isfinite(figures).all() else None)


def _why_unmeasured(runs: Sequence[Run], profiles: Sequence[HeadProfile], emotion: str) -> str:
    """What the first screen without figures says about it; empty where both have them."""
    without = next((run for run, profile in zip(runs, profiles, strict=True) if profile.figures is None), None)
    if without is None:
        return ""
    note: str = without.read_summary()["gates"][emotion]["attention"]
    return note.removeprefix(f"{emotion}: ")

"""``heads.patch``: what heads compute in an emotional text, put into its neutral twin while the twin is continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from emotion_circuits.experiments._component_texts import (
    TextParams,
    metric_means,
    paired_rows,
    text_rows,
    text_tables,
    write_both,
)
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._heads import (
    FEWEST_SETS,
    Bench,
    beats_random,
    circuit_inputs,
    confirmation_bars,
    required_directions,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import BASELINE_NAME
from emotion_circuits.types import Figure, Section

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

PATCHED = "patched"
PatchMode = Literal["result", "v_only", "pattern_v"]


@experiment("heads.patch", "Put named heads' output, values or pattern of emotional texts into their neutral twins.")
class HeadsPatch(Experiment):
    """Recovery 1 is the emotional text's endpoint, 0 the neutral twin's; random matched heads are the control."""

    version = 4

    class Params(TextParams):
        """Parameters of ``heads.patch``."""

        head_spec: str = Field("", description='Heads as "3:5,7:2" or ranges "0:0-11" (layer:head).')
        patch_mode: PatchMode = Field(
            "result", description="result: the heads' output; v_only: their values; pattern_v: pattern and all values."
        )
        position: Literal["last", "emotion-word"] = Field(
            "last", description="Token that is read and written: the last one, or the emotion word and its counterpart."
        )
        use_attn_result: bool = Field(False, description="Synonym of --patch-mode result (whatever that says).")
        max_tokens: int = Field(30, ge=1, description="Tokens to write after each prompt.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._component_work import component_work

        random = 0 if params.patch_mode == "pattern_v" and not params.use_attn_result else params.random
        return component_work(lm, params, testing=random + 4)

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        from emotion_circuits.circuits.components import Grid, parse_heads

        parse_heads(params.head_spec, Grid.of(lm))  # a wrong request is refused before anything runs
        return ()

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.circuits.components import Grid, parse_heads
        from emotion_circuits.experiments._components.patching import Patching

        mode: PatchMode = "result" if params.use_attn_result else params.patch_mode
        heads = parse_heads(params.head_spec, Grid.of(context.lm))
        bench = Bench(context, params)
        tested, rows, paired = [], [], []
        metrics: dict[str, Any] = {}
        for subject in bench.subjects:
            patching = Patching(bench, subject, heads, mode, params.position)
            tested.append(patching.endpoint(params.random))
            prompts = [p.donor for p in patching.pairs][: params.texts]
            if prompts:
                texts = write_both(
                    context, params, f"texts-{subject.emotion}", prompts, PATCHED, patching.write, bench.emotions
                )
                rows += text_rows(texts, PATCHED, "patched_texts", subject.emotion)
                paired += paired_rows(texts, PATCHED, subject.emotion, params.resamples, context.seed)
                metrics[subject.emotion] = {c: metric_means(texts, c) for c in (BASELINE_NAME, PATCHED)}
        said = [patching_sentence(t, len(heads), mode) for t in tested]
        figure = Figure(
            "heads-patching", "bars", f"Patching {params.head_spec[:60]} ({mode})",
            "Recovery on test scenarios: 1 is the emotional text, 0 its neutral twin; random heads: central 95 %.",
            "Bars of the recovery for the named heads and for random heads.",
            confirmation_bars([t for t in tested if t["random"] and t["unit"] == "share"]),
            {"x": "recovery m", "interval_label": "95 % interval"},
        )  # fmt: skip
        tables = text_tables(rows, paired, "patched_texts", params.top_n)
        section = Section(
            "heads-patching", "Do these heads carry it into neutral texts?", [s + "." for s in said],
            [figure] if figure.data else [], tables,
        )  # fmt: skip
        summary = {
            "heads": [str(h) for h in heads], "patch_mode": mode, "position": params.position,
            "prompts": [r["prompt"] for r in rows], "baseline_texts": [r["baseline_texts"] for r in rows],
            "patched_texts": [r["patched_texts"] for r in rows],
            "baseline_metrics": {e: m[BASELINE_NAME] for e, m in metrics.items()},
            "patched_metrics": {e: m[PATCHED] for e, m in metrics.items()}, "paired": paired, "results": tested,
        }  # fmt: skip
        return Outcome(summary, said, section)


def patching_sentence(row: Mapping[str, Any], heads: int, mode: str) -> str:
    """What one emotion's row says, and why it is not confirmed where it is not."""
    change = f"{row['change']:+.3f} [{row['ci'][0]:+.3f}, {row['ci'][1]:+.3f}]"
    into = f"{row['emotion']}: patching {heads} heads ({mode}) into {row['pairs']} neutral texts"
    found = f"{into} recovers {change} of the endpoint's difference"
    if row["unit"] == "nats":
        found = (
            f"{into} changes the endpoint by {change} nats (no share: emotional and neutral texts do not clearly "
            f"differ on it, {row['gap']:+.2f} nats)"
        )
    if not row["random"]:
        return f"{found}; random heads are not run in this mode"
    against = (
        f"random matched heads (above {row['beaten']} of {row['sets']}, mean {row['random_mean']:+.3f}, "
        f"p {row['p']:.3g})"
    )
    if row["confirmed"]:
        return f"{found}, more than {against}"
    if row["sets"] < FEWEST_SETS:
        return f"{found}; too few random sets to compare with: {against}"
    if beats_random(row["beaten"], row["sets"]):
        return f"{found}, NOT confirmed: the interval contains 0, though it is more than {against}"
    return f"{found}; no effect beyond {against} was shown"

"""``heads.screen``: every head scored by attention, direct contribution, exact ablation and attribution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from emotion_circuits.experiments._contract import Context, Experiment, Needed, Outcome, ScoreStep, TextStep
from emotion_circuits.experiments._heads import (
    MODES,
    RANDOM_SETS,
    Bench,
    CircuitParams,
    Mode,
    circuit_inputs,
    confirm,
    confirmation_bars,
    confirmation_sentence,
    observation,
    required_directions,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import BASELINE_ARM, Figure, Observation, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments._components.screen import Screened
    from emotion_circuits.models.lm import LM


ABLATED = "change when ablated (nats)"
ATTENDED = "attention to emotion words − to matched words"
SHORTLIST = (
    "Only the heads with the strongest estimated support and as many random ones were ablated: a head that attribution "
    "misjudges may be missing from the list (--exact 0 ablates every head)."
)


def _resample_first(modes: tuple[Mode, ...]) -> tuple[Mode, ...]:
    return tuple(dict.fromkeys(modes)) or ("resample",)


@experiment("heads.screen", "Score every head: attention to emotion words, direct contribution, exact ablation.")
class HeadsScreen(Experiment):
    """Heads are chosen on fit and dev scenarios and confirmed, as a set, on test scenarios."""

    class Params(CircuitParams):
        """Parameters of ``heads.screen``."""

        modes: Annotated[tuple[Mode, ...], AfterValidator(_resample_first)] = Field(
            ("resample",), description="Ablations of every head; the first one gives scores. The others cost as much."
        )
        exact: int = Field(
            0, ge=0, description="Ablate only this many heads that attribution says support the endpoint most, and as "
            "many random ones (0: every head)."
        )  # fmt: skip
        top: int = Field(10, ge=1, description="Heads with the strongest support that are confirmed as a set.")
        random: int = Field(RANDOM_SETS, ge=19, description="Random matched sets of heads.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._component_work import GRADIENT, component_work

        heads = min(2 * params.exact, lm.n_layers * lm.n_heads) if params.exact else lm.n_layers * lm.n_heads
        # Attribution; donors and clean runs; contributions and attention of both texts; source tokens.
        choosing = GRADIENT + 1 + 2 * len(params.modes) + 4 + 1
        tested = params.random + len(MODES) * 3
        return component_work(lm, params, testing=tested, choosing=choosing, alone=heads * len(params.modes))

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.experiments._components.screen import screen

        bench = Bench(context, params)
        found = [screen(bench, s, params.modes, params.top, params.exact) for s in bench.subjects]
        tested = [
            confirm(bench, f.subject, f.top, f"confirm-{f.subject.emotion}-{mode}", mode, sets_of(mode, params))
            for f in found
            for mode in MODES
        ]
        return _outcome(context, params, found, tested)


def sets_of(mode: Mode, params: HeadsScreen.Params) -> int:
    """Random sets are run in the first mode; the others are there to show how much the mode matters."""
    return params.random if mode == params.modes[0] else 0


def _outcome(
    context: Context, params: HeadsScreen.Params, found: Sequence[Screened], tested: Sequence[dict[str, Any]]
) -> Outcome:
    scores = [row for f in found for row in f.rows]
    main = [t for t in tested if t["mode"] == params.modes[0]]
    verdicts = [confirmation_sentence(t, "top heads") for t in main]
    said = verdicts + [f"{f.subject.emotion}: {f.gate.sentence()}" for f in found]
    gates = {
        f.subject.emotion: {
            "attribution": {"spearman": f.gate.spearman, "signs": f.gate.signs, "checked": f.gate.checked,
                            "valid": f.gate.valid},
            "direct_error": f.direct_error, "reading_site": str(f.subject.reading.site),
            "attention": f.attention_note,
        }
        for f in found
    }  # fmt: skip
    columns = {"emotion": "emotion", "layer": "layer", "head": "head", "ablation": "change when ablated",
               "ci": "95 % interval", "p_bh": "p (BH)", "direct": "direct", "delta_attn": "attention to emotion words",
               "attribution": "attribution", "reads": "source tokens"}  # fmt: skip
    best = [
        {**row, "reads": f.sources.get((row["layer"], row["head"]), "")}
        for f in found for row in _strongest(f.rows)[: len(f.top)]
    ]  # fmt: skip
    table = Table("heads-top", "Heads with the strongest support", "Chosen on fit and dev scenarios.", columns, best)
    bars = Figure(
        "heads-confirmation", "bars", "Top heads ablated together, on test scenarios",
        "Change of the endpoint in nats; random sets have equal size and layer distribution (central 95 %).",
        "Bars of the change of the endpoint for the chosen heads and for random sets.", confirmation_bars(tested),
        {"x": "change of the endpoint (nats)", "interval_label": "95 % interval"},
    )  # fmt: skip
    maps = [_map(f, key, text) for f in found for key, text in _mapped(params.exact, f.gate.valid)]
    limits = [
        "Direct contributions leave out what a head does through later components and are 0 behind the layer at which "
        "the direction is read; ablation changes of single heads do not add up.",
        *(f"{f.attention_note}." for f in found if f.attention_note),
    ]
    if params.exact:
        limits.insert(0, SHORTLIST)
    section = Section("heads", "Which heads carry it?", [s + "." for s in said], [*maps, bars], [table], limits)
    summary = {
        "layers": context.lm.n_layers, "heads_per_layer": context.lm.n_heads, "scores": scores, "gates": gates,
        "mode": params.modes[0], "confirmation": tested, "endpoint": "log-sum-exp difference, nats",
    }  # fmt: skip
    tensors = {f"heads-{f.subject.emotion}": f.arrays for f in found}
    return Outcome(summary, verdicts, section, _observations(context, found), tensors)


def _strongest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the heads that were ablated, from the strongest support on."""
    return sorted((r for r in rows if r["ablation"] is not None), key=lambda r: r["ablation"])


def _mapped(exact: int, estimates_hold: bool) -> tuple[tuple[str, str], ...]:
    """What the layer × head maps show: of a shortlist all changes are estimated, and few known where that fails."""
    estimated = ("attribution", "change when ablated, estimated (nats)")
    changes = estimated if exact and estimates_hold else ("ablation", ABLATED)
    return changes, ("direct", "direct contribution, emotional − neutral"), ("delta_attn", ATTENDED)


def _map(found: Screened, key: str, text: str) -> Figure:
    data = [{"row": r["layer"], "column": r["head"], "value": r[key]} for r in found.rows]
    emotion = found.subject.emotion
    return Figure(
        f"heads-{key.replace('_', '-')}-{emotion}", "matrix", f"{emotion}: {text}",
        f"Layer × head; {text}; {len(found.subject.choosing)} pairs of fit and dev scenarios.",
        f"Heatmap of heads for {emotion}: {text}.", data,
        {"midpoint": 0, "x": "head", "y": "layer", "value": text},
    )  # fmt: skip


def _observations(context: Context, found: Sequence[Screened]) -> Iterator[Observation]:
    for f in found:
        changed = f.arrays["changes"]
        for p, pair in enumerate(f.subject.choosing):
            emotion = f.subject.emotion
            yield observation(context, "heads.screen", emotion, BASELINE_ARM, pair, f.arrays["clean"][p])
            for row in _strongest(f.rows):
                layer, head = row["layer"], row["head"]
                value = f.arrays["clean"][p] + changed[layer, head, p]
                yield observation(context, "heads.screen", emotion, f"ablate {layer}:{head}", pair, value)

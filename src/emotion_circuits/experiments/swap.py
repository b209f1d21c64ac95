"""``swap``: put an emotional prompt's residual into its neutral twin at one layer and position, then go on writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Outcome,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._endpoint import EndpointTokens
from emotion_circuits.experiments._matched import MatchedParams, matched_emotions, matched_inputs, matched_texts
from emotion_circuits.experiments._paired import paired_row
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import SITE, depths
from emotion_circuits.experiments.extract import StudySet
from emotion_circuits.types import (
    BASELINE_ARM,
    NEUTRAL,
    Condition,
    Figure,
    Intervention,
    Observation,
    Positions,
    Prompt,
    Section,
    Site,
    Table,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.circuits.endpoints import Endpoint
    from emotion_circuits.models.lm import LM

DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
DONORS = "donors"
"""The capture of all texts: each is a donor of some other one."""
DONOR_NEUTRAL = "neutral donor"
SHOWN = 6
"""Texts per emotion that are also continued, to be read."""


def _single(position: str) -> str:
    parsed = Positions.parse(position)
    if parsed.kind not in ("last", "at") or len(parsed.values) > 1:
        raise UsageError(f"position {position!r} does not name one token of every text", "use last or at:0")
    return str(parsed)


@experiment("swap", "Replace a neutral prompt's residual by its emotional twin's at (layer, position), then continue.")
class Swap(Experiment):
    """Donors are the twin of the same scenario, and as control a neutral text of another scenario."""

    version = 2

    class Params(MatchedParams):
        """Parameters of ``swap``."""

        prompts: StudySet = Field("baseline", description="Prompt set with matched scenarios; its test texts are used.")
        layers: tuple[int, ...] = Field((), description="Layers (default: five depths); each is swapped on its own.")
        at: Annotated[str, AfterValidator(_single)] = Field(
            "last", description="Position that is replaced: last, at:N."
        )
        samples: int = Field(1, ge=1, description="Texts per prompt (sampled above 1, greedy otherwise).")
        max_new_tokens: int = Field(30, ge=1, description="Tokens to write after each prompt.")
        permutations: int = Field(9999, ge=99, description="Sign flips of scenarios.")

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        lm.layers(params.layers or None)
        scenarios = _scenarios(params)
        _require_donors(params, scenarios)
        texts = tuple(text for scenario in scenarios.values() for text in scenario.values())
        return [CaptureStep(DONORS, texts, (SITE,), (Positions.parse(params.at),))]

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        layers, at = _layers(lm, params), Positions.parse(params.at)
        middle, steps = layers[len(layers) // 2], list[ScoreStep | TextStep]()
        for emotion in matched_emotions(params):
            neutral, donors = _donors(params, emotion)
            for i, p in enumerate(neutral):
                steps.append(ScoreStep(f"swap-{emotion}-{i}", (p,), 1 + len(donors) * len(layers), middle, at))
            for i, p in enumerate(neutral[:SHOWN]):
                steps.append(TextStep(f"swap-texts-{emotion}-{i}", (p,), 2, params.max_new_tokens, params.samples,
                                      middle, at, judged=False))  # fmt: skip
        return steps

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return matched_inputs(params)

    def summarise(self, context: Context, params: Params) -> Outcome:
        emotions = matched_emotions(params)
        tokens = EndpointTokens(context.measure, emotions)
        layers = _layers(context.lm, params)
        cells = [cell for e in emotions for cell in _swapped(context, params, e, layers, tokens.metric(e))]
        rows = [_row(cell, params, context.seed) for cell in cells]
        texts = _side_by_side(context, params, emotions, layers)
        said = [_sentence(rows, e) for e in emotions]
        columns = {"emotion": "emotion", "layer": "layer", "donor": "donor", "mean_diff": "change (nats)",
                   "ci": "95 % interval", "p": "p", "n": "texts"}  # fmt: skip
        section = Section(
            "swap", "What does an emotional residual do in a neutral text?", [s + "." for s in said],
            [_figure(rows, e) for e in emotions],
            [Table("swap", "Change of the endpoint", "Against the same text untouched.", columns, rows), *texts],
        )  # fmt: skip
        return Outcome({"position": params.at, "results": rows}, said, section, _observations(context, cells, params))


@dataclass(frozen=True)
class _Swapped:
    """One emotion, layer and donor: the endpoint of every neutral text before and after, ``[prompt]``."""

    emotion: str
    layer: int
    donor: str
    prompts: tuple[Prompt, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]


def _layers(lm: LM, params: Swap.Params) -> tuple[int, ...]:
    return lm.layers(params.layers or depths(lm, DEPTHS))


def _scenarios(params: Swap.Params) -> dict[str, dict[str, Prompt]]:
    """Test scenarios with their texts by label; every one has a neutral text."""
    found: dict[str, dict[str, Prompt]] = {}
    for p in matched_texts(params):
        if p.split == "test" and p.scenario is not None:
            found.setdefault(p.scenario, {}).setdefault(p.emotion, p)
    matched = {s: by for s, by in found.items() if NEUTRAL in by and len(by) > 1}
    if len(matched) < 2:
        raise UsageError(
            f"{params.prompts} has {len(matched)} test scenarios with a neutral and an emotional text",
            "give each scenario a neutral text too, or use a matched set: --prompts baseline, extended or atlas",
        )
    return dict(list(matched.items())[: params.scenarios])


def _require_donors(params: Swap.Params, scenarios: Mapping[str, Mapping[str, Prompt]]) -> None:
    """Raise for an emotion with fewer than two scenarios: a neutral text would be its own donor, or there is none."""
    emotions = matched_emotions(params)
    counts = {e: sum(e in by for by in scenarios.values()) for e in emotions}
    for emotion, count in counts.items():
        if count < 2:
            others = " ".join(e for e in emotions if counts[e] >= 2)
            leave = f"leave it out: --emotions {others}, or " if others else ""
            raise UsageError(
                f"{params.prompts} has {count} test scenarios with a text of {emotion} and a neutral one, and 2 are "
                "needed: the control's donor is the neutral text of another",
                f"{leave}use a set with more of them, for example --prompts baseline",
            )


def _donors(params: Swap.Params, emotion: str) -> tuple[tuple[Prompt, ...], dict[str, dict[str, str]]]:
    """The neutral texts, and for each kind of donor the id of every text's donor."""
    scenarios = {s: by for s, by in _scenarios(params).items() if emotion in by}
    neutral = tuple(by[NEUTRAL] for by in scenarios.values())
    twins = {by[NEUTRAL].id: by[emotion].id for by in scenarios.values()}
    others = {p.id: neutral[(i + 1) % len(neutral)].id for i, p in enumerate(neutral)}
    return neutral, {emotion: twins, DONOR_NEUTRAL: others}


def _conditions(
    context: Context, params: Swap.Params, prompt: Prompt, donors: Mapping[str, Mapping[str, str]],
    layers: Sequence[int],
) -> list[Condition]:  # fmt: skip
    """One prompt's conditions: untouched, then every donor at every layer."""
    import numpy as np

    captured = context.captures[DONORS]
    values = captured.get(SITE, params.at)
    number = {p.id: i for i, p in enumerate(captured.prompts)}
    found = [Condition(BASELINE_ARM)]
    for donor, ids in donors.items():
        for layer in layers:
            value = np.array(values[number[ids[prompt.id]], captured.layers.index(layer)])
            edit = Intervention(Site(SITE, layer), "set", Positions.parse(params.at), value)
            found.append(Condition(f"{donor}-L{layer}", (edit,)))
    return found


def _swapped(
    context: Context, params: Swap.Params, emotion: str, layers: Sequence[int], endpoint: Endpoint
) -> list[_Swapped]:
    """Score every neutral text under every donor; each text has values of its own, so each is a step of its own."""
    import numpy as np

    neutral, donors = _donors(params, emotion)
    scored = np.array([
        context.measure.score(
            f"swap-{emotion}-{i}", [p], _conditions(context, params, p, donors, layers), {"endpoint": endpoint}
        )["endpoint"][0]
        for i, p in enumerate(neutral)
    ], dtype=np.float64)  # fmt: skip
    cells = [(donor, layer) for donor in donors for layer in layers]
    return [
        _Swapped(emotion, layer, donor, neutral, scored[:, 0], scored[:, 1 + c])
        for c, (donor, layer) in enumerate(cells)
    ]


def _row(cell: _Swapped, params: Swap.Params, seed: int) -> dict[str, Any]:
    found = paired_row(
        cell.after - cell.before, cell.prompts, resamples=params.resamples, permutations=params.permutations, seed=seed
    )
    kind = "twin" if cell.donor != DONOR_NEUTRAL else DONOR_NEUTRAL
    return {"emotion": cell.emotion, "layer": cell.layer, "donor": kind, **found}


def _side_by_side(context: Context, params: Swap.Params, emotions: Sequence[str], layers: Sequence[int]) -> list[Table]:
    """Continuations of the first texts, untouched and with the twin's residual in the middle layer."""
    from emotion_circuits.engine import Sampling

    layer = layers[len(layers) // 2]
    temperature = 1.0 if params.samples > 1 else 0.0
    sampling = Sampling(params.max_new_tokens, temperature, 0.9, params.samples, context.seed)
    tables = []
    for emotion in emotions:
        neutral, donors = _donors(params, emotion)
        rows = []
        for i, p in enumerate(neutral[:SHOWN]):
            conditions = _conditions(context, params, p, {emotion: donors[emotion]}, [layer])
            written = context.measure.generate(f"swap-texts-{emotion}-{i}", [p], conditions, sampling)
            rows.append({"prompt": p.text, BASELINE_ARM: written[0].text, "swapped": written[sampling.samples].text})
        tables.append(Table(
            f"swap-{emotion}", f"Texts with the {emotion} twin's residual at layer {layer}",
            "The first test scenarios; not selected.",
            {"prompt": "neutral prompt", BASELINE_ARM: "untouched", "swapped": "swapped"}, rows,
        ))  # fmt: skip
    return tables


def _sentence(rows: Sequence[Mapping[str, Any]], emotion: str) -> str:
    mine = [r for r in rows if r["emotion"] == emotion and r["mean_diff"] is not None]
    best = max((r for r in mine if r["donor"] == "twin"), key=lambda r: r["mean_diff"])
    control = next(r for r in mine if r["donor"] == DONOR_NEUTRAL and r["layer"] == best["layer"])
    low, high = best["ci"] or (float("nan"), float("nan"))
    return (
        f"{emotion}: the twin's residual moves the endpoint most at layer {best['layer']}, by {best['mean_diff']:+.2f} "
        f"nats [{low:+.2f}, {high:+.2f}]; a neutral text's by {control['mean_diff']:+.2f} (layer chosen on these texts)"
    )


def _figure(rows: Sequence[Mapping[str, Any]], emotion: str) -> Figure:
    data = [
        {"layer": r["layer"], "series": r["donor"], "value": r["mean_diff"],
         **({"low": r["ci"][0], "high": r["ci"][1]} if r["ci"] else {})}
        for r in rows
        if r["emotion"] == emotion
    ]  # fmt: skip
    return Figure(
        f"swap-{emotion}", "lines", f"Effect of a swapped residual by layer: {emotion}",
        "Change of the emotion's endpoint in neutral test texts; bands are 95 % intervals over scenarios.",
        f"Lines of swap effects on {emotion} by layer and donor.", data,
        {"y": "change of the endpoint (nats)", "reference": 0, "interval_label": "95 % interval"},
    )  # fmt: skip


def _observations(context: Context, cells: Sequence[_Swapped], params: Swap.Params) -> Iterator[Observation]:
    for cell in cells:
        twin = cell.donor != DONOR_NEUTRAL
        arms = [("twin" if twin else "neutral-donor", cell.after)] + ([(BASELINE_ARM, cell.before)] if twin else [])
        for arm, values in arms:
            for prompt, value in zip(cell.prompts, values, strict=True):
                yield Observation(
                    experiment="swap", model=context.lm.name, emotion=cell.emotion, layer=cell.layer,
                    position=params.at, strength=None, arm=arm, unit=prompt.id,
                    cluster=prompt.scenario or prompt.id, split="test", sample=0, scorer="logit", value=float(value),
                )  # fmt: skip

"""``iterative``: an emotion added at every step of a longer text, and what that does step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._paired import paired_row
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import (
    SITE,
    STEERED,
    SteeringParams,
    Unit,
    Vectors,
    expected_emotions,
    layer_or_middle,
    required_runs,
    steered_prompts,
)
from emotion_circuits.types import BASELINE_ARM, Condition, Figure, Observation, Positions, Section, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.experiments._texts import ScoredTexts
    from emotion_circuits.models.lm import LM

STEERED_ARM = "steered"


@experiment("iterative", "Intervene at every step of 10-50 tokens, with a schedule; log activations on request.")
class Iterative(Experiment):
    """Texts with the vector at each step against the same prompts untouched."""

    version = 2

    class Params(SteeringParams):
        """Parameters of ``iterative``."""

        max_new_tokens: int = Field(50, ge=1, description="Tokens to write after each prompt.")
        layer: int | None = Field(None, description="Layer (default: half-way through the model).")
        strength: float = Field(0.3, allow_inf_nan=False, description="Strength at every step, times the schedule.")
        unit: Unit = Field(
            "fraction", description="fraction of the residual norm, raw multiples, or sd on neutral text."
        )
        scenarios: int | None = Field(10, ge=2, description="Only the first N prompts of every split.")
        log_activations: bool = Field(
            False, description="Save the residual stream at every step (activations.safetensors)."
        )
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples of prompts.")
        permutations: int = Field(9999, ge=99, description="Sign flips of prompts.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_runs(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._endpoint import own_words

        return own_words(expected_emotions(params))

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        layer_or_middle(lm, params.layer)
        return [CaptureStep(STEERED, steered_prompts(params), (SITE,), (Positions("last"),))]

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        prompts, new, layer = steered_prompts(params), params.max_new_tokens, layer_or_middle(lm, params.layer)
        conditions, at = 1 + len(expected_emotions(params)), Positions.parse(params.at)
        written = TextStep("texts", prompts, conditions, new, 1, layer, at)
        if not params.log_activations:
            return [written]
        return [written, ScoreStep("replay", prompts, conditions, layer, Positions("all"), behind=new, rows=1)]

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.engine import Sampling
        from emotion_circuits.experiments._texts import write_texts

        vectors, layer = Vectors(context, params), layer_or_middle(context.lm, params.layer)
        conditions = [Condition(BASELINE_ARM)] + [
            vectors.condition(e, e, layer, params.strength, params.unit) for e in vectors.emotions
        ]
        prompts = steered_prompts(params)
        sampling = Sampling(params.max_new_tokens)
        texts = write_texts(context.measure, "texts", prompts, conditions, sampling, vectors.emotions)
        rows = [row for e in vectors.emotions for row in _rows(texts, e, params, context.seed)]
        readouts, logged = _steps(vectors, texts, conditions, layer, params)
        said = [_sentence(rows, e) for e in vectors.emotions]
        shown = [
            {"prompt": p.text, **{c: texts.texts(c)[i] for c in texts.conditions}} for i, p in enumerate(prompts[:6])
        ]
        columns = {"emotion": "emotion", "scorer": "scorer", "mean_diff": "difference", "ci": "95 % interval", "p": "p",
                   "n": "prompts"}  # fmt: skip
        section = Section(
            "iterative", "An emotion at every step", [s + "." for s in said],
            [_figure(readouts, e) for e in vectors.emotions] if readouts else [],
            [
                Table("iterative", "Against the same prompts untouched", "Greedy texts.", columns, rows),
                Table("iterative-texts", "Texts side by side", "The first prompts; not selected.",
                      {"prompt": "prompt", **{c: c for c in texts.conditions}}, shown),
            ],
        )  # fmt: skip
        return Outcome(
            {"layer": layer, "strength": params.strength, "unit": params.unit, "results": rows, "steps": readouts},
            said, section, _observations(context, texts, layer, params),
            tensors={"activations": logged} if logged else {},
        )  # fmt: skip


def _rows(texts: ScoredTexts, emotion: str, params: Iterative.Params, seed: int) -> list[dict[str, Any]]:
    rows = []
    for scorer in (f"embedded:{emotion}", f"lexicon:{emotion}", "vader", "log_perplexity", "rep4", "distinct2"):
        if scorer in texts.values:
            difference = texts.of(scorer, emotion)[:, 0] - texts.of(scorer, BASELINE_ARM)[:, 0]
            found = paired_row(
                difference, texts.prompts, resamples=params.resamples, permutations=params.permutations, seed=seed
            )
            rows.append({"emotion": emotion, "scorer": scorer.split(":")[0], **found})
    return rows


def _steps(
    vectors: Vectors, texts: ScoredTexts, conditions: Sequence[Condition], layer: int, params: Iterative.Params
) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.generic]]]:
    """Mean reading of each emotion's probe by step, steered and untouched; and the activations, where asked for.

    Only with ``log_activations``: every text is read once more.
    """
    import numpy as np

    from emotion_circuits.engine.replay import replay

    if not params.log_activations:
        return [], {}
    directions, row = vectors.directions, vectors.directions.row(layer)
    logged: dict[str, Any] = {}
    readouts: dict[tuple[str, str, int], list[float]] = {}
    for n, generation in enumerate(texts.generations):
        prompt, condition = texts.prompts[n // len(conditions)], conditions[n % len(conditions)]
        if not generation.tokens:
            continue
        x = replay(vectors.context.lm, prompt, generation.tokens, condition, directions.layers)
        logged[f"{prompt.id}/{condition.name}"] = x[:, row]
        for emotion in vectors.emotions:
            if condition.name in (BASELINE_ARM, emotion):
                arm = BASELINE_ARM if condition.name == BASELINE_ARM else STEERED_ARM
                for step, value in enumerate(_reading(vectors, emotion, x, row)):
                    readouts.setdefault((emotion, arm, step), []).append(value)
    return [
        {"emotion": e, "arm": arm, "step": step, "reading": float(np.mean(values)), "texts": len(values)}
        for (e, arm, step), values in readouts.items()
    ], logged


def _reading(vectors: Vectors, emotion: str, x: NDArray[Any], row: int) -> list[float]:
    """The probe of ``emotion`` at the last layer, in SD of neutral texts: what is left of the vector at the end."""
    found = vectors.directions
    last = len(found.layers) - 1
    probe = found.probe("neutral", emotion)[last]
    spread = found.neutral_spread(found.layers[last], probe)
    return [float(v) for v in (x[:, last] - found.neutral_mean[last]) @ probe / spread]


def _sentence(rows: Sequence[Mapping[str, Any]], emotion: str) -> str:
    row = next((r for r in rows if r["emotion"] == emotion and r["scorer"] == "embedded"), None)
    damage = next(r for r in rows if r["emotion"] == emotion and r["scorer"] == "rep4")
    if row is None or row["ci"] is None:
        return f"{emotion}: the classifier's score did not vary"
    repeated = "–" if damage["mean_diff"] is None else f"{damage['mean_diff']:+.2f}"
    return (
        f"{emotion}: classifier {row['mean_diff']:+.3f} [{row['ci'][0]:+.3f}, {row['ci'][1]:+.3f}] against the "
        f"untouched text, repeated 4-grams {repeated}"
    )


def _figure(readouts: Sequence[Mapping[str, Any]], emotion: str) -> Figure:
    data = [{"x": r["step"], "series": r["arm"], "value": r["reading"]} for r in readouts if r["emotion"] == emotion]
    return Figure(
        f"iterative-{emotion}", "lines", f"{emotion} in the last layer, step by step".capitalize(),
        "Mean reading of the emotion's direction in the last layer at the token each step read (0: the prompt's last).",
        f"Lines of the {emotion} probe's reading over generation steps.", data,
        {"x": "generation step", "y": "reading (SD of neutral text)", "reference": 0},
    )  # fmt: skip


def _observations(context: Context, texts: ScoredTexts, layer: int, params: Iterative.Params) -> Iterator[Observation]:
    for emotion in (c for c in texts.conditions if c != BASELINE_ARM):
        for scorer in (f"embedded:{emotion}", f"lexicon:{emotion}", "vader", "log_perplexity", "rep4", "distinct2"):
            if scorer not in texts.values:
                continue
            for arm, condition in ((STEERED_ARM, emotion), (BASELINE_ARM, BASELINE_ARM)):
                for prompt, value in zip(texts.prompts, texts.of(scorer, condition)[:, 0], strict=True):
                    if value == value:
                        yield Observation(
                            experiment="iterative", model=context.lm.name, emotion=emotion, layer=layer,
                            position=params.position, strength=params.strength, arm=arm, unit=prompt.id,
                            cluster=prompt.scenario or prompt.id, split=prompt.split, sample=0,
                            scorer=scorer.split(":")[0], value=float(value),
                        )  # fmt: skip

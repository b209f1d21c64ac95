"""``sweep``: every layer × strength on the prompts, one cell per emotion chosen on dev and tested on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._relabelled import require_arrangements, shuffling_inputs
from emotion_circuits.experiments._steering import (
    SteeringParams,
    Strengths,
    Unit,
    Vectors,
    depths,
    expected_emotions,
    permuted_texts,
    required_runs,
    steering_captures,
    unit_inputs,
)

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

DEPTHS = (0.25, 0.375, 0.5, 0.625, 0.75)
STRENGTHS = (-0.45, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.45)
PLAN_LAYERS, PLAN_STRENGTHS = (3, 5, 7, 9, 11), (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""The grid of the original plan: raw multiples of the mean-difference vector."""
PLAN_VALUES = {"max_new_tokens": 20, "position": "last"}
"""Length of its texts, and where its vectors are read: at the end of the sentence. What is given otherwise holds."""


def symmetric(values: tuple[float, ...]) -> tuple[float, ...]:
    """Strengths in order with 0 among them; raises unless every one comes with both signs."""
    up, down = sorted(v for v in values if v > 0), sorted(-v for v in values if v < 0)
    if not up or up != down:
        raise UsageError(
            f"strengths {' '.join(f'{v:g}' for v in values)} are not symmetric about 0",
            "give every strength with both signs: the effect is the half difference between +α and −α",
        )
    return tuple(sorted({0.0, *values}))


def _enough_random(count: int) -> int:
    if count:
        from emotion_circuits.stats import required_controls

        needed = required_controls()
        if count < needed:
            raise UsageError(
                f"{count} random vectors cannot support a claim: the smallest p that a vector can reach among them is "
                f"{1 / (count + 1):.2g}, and .05 is asked for",
                f"give --random {needed} or more, or --random 0 for a sweep without random controls",
            )
    return count


RandomVectors = Annotated[int, AfterValidator(_enough_random)]


@experiment("sweep", "Steer over layers × strengths; choose a cell on dev, test it against random vectors.")
class Sweep(Experiment):
    """The primary endpoint is teacher-forced; texts are read by the evaluators and gated for damage."""

    version = 2

    class Params(SteeringParams):
        """Parameters of ``sweep``."""

        # Fractions of a profile are no raw multiples, nor the other way round; the plan has texts of its own.
        overrules: ClassVar[Mapping[tuple[str, Any], Sequence[str]]] = dict.fromkeys(
            (("grid", "plan"), ("grid", "fraction")), ("layers", "depths", "strengths", "unit", *PLAN_VALUES)
        )

        grid: Literal["fraction", "plan"] = Field(
            "fraction",
            description="fraction: shares of the residual norm; plan: the original plan's raw grid, with texts of 20 "
            "tokens and vectors read at the last token.",
        )
        layers: tuple[int, ...] = Field((), description="Layers (default: by --depths).")
        depths: tuple[float, ...] = Field(DEPTHS, description="Relative depths of the layers: 0 first, 1 last.")
        strengths: Annotated[Strengths, AfterValidator(symmetric)] = Field(
            STRENGTHS, description="Strengths, each with both signs."
        )
        unit: Unit = Field(
            "fraction", description="fraction of the residual norm, raw multiples, or sd on neutral text."
        )
        texts: Literal["grid", "declared"] = Field(
            "grid", description="grid: greedy texts of every cell; declared: of the chosen cells only."
        )
        samples: int = Field(5, ge=1, description="Sampled texts per prompt at the chosen cells.")
        dev_samples: int = Field(2, ge=1, description="Sampled texts per dev prompt and cell, to choose a cell by.")
        temperature: float = Field(1.0, gt=0, description="Temperature of sampled texts.")
        top_p: float = Field(0.9, gt=0, le=1, description="Nucleus of sampled texts.")
        random: RandomVectors = Field(
            999, ge=0, description="Random vectors per family at the chosen cells: 0 (none), or 19 and more."
        )

        @model_validator(mode="before")
        @classmethod
        def _of_the_plan(cls, given: Any) -> Any:
            whole = isinstance(given, Mapping) and given.get("grid") == "plan"
            return {**PLAN_VALUES, **given} if whole else given

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_runs(params)

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        grid_of(lm, params)  # a layer out of range is refused before anything runs
        return steering_captures(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._grid import grid_work

        layers, strengths, _ = grid_of(lm, params)
        return grid_work(params, layers, strengths)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._endpoint import endpoint_inputs

        units: tuple[Unit, ...] = () if params.grid == "plan" else (params.unit,)
        found = {**endpoint_inputs(expected_emotions(params)), **unit_inputs(units)}
        if not params.random:
            return found
        from emotion_circuits.stats import required_controls

        permuted = permuted_texts(params)
        require_arrangements(permuted, params.random, "--random", required_controls(), "--random 0")
        return {**found, **shuffling_inputs(permuted)}

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.experiments._grid import run_grid
        from emotion_circuits.experiments._sweep_report import sweep_outcome

        vectors = Vectors(context, params)
        layers, strengths, unit = grid_of(context.lm, params)
        return sweep_outcome(run_grid(vectors, params, layers, strengths, unit), params)


def grid_of(lm: LM, params: Sweep.Params) -> tuple[tuple[int, ...], tuple[float, ...], Unit]:
    """Layers, strengths and their unit on this model; raises for a layer that it does not have."""
    if params.grid == "plan":
        layers = params.layers or tuple(layer for layer in PLAN_LAYERS if layer < lm.n_layers)
        strengths = params.strengths if params.strengths != STRENGTHS else PLAN_STRENGTHS
        return lm.layers(layers), strengths, "raw"
    return lm.layers(params.layers or depths(lm, params.depths)), params.strengths, params.unit

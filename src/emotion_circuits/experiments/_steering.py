"""What every steering experiment shares: its parameters, the vectors it adds and the places it adds them at."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.experiments._contract import CaptureStep, Context, ExperimentParams, Needed
from emotion_circuits.experiments.directions import Directions
from emotion_circuits.experiments.extract import EmotionNames, ReadPosition
from emotion_circuits.types import NEUTRAL, Condition, Intervention, Positions, Prompt, SiteKind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.models.lm import LM
    from emotion_circuits.representations import DirectionSet, Labelled

SITE: SiteKind = "resid_post"
STEERED, POOL = "steered", "neutral_pool"
"""Captures: the prompts at the position that is steered (unit of strength), neutral text (its covariance)."""

BASELINE_NAME = "baseline"
Unit = Literal["fraction", "raw", "sd"]


def _strengths(values: tuple[float, ...]) -> tuple[float, ...]:
    if not values:
        raise UsageError("the list of strengths is empty", "give at least one, for example --strengths -0.3 0 0.3")
    for value in values:
        if not math.isfinite(value):
            raise UsageError(
                f"strength {value} is no number", "give finite strengths, for example --strengths -0.3 0 0.3"
            )
    return tuple(dict.fromkeys(values))


def _editable(position: str) -> str:
    parsed = Positions.parse(position)
    if parsed.kind == "mean-content":
        raise UsageError("a mean over tokens cannot be steered", "use onward, prompt, all, last or generated")
    return str(parsed)


Strengths = Annotated[tuple[float, ...], AfterValidator(_strengths)]
EditPosition = Annotated[str, AfterValidator(_editable)]


class SteeringParams(ExperimentParams):
    """Parameters of every experiment that adds emotion vectors."""

    prompts: str = Field("continuations", description="Prompts to continue (set name or file).")
    emotions: EmotionNames = Field((), description="Only these emotions (default: all that have a direction).")
    position: ReadPosition = Field("mean-content", description="Token position the vectors were fitted at.")
    at: EditPosition = Field(
        "onward",
        description="Positions that are edited: onward (the prompt's end and all that follows), prompt, all, …",
    )
    schedule: str = Field("constant", description="Strength by generation step: constant, linear, decay, or a list.")
    decay_rate: float = Field(0.9, gt=0, le=1, description="Factor per step of --schedule decay.")
    max_new_tokens: int = Field(30, ge=1, description="Tokens to write after each prompt.")
    scenarios: int | None = Field(None, ge=2, description="Only the first N prompts of every split.")
    directions: Directions.Params = Field(default_factory=Directions.Params, description="Where the vectors come from.")


def fitted_directions(params: SteeringParams, *positions: str) -> Directions.Params:
    """The parameters of the ``directions`` run that has the vectors at these positions."""
    wanted = params.directions
    return wanted.model_copy(update={
        "positions": tuple(dict.fromkeys((*wanted.positions, *(positions or (params.position,))))),
        "sites": tuple(dict.fromkeys((*wanted.sites, SITE))),
    })  # fmt: skip


def expected_emotions(params: SteeringParams) -> tuple[str, ...]:
    """The emotions that will be steered, known before any vector is fitted; raises for one without a vector."""
    from emotion_circuits.experiments._fitted import fitted_emotions

    known = fitted_emotions(params.directions)
    for emotion in params.emotions:
        if emotion not in known:
            raise unknown_name("emotion", emotion, list(known))
    return params.emotions or known


def permuted_texts(params: SteeringParams) -> list[tuple[Prompt, ...]]:
    """For every emotion the texts of the fit whose labels are permuted for label-shuffled vectors, as captured.

    At emotion words these are copies of neutral texts, which may be clusters where the neutral texts are none.
    """
    from emotion_circuits.experiments._fitted import fitted_set
    from emotion_circuits.experiments.extract import at_emotion_words

    texts = fitted_set(fitted_directions(params))
    if Positions.parse(params.position).kind == "emotion-word":
        texts = at_emotion_words(texts)
    fit = [p for p in texts if p.split == "fit"]
    return [
        tuple(p for p in fit if p.emotion == e or (p.emotion == NEUTRAL and p.matched in ("", e)))
        for e in expected_emotions(params)
    ]


def unit_inputs(units: Collection[Unit]) -> Mapping[str, Any]:
    """What the units of strengths add to a key: where ``sd`` is among them, how a standard deviation is measured.

    Runs that took the dimensions of neutral text as independent have the same parameters and other numbers.
    """
    return {"sd": "neutral projections"} if "sd" in units else {}


def required_runs(params: SteeringParams, *positions: str) -> Sequence[Needed]:
    """The ``directions`` run and the captures it was fitted on (label-shuffled controls are refitted on them)."""
    directions = fitted_directions(params, *positions)
    return [Needed("directions", directions), *Directions().requires(directions)]


def steering_captures(params: SteeringParams) -> list[CaptureStep]:
    """What units and controls need: residual norms at the steered prompts' ends, and neutral activations."""
    from emotion_circuits.prompts import load_prompts

    last, mean = Positions("last"), Positions("mean-content")
    pool = tuple(p for p in load_prompts("neutral_pool") if p.split == "fit")
    return [CaptureStep(STEERED, steered_prompts(params), (SITE,), (last,)), CaptureStep(POOL, pool, (SITE,), (mean,))]


def steered_prompts(params: SteeringParams) -> tuple[Prompt, ...]:
    """The prompts that are continued, dev before test; prompts without a split are halved in their order.

    Raises:
        UsageError: no prompts, or a single one (nothing can be chosen on one half and tested on the other).
    """
    from dataclasses import replace

    from emotion_circuits.prompts import load_prompts

    texts = [p for p in load_prompts(params.prompts) if p.emotion == NEUTRAL]
    if len(texts) < 2:
        raise UsageError(
            f"{params.prompts} has {len(texts)} neutral prompts to continue", "give at least 2 (field: text)"
        )
    if any(p.split not in ("dev", "test") for p in texts):
        half = len(texts) // 2
        texts = [replace(p, split="dev" if i < half else "test") for i, p in enumerate(texts)]
    limited = [[p for p in texts if p.split == split][: params.scenarios] for split in ("dev", "test")]
    for split, part in zip(("dev", "test"), limited, strict=True):
        if not part:
            raise UsageError(f"{params.prompts} has no prompts in its {split} half", "give both splits, or none at all")
    return tuple(p for part in limited for p in part)


@dataclass(frozen=True)
class Vectors:
    """The vectors of one run of an experiment, with the lengths that strengths are multiplied by."""

    context: Context
    params: SteeringParams

    @cached_property
    def directions(self) -> DirectionSet:
        return self.at_position(self.params.position)

    def at_position(self, position: str) -> DirectionSet:
        """The directions that were fitted at another position."""
        from emotion_circuits.experiments.directions import load_directions

        return load_directions(self.context.runs["directions"], SITE, position)

    def _fitted(self, position: str | None) -> DirectionSet:
        return self.directions if position in (None, self.params.position) else self.at_position(position)

    @cached_property
    def emotions(self) -> tuple[str, ...]:
        known = self.directions.emotions
        for emotion in self.params.emotions:
            if emotion not in known:
                raise unknown_name("emotion", emotion, list(known))
        return self.params.emotions or known

    @cached_property
    def residual_norm(self) -> Mapping[int, float]:
        """Mean norm of the residual stream at the prompts' last tokens, by layer: strength 1 in unit ``fraction``."""
        import numpy as np

        steered = self.context.captures[STEERED]
        x = np.asarray(steered.get(SITE, "last"), dtype=np.float64)
        return dict(zip(steered.layers, np.linalg.norm(x, axis=-1).mean(axis=0).tolist(), strict=True))

    def length(self, emotion: str, layer: int, unit: Unit, position: str | None = None) -> float:
        """Length of the vector that strength 1 adds."""
        from emotion_circuits.representations.steering import scale_of

        read = Positions.parse(position or self.params.position)
        direction = self._fitted(position).direction(emotion, layer, self.context.lm.name, SITE, read)
        return scale_of(direction, unit, self.residual_norm[layer])

    def vector(self, emotion: str, layer: int, position: str | None = None) -> NDArray[np.floating[Any]]:
        """The emotion's mean-difference vector at one layer."""
        found = self._fitted(position)
        vector: NDArray[np.floating[Any]] = found.vectors["neutral"][emotion][found.row(layer)]
        return vector

    def add(self, vector: NDArray[Any], layer: int, length: float) -> Intervention:
        """Add ``vector`` at ``length`` at the positions and by the schedule of the parameters."""
        from emotion_circuits.engine.schedules import parse_schedule
        from emotion_circuits.representations.steering import add_at
        from emotion_circuits.types import Site

        schedule = parse_schedule(self.params.schedule, rate=self.params.decay_rate, steps=self.params.max_new_tokens)
        where = Positions.parse(self.params.at)
        return add_at(Site(SITE, layer), vector, length, positions=where, schedule=schedule)

    def condition(self, name: str, emotion: str, layer: int, strength: float, unit: Unit) -> Condition:
        """Steer with an emotion's vector."""
        length = strength * self.length(emotion, layer, unit)
        return Condition(name, (self.add(self.vector(emotion, layer), layer, length),))

    def fit_texts(self) -> Labelled:
        """The texts that the vectors were fitted on, as they were captured."""
        from emotion_circuits.experiments._fitted import fit_texts

        return fit_texts(self.context.runs["extract"], fitted_directions(self.params), SITE, self.params.position)

    def fitted_on(self, emotion: str) -> list[str]:
        """The texts of one emotion that its vector was fitted on."""
        from emotion_circuits.experiments._fitted import fitted_set

        texts = fitted_set(fitted_directions(self.params))
        return [p.text for p in texts if p.emotion == emotion and p.split == "fit"]

    def neutral_activations(self, layer: int) -> NDArray[np.floating[Any]]:
        """``[text, d]`` of the neutral pool at one layer."""
        pool = self.context.captures[POOL]
        import numpy as np

        return np.asarray(pool.get(SITE, "mean-content")[:, pool.layers.index(layer)])


def layer_or_middle(lm: LM, layer: int | None) -> int:
    """The layer that was asked for (negative ones count from the end), else the one half-way through the model."""
    return depths(lm, (0.5,))[0] if layer is None else lm.layers([layer])[0]


def depths(lm: LM, fractions: Sequence[float]) -> tuple[int, ...]:
    """Layers at relative depths (0 the first block's output, 1 the last's), each once."""
    return tuple(dict.fromkeys(round(f * (lm.n_layers - 1)) for f in fractions))

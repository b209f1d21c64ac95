"""``readout.scale``: how much the scores of single neutral tokens vary, so that a token's score has a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from emotion_circuits.experiments._contract import Context, Experiment, ExperimentParams, Needed, Outcome
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import SITE, SteeringParams, fitted_directions
from emotion_circuits.experiments.directions import Directions
from emotion_circuits.experiments.extract import ReadPosition

SCALE = "scale"
"""File of the run that holds the scale: ``mean`` and ``sd``, ``[layer, emotion]``."""


class ReadingParams(ExperimentParams):
    """Which directions single tokens are read with."""

    position: ReadPosition = Field("mean-content", description="Token position the directions were fitted at.")
    method: Literal["centred", "neutral"] = Field(
        "centred", description="centred: which emotion; neutral: how far from neutral text."
    )
    directions: Directions.Params = Field(
        default_factory=Directions.Params, description="Where the directions come from."
    )


def directions_needed(params: ReadingParams) -> Needed:
    """The ``directions`` run that is read: the one that steering with the same options adds."""
    steering = SteeringParams(position=params.position, directions=params.directions)
    return Needed("directions", fitted_directions(steering))


@experiment("readout.scale", "Calibrate the readout of single tokens on neutral texts.")
class ReadoutScale(Experiment):
    """Mean and spread of every direction's score over neutral tokens, at every layer."""

    class Params(ReadingParams):
        """Parameters of ``readout.scale``."""

    def requires(self, params: Params) -> Sequence[Needed]:
        return [directions_needed(params)]

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._captured import fingerprint_prompts
        from emotion_circuits.representations.readout import neutral_texts

        return {"neutral": fingerprint_prompts(neutral_texts())}

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.experiments.directions import load_directions
        from emotion_circuits.representations.readout import neutral_texts, token_scale

        directions = load_directions(context.runs["directions"], SITE, params.position)
        texts = neutral_texts()
        with context.measure.progress(f"readout.scale {context.lm.name}", len(texts)) as advance:
            scale = token_scale(context.lm, directions, texts, method=params.method, advance=advance)
        said = f"calibrated on {scale.tokens} neutral tokens at {len(directions.layers)} layers"
        return Outcome({"tokens": scale.tokens}, [said], tensors={SCALE: {"mean": scale.mean, "sd": scale.sd}})

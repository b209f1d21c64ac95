"""``transfer``: does the target hold the source's emotions up to a linear map fitted on neutral text?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.shared_texts import SharedTextsParams, map_texts, own_inputs, require_splits
from emotion_circuits.prompts.splits import SPLITS


class PairParams(SharedTextsParams):
    """Parameters of every experiment on two models: texts, map set and layers."""

    layers: tuple[int, ...] = Field((), description="Layers of the source instead of depths.")
    target_layers: tuple[int, ...] = Field((), description="Layers of the target instead of depths.")


def texts_of(params: PairParams, side: Literal["source", "target"]) -> SharedTextsParams:
    """What one side captures."""
    fields = {name: getattr(params, name) for name in SharedTextsParams.model_fields}
    layers = params.layers if side == "source" else params.target_layers
    return SharedTextsParams(**{**fields, "layers": layers})


def both_sides(params: PairParams, *, untrained: bool = False) -> list[PairNeeded]:
    """The captures of both models, and of the target's untrained twin."""
    needed = [
        PairNeeded("source", "source", "shared-texts", texts_of(params, "source")),
        PairNeeded("target", "target", "shared-texts", texts_of(params, "target")),
    ]
    if untrained:
        needed.append(PairNeeded("untrained", "untrained", "shared-texts", texts_of(params, "target")))
    return needed


@experiment(
    "transfer", "Do two models share emotions up to a linear map fitted on neutral text? A verdict with floors."
)
class Transfer(PairExperiment):
    """See ``representations.sharing``; the layer pair is chosen on dev, the verdict is measured on test."""

    version = 3

    class Params(PairParams):
        """Parameters of ``transfer``."""

        floors: Literal["all", "embedding"] = Field(
            "all", description="all: untrained twin and embedding layers; embedding: no untrained twin is built."
        )
        permutations: int = Field(999, ge=99, description="Shuffled maps, and random directions.")
        resamples: int = Field(1000, ge=100, description="Bootstrap resamples (everything is refitted).")

    def check(self, params: Params) -> None:
        require_splits(params, *SPLITS)
        map_texts(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return own_inputs(params)

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params, untrained=params.floors == "all")

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        from emotion_circuits.experiments._pairs.transfer_report import transfer_outcome

        return transfer_outcome(context, params)

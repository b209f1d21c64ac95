"""``neurons.ablate``: take named MLP neurons out, against random ones of the same layers, and read what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.experiments._component_texts import AblationTextParams
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    ScoreStep,
    TextStep,
)
from emotion_circuits.experiments._heads import MODES, circuit_inputs, required_directions
from emotion_circuits.experiments._registry import experiment

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM


@experiment(
    "neurons.ablate", "Ablate named MLP neurons: endpoint against random matched neurons, texts and evaluators."
)
class NeuronsAblate(Experiment):
    """Endpoint changes on test scenarios in all three modes; texts in the chosen one."""

    version = 2

    class Params(AblationTextParams):
        """Parameters of ``neurons.ablate``."""

        neurons: str = Field("", description='Neurons as "3:10,12;5:7" (layer:neurons;layer:neurons).')

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._component_work import component_work

        return component_work(lm, params, testing=params.random + 3 * len(MODES))

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        from emotion_circuits.circuits.components import Grid, parse_neurons

        parse_neurons(params.neurons, Grid.of(lm))  # a wrong request is refused before anything runs
        return ()

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.circuits.components import Grid, parse_neurons
        from emotion_circuits.experiments._component_ablation import ablation_outcome

        return ablation_outcome(context, params, parse_neurons(params.neurons, Grid.of(context.lm)), "neurons")

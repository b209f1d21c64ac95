"""``neurons.saliency``: MLP neurons ranked by what they write, and the top ones confirmed on test scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from emotion_circuits.experiments._contract import Context, Experiment, Needed, Outcome, ScoreStep, TextStep
from emotion_circuits.experiments._heads import (
    RANDOM_SETS,
    AblationParams,
    Bench,
    Subject,
    circuit_inputs,
    confirm,
    confirmation_bars,
    confirmation_sentence,
    required_directions,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.circuits.components import Neuron
    from emotion_circuits.models.lm import LM

Score = Literal["write", "activation-write", "gradient"]
SCORES: tuple[Score, ...] = ("write", "activation-write", "gradient")


@experiment(
    "neurons.saliency", "Rank MLP neurons by write direction, activation × write and gradient; confirm the top."
)
class NeuronsSaliency(Experiment):
    """Scores come from fit and dev scenarios; the top neurons are ablated on test scenarios."""

    class Params(AblationParams):
        """Parameters of ``neurons.saliency``."""

        top: int = Field(20, ge=1, description="Neurons of each ranking that are listed and confirmed as a set.")
        confirm: Score = Field("gradient", description="The ranking whose top neurons are confirmed.")
        random: int = Field(RANDOM_SETS, ge=19, description="Random matched sets of neurons.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._component_work import GRADIENT, component_work

        return component_work(lm, params, testing=params.random + 3, choosing=GRADIENT + 2)

    def summarise(self, context: Context, params: Params) -> Outcome:
        bench = Bench(context, params)
        rows, tested = [], []
        for subject in bench.subjects:
            for score in SCORES:
                found = _top(bench, subject, score, params.top)
                rows += [
                    {"emotion": subject.emotion, "score": score, "rank": rank, "layer": n.layer, "neuron": n.index,
                     "value": value}
                    for rank, (n, value) in enumerate(found, start=1)
                ]  # fmt: skip
                if score == params.confirm:
                    chosen = [n for n, _ in found]
                    name = f"confirm-{subject.emotion}"
                    tested.append(confirm(bench, subject, chosen, name, params.mode, params.random))
        said = [confirmation_sentence(t, f"top neurons by {params.confirm}") for t in tested]
        columns = {k: k for k in ("emotion", "score", "rank", "layer", "neuron", "value")}
        table = Table("neurons", "Top neurons by three scores", "Fit and dev scenarios.", columns, rows)
        figure = Figure(
            "neurons-confirmation", "bars", "Top neurons ablated together, on test scenarios",
            "Change of the endpoint in nats; random sets have equal size and layer distribution (central 95 %).",
            "Bars of the change of the endpoint for the chosen neurons and for random sets.",
            confirmation_bars(tested), {"x": "change of the endpoint (nats)", "interval_label": "95 % interval"},
        )  # fmt: skip
        section = Section("neurons", "Which neurons carry it?", [s + "." for s in said], [figure], [table])
        summary = {
            "layers": context.lm.n_layers, "neurons_per_layer": context.lm.d_mlp, "neurons": rows,
            "confirmation": tested,
        }  # fmt: skip
        return Outcome(summary, said, section)


def _top(bench: Bench, subject: Subject, score: Score, k: int) -> list[tuple[Neuron, float]]:
    """The ``k`` neurons that support the emotion most by one score."""
    from emotion_circuits.circuits.neurons import (
        activation_times_gradient,
        activation_times_write,
        top_neurons,
        write_scores,
    )
    from emotion_circuits.types import Positions

    lm, pairs, vector = bench.context.lm, subject.choosing, subject.reading.vector

    def compute() -> Mapping[str, Any]:
        match score:
            case "write":
                return {"scores": write_scores(lm, vector)}
            case "activation-write":
                found = activation_times_write(lm, pairs, vector, position=bench.position)
            case "gradient":
                found = activation_times_gradient(lm, pairs, subject.metric, position=Positions("all"))
        return {"scores": found.mean(-1)}

    scores = bench.saved(f"{subject.emotion}-{score}", compute)["scores"]
    return [(r.neuron, r.score) for r in top_neurons(scores, min(k, scores.size // 2))]

"""``overlap``: emotion subspaces inside each model, and raw overlaps between models beside their chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._relabelled import relabelling_inputs
from emotion_circuits.experiments.shared_texts import emotional_texts, own_inputs, require_splits
from emotion_circuits.experiments.transfer import PairParams, both_sides


@experiment("overlap", "Overlap of emotion subspaces inside and between models, beside the chance level of each.")
class OverlapOfSubspaces(PairExperiment):
    """Between models raw cosines and overlaps mean nothing: their coordinates are unrelated. See ``transfer``."""

    version = 2

    class Params(PairParams):
        """Parameters of ``overlap``."""

        k: int = Field(5, ge=1, description="Dimensions of each emotion's own subspace.")
        permutations: int = Field(199, ge=19, description="Permutations of labels behind the p of the silhouette.")

    def check(self, params: Params) -> None:
        require_splits(params, "fit", "test")

    def inputs(self, params: Params) -> Mapping[str, Any]:
        moved = relabelling_inputs([emotional_texts(params)])
        # Earlier runs on such texts took k from the fewest texts that an emotion had in random relabellings.
        return {**own_inputs(params), **moved, **({"k": "fewest possible"} if moved else {})}

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params)

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        from emotion_circuits.experiments._pairs.overlap_numbers import between_models, inside_model
        from emotion_circuits.experiments._pairs.overlap_report import overlap_lines, overlap_section
        from emotion_circuits.experiments._pairs.spaces import directions_at, like_depth
        from emotion_circuits.experiments._pairs.transfer_report import pair_data

        data = pair_data(context)
        names, pairs = (context.source.name, context.target.name), like_depth(data)
        between, inside, clustered = [], [], []
        with context.progress(f"overlap {names[0]} and {names[1]}", len(pairs)) as advance:
            for a, b in pairs:
                found = directions_at(data, (a, b))
                between.append(between_models(found, (a, b)))
                sides = [
                    (names[0], a, found.source, data.map_source(a)),
                    (names[1], b, found.target, data.map_target(b)),
                ]
                for name, layer, texts, neutral in sides:
                    one, clusters = inside_model(
                        name, layer, texts, neutral, found.emotions, k=params.k, permutations=params.permutations,
                        seed=context.seed,
                    )  # fmt: skip
                    inside.append(one)
                    clustered.append(clusters)
                advance(1, f"layers {a} and {b}")
        summary = {"emotions": list(found.emotions), "between": between, "inside": inside, "clusterability": clustered}
        return Outcome(summary, overlap_lines(names, summary), overlap_section(names, summary))

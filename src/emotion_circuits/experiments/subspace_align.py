"""``subspace-align``: Procrustes and CCA fitted on activations, beside what a map inside two subspaces cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.shared_texts import map_texts, own_inputs, require_neutral, require_splits
from emotion_circuits.experiments.transfer import PairParams, both_sides
from emotion_circuits.types import Figure, Section, Table

MapMethod = Literal["procrustes", "reduced-rank", "ridge", "cca"]
WARNING = (
    "An invertible map inside two subspaces changes neither span: their overlap before and after is the same by "
    "algebra. So the maps here are fitted on neutral activations and judged on emotional texts that they never saw."
)


@experiment("subspace-align", "Procrustes or CCA on activations: emotion subspaces before and after, with transfer.")
class SubspaceAlign(PairExperiment):
    """Maps fitted on neutral text at layers of like depth, beside two null bands."""

    version = 2

    class Params(PairParams):
        """Parameters of ``subspace-align``."""

        methods: tuple[MapMethod, ...] = Field(
            ("procrustes", "cca"), description="Maps: procrustes, cca, reduced-rank, ridge."
        )
        permutations: int = Field(
            39, ge=19, description="Maps of shuffled pairs, and random subspaces, behind the bands."
        )
        components: int = Field(30, ge=2, description="Components that enter; CCA needs ten rows for each.")

    def check(self, params: Params) -> None:
        require_splits(params, "fit", "test")
        require_neutral(len(map_texts(params)))

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return own_inputs(params)

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params)

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        from emotion_circuits.experiments._pairs.spaces import like_depth
        from emotion_circuits.experiments._pairs.subspace_maps import subspace_maps
        from emotion_circuits.experiments._pairs.transfer_report import pair_data

        data = pair_data(context)
        require_neutral(data.n_texts)
        names, pairs = (context.source.name, context.target.name), like_depth(data)
        rows = []
        with context.progress(f"subspace-align {names[0]} → {names[1]}", len(pairs) * len(params.methods)) as advance:
            for pair in pairs:
                rows += subspace_maps(
                    data, pair, params.methods, components=params.components, permutations=params.permutations,
                    seed=context.seed, advance=advance,
                )  # fmt: skip
        return Outcome({"results": rows, "warning": WARNING}, [_line(names, r) for r in rows], _section(names, rows))


def _line(names: tuple[str, str], row: Mapping[str, Any]) -> str:
    before = "not defined" if row["before"] is None else f"{row['before']:.3f}"
    head = f"{names[0]} → {names[1]}, {row['method']}, layers {row['source_layer']} → {row['target_layer']}"
    return (
        f"{head}: overlap before {before}, after {row['after']:.2f}; shuffled maps {_range(row, 'shuffled')} "
        f"(p {row['p_shuffled']:.2g}), random subspaces {_range(row, 'random')} (p {row['p_random']:.2g}); transfer "
        f"{row['transfer']:.2f}, shuffled maps {_range(row, 'transfer_shuffled')} (p {row['p_transfer']:.2g})"
    )


def _range(row: Mapping[str, Any], band: str) -> str:
    return f"{row[f'{band}_low']:.2f} to {row[f'{band}_high']:.2f}"


def _section(names: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> Section:
    points = [
        {"label": f"{r['method']}, layer {r['source_layer']}", "group": group, "value": r[value],
         **({} if band is None else {"low": r[f"{band}_low"], "high": r[f"{band}_high"]})}
        for r in rows
        for group, value, band in (
            ("through the map", "after", None), ("through shuffled maps", "shuffled_mean", "shuffled"),
            ("random subspaces through the map", "random_mean", "random"),
        )
    ]  # fmt: skip
    figure = Figure(
        "subspace-align", "intervals", f"Emotion subspaces through maps, {names[0]} → {names[1]}",
        "Overlap of the source's joint emotion subspace, pushed through a map fitted on neutral text, with the "
        "target's own; lines hold 95 % of the maps of shuffled pairs, and of random subspaces of the source.",
        "Dots of overlap by map with two null bands.", points,
        {"x": "overlap", "interval_label": "95 % of the null"},
    )  # fmt: skip
    shown = [
        {**r, "shuffled": _range(r, "shuffled"), "random": _range(r, "random"),
         "angles": " ".join(f"{a:.0f}" for a in r["angles"]), "transfer_shuffled": _range(r, "transfer_shuffled")}
        for r in rows
    ]  # fmt: skip
    columns = {"method": "map", "source_layer": "source layer", "target_layer": "target layer", "before": "before",
               "after": "after", "angles": "angles (°)", "chance": "chance", "shuffled": "shuffled maps",
               "p_shuffled": "p", "random": "random subspaces", "p_random": "p", "transfer": "transfer",
               "transfer_shuffled": "transfer, shuffled maps", "p_transfer": "p"}  # fmt: skip
    table = Table("subspace-align", "Maps by method", "Fitted on neutral text; bands hold 95 %.", columns, shown)
    heading = f"Subspace alignment: {names[0]} → {names[1]}"
    answer = [WARNING, *[_line(names, r) + "." for r in rows]]
    return Section("subspace-align", heading, answer, [figure], [table], [WARNING])

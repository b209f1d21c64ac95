"""``align``: a map fitted on neutral text at layers of like depth, and the overlap of emotion subspaces through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.shared_texts import map_texts, own_inputs, require_neutral, require_splits
from emotion_circuits.experiments.transfer import PairParams, both_sides
from emotion_circuits.types import Figure, Section, Table

FOLDER = "linear_maps"


@experiment("align", "Fit maps on neutral text at layers of like depth; overlap of emotion subspaces before and after.")
class Align(PairExperiment):
    """Maps are saved as ``linear_maps/layer_{source layer}.safetensors``; overlaps stand beside null bands."""

    class Params(PairParams):
        """Parameters of ``align``."""

        permutations: int = Field(99, ge=19, description="Maps of shuffled pairs behind every null band.")
        components: int = Field(30, ge=1, description="Components of the target whose held-out R² is listed.")

    def check(self, params: Params) -> None:
        require_splits(params, "fit", "test")
        require_neutral(len(map_texts(params)))

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return own_inputs(params)

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params)

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        from emotion_circuits.experiments._pairs.spaces import directions_at, like_depth, mapped_overlap, raw_overlap
        from emotion_circuits.experiments._pairs.transfer_report import pair_data
        from emotion_circuits.representations.alignment import fit_alignment, nested_r2, reduce_pairs

        data = pair_data(context)
        require_neutral(data.n_texts)
        rows = []
        names = (context.source.name, context.target.name)
        pairs = like_depth(data)
        with context.progress(f"align {names[0]} → {names[1]}", len(pairs)) as advance:
            for a, b in pairs:
                x, y = data.map_source(a), data.map_target(b)
                spec = {"source": names[0], "target": names[1], "source_layer": str(a), "target_layer": str(b)}
                fitted = fit_alignment(x, y, data.groups, seed=context.seed, spec=spec)
                fitted.save(Path(context.run.path(f"{FOLDER}/layer_{a}.safetensors")))
                held = nested_r2(x, y, data.groups, components=params.components, rank=fitted.rank, seed=context.seed)
                found = directions_at(data, (a, b))
                reduction = reduce_pairs(x, y, data.groups, rank=fitted.rank, seed=context.seed)
                after = mapped_overlap(found, reduction, data.groups, params.permutations, context.seed + 1)
                raw = raw_overlap(found)
                rows.append({
                    "source_layer": a, "target_layer": b, "n": fitted.n, "d": [x.shape[1], y.shape[1]],
                    "rank": fitted.rank, "r2_held_out": held.total, "r2_components": held.components.tolist(),
                    "before": None if raw is None else raw["before"], **after,
                })  # fmt: skip
                advance(1, f"layers {a} → {b}")
        return Outcome({"layers": rows}, [_line(names, r) for r in rows], _section(names, rows))


def _line(names: tuple[str, str], row: Mapping[str, Any]) -> str:
    before = "not defined (widths differ)" if row["before"] is None else f"{row['before']:.3f}"
    return (
        f"{names[0]} → {names[1]}, layers {row['source_layer']} → {row['target_layer']}: overlap before {before}, "
        f"after {row['after']:.2f}, shuffled maps {row['null_low']:.2f} to {row['null_high']:.2f} (p {row['p']:.3g}); "
        f"held-out R² {row['r2_held_out']:.2f} from {row['n']} rows"
    )


def _section(names: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> Section:
    series = [
        {"layer": r["source_layer"], "series": name, "value": r[key], **extra}
        for r in rows
        for name, key, extra in (
            ("after the map", "after", {}),
            ("shuffled maps", "null_mean", {"low": r["null_low"], "high": r["null_high"]}),
            ("before", "before", {}), ("chance", "chance", {}),
        )
        if r[key] is not None
    ]  # fmt: skip
    figure = Figure(
        "align-overlap", "lines", f"Overlap of emotion subspaces, {names[0]} → {names[1]}",
        "Joint emotion subspace of the source pushed through the map against the target's own, in standard "
        "coordinates, with the 95 % band of maps fitted on shuffled pairs.",
        "Lines of overlap by layer with the band of shuffled maps.", series,
        {"x": "layer of the source", "y": "overlap"},
    )  # fmt: skip
    r2 = [{"layer": i + 1, "series": f"layer {r['source_layer']}", "value": v}
          for r in rows for i, v in enumerate(r["r2_components"])]  # fmt: skip
    parts = Figure(
        "align-r2", "lines", "Held-out R² by component of the target",
        "Nested cross-validation over neutral texts; a few large components decide the global figure.",
        "Lines of held-out R² by principal component.", r2, {"x": "component", "y": "R²", "reference": 0},
    )  # fmt: skip
    columns = {"source_layer": "source layer", "target_layer": "target layer", "n": "rows", "rank": "rank",
               "r2_held_out": "held-out R²", "before": "before", "after": "after", "null_high": "shuffled 97.5 %",
               "p": "p"}  # fmt: skip
    limits = ("A subspace overlap says nothing about which emotion is which: see transfer.",)
    answer = [_line(names, r) + "." for r in rows]
    table = Table("align", "Maps", "One per layer pair.", columns, rows)
    return Section("align", f"Alignment: {names[0]} → {names[1]}", answer, [figure, parts], [table], limits)

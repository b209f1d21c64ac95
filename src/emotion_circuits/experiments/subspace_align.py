"""``subspace-align``: Procrustes and CCA fitted on activations, beside what a map inside two subspaces cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.shared_texts import emotional_texts, map_texts, own_inputs, require_neutral
from emotion_circuits.experiments.transfer import PairParams, both_sides
from emotion_circuits.types import Section, Table

MapMethod = Literal["procrustes", "reduced-rank", "ridge", "cca"]
WARNING = (
    "An invertible map inside two subspaces changes neither span: their overlap before and after is the same by "
    "algebra. So the maps here are fitted on neutral activations and judged on emotional texts that they never saw."
)


@experiment("subspace-align", "Procrustes or CCA on activations: emotion subspaces before and after, with transfer.")
class SubspaceAlign(PairExperiment):
    """Maps fitted on neutral text at layers of like depth."""

    class Params(PairParams):
        """Parameters of ``subspace-align``."""

        methods: tuple[MapMethod, ...] = Field(
            ("procrustes", "cca"), description="Maps: procrustes, cca, reduced-rank."
        )
        components: int = Field(30, ge=2, description="Components that enter; CCA needs ten rows for each.")

    def check(self, params: Params) -> None:
        emotional_texts(params)
        require_neutral(len(map_texts(params)))

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return own_inputs(params)

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params)

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        import numpy as np

        from emotion_circuits.experiments._pairs.spaces import centred, directions_at, like_depth, raw_overlap
        from emotion_circuits.experiments._pairs.transfer_report import pair_data
        from emotion_circuits.representations.alignment import fit_alignment
        from emotion_circuits.representations.principal_angles import overlap
        from emotion_circuits.representations.subspaces import span
        from emotion_circuits.representations.transfer_by_map import pushed_transfer
        from emotion_circuits.representations.transfer_nulls import shuffled_rows

        data, rows = pair_data(context), []
        require_neutral(data.n_texts)
        names = (context.source.name, context.target.name)
        keep, splits = np.ones(len(data.source.texts.labels), dtype=bool), data.splits("test")
        for a, b in like_depth(data):
            found = directions_at(data, (a, b))
            count, raw = len(found.emotions), raw_overlap(found)
            x, y = data.map_source(a), data.map_target(b)
            (move,) = shuffled_rows(data.groups, len(x), 1, context.seed + 1)
            for method in params.methods:
                row = {"method": method, "source_layer": a, "target_layer": b,
                       "before": None if raw is None else raw["before"]}  # fmt: skip
                for name, target in (("", y), ("_shuffled", y[move])):
                    fitted = fit_alignment(
                        x, target, data.groups, method=method, rank=params.components, seed=context.seed
                    )
                    pushed = fitted.push(centred(found.source, count, found.source.x)) / fitted.target.sd
                    native = centred(found.target, count, fitted.target.standardise(found.target.x))
                    # A map of few components can flatten emotions into fewer dimensions than they have.
                    k = min(count - 1, int(np.linalg.matrix_rank(pushed)))
                    after = overlap(span(pushed, k), span(native, count - 1)).value if k else 0.0
                    row[f"after{name}"] = float(after)
                    matrix = pushed_transfer(fitted, data.source.at(a, keep, splits), data.target.at(b, keep, splits))
                    row[f"transfer{name}"] = float(np.trace(matrix) / count)
                rows.append(row)
        return Outcome({"results": rows, "warning": WARNING}, [_line(names, r) for r in rows], _section(names, rows))


def _line(names: tuple[str, str], row: Mapping[str, Any]) -> str:
    before = "not defined" if row["before"] is None else f"{row['before']:.3f}"
    return (
        f"{names[0]} → {names[1]}, {row['method']}, layers {row['source_layer']} → {row['target_layer']}: overlap "
        f"before {before}, after {row['after']:.2f} (one shuffled map {row['after_shuffled']:.2f}); transfer "
        f"{row['transfer']:.2f} (shuffled {row['transfer_shuffled']:.2f})"
    )


def _section(names: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> Section:
    columns = {"method": "map", "source_layer": "source layer", "target_layer": "target layer", "before": "before",
               "after": "after", "after_shuffled": "after, shuffled", "transfer": "transfer",
               "transfer_shuffled": "transfer, shuffled"}  # fmt: skip
    table = Table("subspace-align", "Procrustes and CCA", "Fitted on neutral text.", columns, rows)
    heading = f"Subspace alignment: {names[0]} → {names[1]}"
    return Section("subspace-align", heading, [WARNING, *[_line(names, r) + "." for r in rows]], [], [table], [WARNING])

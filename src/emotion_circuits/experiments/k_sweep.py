"""``k-sweep``: how many dimensions does an emotion need to be transported? k is chosen by held-out transfer on dev."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.shared_texts import map_texts, own_inputs, require_neutral, require_splits
from emotion_circuits.experiments.transfer import PairParams, both_sides
from emotion_circuits.types import Figure, Observation, Section, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.experiments._pairs.spaces import Directions
    from emotion_circuits.representations.alignment_map import AlignmentMap
from emotion_circuits.prompts.splits import SPLITS


@experiment("k-sweep", "Emotion subspaces of k dimensions pushed into another model: transfer by k, chosen on dev.")
class KSweep(PairExperiment):
    """The subspace of an emotion is the SVD (uncentred) of its fit texts' differences from what their scenario's
    emotions have in common, or all emotions where texts are not matched."""

    class Params(PairParams):
        """Parameters of ``k-sweep``."""

        ks: tuple[int, ...] = Field((2, 5, 10, 20), description="Dimensions that are tried.")

    def check(self, params: Params) -> None:
        require_splits(params, *SPLITS)
        require_neutral(len(map_texts(params)))

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return own_inputs(params)

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params)

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        import numpy as np

        from emotion_circuits.experiments._pairs.spaces import directions_at, like_depth
        from emotion_circuits.experiments._pairs.transfer_report import pair_data
        from emotion_circuits.representations.alignment import fit_alignment
        from emotion_circuits.stats.k_selection import select_k

        data, rows, seen = pair_data(context), [], []
        require_neutral(data.n_texts)
        names = (context.source.name, context.target.name)
        pairs = like_depth(data)
        with context.progress(f"k-sweep {names[0]} → {names[1]}", len(pairs)) as advance:
            for a, b in pairs:
                fitted = fit_alignment(data.map_source(a), data.map_target(b), data.groups, seed=context.seed)
                dev, test = (directions_at(data, (a, b), split) for split in ("dev", "test"))
                for i, emotion in enumerate(dev.emotions):
                    placed = {k: v for k in params.ks if (v := _placements(fitted, dev, i, k)) is not None}
                    if not placed:
                        continue
                    clusters = dev.test.clusters[dev.test.codes == i]
                    chosen = select_k(np.stack(list(placed.values())), list(placed), clusters, resamples=1000)
                    tested = {k: float(np.mean(_required(_placements(fitted, test, i, k)))) for k in placed}
                    rows.append({
                        "emotion": emotion, "source_layer": a, "target_layer": b, "k": chosen.k,
                        "test": tested[chosen.k], "dev_by_k": {str(k): float(v.mean()) for k, v in placed.items()},
                        "test_by_k": {str(k): v for k, v in tested.items()},
                    })  # fmt: skip
                    seen.append((emotion, a, placed, clusters))
                advance(1, f"layers {a} → {b}")
        return Outcome(
            {"results": rows}, _lines(names, rows), _section(names, rows),
            _observations(names, seen, params.position), documents={"k_sweep": rows},
        )  # fmt: skip


def _placements(fitted: AlignmentMap, found: Directions, i: int, k: int) -> NDArray[np.float64] | None:
    """Share of the other emotions' texts that each own text beats, scored by the direction inside k dimensions."""
    import numpy as np

    from emotion_circuits.experiments._pairs.spaces import centred, differences
    from emotion_circuits.representations.subspaces import span

    z = fitted.source.standardise(found.source.x)
    direction = centred(found.source, len(found.emotions), z)[i]
    apart = differences(found.source, len(found.emotions), z)
    rows = apart.x[apart.codes == i]
    if k > np.linalg.matrix_rank(rows):
        return None
    basis = span(rows, k).basis
    pushed = (direction @ basis.T @ basis) @ fitted.basis @ fitted.weights
    scores = fitted.target.standardise(found.test.x) @ pushed
    up, down = scores[found.test.codes == i], scores[found.test.codes != i]
    wins = (up[:, None] > down).mean(axis=1) + (up[:, None] == down).mean(axis=1) / 2
    return np.asarray(wins)


def _required(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    if values is None:
        raise ValueError("a k that was scored on dev has a score on test")
    return values


def _observations(names: tuple[str, str], seen: Sequence[tuple[Any, ...]], position: str) -> Iterator[Observation]:
    for emotion, layer, placed, clusters in seen:
        for k, values in placed.items():
            for n, (value, cluster) in enumerate(zip(values, clusters, strict=True)):
                yield Observation(
                    experiment="k-sweep", model="--".join(names), emotion=emotion, layer=layer,
                    position=position, strength=None, arm=f"k={k}", unit=f"{cluster}:{n}", cluster=str(cluster),
                    split="dev", sample=0, scorer="transfer", value=float(value),
                )  # fmt: skip


def _lines(names: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per emotion over all layers; the table has every layer."""
    return [_line(names, [r for r in rows if r["emotion"] == e]) for e in dict.fromkeys(r["emotion"] for r in rows)]


def _line(names: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = (f"{r['source_layer']} → {r['target_layer']}" for r in (rows[0], rows[-1]))
    about = f"{names[0]} → {names[1]}, {rows[0]['emotion']}, layers"
    if len(rows) == 1:
        return f"{about} {first}: k = {rows[0]['k']} (chosen on dev), transfer on test {rows[0]['test']:.2f}"
    ks, values = sorted(r["k"] for r in rows), sorted(r["test"] for r in rows)
    over = f"(chosen on dev), transfer on test {values[0]:.2f} to {values[-1]:.2f}"
    if ks[0] == ks[-1]:
        return f"{about} {first} to {last}: k = {ks[0]} {over}"
    return f"{about} {first} to {last}: k = {ks[0]} to {ks[-1]} {over}"


def _section(names: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> Section:
    layers = sorted({r["source_layer"] for r in rows})
    middle = layers[len(layers) // 2] if layers else None
    curves = [
        {"x": int(k), "series": r["emotion"], "value": v}
        for r in rows
        if r["source_layer"] == middle
        for k, v in r["test_by_k"].items()
    ]
    figure = Figure(
        "k-curves", "lines", f"Transfer by dimension of the subspace (source layer {middle})",
        "Own-vs-rest AUROC on test texts of the target; k is chosen on dev.", "Lines of transfer by k.", curves,
        {"x": "k", "y": "AUROC", "reference": 0.5},
    )  # fmt: skip
    columns = {"emotion": "emotion", "source_layer": "source layer", "target_layer": "target layer", "k": "k",
               "test": "transfer (test)"}  # fmt: skip
    heading = f"How many dimensions: {names[0]} → {names[1]}"
    table = Table("k-sweep", "Chosen k", "Smallest k within one standard error of the best on dev.", columns, rows)
    return Section("k-sweep", heading, [line + "." for line in _lines(names, rows)], [figure], [table])

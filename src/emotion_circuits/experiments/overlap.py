"""``overlap``: emotion subspaces inside each model, and raw overlaps between models beside their chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emotion_circuits.experiments._contract import Outcome, PairContext, PairExperiment, PairNeeded
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments.shared_texts import emotional_texts, own_inputs
from emotion_circuits.experiments.transfer import PairParams, both_sides
from emotion_circuits.types import Figure, Section, Table


@experiment("overlap", "Overlap of emotion subspaces inside and between models, beside the chance level of each.")
class OverlapOfSubspaces(PairExperiment):
    """Between models raw cosines and overlaps mean nothing: their coordinates are unrelated. See ``transfer``."""

    class Params(PairParams):
        """Parameters of ``overlap``."""

    def check(self, params: Params) -> None:
        emotional_texts(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return own_inputs(params)

    def requires_of_pair(self, params: Params) -> Sequence[PairNeeded]:
        return both_sides(params)

    def summarise_pair(self, context: PairContext, params: Params) -> Outcome:
        import numpy as np

        from emotion_circuits.experiments._pairs.spaces import centred, directions_at, like_depth, raw_overlap
        from emotion_circuits.experiments._pairs.transfer_report import pair_data
        from emotion_circuits.representations.alignment_scaling import fit_scaling
        from emotion_circuits.representations.clusterability import clusterability

        data = pair_data(context)
        names = (context.source.name, context.target.name)
        between, inside, clustered = [], [], []
        for a, b in like_depth(data):
            found = directions_at(data, (a, b))
            count = len(found.emotions)
            raw = raw_overlap(found)
            between.append({
                "source_layer": a, "target_layer": b, "joint": None if raw is None else raw["before"],
                "chance": None if raw is None else raw["chance"],
                "widths": [found.source.x.shape[1], found.target.x.shape[1]],
            })  # fmt: skip
            for name, texts, layer, rows in (
                (names[0], found.source, a, data.map_source(a)), (names[1], found.target, b, data.map_target(b)),
            ):  # fmt: skip
                z = fit_scaling(rows).standardise(texts.x)
                v = centred(texts, count, z)
                unit = v / np.linalg.norm(v, axis=1, keepdims=True)
                cosines = unit @ unit.T
                # Centred directions sum to zero, so the mean cosine between them is -1/(E - 1), not 0.
                inside.append({"model": name, "layer": layer, "cosines": cosines.tolist(),
                               "chance": -1 / (count - 1), "chance_sd": float(z.shape[1] ** -0.5)})  # fmt: skip
                labels = np.array(found.emotions)[texts.codes]
                c = clusterability(z, labels, texts.clusters, permutations=199, seed=context.seed)
                clustered.append({"model": name, "layer": layer, "silhouette": c.silhouette, "p": c.p})
        summary = {"emotions": list(found.emotions), "between": between, "inside": inside, "clusterability": clustered}
        return Outcome(summary, _lines(names, between, clustered), _section(names, summary))


def _lines(
    names: tuple[str, str], between: Sequence[Mapping[str, Any]], clustered: Sequence[Mapping[str, Any]]
) -> list[str]:
    lines = []
    if between[0]["joint"] is None:
        a, b = between[0]["widths"]
        lines.append(f"{names[0]} and {names[1]}: widths {a} and {b} differ; without a map no overlap is defined")
    else:
        lines += [f"{names[0]} and {names[1]}, layers {r['source_layer']} and {r['target_layer']}: raw overlap "
                  f"{r['joint']:.3f}, chance {r['chance']:.3f} (says nothing by itself)" for r in between]  # fmt: skip
    for name in dict.fromkeys(names):
        best = max((c for c in clustered if c["model"] == name), key=lambda c: c["silhouette"])
        lines.append(
            f"{name}: silhouette of emotions {best['silhouette']:.3f} at layer {best['layer']} (p {best['p']:.3g})"
        )
    return lines


def _section(names: tuple[str, str], summary: Mapping[str, Any]) -> Section:
    emotions = summary["emotions"]
    figures = []
    for name in dict.fromkeys(names):
        own = [r for r in summary["inside"] if r["model"] == name]
        row = own[len(own) // 2]
        cells = [{"row": a, "column": b, "value": row["cosines"][i][j]}
                 for i, a in enumerate(emotions) for j, b in enumerate(emotions)]  # fmt: skip
        figures.append(Figure(
            f"overlap-{name}", "matrix", f"Cosines between emotions, {name} layer {row['layer']}",
            f"Centred directions in standard coordinates; chance {row['chance']:.2f} (they sum to zero).",
            "Matrix of cosines between emotion directions.", cells,
            {"scale": [-1, 1], "midpoint": 0, "value": "cosine"},
        ))  # fmt: skip
    columns = {"model": "model", "layer": "layer", "silhouette": "silhouette", "p": "p"}
    table = Table("clusterability", "Do texts of one emotion lie together?", "", columns, summary["clusterability"])
    answer = [line + "." for line in _lines(names, summary["between"], summary["clusterability"])]
    limits = ("Raw overlaps between models depend on arbitrary coordinates; only transfer answers the question.",)
    return Section("overlap", f"Subspaces of {names[0]} and {names[1]}", answer, figures, [table], limits)

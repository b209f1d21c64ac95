"""What ``overlap`` says: subspaces beside their chance level, principal angles one by one, and which emotions join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emotion_circuits.types import Figure, Section, Table

Found = Mapping[str, Any]

LIMITS = (
    "Raw overlaps between models depend on arbitrary coordinates; only transfer answers the question.",
    "Subspaces of emotions inside a model overlap far more than random ones, because texts share more than emotion: "
    "compare them with the band of relabelled texts.",
)


def overlap_lines(names: tuple[str, str], summary: Found) -> list[str]:
    """Between the models, then by model: do emotions cluster, and how do their subspaces lie."""
    lines = []
    if summary["between"][0]["joint"] is None:
        a, b = summary["between"][0]["widths"]
        lines.append(
            f"{names[0]} and {names[1]}: widths {a} and {b} differ, so no overlap or angle is defined without a map "
            f"(`emotion-circuits run align --source {names[0]} --target {names[1]}`)"
        )
    else:
        lines += [
            f"{names[0]} and {names[1]}, layers {r['source_layer']} and {r['target_layer']}: raw cosines of an "
            f"emotion's two directions {min(r['cosines'].values()):+.3f} to {max(r['cosines'].values()):+.3f}, random "
            f"directions ±{_band(r):.3f}; raw overlap {r['joint']:.3f}, chance {r['chance']:.3f}; "
            f"angles {_degrees(r['angles'])}, random subspaces {_degrees(r['chance_angles'])} (says nothing by itself)"
            for r in summary["between"]
        ]
    for name in dict.fromkeys(names):
        c, inside = _clearest(name, summary)
        lines.append(
            f"{name}: silhouette of emotions {c['silhouette']:.3f} at layer {c['layer']}, relabelled {c['null']:.3f} "
            f"(p {c['p']:.3g}); {c['joins'][0]['first']} and {c['joins'][0]['second']} join first"
        )
        if pairs := inside["subspaces"]["pairs"]:
            spaces, near = inside["subspaces"], max(pairs, key=lambda pair: float(pair["overlap"]))
            low, high = spaces["relabelled"]
            lines.append(
                f"{name}: subspaces of {spaces['k']} dimensions at layer {c['layer']}: mean overlap "
                f"{spaces['mean']:.3f}, relabelled texts {low:.3f} to {high:.3f}, chance {spaces['chance']:.3f}; "
                f"nearest {near['first']} and {near['second']}: angles {_degrees(near['angles'])}"
            )
    return lines


def overlap_section(names: tuple[str, str], summary: Found) -> Section:
    models = list(dict.fromkeys(names))
    figures = [_silhouettes(summary)]
    tables = [_clustered(summary)]
    for name in models:
        clearest, inside = _clearest(name, summary)
        figures += [_cosines(name, summary["emotions"], inside), _dendrogram(name, clearest)]
        tables.append(_angles(name, inside))
    if summary["between"][0]["joint"] is not None:
        tables[:0] = [_raw_cosines(summary), _between(summary)]
    answer = [line + "." for line in overlap_lines(names, summary)]
    heading = f"Subspaces of {' and '.join(models)}"
    return Section("overlap", heading, answer, figures, tables, LIMITS)


def _clearest(name: str, summary: Found) -> tuple[Found, Found]:
    """The layer of a model at which its emotions lie apart most clearly: silhouette, and what is inside."""
    own = [i for i, c in enumerate(summary["clusterability"]) if c["model"] == name]
    best = max(own, key=lambda i: float(summary["clusterability"][i]["silhouette"]))
    return summary["clusterability"][best], summary["inside"][best]


def _degrees(angles: Sequence[float]) -> str:
    return " ".join(f"{a:.0f}°" for a in angles)


def _silhouettes(summary: Found) -> Figure:
    rows = [
        {"layer": c["layer"], "series": series, "value": c[key]}
        for c in summary["clusterability"]
        for series, key in ((c["model"], "silhouette"), (f"{c['model']}, relabelled", "null"))
    ]
    return Figure(
        "overlap-silhouette", "lines", "Do texts of one emotion lie together?",
        "Silhouette of the emotion labels over fit texts in standard coordinates, and its mean over relabelled texts.",
        "Lines of silhouettes by layer and model.", rows, {"x": "layer", "y": "silhouette", "reference": 0},
    )  # fmt: skip


def _cosines(name: str, emotions: Sequence[str], inside: Found) -> Figure:
    cells = [
        {"row": a, "column": b, "value": inside["cosines"][i][j]}
        for i, a in enumerate(emotions)
        for j, b in enumerate(emotions)
    ]
    return Figure(
        f"overlap-{name}", "matrix", f"Cosines between emotions, {name} layer {inside['layer']}",
        f"Centred directions in standard coordinates; chance {inside['chance']:.2f} (they sum to zero).",
        "Matrix of cosines between emotion directions.", cells,
        {"scale": [-1, 1], "midpoint": 0, "value": "cosine"},
    )  # fmt: skip


def _dendrogram(name: str, clustered: Found) -> Figure:
    return Figure(
        f"overlap-tree-{name}", "dendrogram", f"Which emotions lie near each other, {name} layer {clustered['layer']}",
        "Average linkage of the distances between the emotions' mean activations, in standard coordinates.",
        "Dendrogram of emotions.", clustered["joins"], {"x": "distance"},
    )  # fmt: skip


def _clustered(summary: Found) -> Table:
    emotions = summary["emotions"]
    rows = [
        {**{k: c[k] for k in ("model", "layer", "silhouette", "null", "p")}, **c["per_emotion"]}
        for c in summary["clusterability"]
    ]
    columns = {
        "model": "model", "layer": "layer", "silhouette": "silhouette", "null": "relabelled", "p": "p",
        **{e: e for e in emotions},
    }  # fmt: skip
    return Table("clusterability", "Silhouettes", "Labels are permuted within scenarios.", columns, rows)


def _angles(name: str, inside: Found) -> Table:
    spaces = inside["subspaces"]
    rows = [
        {"first": p["first"], "second": p["second"], "overlap": p["overlap"], "angles": _degrees(p["angles"])}
        for p in spaces["pairs"]
    ]
    columns = {"first": "emotion", "second": "and", "overlap": "overlap", "angles": "principal angles"}
    return Table(
        f"angles-{name}", f"Principal angles between emotions, {name} layer {inside['layer']}",
        f"Subspaces of the {spaces['k']} leading differences of an emotion's texts from the others of their scenario.",
        columns, rows,
    )  # fmt: skip


def _band(row: Found) -> float:
    """95 % of the cosines between random directions lie within ± this."""
    return 1.96 * float(row["chance_cosine"])


def _raw_cosines(summary: Found) -> Table:
    rows = [
        {"source_layer": r["source_layer"], "target_layer": r["target_layer"], "chance": _band(r),
         **r["cosines"]}
        for r in summary["between"]
    ]  # fmt: skip
    columns = {
        "source_layer": "source layer", "target_layer": "target layer", **{e: e for e in summary["emotions"]},
        "chance": "random directions, ±",
    }  # fmt: skip
    return Table(
        "overlap-cosines", "Cosines of each emotion's two directions in the models' own coordinates",
        "Centred class means. The coordinates of two models are unrelated: these say nothing by themselves.",
        columns, rows,
    )  # fmt: skip


def _between(summary: Found) -> Table:
    rows = [
        {**r, "angles": _degrees(r["angles"]), "chance_angles": _degrees(r["chance_angles"])}
        for r in summary["between"]
    ]
    columns = {
        "source_layer": "source layer", "target_layer": "target layer", "joint": "raw overlap", "chance": "chance",
        "angles": "principal angles", "chance_angles": "random subspaces",
    }  # fmt: skip
    return Table(
        "overlap-between", "Joint subspaces in the models' own coordinates", "These say nothing by themselves.",
        columns, rows,
    )  # fmt: skip

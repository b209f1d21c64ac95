"""Everything that ``directions`` measures per layer, as data: the file ``curves.json`` of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_circuits.experiments.directions import _Cell
    from emotion_circuits.representations.evidence import Curves

FILE = "curves"


def layer_curves(cells: Sequence[_Cell]) -> Mapping[str, Any]:
    """``{"layers": rows, "cosines": rows}`` of all site kinds and positions.

    A row of ``layers`` is one emotion at one layer: dev AUROC, test AUROC and own-vs-rest with their intervals, norms
    of the direction (L1, L2, L2 as a fraction of the mean activation norm) and its split-half stability. A row of
    ``cosines`` is the cosine between two emotions' directions at one layer.
    """
    return {"layers": [row for cell in cells for row in _layers(cell)],
            "cosines": [row for cell in cells for row in _cosines(cell)]}  # fmt: skip


def _layers(cell: _Cell) -> list[dict[str, Any]]:
    from emotion_circuits.representations.directions import norms

    lengths = norms(cell.directions)
    rows = []
    for emotion in cell.emotions:
        ev, stable, size = cell.evidence[emotion], cell.stability[emotion], lengths[emotion]
        for i, layer in enumerate(cell.data.layers):
            rows.append({
                "site": cell.kind, "position": str(cell.position), "emotion": emotion, "layer": layer,
                "chosen": layer == ev.layer, "auroc_dev": float(ev.dev_auroc[i]),
                **_at("auroc", ev.against_neutral, i), **_at("own_vs_rest", ev.own_vs_rest, i),
                "l1": float(size["l1"][i]), "l2": float(size["l2"][i]), "relative": float(size["relative"][i]),
                "stability": float(stable.estimate[i]), "stability_low": float(stable.low[i]),
                "stability_high": float(stable.high[i]),
            })  # fmt: skip
    return rows


def _at(name: str, curves: Curves | None, i: int) -> dict[str, float | None]:
    if curves is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    found = curves.interval
    return {name: float(found.estimate[i]), f"{name}_low": float(found.low[i]), f"{name}_high": float(found.high[i])}


def _cosines(cell: _Cell) -> list[dict[str, Any]]:
    from emotion_circuits.representations.directions import emotion_cosines

    cosines, names = emotion_cosines(cell.directions), cell.directions.emotions
    return [
        {"site": cell.kind, "position": str(cell.position), "layer": layer, "emotion": a, "other": b,
         "cosine": float(cosines[i, j, k])}
        for i, layer in enumerate(cell.data.layers)
        for j, a in enumerate(names)
        for k, b in enumerate(names)
        if j < k
    ]  # fmt: skip

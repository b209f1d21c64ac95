"""What ``transfer`` says: the verdict with its numbers, per stratum and per emotion; figures and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._contract import Outcome
from emotion_circuits.experiments._pairs.data import PairData, Side
from emotion_circuits.experiments._pairs.transfer_numbers import (
    Grid,
    contrasts,
    left_out,
    other_routes,
    search_layers,
    sharing_at,
    similarities,
)
from emotion_circuits.representations.alignment_map import LEAST_R2, MapMethod, simplest_map
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments._contract import PairContext
    from emotion_circuits.experiments.transfer import Transfer

Found = Mapping[str, Any]

LEFT_OUT = "auroc_leave_one_out"

LIMITS = (
    "A linear map that is fitted on neutral text and transports an emotion shows a shared linear arrangement, not that "
    "either model uses it; transfer-steer asks that.",
    "CKA, mutual neighbours and RSA stand beside the verdict: CKA is significant against an untrained network too.",
    "The contrasts (tense, formality) are descriptive: they show how much of any difference between texts the map "
    "carries. They are read over the whole text, or at its last token where the emotional texts are.",
    "'Left out' is a second estimate and part of no verdict: transfer through a map that was fitted on neutral text "
    "and on all emotions but this one, of what the other emotions do not span.",
)


def pair_data(context: PairContext) -> PairData:
    """Both sides of a pair from their finished runs."""
    untrained = context.runs.get("untrained")
    return PairData(
        Side(context.runs["source"]), Side(context.runs["target"]), None if untrained is None else Side(untrained)
    )


def transfer_outcome(context: PairContext, params: Transfer.Params) -> Outcome:
    """Everything ``transfer`` reports, as JSON, sentences, figures and one saved map."""
    data = pair_data(context)
    cells = len(data.source.layers) * len(data.target.layers)
    seed = context.seed
    label = f"transfer {context.source.name} → {context.target.name}"
    with context.progress(label, cells) as advance:
        grid = search_layers(data, seed, advance)
    strata_of = data.source.texts.strata

    def tested(keep: Any) -> dict[str, Any]:
        found = sharing_at(
            data, grid.chosen, keep, permutations=params.permutations, resamples=params.resamples, seed=seed
        )
        return found.to_dict()

    present = [s for s in ("explicit", "implicit") if (strata_of == s).any()]
    alike = len(present) == 1 and bool((strata_of == present[0]).all())
    with context.progress(f"{label}: bootstrap", 2 if alike else 2 + len(present)) as advance:
        total = tested(np.ones(len(strata_of), dtype=bool))
        advance(1, "all texts")
        alone = {} if grid.dev is None else left_out(data, grid.chosen, seed)
        advance(1, "emotions left out")
        total["per_emotion"] = [{**row, LEFT_OUT: alone.get(row["emotion"])} for row in total["per_emotion"]]
        strata: dict[str, Any] = {present[0]: total} if alike else {}
        for stratum in () if alike else present:
            strata[stratum] = tested(strata_of == stratum)
            advance(1, f"{stratum} texts")
    summary: dict[str, Any] = {
        **total,
        "layer_pair": _layer_pair(grid, data),
        "strata": {s: strata.get(s) for s in ("explicit", "implicit")},
        "n_map_texts": data.n_texts,
    }
    if grid.dev is not None:
        fitted, routes = other_routes(data, grid.chosen, seed)
        rungs: dict[MapMethod, float] = {"procrustes": routes["procrustes_r2"], "ridge": routes["ridge_r2"]}
        summary |= {
            "other_routes": routes,
            "simplest_map": simplest_map(rungs),
            "contrasts": contrasts(data, fitted, grid.chosen),
            "similarity": similarities(data, fitted, grid.chosen, seed),
        }
        fitted.save(Path(context.run.path("map.safetensors")))
    names = (context.source.name, context.target.name)
    section = _section(names, summary, strata, grid)
    return Outcome(summary, verdicts=verdict_lines(names, summary, strata), section=section)


def _layer_pair(grid: Grid, data: PairData) -> dict[str, Any]:
    found: dict[str, Any] = {"source": grid.chosen[0], "target": grid.chosen[1], "chosen_on": "dev",
                             "grid": {"source": list(grid.layers[0]), "target": list(grid.layers[1])}}  # fmt: skip
    if grid.test is not None and grid.dev is not None:
        i, j = grid.layers[0].index(grid.chosen[0]), grid.layers[1].index(grid.chosen[1])
        found |= {
            "p_max_t": float(grid.test.p[i, j]), "threshold_max_t": grid.test.threshold,
            "transfer": grid.test.transfer.tolist(),
            "dev": (np.trace(grid.dev, axis1=2, axis2=3) / np.shape(grid.dev)[-1]).tolist(),
        }  # fmt: skip
    return found


def verdict_lines(names: tuple[str, str], total: Found, strata: Mapping[str, Found]) -> list[str]:
    """One line for the set, one per stratum, one naming the emotions."""
    pair = total["layer_pair"]
    head = f"{names[0]} → {names[1]}"
    lines = [f"{head}: {_line(total)}; layers {pair['source']} → {pair['target']}"]
    if len(strata) > 1:
        lines += [f"{head}, {name} texts: {_line(found)}" for name, found in strata.items()]
    by_verdict: dict[str, list[str]] = {}
    for one in total["per_emotion"]:
        by_verdict.setdefault(one["verdict"], []).append(one["emotion"])
    return [*lines, f"{head}, by emotion: " + "; ".join(f"{v}: {', '.join(e)}" for v, e in by_verdict.items())]


def _line(found: Found) -> str:
    if found["transfer"] is None:
        return f"{found['verdict']} ({found['reason']})"
    floor = max((v for v in found["floor"].values() if v is not None), default=None)
    return (
        f"{found['verdict']} (τ {_number(found['tau'])} [{_number(found['ci'][0])}, {_number(found['ci'][1])}]: "
        f"transfer {_number(found['transfer'])}, highest floor {_number(floor)}, native {_number(found['native'])}; "
        f"{found['reason']})"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _section(names: tuple[str, str], total: Found, strata: Mapping[str, Found], grid: Grid) -> Section:
    figures = [] if grid.test is None else [_heatmap(names, grid), _matrix(names, total), _levels(names, total)]
    answer = [line + "." for line in verdict_lines(names, total, strata)]
    answer.append(
        f"The map was fitted on {total['n_map']} rows of {total['n_map_texts']} neutral texts "
        f"(widths {total['d'][0]} → {total['d'][1]}, rank {total['rank']}, κ {_number(total['kappa'])})."
    )
    if "other_routes" in total:
        answer.append(_ladder(total["simplest_map"], total["other_routes"]))
    columns = {
        "emotion": "emotion", "verdict": "verdict", "tau": "τ", "ci": "95 %", "auroc_transfer": "transfer",
        "auroc_native": "native", "floor": "floor", "cosine": "cosine", "kappa": "κ", "picks": "picks best",
    }  # fmt: skip
    tables = [
        Table(f"emotions-{name}", f"Emotions, {name} texts", "The same rule for every emotion.",
              {**columns, LEFT_OUT: "left out"} if name == "all" else columns, found["per_emotion"])
        for name, found in {"all": total, **(strata if len(strata) > 1 else {})}.items()
    ]  # fmt: skip
    tables.append(_beside(total, strata))
    heading = f"Is it shared: {names[0]} → {names[1]}"
    return Section("transfer", heading, answer, [f for f in figures if f.data], tables, LIMITS)


def _ladder(simplest: MapMethod | None, routes: Found) -> str:
    """Which map of the ladder is the simplest that suffices, and what each explains and carries."""
    found = {
        "procrustes": "The simplest map that suffices for neutral text is a rotation with one scale",
        "ridge": "The simplest map that suffices for neutral text is a linear one",
    }.get(simplest or "", f"No map reaches an R² of {LEAST_R2:.1f} on neutral text that it was not fitted on")
    return (
        f"{found} (cross-validated R²: rotation {_number(routes['procrustes_r2'])}, linear map "
        f"{_number(routes['ridge_r2'])}); mapped by the rotation, emotions transfer at {_number(routes['procrustes'])}."
    )


def _beside(total: Found, strata: Mapping[str, Found]) -> Table:
    rows = []
    for name, found in {"all": total, **strata}.items():
        for floor, value in found["floor"].items():
            rows.append({"what": f"floor {floor}, {name}", "value": value, "p": None})
        for null, p in found["p"].items():
            rows.append({"what": f"p {null}, {name}", "value": None, "p": p})
    for name, found in total.get("similarity", {}).items():
        rows.append({"what": name, "value": found["value"], "p": found["p"]})
    for name, value in {**total.get("contrasts", {}), **total.get("other_routes", {})}.items():
        rows.append({"what": name, "value": value, "p": None})
    columns = {"what": "what", "value": "value", "p": "p"}
    return Table("beside", "Floors, nulls, and what stands beside the verdict", "", columns, rows)


def _heatmap(names: tuple[str, str], grid: Grid) -> Figure:
    if grid.test is None:
        raise ValueError("no grid was searched")
    rows = [
        {"row": a, "column": b, "value": float(grid.test.transfer[i, j]),
         "hatched": bool(grid.test.transfer[i, j] < grid.test.threshold)}
        for i, a in enumerate(grid.layers[0])
        for j, b in enumerate(grid.layers[1])
    ]  # fmt: skip
    return Figure(
        "transfer-layers", "matrix", f"Transfer {names[0]} → {names[1]} by layer pair",
        f"Own-vs-rest AUROC on test texts. Hatched: not above {grid.test.threshold:.3f}, the .95 quantile of the "
        f"largest transfer of relabelled emotions over the whole grid (max-T). Chosen on dev: {grid.chosen[0]} → "
        f"{grid.chosen[1]}.",
        "Heatmap of transfer over layers of source and target.", rows,
        {"x": f"layer of {names[1]}", "y": f"layer of {names[0]}", "value": "AUROC", "hatched": "below max-T"},
    )  # fmt: skip


def _matrix(names: tuple[str, str], total: Found) -> Figure:
    rows = [
        {"row": a, "column": b, "value": total["matrix"][i][j]}
        for i, a in enumerate(total["emotions"])
        for j, b in enumerate(total["emotions"])
    ] if total["matrix"] else []  # fmt: skip
    return Figure(
        "transfer-matrix", "matrix", f"Which emotion does a mapped direction pick? {names[0]} → {names[1]}",
        "AUROC of the target's test texts of an emotion (column) against the rest, scored by the source's mapped "
        "direction (row).",
        "Matrix of transfer between emotions.", rows,
        {"scale": [0, 1], "midpoint": 0.5, "x": "texts of the target", "y": "direction of the source",
         "value": "AUROC"},
    )  # fmt: skip


def _levels(names: tuple[str, str], total: Found) -> Figure:
    rows = [{"label": "transfer", "value": total["transfer"], "low": total["transfer_ci"][0],
             "high": total["transfer_ci"][1]},
            {"label": "native", "value": total["native"], "low": total["native_ci"][0],
             "high": total["native_ci"][1]}]  # fmt: skip
    rows += [{"label": f"floor: {n.replace('_', ' of ')}", "value": v, "low": v, "high": v}
             for n, v in total["floor"].items() if v is not None]  # fmt: skip
    return Figure(
        "transfer-levels", "bars", f"Transfer {names[0]} → {names[1]} between its floors and the native probe",
        "Own-vs-rest AUROC with 95 % cluster bootstrap intervals; floors are transfers that need no learnt sharing.",
        "Bars of transfer, native probe and floors.", rows, {"x": "AUROC", "reference": 0.5},
    )  # fmt: skip

"""How the ``directions`` experiment reads: verdict lines, sentences, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments.directions import Directions, _Cell

Row = Mapping[str, Any]


UNPAIRED = (
    "No scenario of this set is written under two labels, so the analysis is unpaired: texts of different scenarios "
    "count as independent, labels are permuted over all of them, and a difference in topic or length between the "
    "labels would look like emotion."
)


def verdict_lines(results: Sequence[Row], depth: int, paired: bool) -> list[str]:
    """One line per emotion: layer, test AUROC with interval, own-vs-rest, and what shuffled labels reach."""
    note = [] if paired else ["unpaired texts: topic or length may differ with the label (see the report)"]
    return [*(_line(row, depth) for row in results), *note]


def _line(row: Row, depth: int) -> str:
    own = "–" if row["own_vs_rest"] is None else f"{row['own_vs_rest']:.2f}"
    state = "" if row["established"] else " (not established)"
    return (
        f"{row['emotion']}: layer {row['layer']} of {depth}, test AUROC {row['auroc_test']:.2f} "
        f"[{row['ci'][0]:.2f}, {row['ci'][1]:.2f}], own-vs-rest {own}, shuffled-label p {row['p_shuffled']:.3g}{state}"
    )


def direction_section(cell: _Cell, results: Sequence[Row], params: Directions.Params) -> Section:
    """The report's section on question 1; figures show the first site and position, tables show all."""
    first = cell.results
    curves = [
        _curves(cell, "against_neutral", "layer-auroc", "Emotion against neutral, by layer"),
        _curves(cell, "own_vs_rest", "layer-own-vs-rest", "Emotion against the other emotions, by layer"),
    ]
    figures = [f for f in curves if f.data]
    figures += [_strata(first, params), _cosines(cell), _norms(cell), _stability(cell)]
    tables = [_evidence_table(results), _controls_table(first)]
    if params.beside:
        tables.append(_beside_table(first, params))
    if params.components:
        tables.append(_components_table(results, params.components))
    return Section(
        "directions",
        "Where is each emotion?",
        _answer(cell, first, params),
        [f for f in figures if f.data],
        tables,
        LIMITS,
    )


LIMITS = (
    "A direction that separates texts is not yet a cause of what the model writes; question 3 tests that.",
    "Texts with an emotion word can be separated by that word alone: compare with the implicit texts, and with the "
    "first layer, which sees words but hardly any context.",
    "Figures show the first site and position; curves.json in the run's folder holds AUROC, own-vs-rest, norms, "
    "stability and cosines of all of them by layer.",
    "Intervals resample scenarios of this prompt set; `run check --on FILE` tests the same directions on other text.",
)


def _answer(cell: _Cell, results: Sequence[Row], params: Directions.Params) -> list[str]:
    found = [r["emotion"] for r in results if r["established"]]
    lost = [r["emotion"] for r in results if not r["established"]]
    count = int(sum(cell.data.splits == "test"))
    sentences = [
        f"Directions were fitted on {int(sum(cell.data.splits == 'fit'))} texts of {params.prompts} "
        f"({cell.kind}, {cell.position}); the layer was chosen on dev scenarios, and what follows was measured on "
        f"{count} test texts of scenarios that neither saw."
    ]
    if not cell.paired:
        sentences.append(UNPAIRED)
    if found:
        sentences.append(f"Established on test scenarios: {', '.join(found)}.")
    if lost:
        sentences.append(
            f"Not established: {', '.join(lost)} (an interval reaches .5, or a permutation p is above .05; this is no "
            "evidence of absence)."
        )
    sentences += [_line(r, cell.depth) + "." for r in results]
    first = cell.data.layers[0]
    words = ", ".join(f"{r['emotion']} {r['auroc_first_layer']:.2f}" for r in results)
    sentences.append(f"Layer {first}, which sees words but hardly any context, already reaches: {words}.")
    sentences += [
        _implicit(r, row, first)
        for r in results
        for row in (r["compare"].get("implicit"), r["strata"].get("implicit"))
        if row is not None and _testable(row)
    ]
    return sentences


def _testable(row: Row | None) -> bool:
    return row is not None and row["auroc"] is not None and row["ci"] is not None


def _implicit(result: Row, row: Row, first: int) -> str:
    low, high = row["ci"]
    verdict = "" if low > 0.5 else ", which is not above chance: this direction may be a word detector"
    own = "" if row["own_vs_rest"] is None else f", own-vs-rest {row['own_vs_rest']:.2f}"
    return (
        f"Without any emotion word (implicit texts of unseen scenarios) the {result['emotion']} direction reaches "
        f"{row['auroc']:.2f} [{low:.2f}, {high:.2f}]{own}; at layer {first} {row['auroc_first_layer']:.2f}{verdict}."
    )


def _curves(cell: _Cell, which: str, name: str, title: str) -> Figure:
    rows = []
    for emotion in cell.emotions:
        ev = cell.evidence[emotion]
        curves = getattr(ev, which)
        if curves is None:
            continue
        for i, layer in enumerate(cell.data.layers):
            rows.append({
                "layer": layer, "series": emotion, "value": float(curves.interval.estimate[i]),
                "low": float(curves.interval.low[i]), "high": float(curves.interval.high[i]),
                "null_low": float(curves.null_low[i]), "null_high": float(curves.null_high[i]),
                "chosen": layer == ev.layer,
            })  # fmt: skip
    return Figure(
        name, "layer-curves", title,
        f"Test AUROC with a 95 % cluster bootstrap over {'scenarios' if cell.paired else 'texts'}; the grey band holds "
        f"95 % of label permutations {'within scenarios' if cell.paired else 'over all texts (unpaired set)'}; the "
        "mark is the layer chosen on dev.",
        f"{title}: AUROC of {', '.join(cell.emotions)} over {len(cell.data.layers)} layers.",
        rows, {"y": "test AUROC", "reference": 0.5, "null_label": "permuted labels",
               "interval_label": "95 % cluster bootstrap", "facet": True},
    )  # fmt: skip


def _strata(results: Sequence[Row], params: Directions.Params) -> Figure:
    rows: list[dict[str, Any]] = []
    for r in results:
        own = [(f"{params.prompts} (test)", r["auroc_test"], r["ci"])]
        own += [(f"{params.prompts}, {kind} (test)", x["auroc"], x["ci"]) for kind, x in r["strata"].items() if x]
        others = [(name, x["auroc"], x["ci"]) for name, x in r["compare"].items() if x and x["auroc"] is not None]
        anew = [
            (f"{name} (fitted anew)", x["auroc"], x["ci"])
            for name, x in r["beside"].items()
            if x and x["auroc"] is not None
        ]
        for label, value, ci in [*own, *others, *anew]:
            low, high = ci or (None, None)
            rows.append(
                {"label": r["emotion"], "group": label, "value": value, "low": low, "high": high, "reference": 0.5}
            )
    return Figure(
        "test-sets", "intervals", "The same directions on other texts",
        "AUROC against neutral at the chosen layer, with 95 % cluster bootstrap intervals; texts of scenarios that "
        "were used for fitting or choosing are left out.",
        "AUROC of every emotion on each test set.", rows, {"x": "AUROC against neutral", "reference": 0.5},
    )  # fmt: skip


def _cosines(cell: _Cell) -> Figure:
    from emotion_circuits.representations.directions import emotion_cosines

    row = _middle_row(cell)
    cosine = emotion_cosines(cell.directions)[row]
    names = cell.emotions
    rows = [
        {"row": a, "column": b, "value": max(0.0, float(1 - cosine[i, j]))}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    layer = cell.data.layers[row]
    return Figure(
        "emotion-distance", "matrix", f"Distance between emotions at layer {layer}",
        "1 − cosine between directions against neutral: 0 the same direction, 1 orthogonal, 2 opposite.",
        f"Heatmap of 1 − cosine between {', '.join(names)}.", rows, {"scale": [0, 2], "midpoint": 1},
    )  # fmt: skip


def _norms(cell: _Cell) -> Figure:
    from emotion_circuits.representations.directions import norms

    rows = [
        {"layer": layer, "series": e, "value": float(values["relative"][i])}
        for e, values in norms(cell.directions).items()
        for i, layer in enumerate(cell.data.layers)
    ]
    return Figure(
        "norms", "lines", "Length of the directions",
        "L2 norm of mean(emotion) − mean(neutral), as a fraction of the mean norm of the activations at that layer.",
        "Relative norm of every direction by layer.", rows, {"x": "layer", "y": "fraction of activation norm"},
    )  # fmt: skip


def _stability(cell: _Cell) -> Figure:
    rows = [
        {"layer": layer, "series": e, "value": float(v.estimate[i]), "low": float(v.low[i]), "high": float(v.high[i])}
        for e, v in cell.stability.items()
        for i, layer in enumerate(cell.data.layers)
        if v.estimate[i] == v.estimate[i]  # NaN: too few texts for two halves
    ]
    return Figure(
        "stability", "lines", "Stability over scenarios",
        "Cosine between the directions of two random halves of the fit scenarios: mean and 95 % range of 100 splits.",
        "Split-half cosine of every direction by layer.", rows, {"x": "layer", "y": "split-half cosine"},
    )  # fmt: skip


def _evidence_table(results: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "site": "site", "position": "position", "layer": "layer", "auroc_test": "test AUROC",
        "ci": "95 % interval", "own_vs_rest": "own-vs-rest", "own_vs_rest_ci": "95 % interval", "p_layer":
        "p at the layer (max-T)", "p_max_layer": "p of the best layer",
        "p_shuffled": "shuffled-label p", "auroc_dev": "dev AUROC", "n_test": "test texts",
    }  # fmt: skip
    rows = [{**r, "ci": _range(r["ci"]), "own_vs_rest_ci": _range(r["own_vs_rest_ci"])} for r in results]
    return Table(
        "evidence", "Evidence", "All sites and positions; the layer of each row was chosen on dev.", columns, rows
    )


def _controls_table(results: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "auroc_test": "test AUROC", "shuffled_q95": "shuffled labels, 95 % quantile",
        "random_q95": "random directions, 95 % quantile", "p_random": "p (random)", "auroc_first_layer": "first layer",
    }  # fmt: skip
    return Table(
        "controls", "Controls at the chosen layer",
        "AUROC that directions fitted on permuted labels and isotropic random directions reach. AUROC is blind to a "
        "direction's length, and a shuffled direction keeps a sliver of the true one, so its quantile can be high; the "
        "p of the table above weighs the sliver by its length.",
        columns, results,
    )  # fmt: skip


def _beside_table(results: Sequence[Row], params: Directions.Params) -> Table:
    rows = []
    for r in results:
        row = {"emotion": r["emotion"], params.prompts: _shown(r["layer"], r["auroc_test"], r["ci"])}
        for name, x in r["beside"].items():
            row[name] = _shown(x["layer"], x["auroc"], x["ci"]) if x else "–"
        rows.append(row)
    columns = {"emotion": "emotion", **{n: n for n in (params.prompts, *params.beside)}}
    return Table(
        "beside",
        "Side by side",
        "Directions, layer and test anew in each set: layer, test AUROC, interval.",
        columns,
        rows,
    )


def _components_table(results: Sequence[Row], components: int) -> Table:
    rows = []
    for r in results:
        x = r["without_neutral_components"]
        anew = {"auroc": x["auroc"], "ci": _range(x["ci"]), "own_vs_rest": x["own_vs_rest"]} if x else {}
        rows.append({**{k: r[k] for k in ("emotion", "site", "position", "layer", "auroc_test")}, **anew})
    columns = {
        "emotion": "emotion", "site": "site", "position": "position", "layer": "layer", "auroc_test": "test AUROC",
        "auroc": "without components", "ci": "95 % interval", "own_vs_rest": "own-vs-rest without components",
    }  # fmt: skip
    return Table(
        "neutral-components",
        f"Without {components} principal components of neutral text",
        "The same layer and test texts, with what varies most between neutral fit texts taken out of the directions.",
        columns,
        rows,
    )


def _shown(layer: int, auroc: float, ci: Sequence[float] | None) -> str:
    return f"L{layer} {auroc:.2f} {_range(ci)}"


def _range(ci: Sequence[float] | None) -> str:
    return "–" if ci is None else f"[{ci[0]:.2f}, {ci[1]:.2f}]"


def _middle_row(cell: _Cell) -> int:
    rows = sorted(ev.row for ev in cell.evidence.values())
    return rows[len(rows) // 2]

"""Models side by side: what each experiment found on every model and pair, as rows of one table and of a CSV file.

Nothing is computed here but relative depths; every number is one that an experiment reported.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._cell import ASKED, PLUS
from emotion_circuits.experiments.shared_texts import position_of
from emotion_circuits.report.files import write_text
from emotion_circuits.report.variants import first_of_each, marked
from emotion_circuits.store import ARROW, PAIR
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study
    from emotion_circuits.store import Run

COLUMNS = (
    "question", "experiment", "source", "model", "emotion", "position", "source_layer", "source_depth", "layer",
    "depth", "measure", "estimate", "low", "high", "p", "verdict",
)  # fmt: skip
"""Of the CSV file. ``source`` is empty where one model stands for itself; depths are 0 (first block) to 1 (last)."""

AUROC, OWN, EFFECT = "test AUROC", "own-vs-rest AUROC", "steering effect"
TAU, SHARE, BEFORE, AFTER = "tau", "share of native effect", "overlap before map", "overlap after map"
OWN_TEXTS, OWN_TEXTS_REST = "AUROC on texts of your own", "own-vs-rest AUROC on texts of your own"
FAITHFUL, GAP = "faithfulness of the circuit", "endpoint that heads and MLPs carry"
HEADINGS = {
    "experiment": "experiment", "pair": "model", "emotion": "emotion", "position": "position", "layers": "layer",
    "depths": "depth", "measure": "measure", "estimate": "estimate", "interval": "95 %", "p": "p", "verdict": "verdict",
}  # fmt: skip


def summary_rows(study: Study) -> list[dict[str, Any]]:
    """One row per model or pair, emotion and measure, in the order of the study's runs; keys as :data:`COLUMNS`.

    A run that is not the profile's own says so in the column ``experiment`` (``sweep [limit=5]``).
    """
    layers = {run.model: run.read_summary()["layers"] for run in study.runs if run.experiment == "directions"}
    return [
        {**dict.fromkeys(COLUMNS), **row, "experiment": run.experiment + marked(run, study.profile)}
        for run in study.runs
        if run.experiment in _READERS
        for row in _READERS[run.experiment](run, layers)
    ]


def summary_csv(study: Study) -> str:
    """The rows as CSV; a number that is not there is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in summary_rows(study))
    return text.getvalue()


def write_summary(study: Study, folder: Path) -> Path:
    """Write ``report/summary.csv`` under a profile's results; raises :class:`StoreError` where that is not possible."""
    return write_text(folder / "report" / "summary.csv", summary_csv(study))


def comparison(study: Study) -> Section | None:
    """The section that sets models side by side; None where there is one model only."""
    every = summary_rows(study)
    # Two runs of one experiment on one model would be two dots on one place, and be counted twice.
    rows = summary_rows(replace(study, runs=first_of_each(study.runs)))
    models = list(dict.fromkeys(r["model"] for r in rows if r["measure"] == AUROC))
    if len(models) < 2:
        return None
    figures = [
        _dots(rows, "comparison-auroc", AUROC, "Where is each emotion: test AUROC of every model", 0.5),
        _dots(rows, "comparison-tau", TAU, "Is it shared: τ of every pair", 0),
        _dots(rows, "comparison-effect", EFFECT, "What does it cause: effect of the declared cell on test", 0),
    ]
    answer = [*_first_question(rows, models), *_pairs(rows)]
    table = Table(
        "comparison", "What the answers rest on, side by side",
        "The estimates behind the answers of directions, check, sweep, controls, transfer, transfer-steer, align, "
        "heads.screen, neurons.saliency and circuit.report; other figures are in the sections. The same rows are in "
        "summary.csv beside this report. Layers of a pair: source → target. Depth: 0 is the first block, 1 the last.",
        HEADINGS, [_shown(r) for r in every],
    )  # fmt: skip
    limits = (
        "Models differ in width, depth, tokenizer and training text at once: a difference between two of them has no "
        "single cause. Effects are in nats of each model's own logits.",
    )
    return Section("comparison", "Models side by side", answer, [f for f in figures if f.data], [table], limits)


def _first_question(rows: Sequence[Mapping[str, Any]], models: Sequence[str]) -> Iterator[str]:
    for model in models:
        own = [r for r in rows if r["model"] == model and r["measure"] == AUROC]
        found = [r for r in own if r["verdict"] == "established"]
        depths = [r["depth"] for r in found if r["depth"] is not None]
        where = f" at relative depths {min(depths):.2f} to {max(depths):.2f}" if depths else ""
        yield f"{model}: {len(found)} of {len(own)} directions established{where}."


def _pairs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for r in rows:
        if r["measure"] == TAU and r["emotion"] == "all":
            value = "–" if r["estimate"] is None else f"{r['estimate']:.2f}"
            on = r["experiment"].removeprefix("transfer")
            yield f"{r['source']}{ARROW}{r['model']}{on}, layers {_arrow(r, 'layer')}: {r['verdict']} (τ {value})."


def _dots(rows: Sequence[Mapping[str, Any]], name: str, measure: str, title: str, reference: float) -> Figure:
    own = [r for r in rows if r["measure"] == measure]
    several = len({r["position"] for r in own}) > 1
    data = [
        {"label": r["emotion"] + (f" ({r['position']})" if several and r["position"] else ""), "group": _names(r),
         "value": r["estimate"], "low": r["low"], "high": r["high"]}
        for r in own
    ]  # fmt: skip
    axis = "τ" if measure == TAU else measure
    return Figure(
        name, "intervals", title, "Each model at the layer that it chose on dev; 95 % intervals.",
        f"Dots with intervals: {measure} by emotion and model.", data, {"x": axis, "reference": reference},
    )  # fmt: skip


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = None if row["low"] is None else (row["low"], row["high"])
    return {**row, "pair": _names(row), "layers": _arrow(row, "layer"), "depths": _arrow(row, "depth"),
            "interval": interval}  # fmt: skip


def _names(row: Mapping[str, Any]) -> str:
    return f"{row['source']}{ARROW}{row['model']}" if row["source"] else row["model"]


def _arrow(row: Mapping[str, Any], what: str) -> str | None:
    shown = [
        f"{v:.2f}" if isinstance(v, float) else str(v) for v in (row[f"source_{what}"], row[what]) if v is not None
    ]
    return ARROW.join(shown) or None


def _directions(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for r in run.read_summary()["results"]:
        shared = {"question": 1, "model": run.model, "emotion": r["emotion"],
                  "position": r["position"], **_at(r["layer"], layers.get(run.model))}  # fmt: skip
        verdict = "established" if r["established"] else "not established"
        yield {**shared, "measure": AUROC, "estimate": r["auroc_test"], **_ci(r["ci"]), "p": r["p_shuffled"],
               "verdict": verdict}  # fmt: skip
        yield {**shared, "measure": OWN, "estimate": r["own_vs_rest"], **_ci(r["own_vs_rest_ci"])}


def _sweep(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for r in run.read_summary()["test"]:
        yield {"question": 3, "model": run.model, "emotion": r["emotion"],
               **_at(r["layer"], layers.get(run.model)), "measure": EFFECT, "estimate": r["effect"], **_ci(r["ci"]),
               "p": r["p"], "verdict": "established" if r["established"] else "not established"}  # fmt: skip


def _transfer(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    found = run.read_summary()
    shared = {"question": 2, **_between(run, found["layer_pair"], layers), "measure": TAU}
    for r in ({**found, "emotion": "all"}, *found["per_emotion"]):
        yield {**shared, "emotion": r["emotion"], "estimate": r["tau"], **_ci(r["ci"]), "p": r["p"].get("max"),
               "verdict": r["verdict"]}  # fmt: skip


def _align(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for r in run.read_summary()["layers"]:
        pair = {"source": r["source_layer"], "target": r["target_layer"]}
        shared = {"question": 2, **_between(run, pair, layers), "emotion": "all"}
        if r["before"] is not None:  # the overlap of models of two widths is not defined without a map
            yield {**shared, "measure": BEFORE, "estimate": r["before"]}
        yield {**shared, "measure": AFTER, "estimate": r["after"], "p": r["p"]}


def _transfer_steer(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    found = run.read_summary()
    for r in found["per_emotion"]:
        yield {"question": 3, **_between(run, found["layer_pair"], layers),
               "emotion": r["emotion"], "measure": SHARE, "estimate": r["share"], **_ci(r["share_ci"]),
               "p": r["p_bh"], "verdict": r["verdict"]}  # fmt: skip


def _check(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    found = run.read_summary()
    for r in found["results"]:
        shared = {"question": 1, "model": run.model, "emotion": r["emotion"], "position": found.get("position"),
                  **_at(r["layer"], layers.get(run.model))}  # fmt: skip
        yield {**shared, "measure": OWN_TEXTS, "estimate": r["auroc"], **_ci(r["ci"])}
        yield {**shared, "measure": OWN_TEXTS_REST, "estimate": r["own_vs_rest"]}


def _controls(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """What its answers are about: the classifier's score of texts with the vector, and of texts that were asked for."""
    for r in run.read_summary()["results"]:
        if r["scorer"] == "embedded" and r["arm"] in (PLUS, ASKED):
            written = "steered" if r["arm"] == PLUS else "asked for"
            measure = f"{written} texts' classifier score over {r['against']}"
            yield {"question": 3, "model": run.model, "emotion": r["emotion"],
                   **_at(r["layer"], layers.get(run.model)), "measure": measure, "estimate": r["mean_diff"],
                   **_ci(r["ci"]), "p": r["p_permutation"]}  # fmt: skip


def _heads(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    return _ablated(run, "heads")


def _neurons(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    return _ablated(run, "neurons")


def _ablated(run: Run, what: str) -> Iterator[dict[str, Any]]:
    """The chosen components ablated together; a way of ablating without random sets has no p and confirms nothing."""
    for r in run.read_summary().get("confirmation", ()):
        verdict = None if r["p"] is None else "confirmed" if r["confirmed"] else "not confirmed"
        measure = f"top {what} ablated ({r['mode']})"
        yield {"question": 4, "model": run.model, "emotion": r["emotion"], "measure": measure, "estimate": r["change"],
               **_ci(r["ci"]), "p": r["p"], "verdict": verdict}  # fmt: skip


def _circuit(run: Run, layers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    found = run.read_summary()
    for r in found["results"]:
        yield {"question": 4, "model": run.model, "emotion": r["emotion"], "measure": FAITHFUL,
               "estimate": r["faithfulness"],
               "verdict": f"nearer to 1 than {r['beaten']} of {r['random_circuits']} random circuits"}  # fmt: skip
    for r in found.get("unexplained", ()):
        yield {"question": 4, "model": run.model, "emotion": r["emotion"], "measure": GAP, "estimate": r["gap"],
               **_ci(r["ci"]), "verdict": "no circuit"}  # fmt: skip


_READERS = {
    "directions": _directions, "sweep": _sweep, "transfer": _transfer, "align": _align,
    "transfer-steer": _transfer_steer, "check": _check, "controls": _controls, "heads.screen": _heads,
    "neurons.saliency": _neurons, "circuit.report": _circuit,
}  # fmt: skip
"""Experiments whose summaries are read, by name."""


def _between(run: Run, pair: Mapping[str, Any], layers: Mapping[str, int]) -> dict[str, Any]:
    source, target = run.model.split(PAIR)
    own, other = _at(pair["source"], layers.get(source)), _at(pair["target"], layers.get(target))
    about = {"source": source, "model": target, "position": position_of(run)}
    return {**about, **{f"source_{k}": v for k, v in own.items()}, **other}


def _at(layer: int | None, of: int | None) -> dict[str, Any]:
    depth = None if layer is None or of is None or of < 2 else layer / (of - 1)
    return {"layer": layer, "depth": depth}


def _ci(interval: Sequence[float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"low": low, "high": high}

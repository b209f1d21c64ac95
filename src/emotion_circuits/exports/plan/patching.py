"""Steering: sweeps, controls, real-world texts, and single texts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.exports.contract import (
    RUN,
    RUN_PAIR,
    File,
    Results,
    json_file,
    pair_of,
    plan_file,
    position_suffix,
)

if TYPE_CHECKING:
    from emotion_circuits.store import Run

STEER = f'{RUN} --text "The package arrived on Tuesday and" --emotion gratitude'
SECTIONS = ("baseline_summary", "aggregated_metrics", "delta_metrics", "sweep_results")


@plan_file("patching/{model}_sweep.json", "layers × strengths: four sections", "sweep")
def sweep(results: Results) -> Iterator[File]:
    """With vectors read at emotion words it is ``{model}_sweep_token_based.json``, as the vectors' files are."""
    for run in results.latest("sweep"):
        suffix = position_suffix(run.read_params()["position"])
        yield json_file(f"patching/{run.model}_sweep{suffix}.json", run, partial(_sweep, run))


@plan_file("patching/{model}_patching.json", "one text, steered", "steer", STEER)
def steered(results: Results) -> Iterator[File]:
    yield from _written(results, "steer", "patching")


@plan_file("patching/{model}_iterative.json", "intervening at every step", "iterative")
def iterative(results: Results) -> Iterator[File]:
    yield from _written(results, "iterative", "iterative")


@plan_file("patching/{model}_swap.json", "residuals exchanged", "swap")
def swap(results: Results) -> Iterator[File]:
    yield from _written(results, "swap", "swap")


@plan_file("patching/{model}_comparison.json", "sentence end against emotion word", "compare")
def comparison(results: Results) -> Iterator[File]:
    yield from _written(results, "compare", "comparison")


@plan_file("patching/cross_model_{source}_{target}.json", "vectors mapped across models", "transfer-steer", RUN_PAIR)
def cross_model(results: Results) -> Iterator[File]:
    for run in results.latest("transfer-steer"):
        yield json_file(f"patching/cross_model_{'_'.join(pair_of(run))}.json", run, partial(_with_texts, run))


@plan_file("patching/real_world_patching_{model}.json", "steered real-world texts", "real-world")
def real_world(results: Results) -> Iterator[File]:
    for run in results.latest("real-world"):
        yield json_file(f"patching/real_world_patching_{run.model}.json", run, partial(_with_texts, run))


@plan_file("real_world_metrics.csv", "one row a text, every score", "real-world")
def real_world_metrics(results: Results) -> Iterator[File]:
    yield from _table(results, "real-world", "real_world_metrics.csv", "real_world_metrics.csv")


@plan_file("random_effect_sizes.csv", "the vector against random ones", "controls")
def random_effect_sizes(results: Results) -> Iterator[File]:
    yield from _table(results, "controls", "effects.csv", "random_effect_sizes.csv")


@plan_file("random_distributions.csv", "one row a prompt and arm", "controls")
def random_distributions(results: Results) -> Iterator[File]:
    yield from _table(results, "controls", "distributions.csv", "random_distributions.csv")


def _sweep(run: Run) -> Mapping[str, Any]:
    summary, sections = run.read_summary(), run.read_json("sweep.json")
    return {
        "model": run.model,
        "emotions": list(sections["aggregated_metrics"]),
        "layers": summary["layers"],
        "alpha_values": summary["strengths"],
        "unit": summary["unit"],
        **{name: sections[name] for name in SECTIONS},
        "test": summary["test"],
    }


def _written(results: Results, experiment: str, name: str) -> Iterator[File]:
    for run in results.latest(experiment):
        yield json_file(f"patching/{run.model}_{name}.json", run, partial(_with_texts, run))


def _with_texts(run: Run) -> Mapping[str, Any]:
    """The run's summary, and every text that it wrote."""
    kept = ("step", "prompt", "condition", "sample", "text")
    texts = [{key: row[key] for key in kept} for row in run.read_jsonl("generations.jsonl")]
    return {**run.read_summary(), "model": run.model, "texts": texts}


def _table(results: Results, experiment: str, name: str, path: str) -> Iterator[File]:
    """One CSV table of all models, with a column that says which."""
    runs = results.latest(experiment)
    if runs:
        yield File(path, runs[0].folder.parent if len(runs) == 1 else results.folder, partial(_joined, runs, name))


def _joined(runs: Sequence[Run], name: str) -> bytes:
    rows = [{"model": run.model, **row} for run in runs for row in _read(run.path(name))]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _read(path: Path) -> list[dict[str, str]]:
    from emotion_circuits.store.files import translating

    with translating(path, "read"), path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))

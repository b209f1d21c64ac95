"""Heads, neurons and circuits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError
from emotion_circuits.exports.contract import RUN, File, Results, in_path, json_file, plan_file

if TYPE_CHECKING:
    from emotion_circuits.store import Run

HEADS, NEURONS = f'{RUN} --head-spec "3:5,7:2"', f'{RUN} --neurons "3:10,12;5:7"'

SHARED_KEYS = ("mode", "patch_mode", "position")
SCORE_KEYS = (
    "layer", "head", "emotion", "delta_attn", "emotion_mean_attn", "neutral_mean_attn", "samples_emotion",
    "samples_neutral", "ablation", "direct", "attribution",
)  # fmt: skip
"""The plan's columns of a head, then ours: its exact ablation, direct contribution and attribution, in nats."""


@plan_file("alignment/head_scores_{model}.json", "attention and effect of every head", "heads.screen")
def head_scores(results: Results) -> Iterator[File]:
    for run in results.latest("heads.screen"):
        yield json_file(f"alignment/head_scores_{run.model}.json", run, partial(_scores, run))


@plan_file("patching/head_ablation/{model}_{emotion}.json", "texts with and without heads", "heads.ablate", HEADS)
def head_ablation(results: Results) -> Iterator[File]:
    yield from _text_files(results, "heads.ablate", "heads", "ablation")


@plan_file("patching/head_patching/{model}_{emotion}.json", "texts with patched heads", "heads.patch", HEADS)
def head_patching(results: Results) -> Iterator[File]:
    yield from _text_files(results, "heads.patch", "heads", "patched")


@plan_file("patching/neuron_ablation/{model}_{emotion}.json", "texts without neurons", "neurons.ablate", NEURONS)
def neuron_ablation(results: Results) -> Iterator[File]:
    yield from _text_files(results, "neurons.ablate", "neurons", "ablation")


@plan_file("circuits/{model}/neuron_saliency.json", "top neurons by three scores", "neurons.saliency")
def neuron_saliency(results: Results) -> Iterator[File]:
    yield from _summaries(results, "neurons.saliency", "neuron_saliency")


@plan_file("circuits/{model}/ov_qk_results.json", "OV and QK circuits", "circuit.ov-qk")
def ov_qk(results: Results) -> Iterator[File]:
    yield from _summaries(results, "circuit.ov-qk", "ov_qk_results")


@plan_file("circuits/{model}/circuit_summary.json", "circuits: nodes, faithfulness", "circuit.report")
def circuit_summary(results: Results) -> Iterator[File]:
    yield from _summaries(results, "circuit.report", "circuit_summary")


@plan_file("circuits/{model}/circuit_summary.md", "the same to read", "circuit.report")
def circuit_markdown(results: Results) -> Iterator[File]:
    for run in results.latest("circuit.report"):
        yield File(f"circuits/{run.model}/circuit_summary.md", run.folder, run.path("circuits.md").read_bytes)


def _summaries(results: Results, experiment: str, name: str) -> Iterator[File]:
    for run in results.latest(experiment):
        yield json_file(f"circuits/{run.model}/{name}.json", run, run.read_summary)


def _scores(run: Run) -> Mapping[str, Any]:
    summary = run.read_summary()
    rows = [{key: row.get(key) for key in SCORE_KEYS} for row in summary["scores"]]
    return {"model": run.model, "layers": summary["layers"], "heads_per_layer": summary["heads_per_layer"],
            "scores": rows}  # fmt: skip


def _text_files(results: Results, experiment: str, noun: str, changed: str) -> Iterator[File]:
    """One file an emotion: what was changed, prompts, both texts of each, and both means of every evaluator."""
    for run in results.latest(experiment):
        for emotion in run.read_summary()["baseline_metrics"]:
            yield json_file(
                f"patching/{_FOLDERS[experiment]}/{run.model}_{in_path(emotion)}.json", run,
                partial(_texts, run, emotion, noun, changed),
            )  # fmt: skip


_FOLDERS = {"heads.ablate": "head_ablation", "heads.patch": "head_patching", "neurons.ablate": "neuron_ablation"}


def _texts(run: Run, emotion: str, noun: str, changed: str) -> Mapping[str, Any]:
    summary = run.read_summary()
    some = _rows_of(run, summary, emotion)
    return {
        "model": run.model, "emotion": emotion, noun: summary[noun],
        **{key: summary[key] for key in SHARED_KEYS if key in summary},
        **{key: summary[key][some] for key in ("prompts", "baseline_texts", f"{changed}_texts")},
        **{key: summary[key][emotion] for key in ("baseline_metrics", f"{changed}_metrics")},
        "paired": [row for row in summary["paired"] if row["emotion"] == emotion],
        "endpoint": [row for row in summary["results"] if row["emotion"] == emotion],
    }  # fmt: skip


def _rows_of(run: Run, summary: Mapping[str, Any], emotion: str) -> slice:
    """Where an emotion's prompts stand among those of all: emotions follow each other."""
    counts = {
        e: len({row["prompt"] for row in run.read_jsonl("generations.jsonl") if row["step"] == f"texts-{e}"})
        for e in summary["baseline_metrics"]
    }
    if sum(counts.values()) != len(summary["prompts"]):
        raise StoreError(
            f"{run.folder} has {sum(counts.values())} prompts in generations.jsonl and {len(summary['prompts'])} in "
            "summary.json",
            f"run {run.experiment} again with --force",
        )
    before = 0
    for e, count in counts.items():
        if e == emotion:
            break
        before += count
    return slice(before, before + counts[emotion])

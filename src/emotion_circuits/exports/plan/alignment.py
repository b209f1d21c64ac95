"""Two models: maps fitted on neutral text, subspaces before and after, k.

The plan has one pair of models and names it in no path. Where a profile has several pairs, the path names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments.shared_texts import MEAN, position_of
from emotion_circuits.exports.contract import RUN_PAIR, File, Results, json_file, pair_of, plan_file, position_suffix
from emotion_circuits.exports.tensors import tensor_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.store import Run


@plan_file("linear_maps/layer_{L}.pt", "W [target d, source d], float64", "align", RUN_PAIR)
def linear_maps(results: Results) -> Iterator[File]:
    """target ≈ W source + offset; L is the source's layer."""
    yield from _map_files(results, "", _weights)


@plan_file("linear_maps/layer_{L}_offset.pt", "the map's offset [target d]", "align", RUN_PAIR)
def offsets(results: Results) -> Iterator[File]:
    yield from _map_files(results, "_offset", _offset)


@plan_file("alignment/model_alignment.json", "overlap before and after the map", "align", RUN_PAIR)
def model_alignment(results: Results) -> Iterator[File]:
    runs = _at_each_position(results, "align")
    for run in runs:
        yield json_file(_path("alignment/model_alignment", run, runs), run, partial(_before_after, run))


@plan_file("alignment/k_sweep.json", "transfer by k, emotion and layer", "k-sweep", RUN_PAIR)
def k_sweep(results: Results) -> Iterator[File]:
    runs = _at_each_position(results, "k-sweep")
    for run in runs:
        yield json_file(_path("alignment/k_sweep", run, runs), run, partial(_k_sweep, run))


@plan_file("alignment/subspace_alignment.json", "Procrustes and CCA", "subspace-align", RUN_PAIR)
def subspace_alignment(results: Results) -> Iterator[File]:
    runs = _at_each_position(results, "subspace-align")
    for run in runs:
        path = _path("alignment/subspace_alignment", run, runs)
        yield json_file(path, run, partial(_named, run, "results", "warning"))


@plan_file("alignment/subspace_overlap.json", "raw overlaps, angles, clusters", "overlap", RUN_PAIR)
def subspace_overlap(results: Results) -> Iterator[File]:
    runs = _at_each_position(results, "overlap")
    for run in runs:
        path = _path("alignment/subspace_overlap", run, runs)
        yield json_file(path, run, partial(_named, run, "emotions", "between", "inside", "clusterability"))


def _path(stem: str, run: Run, runs: Sequence[Run], ending: str = ".json") -> str:
    """Texts that were read elsewhere than over the whole have a file of their own."""
    stem += "" if (position := position_of(run)) == str(MEAN) else position_suffix(position) or "_last"
    return f"{stem}{ending}" if len({r.model for r in runs}) == 1 else f"{stem}_{'_'.join(pair_of(run))}{ending}"


def _at_each_position(results: Results, experiment: str) -> list[Run]:
    """The run that was asked for last, of every pair and position."""
    found: dict[tuple[str, str], Run] = {}
    for pair, runs in results.newest_first(experiment).items():
        for run in runs:
            found.setdefault((pair, position_of(run)), run)
    return list(found.values())


def _map_files(results: Results, suffix: str, content: Any) -> Iterator[File]:
    runs = results.latest("align")
    for run in runs:
        folder = "linear_maps" if len(runs) == 1 else f"linear_maps/{'_'.join(pair_of(run))}"
        for row in sorted(run.read_summary()["layers"], key=lambda r: int(r["source_layer"])):
            layer = row["source_layer"]
            saved = run.path(f"linear_maps/layer_{layer}.safetensors")
            yield tensor_file(f"{folder}/layer_{layer}{suffix}.pt", run, partial(content, saved))


def _weights(path: Path) -> NDArray[np.float64]:
    import numpy as np

    from emotion_circuits.representations.alignment_map import AlignmentMap

    found = AlignmentMap.load(path)
    return found.push(np.eye(len(found.source.mean))).T


def _offset(path: Path) -> NDArray[np.float64]:
    import numpy as np

    from emotion_circuits.representations.alignment_map import AlignmentMap

    found = AlignmentMap.load(path)
    return found.predict(np.zeros(len(found.source.mean)))


def _names(run: Run) -> dict[str, str]:
    source, target = pair_of(run)
    return {"model1": source, "model2": target}


def _before_after(run: Run) -> Mapping[str, Any]:
    rows = run.read_summary()["layers"]
    return {**_names(run), "layers": [r["source_layer"] for r in rows],
            "alignment_results": {str(r["source_layer"]): r for r in rows}}  # fmt: skip


def _named(run: Run, *keys: str) -> Mapping[str, Any]:
    summary = run.read_summary()
    return {**_names(run), **{key: summary[key] for key in keys}}


def _k_sweep(run: Run) -> Mapping[str, Any]:
    """The plan's nesting layer → emotion → k, with what its overlaps were meant to tell: how well k transfers."""
    rows = run.read_json("k_sweep.json")
    nested: dict[str, dict[str, dict[str, Any]]] = {}
    chosen: dict[str, dict[str, int]] = {}
    for row in rows:
        layer, emotion = str(row["source_layer"]), row["emotion"]
        dev, test = row["dev_by_k"], row["test_by_k"]
        nested.setdefault(layer, {})[emotion] = {
            k: {"transfer_dev": dev.get(k), "transfer_test": test.get(k)} for k in dict.fromkeys((*dev, *test))
        }
        chosen.setdefault(layer, {})[emotion] = row["k"]
    return {
        **_names(run),
        "k_values": sorted({int(k) for layer in nested.values() for e in layer.values() for k in e}),
        "emotions": list(dict.fromkeys(r["emotion"] for r in rows)),
        "layers": sorted({r["source_layer"] for r in rows}),
        "target_layers": {str(r["source_layer"]): r["target_layer"] for r in rows},
        "metric": "own-vs-rest AUROC of the source's k-dimensional direction, pushed through the map, on the target's "
                  "texts; raw overlaps of two models' own bases mean nothing and are in subspace_overlap.json",
        "sweep_results": nested,
        "selected_k": chosen,
    }  # fmt: skip

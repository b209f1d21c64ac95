"""Runs written by hand, and their export in the research plan's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emotion_circuits.exports import Exported, Results, export_plan
from emotion_circuits.representations.alignment_map import AlignmentMap
from emotion_circuits.representations.alignment_scaling import Scaling
from emotion_circuits.store import Run, Store, write_tensors

PROFILE = "baseline"
A, B, C = "model-a", "model-b", "model-c"
RNG = np.random.default_rng(0)


def begun(
    store: Store, experiment: str, model: str | tuple[str, str] = A, params: Mapping[str, Any] | None = None
) -> Run:
    """A run folder with its ``spec.json``."""
    models = [model] if isinstance(model, str) else [*model]
    inputs = {"params": dict(params or {}), "model": {"name": models[0]}}
    run = store.run(PROFILE, model, experiment, inputs, {"addresses": models, "source": " → ".join(models)})
    run.begin()
    return run


def finished(
    store: Store, experiment: str, summary: Mapping[str, Any], model: str | tuple[str, str] = A,
    params: Mapping[str, Any] | None = None, texts: Sequence[Mapping[str, Any]] = (), **documents: object,
) -> Run:  # fmt: skip
    """A finished run with its summary, ``generations.jsonl`` and JSON documents."""
    run = begun(store, experiment, model, params)
    if texts:
        run.append_jsonl("generations.jsonl", texts)
    for name, content in documents.items():
        run.write_json(f"{name}.json", content)
    run.finish({"verdicts": ["said"], **summary})
    return run


def exported(store: Store, output: Path | None = None, **options: Any) -> Exported:
    return export_plan(Results(store, PROFILE), output or store.root / "out", **options)


def loaded(path: Path) -> Any:
    """A ``.pt`` file, read as a stranger's: nothing but plain tensors may be in it."""
    return torch.load(path, weights_only=True)


def of(store: Store, path: str) -> Any:
    """The content of one exported JSON file."""
    return json.loads((store.root / "out" / path).read_text(encoding="utf-8"))


def directions(
    store: Store, positions: Sequence[str], model: str = A, layers: int = 3
) -> dict[str, NDArray[np.float64]]:
    arrays: dict[str, NDArray[np.float64]] = {}
    for at in positions:
        for emotion in ("gratitude", "anger"):
            for method in ("neutral", "centred"):
                arrays[f"resid_post/{at}/{method}/{emotion}"] = RNG.standard_normal((layers, 4))
        for name in ("neutral_mean", "neutral_sd"):
            arrays[f"resid_post/{at}/{name}"] = np.ones((layers, 4))
        arrays[f"resid_post/{at}/residual_norm"] = np.ones(layers)
    run = begun(store, "directions", model, {"positions": list(positions)})
    write_tensors(run.path("directions.safetensors"), arrays)
    rows = [{"emotion": e, "site": "resid_post", "position": at} for at in positions for e in ("gratitude", "anger")]
    run.finish({"results": rows, "layer_numbers": list(range(layers)), "verdicts": ["said"]})
    return arrays


def fitted_map(d_source: int, d_target: int, rank: int = 2) -> AlignmentMap:
    basis = np.linalg.qr(RNG.standard_normal((d_source, rank)))[0]
    source, target = (Scaling(RNG.standard_normal(d), 1 + RNG.random(d)) for d in (d_source, d_target))
    return AlignmentMap("ridge", source, target, basis, RNG.standard_normal((rank, d_target)), 0.1, 0.5, 100)


def aligned(store: Store, pair: tuple[str, str], layers: Sequence[int] = (3, 11)) -> dict[int, AlignmentMap]:
    run, maps = begun(store, "align", pair), {layer: fitted_map(5, 4) for layer in layers}
    for layer, one in maps.items():
        one.save(run.path(f"linear_maps/layer_{layer}.safetensors"))
    rows = [{"source_layer": layer, "target_layer": layer, "before": None, "after": 0.5} for layer in layers]
    run.finish({"layers": rows, "verdicts": ["said"]})
    return maps

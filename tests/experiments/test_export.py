"""``export --layout plan`` behind real runs: what a stranger's program would read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_circuits.representations.alignment_map import AlignmentMap
from pages import refusal

SMALL = ("--scenarios", 25, "--map-size", 70, "--depths", 0.5, "--quiet", "--json")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_runs_of_two_models_come_out_in_the_plans_shapes(
    cli: Any, results: Path, model: Path, worded: Path, profile: Path
) -> None:
    where = ("--results", results, "--profile", profile)
    positions = ("--positions", "mean-content", "last", "emotion-word-first")
    found = cli("run", "directions", "--model", model, *where, *positions, "--quiet", "--json").json
    pair = ("--source", model, "--target", worded, *where)
    maps = cli("run", "align", *pair, *SMALL, "--permutations", 19).json
    swept = cli("run", "k-sweep", *pair, *SMALL).json
    answer = cli("export", "--layout", "plan", *where, "--json")
    assert answer.code == 0, answer.err
    told, out = answer.json, results / "small" / "plan"
    assert all((out / f["path"]).stat().st_size == f["bytes"] for f in told["files"])

    name = found["model"]
    for part in ("", "_token_based", "_mean-content"):
        vectors = torch.load(out / f"emotion_vectors/{name}_vectors{part}.pt", weights_only=True)
        assert {v.shape for v in vectors["emotion_vectors"].values()} == {(3, 32)}
    texts = torch.load(out / f"activations/{name}/activations_gratitude.pt", weights_only=True)
    assert texts["residual_stream"]["last"].shape == (3, 20, 32) and len(texts["texts"]["last"]) == 20

    (row,) = maps["layers"]
    (saved,) = results.glob(f"*/*--*/align/*/linear_maps/layer_{row['source_layer']}.safetensors")
    w, offset = (
        torch.load(out / f"linear_maps/layer_{row['source_layer']}{part}.pt", weights_only=True)
        for part in ("", "_offset")
    )
    x = np.random.default_rng(0).standard_normal((5, 32))
    np.testing.assert_allclose(x @ w.numpy().T + offset.numpy(), AlignmentMap.load(saved).predict(x), atol=1e-9)

    nested = json.loads((out / "alignment/k_sweep.json").read_text())["sweep_results"]
    for one in swept["results"]:
        by_k = nested[str(one["source_layer"])][one["emotion"]]
        assert {k: v["transfer_test"] for k, v in by_k.items() if v["transfer_test"] is not None} == one["test_by_k"]
    assert not [c for m in told["missing"] if refusal(c := m["command"])]
    again = cli("export", "--layout", "plan", *where, "--json").json
    assert {f["state"] for f in again["files"]} == {"unchanged"}


def test_statistics_and_named_heads_come_out_too(
    cli: Any, results: Path, worded: Path, profile: Path, embedded: Any
) -> None:
    embedded("minilm")
    where = ("--results", results, "--profile", profile)
    small = ("--directions.scenarios", 20, "--directions.permutations", 99, "--directions.resamples", 200)
    found = cli(
        "run", "heads.ablate", "--model", worded, *where, *small, "--head-spec", "0:1,1:0", "--limit", 4, "--texts", 2,
        "--max-tokens", 3, "--random", 19, "--resamples", 200, "--emotions", "gratitude", "--quiet", "--json",
    ).json  # fmt: skip
    assert cli("stats", "all", "--profile", "small", "--results", results).code in (0, 3)
    assert cli("export", *where).code == 0
    out = results / "small" / "plan"
    heads = json.loads((out / f"patching/head_ablation/{found['model']}_gratitude.json").read_text())
    assert heads["heads"] == ["0:1", "1:0"] and heads["model"] == found["model"]
    assert heads["baseline_texts"] == found["baseline_texts"] and heads["ablation_texts"] == found["ablation_texts"]
    assert heads["ablation_metrics"] == found["ablation_metrics"]["gratitude"]
    for name in ("effect_sizes.csv", "power_analysis.csv", "power_analysis.json"):
        assert (out / "statistics" / name).read_bytes() == (results / "small" / "stats" / name).read_bytes()

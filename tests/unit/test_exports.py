"""Results in the research plan's paths and shapes, from runs written by hand; and a folder in which nothing is lost."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.exports import plan_files
from emotion_circuits.store import Store, write_tensors
from exported_runs import PROFILE, RNG, A, B, C, aligned, begun, directions, exported, finished, loaded, of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


# ---- shapes ------------------------------------------------------------------------------------------------------
def test_vectors_are_plain_tensors_by_layer_under_the_plans_names(store: Store) -> None:
    arrays = directions(store, ["mean-content", "last", "emotion-word-last", "emotion-word-first"])
    exported(store)
    for name, position in (
        ("", "last"), ("_token_based", "emotion-word-first"), ("_mean-content", "mean-content"),
    ):  # fmt: skip
        found = loaded(store.root / "out" / f"emotion_vectors/{A}_vectors{name}.pt")
        assert found["position"] == position
        vectors = {e: arrays[f"resid_post/{position}/neutral/{e}"] for e in ("gratitude", "anger")}
        for emotion, vector in vectors.items():
            torch.testing.assert_close(found["emotion_vectors"][emotion], torch.tensor(vector))
            torch.testing.assert_close(found["norms"]["l1"][emotion], torch.tensor(np.abs(vector).sum(1)))
        cosine = torch.cosine_similarity(*map(torch.tensor, vectors.values()), dim=-1)
        torch.testing.assert_close(found["emotion_distances"]["gratitude_vs_anger"], cosine)
    assert len(list((store.root / "out" / "emotion_vectors").iterdir())) == 3, "one emotion-word position, the first"


def test_an_older_run_gives_the_position_that_the_newest_lacks(store: Store) -> None:
    directions(store, ["last"])
    directions(store, ["mean-content"])
    paths = {f.path for f in exported(store).files}
    assert paths == {f"emotion_vectors/{A}_vectors.pt", f"emotion_vectors/{A}_vectors_mean-content.pt"}


def test_activations_are_layer_by_text_and_every_token_of_a_text_apart(store: Store) -> None:
    run = begun(store, "extract")
    prompts = [
        {"id": str(i), "text": text, "emotion": emotion}
        for i, (text, emotion) in enumerate([("a", "anger"), ("b", "neutral"), ("c", "anger")])
    ]
    last = RNG.standard_normal((3, 2, 4)).astype(np.float32)
    every = RNG.standard_normal((6, 2, 4)).astype(np.float32)
    write_tensors(run.path("texts.safetensors"), {"resid_post@last": last, "mlp_out@last": last + 1})
    write_tensors(run.path("texts-tokens.safetensors"), {"resid_post@all": every, "mlp_out@all": every})
    run.write_json("texts.json", {"model": A, "layers": [0, 1], "kinds": ["resid_post", "mlp_out"],
                                  "positions": ["last", "all"], "token_starts": [0, 2, 3, 6],
                                  "prompts": prompts})  # fmt: skip
    run.finish({"verdicts": []})
    exported(store)
    found = loaded(store.root / "out" / f"activations/{A}/activations_anger.pt")
    assert found["texts"]["last"] == ["a", "c"] and found["layers"] == [0, 1]
    torch.testing.assert_close(found["residual_stream"]["last"], torch.tensor(last[[0, 2]]).transpose(0, 1))
    torch.testing.assert_close(found["mlp_output"]["last"], torch.tensor(last[[0, 2]] + 1).transpose(0, 1))
    tokens = found["residual_stream"]["all"]
    assert [[t.shape for t in layer] for layer in tokens] == [[(2, 4), (3, 4)]] * 2
    torch.testing.assert_close(tokens[1][1], torch.tensor(every[3:6, 1]))
    assert loaded(store.root / "out" / f"activations/{A}/activations_neutral.pt")["texts"]["last"] == ["b"]


def test_a_map_is_one_plain_tensor_a_layer_and_gives_what_ours_gives(store: Store) -> None:
    maps = aligned(store, (A, B))
    exported(store)
    for layer, one in maps.items():
        w, offset = (loaded(store.root / "out" / f"linear_maps/layer_{layer}{part}.pt") for part in ("", "_offset"))
        assert isinstance(w, torch.Tensor) and w.shape == (4, 5) and w.dtype == torch.float64
        x = RNG.standard_normal((7, 5))
        np.testing.assert_allclose(x @ w.numpy().T + offset.numpy(), one.predict(x), atol=1e-12)
    found = of(store, "alignment/model_alignment.json")
    assert (found["model1"], found["model2"], found["layers"]) == (A, B, [3, 11])
    assert found["alignment_results"]["11"]["after"] == 0.5


def test_paths_name_the_pair_where_there_are_several(store: Store) -> None:
    aligned(store, (A, B), [3])
    first = {f.path for f in exported(store).files}
    aligned(store, (A, C), [3])
    done = exported(store)
    second = {f.path for f in done.files}
    assert "linear_maps/layer_3.pt" in first and "alignment/model_alignment.json" in first
    assert {f"linear_maps/{A}_{x}/layer_3.pt" for x in (B, C)} <= second and not first & second
    assert set(done.left) == first, "what the first export wrote is still there, and said to be"


def test_k_sweep_nests_layer_emotion_k(store: Store) -> None:
    rows = [
        {"emotion": e, "source_layer": layer, "target_layer": layer + 1, "k": 2, "test": 0.7,
         "dev_by_k": {"2": 0.6, "5": 0.8}, "test_by_k": {"2": 0.7, "5": 0.75}}
        for layer in (3, 5) for e in ("gratitude", "anger")
    ]  # fmt: skip
    finished(store, "k-sweep", {"results": rows}, (A, B), k_sweep=rows)
    exported(store)
    found = of(store, "alignment/k_sweep.json")
    assert {k: found[k] for k in ("model1", "model2", "k_values", "emotions", "layers")} == {
        "model1": A, "model2": B, "k_values": [2, 5], "emotions": ["gratitude", "anger"], "layers": [3, 5],
    }  # fmt: skip
    assert found["sweep_results"]["5"]["anger"]["2"] == {"transfer_dev": 0.6, "transfer_test": 0.7}
    assert found["selected_k"]["3"]["gratitude"] == 2 and found["target_layers"]["5"] == 6


@pytest.mark.parametrize(
    ("position", "suffix"), [("mean-content", ""), ("last", "_last"), ("emotion-word-last", "_token_based")]
)
def test_texts_that_were_read_elsewhere_have_a_file_of_their_own(store: Store, position: str, suffix: str) -> None:
    for one in ("mean-content", position):
        finished(store, "k-sweep", {"results": []}, (A, B), {"position": one}, k_sweep=[])
    written = {f.path for f in exported(store).files}
    assert {"alignment/k_sweep.json", f"alignment/k_sweep{suffix}.json"} <= written, "both, whatever came last"


def test_head_scores_hold_the_plans_columns(store: Store) -> None:
    plan = {"layer": 1, "head": 10, "emotion": "gratitude", "delta_attn": 0.34, "emotion_mean_attn": 0.57,
            "neutral_mean_attn": 0.23, "samples_emotion": 70, "samples_neutral": 70}  # fmt: skip
    row = {**plan, "direct": 0.1, "attribution": 0.2, "ablation": -0.3, "ci": [0, 1], "p_bh": 0.5}
    finished(store, "heads.screen", {"layers": 12, "heads_per_layer": 12, "scores": [row]})
    exported(store)
    found = of(store, f"alignment/head_scores_{A}.json")
    assert (found["model"], found["layers"], found["heads_per_layer"]) == (A, 12, 12)
    assert found["scores"] == [{**plan, "ablation": -0.3, "direct": 0.1, "attribution": 0.2}]


def ablated(store: Store, experiment: str, noun: str, changed: str) -> None:
    prompts = {"gratitude": ["g1", "g2"], "anger": ["a1"]}
    texts = [
        {"step": f"texts-{e}", "prompt": p, "condition": c, "sample": 0, "text": c, "tokens": []}
        for e, some in prompts.items() for p in some for c in ("baseline", "changed")
    ]  # fmt: skip
    every = [p for some in prompts.values() for p in some]
    finished(store, experiment, {
        noun: ["3:5", "7:2"], "mode": "zero", "prompts": every, "baseline_texts": [f"{p} before" for p in every],
        f"{changed}_texts": [f"{p} after" for p in every],
        "baseline_metrics": {e: {"vader": 0.1} for e in prompts},
        f"{changed}_metrics": {e: {"vader": n / 10} for n, e in enumerate(prompts)},
        "paired": [{"emotion": e, "scorer": "vader"} for e in prompts],
        "results": [{"emotion": e, "change": 0.5} for e in prompts],
    }, texts=texts)  # fmt: skip


@pytest.mark.parametrize(
    ("experiment", "folder", "noun", "changed"),
    [("heads.ablate", "head_ablation", "heads", "ablation"), ("heads.patch", "head_patching", "heads", "patched"),
     ("neurons.ablate", "neuron_ablation", "neurons", "ablation")],
)  # fmt: skip
def test_texts_of_components_are_a_file_an_emotion(
    store: Store, experiment: str, folder: str, noun: str, changed: str
) -> None:
    ablated(store, experiment, noun, changed)
    exported(store)
    found = of(store, f"patching/{folder}/{A}_anger.json")
    assert found["prompts"] == ["a1"] and found["baseline_texts"] == ["a1 before"]
    assert found[f"{changed}_texts"] == ["a1 after"] and found[f"{changed}_metrics"] == {"vader": 0.1}
    assert found["model"] == A and found[noun] == ["3:5", "7:2"] and found["baseline_metrics"] == {"vader": 0.1}
    assert found["endpoint"] == [{"emotion": "anger", "change": 0.5}]
    assert of(store, f"patching/{folder}/{A}_gratitude.json")["prompts"] == ["g1", "g2"]


def test_texts_that_do_not_fit_the_summary_are_left_out_with_the_reason(store: Store) -> None:
    ablated(store, "heads.ablate", "heads", "ablation")
    (summary,) = store.root.glob("*/*/heads.ablate/*/summary.json")
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps(content | {"prompts": ["g1"]}))
    done = exported(store)
    assert not done.files and len(done.unfinished) == 2
    assert "3 prompts in generations.jsonl and 1 in summary.json" in done.unfinished[0].reason


@pytest.mark.parametrize(
    ("position", "suffix"), [("last", ""), ("emotion-word-last", "_token_based"), ("mean-content", "_mean-content")]
)
def test_a_sweep_has_the_four_sections_and_the_name_of_its_vectors(store: Store, position: str, suffix: str) -> None:
    nested = {"gratitude": {"3": {"-1": {"vader": 0.1}}}}
    sections = {"baseline_summary": {"vader": 0.0}, "aggregated_metrics": nested, "delta_metrics": nested,
                "sweep_results": [{"emotion": "gratitude", "layer": 3, "alpha": -1.0, "texts": {}}]}  # fmt: skip
    summary = {"layers": [3], "strengths": [-1.0, 0.0, 1.0], "unit": "raw", "test": []}
    finished(store, "sweep", summary, params={"position": position}, sweep=sections)
    exported(store)
    found = of(store, f"patching/{A}_sweep{suffix}.json")
    assert {k: found[k] for k in sections} == sections
    assert found["alpha_values"] == [-1.0, 0.0, 1.0] and found["layers"] == [3] and found["emotions"] == ["gratitude"]


@pytest.mark.parametrize(
    ("experiment", "name", "path"),
    [("real-world", "real_world_metrics.csv", "real_world_metrics.csv"),
     ("controls", "effects.csv", "random_effect_sizes.csv"),
     ("controls", "distributions.csv", "random_distributions.csv")],
)  # fmt: skip
def test_tables_of_several_models_are_one_with_a_column_for_the_model(
    store: Store, experiment: str, name: str, path: str
) -> None:
    for model, text in ((A, 'text,vader\n"a, ""b""",0.1\n'), (B, "text,vader,embedded\nc,0.2,0.9\n")):
        run = begun(store, experiment, model)
        for file in ("real_world_metrics.csv", "effects.csv", "distributions.csv"):
            run.write_text(file, text)
        run.finish({"verdicts": ["said"]})
    exported(store)
    rows = list(csv.DictReader(io.StringIO((store.root / "out" / path).read_text(encoding="utf-8"))))
    assert rows == [{"model": A, "text": 'a, "b"', "vader": "0.1", "embedded": ""},
                    {"model": B, "text": "c", "vader": "0.2", "embedded": "0.9"}]  # fmt: skip


def test_texts_of_a_steered_run_go_along(store: Store) -> None:
    written = {"step": "texts", "prompt": "p", "condition": "gratitude", "sample": 0, "text": "Thanks"}
    finished(store, "steer", {"results": []}, texts=[{**written, "tokens": [1], "stopped": "eos"}])
    exported(store)
    assert of(store, f"patching/{A}_patching.json")["texts"] == [written]


def test_statistics_are_where_the_plan_has_them(store: Store) -> None:
    finished(store, "steer", {"results": []})
    for name in ("effect_sizes.csv", "power_analysis.csv", "power_analysis.json", "k_selection.csv"):
        path = store.root / PROFILE / "stats" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"of {name}")
    exported(store)
    assert (store.root / "out/statistics/power_analysis.json").read_text() == "of power_analysis.json"
    assert len(list((store.root / "out/statistics").iterdir())) == 4


# ---- the folder --------------------------------------------------------------------------------------------------
def test_the_same_results_give_the_same_bytes_and_say_so(store: Store, tmp_path: Path) -> None:
    directions(store, ["last"])
    aligned(store, (A, B))
    first, other = exported(store), exported(store, tmp_path / "other")
    assert {f.state for f in first.files} == {"written"}
    assert [(f.path, f.sha256) for f in first.files] == [(f.path, f.sha256) for f in other.files]
    for f in first.files:
        assert (first.folder / f.path).read_bytes() == (other.folder / f.path).read_bytes()
    assert {f.state for f in exported(store).files} == {"unchanged"}
    assert (first.folder / "export.json").read_bytes() == (other.folder / "export.json").read_bytes()


def test_an_own_file_in_the_way_stops_the_export_before_anything_is_written(store: Store) -> None:
    aligned(store, (A, B), [3])
    mine = store.root / "out" / "linear_maps" / "layer_3.pt"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"layer_3\.pt would be replaced and was not written by an export"):
        exported(store)
    assert mine.read_bytes() == b"mine" and [p.name for p in mine.parent.iterdir()] == ["layer_3.pt"]
    states = {f.path: f.state for f in exported(store, force=True).files}
    assert states["linear_maps/layer_3.pt"] == "replaced" and states["linear_maps/layer_3_offset.pt"] == "written"


def test_new_results_replace_an_export_but_not_what_somebody_changed_in_it(store: Store) -> None:
    summary = {"layers": 1, "heads_per_layer": 1, "scores": []}
    finished(store, "heads.screen", summary, params={"n": 1})
    exported(store)
    finished(store, "heads.screen", {**summary, "layers": 2}, params={"n": 2})
    assert [f.state for f in exported(store).files] == ["replaced"]
    path = store.root / "out" / f"alignment/head_scores_{A}.json"
    path.write_text(path.read_text() + " ")
    finished(store, "heads.screen", {**summary, "layers": 3}, params={"n": 3})
    with pytest.raises(UsageError, match="or was changed since"):
        exported(store)


def test_a_run_that_cannot_be_read_does_not_keep_the_others_back(store: Store) -> None:
    maps = aligned(store, (A, B))
    finished(store, "steer", {"results": []})
    (damaged,) = store.root.glob("*/*/align/*/linear_maps/layer_3.safetensors")
    damaged.write_bytes(b"nonsense")
    done = exported(store)
    assert len(maps) == 2 and {f.path for f in done.files} == {
        "linear_maps/layer_11.pt", "linear_maps/layer_11_offset.pt", "alignment/model_alignment.json",
        f"patching/{A}_patching.json",
    }  # fmt: skip
    assert ["layer_3" in u.reason for u in done.unfinished] == [True, True]


def test_what_was_written_before_a_failure_is_known_to_be_an_exports(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_circuits.exports import folder

    aligned(store, (A, B))
    replacing, count = folder.replacing, 0

    def full(path: Path) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise StoreError("the disk is full", "free some space")
        return replacing(path)

    monkeypatch.setattr(folder, "replacing", full)
    with pytest.raises(StoreError):
        exported(store)
    monkeypatch.undo()
    states = [f.state for f in exported(store).files]
    assert states.count("unchanged") == 2 and states.count("written") == 3


def test_every_file_of_the_plan_says_what_makes_it(store: Store) -> None:
    finished(store, "steer", {"results": []})
    missing = {m.path: m for m in exported(store).missing}
    assert len(missing) == len(plan_files()) - 1
    assert all(m.what and m.command for m in missing.values())
    assert {"alignment/k_sweep.json", "linear_maps/layer_{L}.pt", "alignment/head_scores_{model}.json",
            "statistics/effect_sizes.csv", "statistics/power_analysis.json", "real_world_metrics.csv",
            "emotion_vectors/{model}_vectors_token_based.pt"} <= {*missing}  # fmt: skip

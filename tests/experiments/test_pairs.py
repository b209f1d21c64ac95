"""Experiments on two models: random ones of different widths, depths and tokenizers, and the embedded ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from emotion_circuits import Positions, Prompt, capture, load_lm
from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.experiments._captured import load_capture
from emotion_circuits.experiments.k_sweep import _lines as k_sweep_lines
from emotion_circuits.experiments.shared_texts import SharedTextsParams, emotional_texts, layer_grid, require_splits
from emotion_circuits.models import LM, untrained
from emotion_circuits.models.untrained import UntrainedTwin
from emotion_circuits.report.translation import Catalogue, entries
from emotion_circuits.representations.alignment_map import AlignmentMap
from emotion_circuits.store import Run
from tiny_models import metaspace_tokenizer
from turned_model import save_turned

SMALL = ("--scenarios", 20, "--permutations", 99, "--resamples", 100, "--depths", 0, 1, "--map-size", 70, "--quiet")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another width, depth and tokenizer than ``model``."""
    folder = tmp_path_factory.mktemp("models") / "tiny-other"
    tokenizer = metaspace_tokenizer()
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=5, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=256, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_random_models_share_nothing_and_the_json_is_whole(cli: Any, model: Path, other: Path, tmp_path: Path) -> None:
    words = ("run", "transfer", "--source", model, "--target", other, "--results", tmp_path, *SMALL)
    found = cli(*words, "--json").json
    assert found["verdict"] in ("not shared", "not identified", "inconclusive")
    assert set(found["floor"]) == {"shuffled", "untrained", "embedding_target", "embedding_source"}
    assert set(found["p"]) == {"relabel", "shuffled_map", "covariance", "above_floor", "max"}
    assert found["d"] == [32, 48] and set(found["strata"]) == {"explicit", "implicit"}
    assert {e["emotion"] for e in found["per_emotion"]} == {
        "gratitude", "anger", "apology", "joy", "sadness", "fear", "pride",
    }  # fmt: skip
    assert {"emotion", "verdict", "tau", "auroc_transfer", "auroc_native", "cosine"} <= set(found["per_emotion"][0])
    assert all(0 <= e["auroc_leave_one_out"] <= 1 for e in found["per_emotion"])
    assert found["layer_pair"]["grid"]["target"] == [0, 2], "never the last two layers"
    (done,) = tmp_path.glob("*/tiny-llama*--tiny-other*/transfer/*/done.json")
    before = done.stat().st_mtime_ns
    assert cli(*words, "--json").json == found and done.stat().st_mtime_ns == before, "finished work is reused"
    captured = [p.parents[2].name for p in tmp_path.glob("*/*/shared-texts/*/done.json")]
    assert sorted(n.split("-")[1] for n in captured) == ["llama", "other", "other"], "each model and the untrained twin"


def test_too_few_neutral_texts_are_not_identified(cli: Any, model: Path, other: Path, tmp_path: Path) -> None:
    words = ["run", "transfer", "--source", model, "--target", other, "--results", tmp_path]
    words += [w if w != 70 else 49 for w in SMALL]
    found = cli(*words, "--json").json
    assert found["verdict"] == "not identified" and found["transfer"] is None and found["n_map_texts"] == 49
    assert {e["verdict"] for e in found["per_emotion"]} == {"not identified"}
    assert {s["verdict"] for s in found["strata"].values()} == {"not identified"}
    assert [e["auroc_leave_one_out"] for e in found["per_emotion"]] == [None] * 7
    said = cli(*words).out
    assert "not identified (49 independent paired neutral rows; at least 50 are needed" in " ".join(said.split())


@pytest.mark.parametrize("name", ["align", "k-sweep", "subspace-align"])
def test_maps_of_too_few_neutral_texts_are_refused(
    cli: Any, model: Path, other: Path, tmp_path: Path, name: str
) -> None:
    words = ("--scenarios", 10, "--depths", 0.5, "--map-size", 49, "--results", tmp_path, "--quiet")
    cli("run", name, "--source", model, "--target", other, *words).refused(2, "49 neutral texts", "--map-size")


def test_the_left_out_estimate_is_made_once_and_is_part_of_no_verdict(
    cli: Any, model: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_circuits.experiments._pairs import transfer_report

    words = ("run", "transfer", "--source", model, "--target", other, "--results", tmp_path, *SMALL, "--json")
    found = cli(*words).json
    calls = []

    def perfect(data: Any, pair: tuple[int, int], seed: int) -> dict[str, float]:
        calls.append(pair)
        return {e["emotion"]: 1.0 for e in found["per_emotion"]}

    monkeypatch.setattr(transfer_report, "left_out", perfect)
    again = cli(*words, "--force").json
    assert calls == [(found["layer_pair"]["source"], found["layer_pair"]["target"])]
    assert {e.pop("auroc_leave_one_out") for e in again["per_emotion"]} == {1.0}
    for emotion in found["per_emotion"]:
        del emotion["auroc_leave_one_out"]
    assert again == found
    (section,) = tmp_path.glob("*/*--*/transfer/*/section.json")
    written = json.loads(section.read_text(encoding="utf-8"))
    first, second, *_ = written["tables"]
    assert first["columns"]["auroc_leave_one_out"] == "left out" and "auroc_leave_one_out" not in second["columns"]
    assert found["simplest_map"] in ("procrustes", "ridge", None)
    (ladder,) = [line for line in written["answer"] if "mapped by the rotation, emotions transfer at" in line]
    assert ladder.startswith(("The simplest map that suffices for neutral text is", "No map reaches an R²"))
    say = Catalogue(entries("ja"))
    assert "交差検証の R²" in say.sentence(ladder) and not say.unknown


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--source", "x"), ("--target is missing",)),
        (("--source", "x", "--target", "y", "--both", "--target-untrained"), ("no way back",)),
        (("--source", "x", "--target", "y", "--emotions", "joy"), ("1 emotion(s)",)),
        (("--source", "x", "--target", "y", "--on", "missing.csv"), ("missing.csv",)),
    ],
)
def test_wrong_requests_are_refused_before_a_model_is_loaded(
    cli: Any, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    cli("run", "transfer", *words, "--offline").refused(2, *parts)


@pytest.fixture(scope="session")
def overflowing(tmp_path_factory: pytest.TempPathFactory, other: Path) -> Path:
    """Sound in float32; in float16 its first MLP exceeds 65,504."""
    model = LlamaForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3e5)
        model.model.layers[0].mlp.up_proj.weight.mul_(3e2)
    folder = tmp_path_factory.mktemp("models") / "overflowing"
    model.save_pretrained(folder)
    metaspace_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", ["transfer", "transfer-steer", "overlap"])
def test_a_model_that_overflows_in_float16_is_named_and_refused(
    cli: Any, model: Path, overflowing: Path, tmp_path: Path, name: str, side: str
) -> None:
    pair = (overflowing, model) if side == "source" else (model, overflowing)
    words = ("run", name, "--source", pair[0], "--target", pair[1], "--results", tmp_path, "--scenarios", 10)
    answer = cli(*words, "--map-size", 60, "--depths", 0, 1, "--dtype", "float16", "--quiet")
    answer.refused(1, "overflowing", "NaN or infinity", "layer 0", "float32")
    assert not list(tmp_path.glob(f"*/*--*/{name}/*/done.json"))


def test_the_same_model_is_sound_in_float32(cli: Any, overflowing: Path, tmp_path: Path) -> None:
    words = ("run", "shared-texts", "--model", overflowing, "--results", tmp_path, "--scenarios", 10, "--quiet")
    assert cli(*words, "--map-size", 60, "--depths", 0, 1, "--dtype", "float32").code == 0


def test_own_texts_replace_the_profiles(cli: Any, model: Path, other: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [
        {"text": f"A line number {i} about {e}.", "emotion": e} for e in ("joy", "fear", "pride") for i in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ("--source", model, "--target", other, "--on", path, "--results", tmp_path / "r", *SMALL, "--json")
    found = cli("run", "transfer", *words).json
    assert found["emotions"] == ["fear", "joy", "pride"] and found["strata"]["implicit"] is None, (
        "words name the emotion"
    )


def test_an_untrained_target_is_a_target_of_its_own(cli: Any, model: Path, other: Path, tmp_path: Path) -> None:
    words = ("run", "transfer", "--source", model, "--target", other, "--results", tmp_path, *SMALL)
    answer = cli(*words, "--target-untrained")
    assert answer.code == 0, answer.err
    (path,) = tmp_path.glob("*/*--*untrained-1/transfer/*/summary.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["verdict"] != "shared" and found["floor"]["untrained"] is not None
    assert f"-untrained-1: {found['verdict']}" in answer.out
    captured = {p.parents[2].name.partition("-untrained")[2] for p in tmp_path.glob("*/*/shared-texts/*/done.json")}
    assert captured == {"", "-1", "-1-untrained-0"}, (
        "the source, the target with random weights, and its twin with others"
    )


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_neutral_texts_of_ones_own_join_the_map_and_own_splits_are_kept(
    cli: Any, model: Path, other: Path, tmp_path: Path, kind: str
) -> None:
    rows = [
        {"text": f"We write line {i} on {e} today.", "emotion": e, "split": ("fit", "dev", "test")[i % 3]}
        for e in ("joy", "fear", "neutral")
        for i in range(36)
    ]
    path = tmp_path / f"own.{kind}"
    if kind == "csv":
        lines = ["text,emotion,split", *(",".join(r.values()) for r in rows)]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        path.write_text(json.dumps({"prompts": rows}), encoding="utf-8")
    words = ("--on", path, "--results", tmp_path / "r", "--quiet", "--depths", 0, 1, "--map-texts", "extended")
    words = (*words, "--permutations", 99, "--resamples", 100, "--json")
    found = cli("run", "transfer", "--source", model, "--target", other, *words).json
    assert found["emotions"] == ["fear", "joy"] and found["n_map_texts"] == 50 + 12, "neutral texts of the fit split"
    assert "neutral" not in {e["emotion"] for e in found["per_emotion"]}
    (capture,) = (tmp_path / "r").glob("*/tiny-llama*/shared-texts/*/summary.json")
    assert json.loads(capture.read_text(encoding="utf-8"))["texts"]["emotional"] == 72


def test_a_study_of_any_number_of_models_compares_all_ordered_pairs(
    cli: Any, model: Path, other: Path, worded: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "three.toml"
    profile.write_text(
        'title = "Three"\n[[experiment]]\nname = "transfer"\nscenarios = 20\npermutations = 99\nresamples = 100\n'
        "depths = [0.5]\nmap_size = 60\n", encoding="utf-8",
    )  # fmt: skip
    words = ("study", profile, "--results", tmp_path / "r", "--quiet", "--json")
    found = cli(*words, "--model", model, "--model", other, "--model", worded).json
    answers = found["verdicts"][1]["answers"]
    assert sum("by emotion" in a for a in answers) == 6, "three models, both directions of each pair"
    page = Path(found["report"])
    assert "Verdicts of all ordered pairs" in page.read_text(encoding="utf-8")
    sections = json.loads(page.with_name("report.json").read_text(encoding="utf-8"))["report"]["sections"]
    (figure,) = [f for s in sections for f in s["figures"] if f["name"] == "verdicts"]
    cells = {(c["row"], c["column"]) for c in figure["data"]}
    assert len(cells) == len(figure["data"]) == 6 and all(a != b for a, b in cells)
    captured = sorted(p.parents[2].name.split("-")[1] for p in (tmp_path / "r").glob("*/*/shared-texts/*/done.json"))
    assert captured == ["llama"] * 4 + ["other"] * 2, "each model and its twin once"


@pytest.mark.parametrize("name", ["overlap", "align", "k-sweep", "subspace-align"])
def test_other_experiments_on_pairs(cli: Any, model: Path, other: Path, tmp_path: Path, name: str) -> None:
    words = ("--depths", 0.5, "--map-size", 60, "--results", tmp_path, "--quiet")
    words = (*words, *(("--components", 5) if name == "subspace-align" else ()))
    answer = cli("run", name, "--source", model, "--target", other, *words)
    assert answer.code == 0, answer.err
    (folder,) = [p.parent for p in tmp_path.glob(f"*/*--*/{name}/*/done.json")]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    section = json.loads((folder / "section.json").read_text(encoding="utf-8"))
    if name == "align":
        (row,) = summary["layers"]
        assert row["before"] is None and 0 <= row["after"] <= 1
        assert row["after"] == pytest.approx(np.mean(np.cos(np.radians(row["angles"])) ** 2))
        assert len(row["null_angles"]) <= len(row["angles"]) <= 6
        (saved,) = folder.glob("linear_maps/layer_*.safetensors")
        assert AlignmentMap.load(saved).weights.shape[1] == 48
    elif name == "overlap":
        assert summary["between"][0]["joint"] is None, "widths differ: no overlap is defined"
        assert "no overlap or angle is defined without a map" in answer.out
        for inside, clustered in zip(summary["inside"], summary["clusterability"], strict=True):
            assert len(inside["subspaces"]["pairs"]) == 7 * 6 / 2 and inside["subspaces"]["k"] == 5
            for pair in inside["subspaces"]["pairs"]:
                assert len(pair["angles"]) == 5 and pair["angles"] == sorted(pair["angles"])
                assert pair["overlap"] == pytest.approx(np.mean(np.cos(np.radians(pair["angles"])) ** 2))
            assert set(clustered["per_emotion"]) == set(summary["emotions"]) and 1 / 200 <= clustered["p"] <= 1
            assert len(clustered["joins"]) == 6
            assert set(
                " + ".join((clustered["joins"][-1]["first"], clustered["joins"][-1]["second"])).split(" + ")
            ) == set(summary["emotions"])
        assert [f["kind"] for f in section["figures"]] == ["lines", "matrix", "dendrogram", "matrix", "dendrogram"]
        assert section["tables"][0]["name"] == "clusterability" and len(section["tables"]) == 3
    elif name == "k-sweep":
        assert {row["k"] for row in summary["results"]} <= {2, 5, 10, 20}
        assert len(section["answer"]) == 7, "a line per emotion"
        assert (folder / "observations.parquet").exists()
    else:
        assert "same by algebra" in summary["warning"]
        assert [r["method"] for r in summary["results"]] == ["procrustes", "cca"]
        for row in summary["results"]:
            assert row["shuffled_low"] <= row["shuffled_mean"] <= row["shuffled_high"]
            assert row["random_low"] <= row["random_mean"] <= row["random_high"]
            assert row["after"] == pytest.approx(np.mean(np.cos(np.radians(row["angles"])) ** 2))
            assert all(1 / 40 <= row[p] <= 1 for p in ("p_shuffled", "p_random", "p_transfer"))
        groups = {point["group"] for point in section["figures"][0]["data"]}
        assert groups == {"through the map", "through shuffled maps", "random subspaces through the map"}


def test_models_of_one_width_have_raw_angles_beside_those_of_random_subspaces(
    cli: Any, model: Path, worded: Path, tmp_path: Path
) -> None:
    words = ("--scenarios", 10, "--depths", 0.5, "--map-size", 60, "--results", tmp_path, "--quiet")
    answer = cli("run", "overlap", "--source", model, "--target", worded, *words)
    (path,) = tmp_path.glob("*/*--*/overlap/*/summary.json")
    (row,) = json.loads(path.read_text(encoding="utf-8"))["between"]
    assert len(row["angles"]) == len(row["chance_angles"]) == 6
    assert row["joint"] == pytest.approx(np.mean(np.cos(np.radians(row["angles"])) ** 2))
    assert f"{row['angles'][0]:.0f}°" in answer.out and "says nothing by itself" in answer.out
    assert len(row["cosines"]) == 7 and row["chance_cosine"] == pytest.approx(32**-0.5)
    assert f"raw cosines of an emotion's two directions {min(row['cosines'].values()):+.3f} to" in " ".join(
        answer.out.split()
    )


def labelled_file(path: Path, splits: dict[str, int], worded: int = 0) -> Path:
    """``splits`` texts of joy and dread in the order of the splits; the last ``worded`` of joy's hold its word."""
    order = [split for split, n in splits.items() for _ in range(n)]
    rows = [
        {"text": f"Number {i} of {e}, {'happy' if e == 'joy' and i >= len(order) - worded else 'and'} so on.",
         "emotion": e, "split": split}
        for e in ("joy", "dread") for i, split in enumerate(order)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_splits_that_are_read_have_texts_and_a_cut_is_blamed_on_the_option(tmp_path: Path) -> None:
    without_dev = SharedTextsParams(on=labelled_file(tmp_path / "a.jsonl", {"fit": 20, "test": 10}))
    require_splits(without_dev, "fit", "test")
    with pytest.raises(UsageError, match=r"0 texts of 'joy' .* in the dev split") as caught:
        require_splits(without_dev, "fit", "dev", "test")
    assert caught.value.fix == "give more texts of it"
    path = labelled_file(tmp_path / "b.jsonl", {"fit": 30, "dev": 10, "test": 10})
    with pytest.raises(UsageError) as caught:
        require_splits(SharedTextsParams(on=path, per_emotion=20), "fit", "test")
    assert caught.value.fix == "give --per-emotion 50"
    require_splits(SharedTextsParams(on=path, per_emotion=50), "fit", "dev", "test")


def test_texts_are_counted_after_those_without_a_word_are_left_out(tmp_path: Path) -> None:
    path = labelled_file(tmp_path / "c.jsonl", {"fit": 60}, worded=25)
    both = path.read_text(encoding="utf-8").replace("dread", "anger").replace("anger, and", "anger, furious")
    path.write_text(both, encoding="utf-8")
    texts = emotional_texts(SharedTextsParams(on=path, per_emotion=20, position="emotion-word-last"))
    assert Counter(p.emotion for p in texts) == {"joy": 20, "anger": 20} and all(p.spans for p in texts)


def test_raw_cosines_are_those_of_the_centred_class_means(cli: Any, model: Path, worded: Path, tmp_path: Path) -> None:
    words = ("--scenarios", 10, "--depths", 0.5, "--map-size", 60, "--results", tmp_path, "--quiet")
    found = cli("run", "overlap", "--source", model, "--target", worded, *words, "--json").json
    (row,) = found["between"]
    texts = emotional_texts(SharedTextsParams(scenarios=10))
    fit = [p for p in texts if p.split == "fit"]
    means = []
    for path, layer in ((model, row["source_layer"]), (worded, row["target_layer"])):
        x = capture(load_lm(path), fit, ["resid_post"], [Positions("mean-content")]).get("resid_post", "mean-content")
        by_emotion = np.stack([x[[p.emotion == e for p in fit], layer].mean(axis=0) for e in found["emotions"]])
        means.append(by_emotion - by_emotion.mean(axis=0))
    a, b = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in means)
    assert [row["cosines"][e] for e in found["emotions"]] == pytest.approx((a * b).sum(axis=1), abs=1e-4)


@pytest.mark.parametrize("position", ["last", "emotion-word-last"])
def test_emotional_texts_are_read_at_the_position_that_is_asked_for(
    cli: Any, model: Path, worded: Path, tmp_path: Path, position: str
) -> None:
    words = ("--source", model, "--target", worded, "--scenarios", 20, "--map-size", 60, "--depths", 0.5)
    rest = ("--results", tmp_path, "--quiet", "--permutations", 99, "--resamples", 100)
    found = cli("run", "transfer", *words, *rest, "--position", position, "--json").json
    assert found["strata"]["explicit"] and bool(found["strata"]["implicit"]) is (position == "last")
    (folder,) = [f.parent for f in tmp_path.glob("*/tiny-llama*/shared-texts/*/done.json")]
    texts, read = emotional_texts(SharedTextsParams(scenarios=20, position=position)), Positions.parse(position)
    assert position == "last" or all(p.spans for p in texts)
    held = load_capture(Run(folder, {}), "emotional")
    assert held.values.keys() == {("resid_post", position)} and held.prompts == texts
    direct = capture(load_lm(model), texts, ["resid_post"], [read], layers=list(held.layers))
    np.testing.assert_allclose(held.get("resid_post", position), direct.get("resid_post", position), atol=1e-5)
    ((_, static),) = load_capture(Run(folder, {}), "emotional-embedding").values
    assert static == ("mean-content" if position == "last" else position), "a full stop's embedding is no floor"


def test_emotions_without_a_marked_word_are_named_before_anything_is_captured(
    cli: Any, model: Path, other: Path, tmp_path: Path
) -> None:
    path = tmp_path / "own.jsonl"
    texts = {"joy": "I am so happy about line", "dread": "Nothing good comes of line"}
    rows = [{"text": f"{text} {i}.", "emotion": e} for e, text in texts.items() for i in range(40)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ("run", "transfer", "--source", model, "--target", other, "--results", tmp_path / "r")
    cli(*words, "--on", path, "--position", "emotion-word-last").refused(
        2, "no text of dread with a word of its emotion", "--position mean-content"
    )
    cli(*words, "--texts", "implicit", "--position", "emotion-word-last").refused(2, "implicit has no text of")
    assert not list(tmp_path.glob("r/*/*/shared-texts"))


def test_a_position_that_gives_a_text_no_vector_or_many_is_refused(cli: Any, model: Path, other: Path) -> None:
    for position in ("all", "generated"):
        cli("run", "transfer", "--source", model, "--target", other, "--position", position).refused(
            2, "needs one vector"
        )


def test_dimensions_of_several_layers_are_a_line_per_emotion() -> None:
    rows = [
        {"emotion": e, "source_layer": a, "target_layer": b, "k": k, "test": test}
        for a, b, k, test in ((6, 3, 20, 0.73), (10, 6, 2, 0.81)) for e in ("anger", "joy")
    ]  # fmt: skip
    lines = k_sweep_lines(("a", "b"), rows)
    assert lines[0] == (
        "a → b, anger, layers 6 → 3 to 10 → 6: k = 2 to 20 (chosen on dev), transfer on test 0.73 to 0.81"
    )
    assert len(lines) == 2
    assert Catalogue(entries("ja"))(lines[0]) == (
        "a → b、anger、層 6 → 3 から 10 → 6：k = 2〜20（dev で選択）、テストでの転移 0.73〜0.81"
    )


@pytest.mark.parametrize("name", ["overlap", "k-sweep"])
def test_texts_of_ones_own_without_scenarios_have_subspaces(
    cli: Any, model: Path, other: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "own.jsonl"
    rows = [
        {"text": f"A line number {i} about {e}.", "emotion": e} for e in ("joy", "fear", "pride") for i in range(80)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ("--on", path, "--depths", 0.5, "--map-size", 60, "--results", tmp_path / "r", "--quiet", "--json")
    found = cli("run", name, "--source", model, "--target", other, *words).json
    if name == "k-sweep":
        assert {r["emotion"] for r in found["results"]} == {"fear", "joy", "pride"}
    else:
        assert all(len(i["subspaces"]["pairs"]) == 3 for i in found["inside"])


def test_untrained_twin_is_deterministic_and_another_model(tiny: Callable[..., LM]) -> None:
    lm = tiny("llama")
    one, again, two = (UntrainedTwin.of(lm).build(seed) for seed in (0, 0, 1))
    assert one.fingerprint == again.fingerprint != two.fingerprint != lm.fingerprint
    assert one.n_layers == lm.n_layers and one.prefix_ids == lm.prefix_ids


def test_an_untrained_twin_that_main_memory_does_not_hold_is_refused(
    tiny: Callable[..., LM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is drawn in main memory as float32, whatever the target's number type and device."""
    recipe = replace(UntrainedTwin.of(tiny("llama")), dtype=torch.bfloat16)
    assert recipe.parameters == sum(p.numel() for p in tiny("llama").model.parameters())
    monkeypatch.setattr(untrained, "free_bytes", lambda device: 4 * recipe.parameters)
    assert recipe.build().dtype == torch.bfloat16
    monkeypatch.setattr(untrained, "free_bytes", lambda device: 4 * recipe.parameters - 1)
    with pytest.raises(ModelError, match=r"untrained twin of .* takes 0\.00 GB of main memory") as caught:
        recipe.build()
    assert "--floors embedding" in caught.value.fix


def test_a_turned_copy_writes_the_same_in_other_coordinates(model: Path, tmp_path: Path) -> None:
    turn = save_turned(model, tmp_path / "turned").numpy()
    texts = [Prompt("a", "Thank you so much for the lift.", "gratitude"), Prompt("b", "It rained again.", "neutral")]
    found = [
        capture(load_lm(str(folder)), texts, ["resid_pre", "resid_post"], [Positions.parse("all")])
        for folder in (model, tmp_path / "turned")
    ]
    for kind in ("resid_pre", "resid_post"):
        own, turned = (f.get(kind, "all") for f in found)
        np.testing.assert_allclose(own @ turn, turned, atol=1e-4 * float(np.abs(own).max()))
        assert np.abs(own - turned).max() > 0.1 * np.abs(own).max()


def test_layer_grid_leaves_the_last_two_layers_out() -> None:
    assert layer_grid(18, SharedTextsParams())[-1] <= 15
    assert layer_grid(2, SharedTextsParams()) == (0, 1)


def test_the_page_of_earlier_claims_reads_what_transfer_captured(
    cli: Any, model: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    import earlier_claims

    words = ("--source", model, "--target", other, "--results", tmp_path, *SMALL)
    assert cli("run", "transfer", *words).code == 0
    (run,) = tmp_path.glob("atlas/*--*/transfer/latest")
    monkeypatch.setattr(earlier_claims, "PAIRS", [tuple(run.parents[1].name.split("--"))])
    pair = earlier_claims.real_pair(earlier_claims.Store(tmp_path), earlier_claims.PAIRS[0])
    assert pair.widths == (32, 48) and pair.texts == 10 * 7 * 2, "fit scenarios, emotions, strata"
    assert list(pair.after) == ["as it is", "its texts in random order", "with random weights"]
    assert earlier_claims.main(["--results", str(tmp_path), "--simulations", "1"]) == 0
    written = capsys.readouterr().out
    assert all(command in written for command in earlier_claims.COMMANDS)
    assert "not defined (32 and 48 dimensions)" in written and f"| {pair.summary['verdict']} |" in written
    assert earlier_claims.main(["--results", str(tmp_path / "none")]) == 2
    assert "emotion-circuits run transfer" in capsys.readouterr().err


@pytest.mark.slow
def test_trained_target_exceeds_its_untrained_twin(cli: Any, embedded: Callable[..., Any], tmp_path: Path) -> None:
    """Planted-truth test 30 on the embedded models, one layer pair."""
    for alias in ("smollm2-135m", "gemma-3-270m"):
        embedded(alias)
    found = cli(
        "run", "transfer", "--source", "smollm2-135m", "--target", "gemma-3-270m", "--results", tmp_path, "--quiet",
        "--depths", 0.5, "--permutations", 99, "--resamples", 200, "--json",
    ).json  # fmt: skip
    gap = found["differences"]["untrained"]
    assert gap["estimate"] >= 0.12 and gap["low"] > 0
    assert found["similarity"]["cka"]["p"] <= 0.05 and found["similarity"]["cka_untrained"]["p"] <= 0.05
    assert np.isfinite(found["tau"])


@pytest.mark.slow
def test_a_real_model_is_found_in_a_copy_with_other_coordinates(
    cli: Any, embedded: Callable[..., Any], tmp_path: Path
) -> None:
    """The planted true positive on real weights: SmolLM2 against itself, its residual stream turned."""
    save_turned(embedded("smollm2-135m").folder, tmp_path / "turned")
    found = cli(
        "run", "transfer", "--source", "smollm2-135m", "--target", tmp_path / "turned", "--results", tmp_path / "r",
        "--depths", 0.75, "--permutations", 99, "--resamples", 300, "--quiet", "--json",
    ).json  # fmt: skip
    assert found["verdict"] in ("shared", "partly shared") and found["p"]["max"] <= 0.05, found["reason"]
    assert found["tau"] > 0.45 and found["map"]["r2"] > 0.95
    assert all(gap["low"] > 0 for gap in found["differences"].values())


def test_dry_run_of_a_pair_counts_the_captures_of_each_model(
    cli: Any, model: Path, other: Path, tmp_path: Path
) -> None:
    words = ("run", "transfer", "--source", model, "--target", other, "--results", tmp_path / "r", *SMALL, "--dry-run")
    cells = cli(*words, "--json").json["cells"]
    assert [c["experiment"] for c in cells] == ["shared-texts"] * 3 + ["transfer"]
    assert len({c["model"] for c in cells}) == 4, "source, target, its untrained twin, and the pair"
    assert all(c["texts"] > 0 and c["forwards"] > 0 and c["seconds"] > 0 for c in cells[:3])
    assert not (tmp_path / "r").exists()
    profile = tmp_path / "two.toml"
    profile.write_text('[[experiment]]\nname = "overlap"\n[[experiment]]\nname = "align"\n', encoding="utf-8")
    study = cli("study", profile, "--results", tmp_path / "r", "--dry-run", "--json", "--model", model, other).json
    found = [c["experiment"] for c in study["cells"]]
    assert sorted(found) == ["align"] * 2 + ["overlap"] * 2 + ["shared-texts"] * 2, "both directions, captures once"


def test_dry_run_says_what_it_does_not_count(cli: Any, model: Path, tmp_path: Path) -> None:
    answer = cli("run", "doctor", "--model", model, "--results", tmp_path, "--dry-run")
    assert "not counted: what doctor run on the model" in answer.out, answer.err

"""The steering experiments through the command line, on a tiny random model whose tokenizer knows the emotions' words.

A random model holds no emotions, so what is tested here is that every experiment runs, what it prints and keeps, and
what it refuses; that the numbers mean what they say is tested on planted ones (``test_sweep_numbers.py``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from emotion_circuits.prompts import load_prompts
from emotion_circuits.store.tensors import open_tensors
from steering_runs import EXPERIMENTS, PROFILE, SMALL, SWEEP, WORDS, folder_of, line, within_sweep

ROW = {
    "emotion", "layer", "alpha", "effect", "ci", "effect_embedded", "ci_embedded", "rank_p_isotropic",
    "rank_p_covariance", "rank_p_shuffled", "wrong_way", "ppl_ratio", "rep4", "distinct2", "empty", "damage_ok",
    "prompting_effect",
}  # fmt: skip
"""Keys of a tested cell that other programs read."""


# ---- all eight ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [e for e in EXPERIMENTS if e != "patch"])
def test_every_experiment_runs_and_keeps_what_it_found(command: Any, shared_results: Path, name: str) -> None:
    answer = command(name, *WORDS[name], "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["test"] if name == "sweep" else found["results"]
    folder = folder_of(shared_results, name)
    summary = json.loads((folder / "summary.json").read_text())
    section = json.loads((folder / "section.json").read_text())
    assert summary["verdicts"] and all(isinstance(v, str) for v in summary["verdicts"])
    assert section["tables"]
    if name != "steer":
        import pandas as pd

        observed = pd.read_parquet(folder / "observations.parquet")
        assert len(observed) and np.isfinite(observed["value"]).all()
    again = command(name, *WORDS[name], "--json")
    assert again.json == found


def test_the_sweep_prints_the_row_that_other_programs_read(command: Any, shared_results: Path) -> None:
    found = command("sweep", *SWEEP, "--json").json
    assert [row["emotion"] for row in found["test"]] == ["gratitude", "anger"]
    for row in found["test"]:
        assert set(row) >= ROW
        assert row["layer"] in (0, 1) and row["alpha"] == 0.4
        assert row["ci"][0] <= row["effect"] <= row["ci"][1]
        assert row["ci_embedded"] is None or row["ci_embedded"][0] <= row["effect_embedded"] <= row["ci_embedded"][1]
        for family in ("isotropic", "covariance", "shuffled"):
            assert 1 / 20 <= row[f"rank_p_{family}"] <= 1
        assert 0 <= row["wrong_way"] <= 1 and 0 <= row["rep4"] <= 1 and isinstance(row["damage_ok"], bool)
    plan = json.loads((folder_of(shared_results, "sweep") / "sweep.json").read_text())
    assert set(plan) == {"baseline_summary", "aggregated_metrics", "delta_metrics", "sweep_results"}
    assert len(plan["sweep_results"]) == 2 * 2 * 2
    greedy = {
        (r["emotion"], r["layer"], r["alpha"], p): t for r in plan["sweep_results"] for p, t in r["texts"].items()
    }
    cells = {row["emotion"]: row for row in found["test"]}
    ids = {p.text: p.id for p in load_prompts("continuations") if p.split == "test"}
    assert [t["emotion"] for t in found["texts"]] == ["gratitude"] * 3 + ["anger"] * 3
    for text in found["texts"]:  # greedy: the very texts of the grid
        emotion, prompt = text["emotion"], ids[text["prompt"]]
        layer, alpha = cells[emotion]["layer"], cells[emotion]["alpha"]
        assert text["+v"] == greedy[emotion, layer, alpha, prompt]
        assert text["-v"] == greedy[emotion, layer, -alpha, prompt]
        assert text["baseline"] and text["prompting"]
    assert (folder_of(shared_results, "sweep") / "emotion-tokens.json").exists()


def test_random_control_texts_and_paired_rows_are_csv_files(command: Any, shared_results: Path) -> None:
    import pandas as pd

    assert command("controls", *WORDS["controls"]).code == 0
    folder = folder_of(shared_results, "controls")
    effects, each = (pd.read_csv(folder / f"{n}.csv") for n in ("effects", "distributions"))
    assert {"emotion", "scorer", "arm", "against", "mean_diff", "g_z", "p_permutation", "ci_low"} <= set(effects)
    assert {"baseline", "+v", "-v", "prompting", "random: isotropic"} <= set(each["arm"])


@pytest.mark.parametrize(("grid", "strength"), [("fraction", 0.4), ("plan", 2.0)])
def test_the_plans_random_arm_ranks_every_cell(command: Any, shared_results: Path, grid: str, strength: float) -> None:
    sweep = (*SMALL, "--grid", grid, "--layers", 0, 1, "--strengths", -strength, 0, strength, "--samples", 2,
             "--random", 19)  # fmt: skip
    words = (
        *within_sweep(sweep),
        "--generated",
        2,
        "--full-controls",
        "--full-vectors",
        9,
        "--resamples",
        200,
        "--json",
    )
    answer = command("controls", *words)
    assert answer.code == 0, answer.err
    rows = answer.json["full_controls"]
    assert {(r["emotion"], r["layer"], r["alpha"]) for r in rows} == {
        (e, layer, strength) for e in ("gratitude", "anger") for layer in (0, 1)
    }
    assert command("sweep", *sweep).code == 0  # the very run that was ranked: it returns at once
    told = json.loads((folder_of(shared_results, "sweep") / "sweep.json").read_text())["aggregated_metrics"]
    for r in rows:
        assert r["low"] <= r["random"] <= r["high"] and r["vectors"] == 9
        assert r["p"] * 10 == pytest.approx(round(r["p"] * 10)) and r["p"] >= 0.1
        name = f"{r['scorer']}:{r['emotion']}" if r["scorer"] in ("embedded", "lexicon") else r["scorer"]
        assert r["steered"] == told[r["emotion"]][str(r["layer"])][f"{r['alpha']:g}"][name]


def test_activations_of_every_step_are_logged_on_request(command: Any, shared_results: Path) -> None:
    assert command("iterative", *WORDS["iterative"]).code == 0
    logged = open_tensors(folder_of(shared_results, "iterative") / "activations.safetensors")
    assert logged and all(a.shape[1] == 32 and 1 <= a.shape[0] <= 10 for a in logged.values())


def test_patching_keeps_the_changes_where_there_is_nothing_to_be_a_share_of(command: Any, shared_results: Path) -> None:
    """Recovery is a share of a difference that a random model does not have; the changes in nats are still measured."""
    answer = command("patch", *WORDS["patch"])
    assert answer.code == 0, answer.err
    found = command("patch", *WORDS["patch"], "--json").json
    assert set(found["no_recovery"]) == {r["emotion"] for r in found["results"] if r["recovery"] is None}
    assert found["no_recovery"] and all("differ on the endpoint" in why for why in found["no_recovery"].values())
    assert "changes in nats only" in answer.out
    for row in found["results"]:
        assert row["change_ci"][0] <= row["change"] <= row["change_ci"][1]
    section = json.loads((folder_of(shared_results, "patch") / "section.json").read_text())
    assert len(section["figures"]) == 2 * len(found["pairs"])
    cells = command("patch", *WORDS["patch"], "--dry-run", "--json", results=shared_results / "none").json["cells"]
    assert cells[-1]["scored"] == 2 * sum(found["pairs"].values()) * (2 + 2 * 2), "both ways, two layers × positions"


@pytest.mark.parametrize("name", ["swap", "patch"])
def test_activations_of_texts_need_no_directions_and_the_endpoint_is_resolved_once(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from emotion_circuits.scorers import emotion_tokens

    resolve, asked = emotion_tokens.resolve_emotion_tokens, []

    def counted(lm: Any, emotions: Any, prefixes: Any) -> Any:
        asked.append(tuple(emotions))
        return resolve(lm, emotions, prefixes)

    monkeypatch.setattr(emotion_tokens, "resolve_emotion_tokens", counted)
    found = command(name, *WORDS[name], "--json", results=tmp_path).json
    assert asked == [("gratitude", "anger", "apology")]
    assert {r["emotion"] for r in found["results"]} <= set(asked[0])
    assert {p.name for p in tmp_path.glob("*/*/*")} == {name}, "no run of another experiment before it"


def test_the_plan_grid_is_the_plans(command: Any, tmp_path: Path, shared_results: Path) -> None:
    words = ("--grid", "plan", *SMALL, "--texts", "declared", "--samples", 1, "--random", 0, "--json")
    found = command("sweep", *words, "--layers", 1).json
    assert found["unit"] == "raw" and found["strengths"] == [-2, -1, -0.5, 0, 0.5, 1, 2]


# ---- refusals -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "words", "parts"),
    [
        ("sweep", ("--strengths", "nan", "0", "1"), ("strength", "nan")),
        ("sweep", ("--strengths", "-0.3", "0", "0.2"), ("symmetric",)),
        ("sweep", ("--strengths", "0"), ("symmetric",)),
        ("steer", ("--strengths", "inf"), ("strength", "inf")),
        ("sweep", ("--strengths",), ("--strengths", "value")),
        ("compare", ("--strengths", "nan", "0", "1"), ("strength nan", "--strengths -0.3 0 0.3")),
        ("real-world", ("--strengths", "nan"), ("strength nan", "--strengths -0.3 0 0.3")),
        ("iterative", ("--strength", "nan"), ("--strength", "finite")),
        ("controls", ("--sweep.strengths", "nan"), ("strength nan", "--strengths -0.3 0 0.3")),
        ("compare", ("--layers", "9"), ("layer 9", "0 to 2")),
        ("controls", ("--sweep.layers", "9"), ("layer 9", "0 to 2")),
        ("swap", ("--layers", "9"), ("layer 9", "0 to 2")),
        ("patch", ("--layers", "9"), ("layer 9", "0 to 2")),
        ("iterative", ("--layer", "-4"), ("layer -4", "0 to 2")),
        ("real-world", ("--layer", "6"), ("layer 6", "0 to 2")),
        ("steer", ("--max-new-tokens", "0"), ("--max-new-tokens", "greater than or equal to 1")),
        ("real-world", ("--max-new-tokens", "0"), ("--max-new-tokens", "greater than or equal to 1")),
        ("iterative", ("--max-new-tokens", "-5"), ("--max-new-tokens", "greater than or equal to 1")),
        ("controls", ("--generated", "11"), ("--generated", "10")),
        ("steer", ("--vector", "nothing.safetensors"), ("nothing.safetensors",)),
        ("sweep", ("--layers", "0", "7"), ("7", "layers")),
        ("steer", ("--layer", "99"), ("99",)),
        ("sweep", ("--max-new-tokens", "0"), ("--max-new-tokens", "greater than or equal to 1")),
        ("sweep", ("--emotions", "gratitud"), ("gratitud",)),
        ("steer", ("--emotion", "hunger"), ("hunger",)),
        ("sweep", ("--at", "somewhere"), ("somewhere",)),
        ("sweep", ("--at", "mean-content"), ("cannot be steered",)),
        ("sweep", ("--position", "all"), ("all",)),
        ("sweep", ("--schedule", "sometimes"), ("sometimes",)),
        ("sweep", ("--prompts", "nothing-like-this"), ("nothing-like-this",)),
        ("steer", ("--text", " "), ("no text",)),
        ("steer", ("--chat",), ("chat template",)),
        ("compare", ("--positions", "last"), ("nothing to compare",)),
        ("patch", ("--positions", "generated"), ("generated",)),
        ("swap", ("--at", "all"), ("one token",)),
        *((name, (option, value), (option,)) for name in ("swap", "patch") for option, value in (
            ("--schedule", "decay"), ("--decay-rate", "0.5"), ("--position", "last"))),
        ("patch", ("--at", "last"), ("--at",)),
        ("patch", ("--max-new-tokens", "5"), ("--max-new-tokens",)),
    ],
)  # fmt: skip
def test_bad_input_is_one_paragraph(command: Any, name: str, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    answer = command(name, *words)
    answer.refused(2, *parts)


def test_an_empty_list_of_strengths_is_refused(cli: Any, worded: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text(PROFILE.format(model=worded) + '\n[[experiment]]\nname = "sweep"\nstrengths = []\n')
    cli(*line("sweep", worded, path, tmp_path / "r")).refused(2, "strengths is empty")


@pytest.mark.parametrize(
    ("tensors", "metadata", "part"),
    [
        ({"v": np.ones(33, np.float32)}, {}, "32 wide"),
        ({"v": np.ones(32, np.float32), "w": np.ones(32, np.float32)}, {}, "2 tensors"),
        ({"v": np.ones(32, np.float32)}, {"weights": "0" * 64}, "another model"),
        ({"v": np.zeros(32, np.float32)}, {}, "no direction"),
    ],
)
def test_vector_files_that_do_not_fit_are_refused(
    command: Any, tmp_path: Path, tensors: Any, metadata: Any, part: str
) -> None:
    save_file(tensors, tmp_path / "v.safetensors", metadata)
    command("steer", *WORDS["steer"], "--vector", tmp_path / "v.safetensors").refused(2, part)


def test_a_vector_of_ones_own_is_added(command: Any, tmp_path: Path) -> None:
    save_file({"v": np.ones(32, np.float32)}, tmp_path / "v.safetensors")
    found = command("steer", *WORDS["steer"], "--vector", tmp_path / "v.safetensors", "--json").json
    assert len(found["results"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        *((name, "", "the file is empty") for name in ("sweep", "compare", "real-world", "iterative", "swap", "patch")),
        ("sweep", '{"text": "only one", "emotion": "neutral"}\n', "1 neutral prompts"),
        ("iterative", '{"text": "Thanks!", "emotion": "gratitude"}\n', "0 neutral prompts"),
        ("swap", '{"text": "only one", "emotion": "neutral"}\n', "0 test scenarios"),
        ("sweep", '{"prompt": "no such field"}\n', "field text: is missing"),
    ],
)
def test_a_prompts_file_without_prompts_is_refused(
    command: Any, tmp_path: Path, name: str, content: str, part: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(content)
    command(name, "--prompts", path).refused(2, part)


def test_a_file_that_holds_no_vectors_is_refused(command: Any, tmp_path: Path) -> None:
    (tmp_path / "v.safetensors").write_text("not one")
    answer = command("steer", *WORDS["steer"], "--vector", tmp_path / "v.safetensors")
    answer.refused(answer.code, "v.safetensors")
    assert answer.code in (1, 2)


def test_an_evaluator_that_is_not_available_is_said_and_nothing_takes_its_place(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emotion_circuits.errors import ModelError
    from emotion_circuits.scorers import embedded as module

    def unavailable(*args: object, **options: object) -> None:
        raise ModelError("the encoder cannot be fetched", "connect, or give --cache")

    monkeypatch.setattr(module.EmbeddedScorer, "load", unavailable)
    command("steer", *WORDS["steer"], results=tmp_path).refused(1, "cannot be fetched")
    assert not list(tmp_path.glob("*/*/steer/*/done.json"))


@pytest.mark.parametrize("dry", [("--dry-run",), ()])
@pytest.mark.parametrize(
    ("options", "name"),
    [(("--emotion", "joyy"), "joyy"), (("--expression", "0.2 gratitude + 0.2 angr"), "angr")],
)
def test_steer_refuses_an_emotion_without_a_direction_before_anything_is_captured(
    cli: Any, worded: Path, tmp_path: Path, options: tuple[str, ...], name: str, dry: tuple[str, ...]
) -> None:
    words = ("run", "steer", "--model", worded, "--text", "hi", "--results", tmp_path / "r", "--quiet")
    cli(*words, *options, *dry).refused(2, f"unknown emotion {name!r}")
    assert not list(tmp_path.glob("r/**/*"))


# ---- what will run ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [e for e in EXPERIMENTS if e != "patch"])
def test_dry_run_counts_what_runs(command: Any, shared_results: Path, tmp_path: Path, name: str) -> None:
    """Rows and texts of the dry run are those that the run measured; a family without matched KL is left out."""
    cells = command(name, *WORDS[name], "--dry-run", "--json", results=tmp_path / "none").json["cells"]
    assert not (tmp_path / "none").exists()
    expected = next(c for c in cells if c["experiment"] == name)
    before = set() if name == "swap" else {"extract", "directions"}
    assert {c["experiment"] for c in cells} >= {*before, name} and expected["counted"]
    assert expected["seconds"] > 0 and expected["memory_bytes"] > 0
    assert command(name, *WORDS[name]).code == 0
    folder = folder_of(shared_results, name)
    steps = [p.name.removesuffix("-batches.json") for p in folder.glob("*-batches.json")]
    scored = {s: next(iter(open_tensors(folder / f"{s}.safetensors").values())) for s in steps
              if (folder / f"{s}.safetensors").exists() and not (folder / f"{s}.json").exists()}  # fmt: skip
    lines = (folder / "generations.jsonl").read_text().splitlines() if (folder / "generations.jsonl").exists() else []
    assert expected["written"] == len(lines)
    rows = sum(len(values) for values in scored.values())
    if name == "iterative":
        rows += len(lines)  # every text is read once more
    if name == "sweep":
        unmatched = 2 * 3 - sum(s.endswith("-kl") for s in scored)
        rows += unmatched * 3 * 2 * 19
    assert expected["scored"] == rows
    assert expected["forwards"] >= len(scored) and expected["tokens"] >= rows


def test_dry_run_of_a_finished_run_has_nothing_left(command: Any) -> None:
    assert command("steer", *WORDS["steer"]).code == 0
    answer = command("steer", *WORDS["steer"], "--dry-run")
    assert "model time left: about 0 s" in answer.out and max(map(len, answer.out.splitlines())) <= 80
    assert {c["state"] for c in command("steer", *WORDS["steer"], "--dry-run", "--json").json["cells"]} == {"done"}


def test_rows_bound_the_memory_that_a_dry_run_shows(command: Any, tmp_path: Path) -> None:
    few, many = (
        command("compare", *WORDS["compare"], "--rows", rows, "--dry-run", "--json", results=tmp_path).json["cells"][-1]
        for rows in (2, 64)
    )
    assert few["memory_bytes"] < many["memory_bytes"] and few["forwards"] > many["forwards"]
    assert few["scored"] == many["scored"] and few["written"] == many["written"]


def test_the_sweep_shows_random_vectors_beside_every_dose(command: Any, shared_results: Path) -> None:
    assert command("sweep", *SWEEP).code == 0
    figures = json.loads((folder_of(shared_results, "sweep") / "section.json").read_text())["figures"]
    for emotion in ("gratitude", "anger"):
        (figure,) = [f for f in figures if f["name"] == f"dose-{emotion}"]
        bands = {row["x"]: row for row in figure["data"] if row["series"] == "random vectors"}
        assert sorted(bands) == [-0.4, 0.0, 0.4] and all(b["low"] <= b["high"] for b in bands.values())
        assert bands[0.4]["low"] < bands[0.4]["high"] and bands[0.0]["low"] == bands[0.0]["high"] == 0
        assert len([row for row in figure["data"] if row["series"] == f"{emotion} vector"]) == 3


def test_what_was_run_beside_a_profile_is_in_its_report(command: Any, cli: Any, small_profile: Path,
                                                        shared_results: Path) -> None:  # fmt: skip
    for name in ("compare", "real-world"):
        assert command(name, *WORDS[name]).code == 0
    found = cli("report", "--profile", small_profile, "--results", shared_results, "--json").json
    text = Path(found["markdown"]).read_text(encoding="utf-8")
    assert "Which vectors steer with less?" in text and "In real-world texts" in text
    assert "What was captured" not in text
    assert any("real-world-scores" in str(f) for f in found["figures"])


def test_real_world_steers_half_way_and_tells_the_emotions_own_way(command: Any) -> None:
    assert command("real-world", *WORDS["real-world"], "--json").json["layer"] == 1, "of three layers"
    assert "α 1 " in command("real-world", *WORDS["real-world"]).out


@pytest.mark.parametrize(("p", "answer"), [(0.19, "not clearly more"), (0.01, "read more like")])
def test_a_narrow_bootstrap_of_few_texts_claims_nothing(p: float, answer: str) -> None:
    from emotion_circuits.experiments.real_world import _sentence

    row = {"emotion": "anger", "alpha": 0.3, "scorer": "embedded", "domain": "all", "n": 6, "mean_diff": 0.003,
           "ci": [0.0001, 0.009], "t": 1.54, "p": p}  # fmt: skip
    assert answer in _sentence([row], "anger", 0.3)


def test_steer_prints_every_text_under_what_it_continues(command: Any) -> None:
    given = ("The parcel came on Monday and", "My neighbour said that")
    answer = command("steer", "--text", *given, "--max-new-tokens", 5, "--strengths", -0.4, 0, 0.4)
    lines = answer.out.splitlines()
    places = [lines.index(f"{text} …") for text in given]
    for place in places:
        assert [line.split()[1] for line in lines[place + 1 : place + 4]] == ["-0.4", "+0", "+0.4"]
        assert "gratitude 0." in lines[place + 1]
    assert "emotion-circuits report --profile" in lines[-1]

"""`emotion-circuits run`: what the experiments leave, and what is not computed twice."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_circuits.experiments import experiments, load_capture
from emotion_circuits.experiments.directions import load_directions
from emotion_circuits.representations import labelled
from emotion_circuits.store import Store
from emotion_circuits.types import OBSERVATION_COLUMNS

EMOTIONS = ["gratitude", "anger", "apology"]


@pytest.fixture
def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a forward pass was made")

    # The package exports the function `capture` under the name of its module.
    monkeypatch.setattr(sys.modules["emotion_circuits.engine.capture"], "run_capture", refuse)


@pytest.fixture
def run(cli: Any, model: Path, profile: Path) -> Any:
    """``run(experiment, results, …)`` on the tiny model and the small profile."""

    def command(experiment: str, results: Path, *more: object) -> Any:
        return cli("run", experiment, "--model", model, "--profile", profile, "--results", results, *more)

    return command


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.stat().st_size)
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def test_directions_as_json(run: Any, finished: Path, no_forward: None) -> None:
    found = run("directions", finished, "--json").json
    assert found["model"].startswith("tiny-llama") and found["profile"] == "small"
    assert [r["emotion"] for r in found["results"]] == EMOTIONS
    for row in found["results"]:
        assert row["position"] == "mean-content" and row["layer"] == 0  # never the last two of three
        low, high = row["ci"]
        assert 0 <= low <= row["auroc_test"] <= high <= 1
        assert 0 <= row["own_vs_rest"] <= 1 and 0.01 <= row["p_max_layer"] <= 1
        assert row["n_test"] == 6


def test_verdicts_and_place_of_the_results(run: Any, finished: Path) -> None:
    answer = run("directions", finished)
    assert answer.code == 0 and answer.err == ""
    *lines, place, figures = answer.out.splitlines()
    assert [line.split(":")[0] for line in lines] == EMOTIONS
    assert Path(place.removeprefix("results: ")).is_dir()
    assert figures.startswith("figures and tables: emotion-circuits report --profile ")


def test_the_same_command_returns_what_is_there(run: Any, copied: Path, no_forward: None) -> None:
    before = files(copied)
    assert run("directions", copied).code == 0
    assert files(copied) == before


def test_batch_size_changes_no_key(run: Any, copied: Path, no_forward: None) -> None:
    assert run("directions", copied, "--rows", 7).code == 0
    assert len(list(copied.glob("*/*/directions/*/done.json"))) == 1


@pytest.mark.parametrize(
    ("option", "captures"), [(("--seed", "1"), 2), (("--permutations", "100"), 1), (("--emotions", "anger"), 2)]
)
def test_another_parameter_is_another_run(run: Any, copied: Path, option: tuple[str, str], captures: int) -> None:
    assert run("directions", copied, *option).code == 0
    assert len(list(copied.glob("*/*/directions/*/done.json"))) == 2
    assert len(list(copied.glob("*/*/extract/*/done.json"))) == captures


def test_force_computes_again_and_finds_the_same(run: Any, copied: Path, no_forward: None) -> None:
    (summary,) = copied.glob("*/*/directions/*/summary.json")
    before, content = summary.stat().st_mtime_ns, summary.read_bytes()
    assert run("directions", copied, "--force").code == 0
    assert summary.stat().st_mtime_ns > before
    assert summary.read_bytes() == content


def test_observations_are_complete_and_read_by_the_statistics(cli: Any, copied: Path) -> None:
    (run,) = Store(copied).find(experiment="directions")
    table = run.read_observations().to_pandas()
    assert list(table.columns) == list(OBSERVATION_COLUMNS)
    assert len(table) == 3 * 3 * 6 * 2  # emotions, layers, test scenarios, arms
    keys = ["emotion", "layer", "arm", "unit", "sample"]
    assert not table.duplicated(keys).any()
    answer = cli("stats", "all", "--profile", "small", "--results", copied, "--json")
    effects = answer.json["tables"]["effect"]
    assert {(r["emotion"], r["layer"]) for r in effects} == {(e, n) for e in EMOTIONS for n in range(3)}


def test_saved_directions_score_as_the_run_did(finished: Path) -> None:
    (run,), (captured,) = (Store(finished).find(experiment=e) for e in ("directions", "extract"))
    directions = load_directions(run, "resid_post", "mean-content")
    data = labelled(load_capture(captured, "texts"), "resid_post", "mean-content")
    fit, test = data.split("fit"), data.split("test")
    table = run.read_observations().to_pandas()
    for emotion in EMOTIONS:
        used = test.of(emotion) | test.neutral_for(emotion)
        scores = directions.scores(test.x[used], "neutral", emotion)
        neutral = directions.scores(fit.x[fit.labels == "neutral"], "neutral", emotion)
        for row, layer in enumerate(directions.layers):
            units = (scores[row] - neutral[row].mean()) / neutral[row].std(ddof=1)
            found = table[(table.emotion == emotion) & (table.layer == layer)]
            np.testing.assert_allclose(sorted(found.value), sorted(units), rtol=1e-6)


def test_everything_a_run_leaves(finished: Path) -> None:
    (folder,) = (p.parent for p in finished.glob("*/*/directions/*/done.json"))
    names = {p.name for p in folder.iterdir()}
    expected = {"spec.json", "summary.json", "section.json", "done.json", "run.log", "observations.parquet",
                "directions.safetensors", "curves.json"}  # fmt: skip
    assert names == expected
    spec = json.loads((folder / "spec.json").read_text())
    assert spec["inputs"]["params"]["scenarios"] == 20
    assert "directions on tiny-llama" in (folder / "run.log").read_text()
    assert (folder.parent / "latest").read_text().strip() == folder.name


def test_capture_that_lost_its_file_says_so(run: Any, copied: Path) -> None:
    (tensors,) = copied.glob("*/*/extract/*/texts.safetensors")
    tensors.unlink()
    run("directions", copied, "--force").refused(1, "lost resid_post@mean-content", "remove the folder")


def test_check_on_labelled_texts(run: Any, copied: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{opening} number {i}.", "emotion": label} for i in range(12) for opening, label in
            (("Thank you for parcel", "gratitude"), ("I hate parcel", "anger"), ("I am sorry about parcel", "remorse"),
             ("This is parcel", "neutral"), ("Wow, parcel", "surprise"))]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = run("check", copied, "--on", path, "--json", "--quiet").json
    assert found["position"] == "mean-content"
    assert [r["emotion"] for r in found["results"]] == EMOTIONS
    for row in found["results"]:
        assert row["n"] == 12 and row["ci"][0] <= row["auroc"] <= row["ci"][1] and 0 <= row["own_vs_rest"] <= 1
    assert found["labels_without_direction"] == ["surprise"]
    assert len(list(copied.glob("*/*/directions/*/done.json"))) == 1, "the study's own directions are used"
    answer = run("check", copied, "--on", path)
    assert answer.code == 0 and answer.out.startswith("gratitude: layer 0, AUROC ")
    # The file's content is part of the key, not its name.
    path.write_text("".join(json.dumps(r) + "\n" for r in rows[:40]))
    assert run("check", copied, "--on", path, "--json").json["results"][0]["n"] == 8


def test_check_reads_words_at_other_positions(run: Any, tmp_path: Path) -> None:
    openings = {"gratitude": "Thank you for parcel", "remorse": "I am sorry about parcel", "neutral": "This is parcel"}
    rows = [{"text": f"{text} number {i}.", "emotion": label} for i in range(8) for label, text in openings.items()]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    results = tmp_path / "results"
    found = run("check", results, "--on", path, "--position", "emotion-word", "--json", "--quiet").json
    assert found["position"] == "emotion-word-all"
    assert [(r["emotion"], r["n"], r["n_neutral"]) for r in found["results"]] == [
        ("gratitude", 8, 8),
        ("apology", 8, 8),
    ]


def test_own_alias_and_no_neutral_text(run: Any, copied: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{opening} number {i}.", "emotion": label} for i in range(6) for opening, label in
            (("Thank you for parcel", "praise"), ("I hate parcel", "anger"))]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ("check", copied, "--on", path, "--alias", "praise=gratitude", "--quiet")
    found = run(*command, "--json").json["results"]
    assert [(r["emotion"], r["auroc"], r["ci"]) for r in found] == [("gratitude", None, None), ("anger", None, None)]
    assert all(0 <= r["own_vs_rest"] <= 1 for r in found)
    assert "no neutral text to compare with" in run(*command).out


def test_doctor_as_experiment(run: Any, tmp_path: Path) -> None:
    answer = run("doctor", tmp_path, "--json", "--quiet")
    assert answer.json["ok"] is True
    assert len(answer.json["checks"]) > 10 and all(c["holds"] for c in answer.json["checks"])


def test_extract_at_several_places(run: Any, tmp_path: Path) -> None:
    positions = ("mean-content", "last", "all", "emotion-word-first")
    answer = run("extract", tmp_path, "--scenarios", 4, "--positions", *positions, "--sites", "resid_post", "z",
                 "--layers", "-1", "0", "0", "--json", "--quiet")  # fmt: skip
    rows = answer.json["captures"]
    assert {(r["capture"], r["site"], r["position"]) for r in rows} == {
        ("words" if p.startswith("emotion") else "texts", s, p) for s in ("resid_post", "z") for p in positions
    }
    assert {r["texts"] for r in rows if r["capture"] == "texts"} == {16}
    assert {r["texts"] for r in rows if r["capture"] == "words"} == {24}
    assert {r["layers"] for r in rows} == {2}, "each layer once, negative ones counted from the end"


def test_twins_come_from_the_same_set(run: Any, tmp_path: Path) -> None:
    """Implicit texts share scenarios with the baseline and have neutral texts of their own."""
    answer = run("directions", tmp_path, "--positions", "emotion-word-last", "--compare", "implicit", "--json",
                 "--quiet")  # fmt: skip
    assert all(r["n_test"] == 6 for r in answer.json["results"])
    (run_,) = Store(tmp_path).find(experiment="extract")
    data = labelled(load_capture(run_, "words"), "resid_post", "emotion-word-last")
    twins = [i for i in data.ids if "@@" in i]
    assert len(twins) == 60 and not any("implicit" in t for t in twins)


def test_several_positions_and_sites_and_sets_side_by_side(run: Any, tmp_path: Path) -> None:
    answer = run("directions", tmp_path, "--positions", "mean-content", "last", "--sites", "resid_post", "mlp_out",
                 "--beside", "atlas", "--compare", "implicit", "replication", "--components", 3, "--json",
                 "--quiet")  # fmt: skip
    rows = answer.json["results"]
    assert [(r["site"], r["position"]) for r in rows[::3]] == [
        ("resid_post", "mean-content"), ("resid_post", "last"), ("mlp_out", "mean-content"), ("mlp_out", "last"),
    ]  # fmt: skip
    for row in rows:
        assert set(row["compare"]) == {"implicit", "replication"} and row["compare"]["replication"]["n"] == 20
        assert row["beside"]["atlas"]["n"] == 6
        assert row["without_neutral_components"]["components"] == 3


def test_emotions_that_a_set_beside_lacks_are_left_out_there(run: Any, tmp_path: Path) -> None:
    answer = run("directions", tmp_path, "--prompts", "atlas", "--beside", "baseline", "--json", "--quiet")
    beside = {r["emotion"]: r["beside"]["baseline"] for r in answer.json["results"]}
    assert beside["anger"]["n"] == 6 and beside["pride"] is None


def test_list_and_schema(cli: Any) -> None:
    answer = cli("run", "--list")
    assert answer.code == 0 and all(name in answer.out for name in experiments())
    schemas = {e["experiment"]: e["schema"] for e in cli("run", "--json").json["experiments"]}
    assert set(schemas) == set(experiments())
    fields = schemas["directions"]["properties"]
    assert all(field["description"] for field in fields.values())
    cli("run").refused(2, "no experiment was named", "emotion-circuits run directions")


@pytest.mark.parametrize("experiment", ["directions", "extract", "check", "doctor"])
def test_help_names_every_parameter(cli: Any, experiment: str) -> None:
    text = cli("run", experiment, "--help").out
    for name in (*experiments()[experiment].Params.model_fields, "model", "profile", "results", "force"):
        assert f"--{name.replace('_', '-')}" in text

"""`emotion-circuits study` and `report`: whole studies, failures inside them, and the report from disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import emotion_circuits.engine.verify as verify
from emotion_circuits.engine.verify import Check
from emotion_circuits.errors import ModelError
from emotion_circuits.experiments import Failure, Study, load_profile
from emotion_circuits.report.answers import verdicts
from emotion_circuits.report.assemble import assemble_report
from emotion_circuits.report.commands import Asked
from emotion_circuits.report.html_page import render_html
from emotion_circuits.report.markdown import render_markdown
from emotion_circuits.store import Store

OPEN = ["Question 2. Is it shared between models? – not part of this study: emotion-circuits run transfer ",
        "Question 3. Does it cause what the model writes? – not part of this study: emotion-circuits run sweep ",
        "Question 4. Which parts carry it? – not part of this study: emotion-circuits run heads.screen "]  # fmt: skip


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


@pytest.fixture
def study(finished: Path, profile: Path) -> Study:
    (run,) = Store(finished).find(experiment="directions")
    return Study(load_profile(str(profile)), [run], [], {run.model: "folder"})


def test_study_answers_question_one_and_writes_the_report(cli: Any, profile: Path, copied: Path) -> None:
    answer = cli("study", profile, "--results", copied)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == "Question 1. Where is each emotion?"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["gratitude", "anger", "apology"]
    assert [line.startswith(start) for line, start in zip(lines[4:7], OPEN, strict=True)] == [True] * 3
    page = Path(lines[7].removeprefix("report: ").split("  (")[0])
    assert page.is_absolute() and page == (copied / "small" / "report" / "report.html").resolve()
    text = page.read_text(encoding="utf-8")
    assert "test AUROC" in text and str(profile) in text, "the report names the command that makes it again"
    assert (copied / "small" / "plots" / "directions" / "layer-auroc.png").exists()
    assert "study small: Small" in answer.err and "Traceback" not in answer.err


def test_a_second_model_comes_with_the_whole_command(study: Study) -> None:
    """``--model`` alone would replace the models of the profile."""
    paired = replace(study.profile, experiments=(*study.profile.experiments, ("transfer", {})))
    asked = Asked("quickstart", models=("smollm2-135m",))
    second = verdicts(replace(study, profile=paired, sources={"smollm2-135m": "wheel"}), asked)[1]
    command = "emotion-circuits study quickstart --model smollm2-135m gemma-3-270m"
    assert second.reason == f"not asked: add --model gemma-3-270m: {command}"


def test_study_as_json(cli: Any, profile: Path, copied: Path) -> None:
    found = cli("study", profile, "--results", copied, "--json", "--quiet").json
    assert found["failures"] == [] and len(found["runs"]) == 1 and Path(found["report"]).exists()
    first, *others = found["verdicts"]
    assert first["question"] == "Question 1. Where is each emotion?" and len(first["answers"]) == 3
    assert [v["answers"] for v in others] == [[], [], []]


def test_one_model_that_fails_leaves_its_log_and_the_others_go_on(
    cli: Any, profile: Path, model: Path, copied: Path
) -> None:
    words = ("study", profile, "--results", copied, "--offline", "--model", "no-such-model", model)
    answer = cli(*words)
    assert answer.code == 3
    assert "failed: directions on no-such-model: " in answer.err and "\n  → " in answer.err
    assert "Traceback" not in answer.err
    record = json.loads((copied / "small" / "no-such-model" / "failed.json").read_text())
    assert record["experiment"] == "directions" and "no-such-model" in record["message"] and record["fix"]
    log = (copied / "small" / "no-such-model" / "failures.jsonl").read_text()
    assert "Traceback" in json.loads(log)["traceback"]
    page = (copied / "small" / "report" / "report.html").read_text(encoding="utf-8")
    assert "no-such-model" in page and "did not finish" in page
    assert cli(*words, "--json").json["failures"][0]["model"] == "no-such-model"
    assert cli("ls", "--results", copied).code == 0, "the failure's files do not disturb the list of runs"


def test_model_that_works_again_has_not_failed(cli: Any, profile: Path, model: Path, tmp_path: Path) -> None:
    hidden = (model / "config.json").rename(model / "away.json")
    try:
        answer = cli("study", profile, "--results", tmp_path, "--offline")
        assert answer.code == 1 and "no config.json" in answer.err
    finally:
        hidden.rename(model / "config.json")
    (failed,) = tmp_path.glob("small/*/failed.json")
    assert cli("study", profile, "--results", tmp_path).code == 0
    assert not failed.exists() and failed.with_name("failures.jsonl").exists()


def test_a_failure_is_told_once(profile: Path, tmp_path: Path) -> None:
    """In a process of its own: there, nobody catches what is logged."""
    words = ("study", profile, "--results", tmp_path, "--offline", "--model", "no-such-model")
    command = [sys.executable, "-m", "emotion_circuits", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1 and ended.stderr.count("offline mode is on") == 1, ended.stderr


def test_all_models_failed(cli: Any, profile: Path, copied: Path) -> None:
    cli("study", profile, "--results", copied)
    page = copied / "small" / "report" / "report.html"
    before = page.read_bytes()
    answer = cli("study", profile, "--results", copied, "--offline", "--model", "no-such-model", "nor-this-one")
    assert answer.code == 1 and answer.out == ""
    assert answer.err.count("failed: ") == 2 and "Traceback" not in answer.err
    assert page.read_bytes() == before, "the report of an earlier run is kept"


def test_experiment_that_fails_ends_its_model_only(cli: Any, tmp_path: Path, model: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text(
        f'models = ["{model}"]\n[[experiment]]\nname = "extract"\nscenarios = 4\n[[experiment]]\nname = "directions"\n'
        'scenarios = 20\ncomponents = 12\n[[experiment]]\nname = "doctor"\n'
    )
    answer = cli("study", path, "--results", tmp_path / "r")
    assert answer.code == 3
    assert "failed: directions on" in answer.err and "principal components" in answer.err
    assert "Question 1. Where is each emotion? – did not finish" in answer.out
    (failed,) = (tmp_path / "r").glob("mixed/*/directions/*/failed.json")
    assert "principal components" in json.loads(failed.read_text())["message"]
    assert "Traceback" in (failed.parent / "run.log").read_text()


def test_broken_contract_ends_the_study(cli: Any, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("left-padded = unpadded", False, "off by 0.4 SD", 0.1)]
    monkeypatch.setattr(verify, "verify_family", lambda lm: checks)
    path = tmp_path / "p.toml"
    path.write_text(f'models = ["{model}"]\n[[experiment]]\nname = "doctor"\n[[experiment]]\nname = "directions"\n')
    answer = cli("study", path, "--results", tmp_path / "r")
    assert answer.code == 1 and not list((tmp_path / "r").glob("*/*/directions"))
    assert "left-padded = unpadded (off by 0.4 SD)" in answer.err and "emotion-circuits doctor" in answer.err


def test_memory_that_runs_out_is_a_failure_of_one_model(
    cli: Any, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(sys.modules["emotion_circuits.engine.capture"], "run_capture", full)
    answer = cli("study", profile, "--results", tmp_path)
    assert answer.code == 1 and "memory ran out" in answer.err and "--rows" in answer.err


def test_wrong_requests(cli: Any, profile: Path, tmp_path: Path) -> None:
    cli("study").refused(2, "no profile was named", "study quickstart")
    cli("study", "quikstart").refused(2, "unknown profile", "did you mean quickstart")
    cli("study", profile, "--lang", "xx", "--results", tmp_path).refused(2, "unknown report language 'xx'")
    assert not list(tmp_path.iterdir())


def test_list_of_profiles(cli: Any) -> None:
    found = {p["profile"]: p for p in cli("study", "--list", "--json").json["profiles"]}
    assert {"smoke", "quickstart", "baseline", "extended"} <= set(found)
    assert found["quickstart"]["models"] == ["smollm2-135m"]
    assert "quickstart" in cli("study", "--list").out


def test_every_shipped_profile_is_complete() -> None:
    for name in ("smoke", "quickstart", "baseline", "extended"):
        profile = load_profile(name)
        asked = [e for e, _ in profile.experiments]
        assert asked[:2] == ["doctor", "directions"] and profile.title and profile.description
        assert ({"sweep", "heads.screen", "circuit.report"} <= {*asked}) is (name != "smoke")
        for builds_on in ("check", "sweep", "heads.screen", "circuit.report"):
            directions = profile.params(builds_on).directions  # type: ignore[attr-defined]
            assert directions == profile.params("directions"), f"{builds_on} uses the study's directions"
        controls: Any = profile.params("controls")
        assert controls.sweep == profile.params("sweep"), "also one experiment further down"
        if "heads.match" in asked:
            match: Any = profile.params("heads.match")
            screen = match.model_copy(update={"top": 10}).model_dump(exclude={"size", "draws"})
            assert screen == profile.params("heads.screen").model_dump(), "reads the study's own screen"


def test_overrides_reach_nested_parameters_without_losing_the_study() -> None:
    params = load_profile("smoke").params("check", {"directions": {"emotions": ("anger",)}})
    assert params.directions.scenarios == 20 and params.directions.emotions == ("anger",)  # type: ignore[attr-defined]


def test_dry_run_shows_the_work_and_does_none(cli: Any, profile: Path, tmp_path: Path, copied: Path) -> None:
    fresh = cli("study", profile, "--results", tmp_path / "fresh", "--dry-run", "--json").json
    assert [(c["experiment"], c["state"], c["texts"]) for c in fresh["cells"]] == [
        ("extract", "to do", 80), ("directions", "to do", 0),
    ]  # fmt: skip
    assert fresh["cells"][0]["tokens"] > 80 * 8 and fresh["cells"][0]["forwards"] >= 1 and fresh["model_seconds"] > 0
    assert fresh["cells"][0]["memory_bytes"] > fresh["cells"][1]["memory_bytes"] == 0
    assert not (tmp_path / "fresh").exists()
    done = cli("study", profile, "--results", copied, "--dry-run", "--json").json
    assert {c["state"] for c in done["cells"]} == {"done"} and done["model_seconds"] == 0
    assert "model time left: about 0 s" in cli("study", profile, "--results", copied, "--dry-run").out


def test_a_model_that_is_added_runs_alone(cli: Any, profile: Path, model: Path, copied: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    words = ("study", profile, "--results", copied, "--model", model, other)
    cells = cli(*words, "--dry-run", "--json").json["cells"]
    of_first = {c["model"] for c in cells if c["state"] == "done"}
    assert [c["state"] for c in cells] == ["done", "done", "to do", "to do"] and len(of_first) == 1
    (first,) = copied.glob("small/*/directions/*/done.json")
    before = first.stat().st_mtime_ns
    assert cli(*words).code == 0
    assert first.stat().st_mtime_ns == before and len(list(copied.glob("small/*/directions/*/done.json"))) == 2
    page = (copied / "small" / "report" / "report.html").read_text(encoding="utf-8")
    assert all(f"{c['model']}: gratitude: layer" in page for c in cells)


# ---------------------------------------------------------------- report


def test_report_of_a_study_with_a_failure(study: Study, tmp_path: Path) -> None:
    failed = Failure("gpt9", "doctor", ModelError("gpt9 is not <here>", "choose another"))
    study.failures.append(failed)
    report = assemble_report(study, Asked("small"))
    page = render_html(report, tmp_path / "report.html").read_text(encoding="utf-8")
    text = render_markdown(report, tmp_path / "report.md").read_text(encoding="utf-8")
    study.failures.clear()
    for content in (page, text):
        assert "gratitude" in content and "What did not finish" in content and "gpt9" in content
    assert "<here>" not in page


def test_questions_of_a_study_that_did_not_ask_them(study: Study, tmp_path: Path) -> None:
    (model,) = study.sources
    path = tmp_path / "only.toml"
    path.write_text('[[experiment]]\nname = "doctor"\n')
    lines = verdicts(Study(load_profile(str(path))), Asked(str(path)))
    (line,) = lines[0].lines()
    assert line.startswith(
        "Question 1. Where is each emotion? – not part of this study: emotion-circuits run directions"
    )
    assert verdicts(Study(study.profile, sources=study.sources), Asked("small"))[0].lines() == [
        f"Question 1. Where is each emotion? – not run yet: emotion-circuits run directions --model {model} "
        "--profile small"
    ]


def test_report_again_from_disk(cli: Any, profile: Path, copied: Path) -> None:
    answer = cli("report", "--profile", profile, "--results", copied, "--lang", "ja")
    assert answer.code == 0
    page = Path(answer.out.strip().removeprefix("report: "))
    text = page.read_text(encoding="utf-8")
    assert 'lang="ja"' in text and "gratitude" in text
    found = cli("report", "--profile", profile, "--results", copied, "--json").json
    assert all(Path(found[k]).exists() for k in ("html", "markdown"))


def test_report_needs_no_model_code(profile: Path, copied: Path) -> None:
    script = (
        "import sys; from emotion_circuits.cli import main\n"
        f"code = main(['report', '--profile', {str(profile)!r}, '--results', {str(copied)!r}])\n"
        "sys.exit(code or bool({'torch', 'transformers'} & set(sys.modules)) * 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done


def test_report_of_nothing(cli: Any, profile: Path, tmp_path: Path) -> None:
    cli("report", "--profile", profile, "--results", tmp_path).refused(2, "no finished run of profile 'small'", "study")
    cli("report", "--profile", "quikstart", "--results", tmp_path).refused(2, "did you mean quickstart")
    cli("report").refused(2, "--profile")


# ---------------------------------------------------------------- doctor


def test_doctor_of_this_machine(cli: Any, tmp_path: Path) -> None:
    found = cli("doctor", "--cache", tmp_path, "--json")
    checks = {c["what"]: c for c in json.loads(found.out)["checks"]}
    assert found.code == 1 and not checks["models"]["ok"]
    assert checks["models"]["fix"] == "emotion-circuits models fetch smollm2-135m"
    assert checks["package"]["ok"] and "torch" in checks["compute"]["found"]
    text = cli("doctor", "--cache", tmp_path)
    assert text.code == 1 and "what to type" in text.out


def test_doctor_of_a_model(cli: Any, model: Path) -> None:
    answer = cli("doctor", model)
    assert answer.code == 0 and "checks hold" in answer.out
    assert cli("doctor", model, "--json").json["layers"] == 3


def test_doctor_of_a_model_that_breaks_its_contract(cli: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("z = pattern × v", True, "0", 0.1), Check("left-padded = unpadded", False, "off by 0.4 SD", 0.1)]
    monkeypatch.setattr(verify, "verify_family", lambda lm: checks)
    answer = cli("doctor", model)
    assert answer.code == 1 and "1 of 2 checks FAILED" in answer.out and "off by 0.4 SD" in answer.out
    assert json.loads(cli("doctor", model, "--json").out)["ok"] is False


def test_doctor_of_no_model(cli: Any, tmp_path: Path) -> None:
    cli("doctor", tmp_path / "nothing", "--offline").refused(2, "no folder or file", "models list")

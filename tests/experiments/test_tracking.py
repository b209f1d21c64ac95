"""`--track` on verbs that compute, and `emotion-circuits track`: with the local store, and without MLflow."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

import emotion_circuits.tracking._mirror as mirroring
from mlflow_server import free_port

pytestmark = pytest.mark.filterwarnings("ignore")
needs_mlflow = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mlflow", "sqlalchemy", "alembic"))),
    reason="MLflow is not installed: pip install -e '.[mlflow]'",
)


@pytest.fixture
def copied(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Path(shutil.copytree(finished, tmp_path / "results"))


@needs_mlflow
def test_study_with_track_shows_runs_and_failed_models(cli: Any, profile: Path, model: Path, copied: Path) -> None:
    before = cli("track", "status", "--results", copied, "--json").json["runs"]
    assert {run["there"] for run in before} == {"missing"}
    words = ("--results", copied, "--offline", "--json", "--quiet", "--model", "no-such-model", model)
    answer = cli("study", profile, "--track", "mlflow", *words)
    assert answer.code == 3 and len(answer.json["failures"]) == 1, "stdout stays one JSON object, the code the study's"
    runs = cli("track", "status", "--results", copied, "--json").json["runs"]
    assert len(runs) == len(before) + 2 and {run["there"] for run in runs} == {"mirrored"}
    assert runs[-1]["run"] == "small/study/report", "beside the failure of the model"
    assert {run["status"] for run in runs} == {"done", "failed"}
    assert "0 sent" in cli("track", "sync", "--results", copied).out
    assert cli("ls", "--results", copied, "--json").json["other_schema"] == [], "copies of runs are no runs"


@needs_mlflow
def test_a_profile_is_named_as_study_takes_it(cli: Any, profile: Path, copied: Path) -> None:
    for verb in ("status", "sync"):
        cli("track", verb, "--profile", "smal", "--results", copied).refused(2, "unknown profile 'smal'", "mean small")
        cli("track", verb, "--profile", "quickstart", "--results", copied).refused(
            2, "there are results of small", f"emotion-circuits study quickstart --results {copied}"
        )
    assert cli("track", "sync", "--profile", profile, "--results", copied).out.count("2 sent") == 1
    assert len(cli("track", "status", "--profile", profile, "--results", copied, "--json").json["runs"]) == 2


@needs_mlflow
def test_study_is_finished_whatever_becomes_of_the_server(cli: Any, profile: Path, model: Path, copied: Path) -> None:
    address = f"mlflow:http://127.0.0.1:{free_port()}"
    answer = cli("study", profile, "--track", address, "--results", copied, "--model", model)
    assert answer.code == 0 and "report: " in answer.out
    assert answer.err.count("cannot be reached") == 1 and f"track sync --to {address}" in answer.err
    assert cli("track", "status", "--results", copied, "--json").json["runs"][0]["there"] == "mirrored"
    assert cli("track", "sync", "--to", address, "--results", copied).code == 1


@needs_mlflow
def test_failed_run_is_mirrored_and_still_fails(cli: Any, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(mirroring, "records", lambda *given: seen.append(given[1]) or iter(()))
    answer = cli("run", "directions", "--model", "no-such-model", "--offline", "--results", copied, "--track", "mlflow")
    answer.refused(1, "no-such-model")
    assert seen == ["baseline"]


def test_unknown_tracker_is_refused_before_any_work(cli: Any, profile: Path, copied: Path) -> None:
    cli("study", profile, "--track", "mlflw", "--results", copied).refused(2, "mlflw", "mlflow")


def test_missing_package_says_what_to_install(cli: Any, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else there(name, *rest)
    )
    cli("track", "sync", "--results", copied).refused(2, "mlflow", "pip install -e '.[mlflow]'")

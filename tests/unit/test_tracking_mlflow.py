"""Mirrors in MLflow: a real server, one that is down, one that never answers, one that dies half-way."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlflow", reason="MLflow is not installed: pip install -e '.[mlflow]'")
pytest.importorskip("flask", reason="the MLflow server's packages are not installed: pip install -e '.[dev]'")

from emotion_circuits.errors import UsageError
from emotion_circuits.store import Run, Store
from emotion_circuits.tracking import FilePolicy, mirror_results, mirror_run, open_tracker, states
from mlflow_server import Proxy, black_hole, free_port, mlflow_server
from tracked_runs import REPORT, failed_model, failed_run, finished_run, written_report

pytestmark = [pytest.mark.network_service, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Store(tmp_path / "results")


def found(uri: str, identity: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("emotion-circuits/" + identity.split("/")[0])
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`emotion_circuits.run` = '{identity}'"))


def identity(run: Run) -> str:
    return f"{run.profile}/{run.model}/{run.experiment}/{run.key}"


def contents(folder: Path) -> dict[str, str]:
    return {p.as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def local(store: Store) -> str:
    return f"sqlite:///{(store.root / 'mlflow.db').as_posix()}"


def test_a_finished_run_is_shown_once_and_left_as_it_was(server: str, store: Store) -> None:
    from mlflow import MlflowClient

    run, tracker = finished_run(store), open_tracker(f"mlflow:{server}", store.root)
    before = contents(run.folder)
    assert [mirror_run(run, tracker), mirror_run(run, tracker)] == ["sent", "unchanged"]
    assert contents(run.folder) == before and "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    (shown,) = found(server, identity(run))
    assert shown.info.status == "FINISHED"
    assert shown.data.metrics["aggregated_metrics.gratitude.15.0.3.logit:gratitude"] == 1.25
    assert shown.data.metrics["established"] == 1.0 and shown.data.metrics["prompts.total"] == 280
    assert (
        shown.data.params["params.layers"] == "[3, 5]" and "(cut, 7000 characters" in shown.data.params["params.long"]
    )
    tags = shown.data.tags
    assert tags["emotion_circuits.key"] == run.key and tags["emotion_circuits.status"] == "done"
    assert tags["emotion_circuits.fingerprint.weights"] == "w" * 12 and tags["emotion_circuits.package_version"]
    assert tags["emotion_circuits.not_finite"] == "aggregated_metrics.gratitude.15.0.3.p(50%)"
    assert tags["emotion_circuits.files_left_out"] == "directions.safetensors"
    assert tags["mlflow.note.content"] == "gratitude: established at layer 15"
    files = {f.path for f in MlflowClient(server).list_artifacts(shown.info.run_id)}
    assert files == {"spec.json", "summary.json", "done.json", "run.log", "observations.parquet", "table.csv"}


def test_a_failed_run_shows_its_failure_until_it_went_through(server: str, store: Store) -> None:
    run, tracker = failed_run(store), open_tracker(f"mlflow:{server}", store.root)
    mirror_run(run, tracker)
    (shown,) = found(server, identity(run))
    assert shown.info.status == "FAILED" and "layer 99" in shown.data.tags["emotion_circuits.failure.message"]
    with run.open():
        run.finish({"effect": 2.0, "verdicts": []})
    mirror_run(run, tracker)
    (shown,) = found(server, identity(run))
    assert shown.info.status == "FINISHED" and shown.data.metrics["effect"] == 2.0
    assert not [tag for tag in shown.data.tags if "failure" in tag]


def test_a_model_that_never_ran_is_shown_too(server: str, store: Store) -> None:
    failed_model(store)
    outcome = mirror_results(store, open_tracker(f"mlflow:{server}", store.root))
    assert outcome.complete and outcome.sent == ["small/absent/failures"] and not outcome.notes
    assert found(server, "small/absent/failures")[0].info.status == "FAILED"


def test_a_report_is_one_record_with_its_figures_that_follows_the_files(server: str, store: Store) -> None:
    from mlflow import MlflowClient

    tracker, run, folder = open_tracker(f"mlflow:{server}", store.root), finished_run(store), written_report(store)
    assert mirror_results(store, tracker, "small").sent == [identity(run), "small/study/report"]
    written_report(store)  # the same again: newer files, nothing new to see
    assert mirror_results(store, tracker).unchanged == [identity(run), "small/study/report"]
    (shown,) = found(server, "small/study/report")
    assert shown.info.run_name == "report small" and shown.data.tags["mlflow.note.content"] == "Question 1\n\nyes"
    client = MlflowClient(server)
    where = {below: {f.path for f in client.list_artifacts(shown.info.run_id, below)}
             for below in ("report", "plots/directions", "stats")}  # fmt: skip
    assert set.union(*where.values()) == {*REPORT}
    assert where["plots/directions"] == {f"plots/directions/layer-auroc.{form}" for form in ("png", "svg")}
    written_report(store, report=b"<html>" + b"x" * 100)
    assert [state for _, state in states(store, tracker)] == ["mirrored", "changed"]
    policy = FilePolicy(largest=99)
    assert "small/study/report" in mirror_results(store, tracker, policy=policy).sent
    (shown,) = found(server, "small/study/report")
    assert "report/report.html" in shown.data.tags["emotion_circuits.files_left_out"]
    assert mirror_results(store, tracker).sent[-1] == "small/study/report"
    assert len(found(server, "small/study/report")) == 1 and len((folder / "report/report.html").read_bytes()) == 106


def test_what_is_half_a_report_is_shown_as_it_is(server: str, store: Store) -> None:
    folder = written_report(store)
    (folder / "report/report.json").write_text("{", encoding="utf-8")
    outcome = mirror_results(store, open_tracker(f"mlflow:{server}", store.root), "small")
    assert outcome.complete and outcome.sent == ["small/study/report"] and not outcome.notes
    (folder / "report/report.json").unlink()
    assert mirror_results(store, open_tracker(f"mlflow:{server}", store.root)).sent == ["small/study/report"]


@pytest.mark.parametrize("kind", ["down", "silent"])
def test_no_answer_means_the_local_store_within_seconds(kind: str, store: Store) -> None:
    run = finished_run(store)
    mirror_run(run, open_tracker("mlflow", store.root.with_name("warm")))  # imports are not the server's time
    with black_hole() as silent:
        address = silent if kind == "silent" else f"http://127.0.0.1:{free_port()}"
        tracker = open_tracker(f"mlflow:{address}", store.root)
        start = time.monotonic()
        outcome = mirror_results(store, tracker, "small", fall_back="none")
        assert time.monotonic() - start < 7 and outcome.missing == [identity(run)]
        outcome = mirror_results(store, tracker, "small")
    assert outcome.kept_local == [identity(run)] and not outcome.missing
    assert len([n for n in outcome.notes if address in n and "go to mlflow:sqlite" in n]) == 1
    assert f"track sync --to mlflow:{address}" in outcome.notes[-1]
    assert found(local(store), identity(run))[0].data.metrics["established"] == 1.0


@pytest.mark.parametrize("requests", [6, 9, 13])
def test_a_server_that_dies_half_way_loses_nothing(requests: int, server: str, store: Store) -> None:
    runs = [finished_run(store, seed) for seed in (100 + requests, 200 + requests)]
    proxy = Proxy(server, requests)
    outcome = mirror_results(store, open_tracker(f"mlflow:{proxy.address}", store.root))
    proxy.close()
    assert set(outcome.sent) | set(outcome.kept_local) == {identity(run) for run in runs} and outcome.kept_local
    for kept in outcome.kept_local:
        assert len(found(local(store), kept)) == 1
    tracker = open_tracker(f"mlflow:{server}", store.root)
    assert {state for _, state in states(store, tracker)} & {"incomplete", "missing"}
    # In a process of its own, as a user would: MLflow remembers the address of each run's files, here the proxy's.
    command = [sys.executable, "-m", "emotion_circuits", "track", "sync", "--to", f"mlflow:{server}", "--json"]
    later = subprocess.run([*command, "--results", store.root], capture_output=True, text=True, check=False)
    assert later.returncode == 0, later.stderr
    assert set(json.loads(later.stdout)["sent"]) == set(outcome.kept_local)
    assert {state for _, state in states(store, tracker)} == {"mirrored"}
    assert all(len(found(server, identity(run))) == 1 for run in runs)


def test_only_a_server_has_to_answer_in_five_seconds(store: Store) -> None:
    server, here = open_tracker("mlflow:http://127.0.0.1:1", store.root), open_tracker("mlflow", store.root)
    # A new local database takes about six seconds; with the server's limit its first use would fail.
    assert server.connect_seconds == 5 and here.connect_seconds >= 30
    fallback = server.fallback()
    assert fallback is not None and fallback.connect_seconds >= 30 and here.fallback() is None


def test_an_address_that_mlflow_cannot_use_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="file store"):
        open_tracker("mlflow:file:///tmp/x", store.root)
    with pytest.raises(UsageError, match="no MLflow address"):
        open_tracker("mlflow:nonsense", store.root)

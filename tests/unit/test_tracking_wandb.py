"""Mirrors in Weights & Biases, written offline by the real package: nothing is sent, nothing is left behind."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("wandb", reason="wandb is not installed: pip install -e '.[wandb]'")

from emotion_circuits.cli import main
from emotion_circuits.errors import UsageError
from emotion_circuits.store import Store
from emotion_circuits.tracking import mirror_results, open_tracker, states
from tracked_runs import REPORT, failed_model, failed_run, finished_run, written_report

pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Results below a home of their own; only this machine can be reached."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    (tmp_path / "home").mkdir()
    yield Store(tmp_path / "results")
    assert not [p for p in psutil.Process().children(recursive=True) if "wandb" in p.name()]


def offline(store: Store) -> list[Path]:
    return sorted((store.root / "wandb").glob("offline-run-*"))


def recorded(folder: Path) -> list[Any]:
    """The records of an offline run's transaction log, as ``wandb sync`` reads them.

    The log is LevelDB's: a header of seven bytes, then blocks of 32 KiB with chunks of (CRC, length, type, data).
    """
    from wandb.proto import wandb_internal_pb2

    (log,) = folder.glob("run-*.wandb")
    data, place, whole, found = log.read_bytes(), 7, b"", []
    while place < len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a full record, or its last chunk
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


def test_a_finished_run_is_written_once_with_everything_and_nothing_is_sent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[object] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        reached.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    run = finished_run(store)
    tracker = open_tracker("wandb", store.root)
    first, again = (mirror_results(store, tracker, "small") for _ in range(2))
    assert first.complete and len(first.sent) == 1 and len(again.unchanged) == 1
    assert all(isinstance(a, str) or a[0] in ("127.0.0.1", "localhost", "::1") for a in reached)
    (folder,) = offline(store)
    records = recorded(folder)
    (begun,) = [r.run for r in records if r.HasField("run")][-1:]
    config = {u.key: u.value_json for u in begun.config.update}
    assert run.key in config["run"] and '"[3, 5]"' in config["parameters"]
    numbers = {
        "".join(u.nested_key) or u.key: u.value_json for r in records if r.HasField("summary") for u in r.summary.update
    }
    assert float(numbers["established"]) == 1.0 and float(numbers["prompts.total"]) == 280
    saved = {f.path for r in records if r.HasField("files") for f in r.files.files}
    assert {"spec.json", "summary.json", "observations.parquet", "table.csv"} <= saved
    assert not any(name.endswith(".safetensors") for name in saved)
    assert (folder / "files" / "table.csv").read_text() == "layer,auroc\n15,0.9\n"
    assert "WANDB_MODE" not in os.environ


def test_a_run_that_changed_replaces_what_was_written(store: Store) -> None:
    run, tracker = failed_run(store), open_tracker("wandb", store.root)
    mirror_results(store, tracker)
    (before,) = offline(store)
    with run.open():
        run.finish({"effect": 2.0, "verdicts": []})
    assert [state for _, state in states(store, tracker)] == ["changed"]
    mirror_results(store, tracker)
    (after,) = offline(store)
    assert after != before and [state for _, state in states(store, tracker)] == ["mirrored"]


def test_a_report_is_one_offline_run_with_its_figures(store: Store) -> None:
    folder, tracker = written_report(store), open_tracker("wandb", store.root)
    assert mirror_results(store, tracker).sent == ["small/study/report"]
    (before,) = offline(store)
    assert {f.path for r in recorded(before) if r.HasField("files") for f in r.files.files} >= {*REPORT}
    assert (before / "files/plots/directions/layer-auroc.png").read_bytes() == b"png"
    written_report(store)
    assert mirror_results(store, tracker).unchanged == ["small/study/report"] and offline(store) == [before]
    written_report(store, report=b"<html>again")
    assert mirror_results(store, tracker).sent == ["small/study/report"]
    (after,) = offline(store)
    assert after != before and (after / "files/report/report.html").read_bytes() == b"<html>again"
    assert (folder / "report/report.html").read_bytes() == b"<html>again"


def test_projects_are_told_apart_and_a_model_that_never_ran_is_shown(store: Store) -> None:
    failed_model(store)
    assert mirror_results(store, open_tracker("wandb", store.root)).complete
    assert [state for _, state in states(store, open_tracker("wandb:other", store.root))] == ["missing"]
    with pytest.raises(UsageError, match="no project name"):
        open_tracker("wandb:https://example.org", store.root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_and_loses_nothing(store: Store) -> None:
    finished_run(store)
    (store.root / "wandb").mkdir()
    (store.root / "wandb").chmod(stat.S_IRUSR)
    outcome = mirror_results(store, open_tracker("wandb", store.root))
    assert outcome.missing and "not writable" in outcome.notes[0]


def test_a_file_in_the_place_of_the_folder_is_said_and_loses_nothing(store: Store) -> None:
    run = finished_run(store)
    (store.root / "wandb").write_text("mine")
    outcome = mirror_results(store, open_tracker("wandb", store.root))
    assert outcome.missing and run.done and any("wandb:emotion-circuits" in note for note in outcome.notes)


def test_the_command_writes_and_tells(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    finished_run(store)
    assert main(["track", "sync", "--to", "wandb", "--results", str(store.root)]) == 0
    assert "1 sent" in capsys.readouterr().out
    assert main(["track", "status", "--to", "wandb", "--results", str(store.root)]) == 0
    assert "mirrored" in capsys.readouterr().out and main(["ls", "--results", str(store.root)]) == 0

"""What is told of workers that died elsewhere, and of those that ended outside of their cells."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import runner_worker
from emotion_circuits.cli._watch import watch_shards
from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.runners import Manifest, collect, run_shard, shard, states, worker
from emotion_circuits.runners.backend import give_up
from emotion_circuits.runners.local import run_local
from emotion_circuits.runners.state import forget_failure, write_failed
from runner_worker import finished_run, stub_plan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    runner_worker.registered(monkeypatch)


def ghost(manifest: Manifest, name: str, seconds_ago: float) -> Path:
    """The claim of a worker that died on another machine, or before this one was started again."""
    path = manifest.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"host": "node7", "place": "another boot", "pid": 12, "born": "34", "stale": 180.0}))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def test_workers_that_died_elsewhere_are_waited_for_no_longer(
    stub: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither they nor the command that died with them; the next worker of the shard clears their claim away."""
    manifest = stub_plan(tmp_path).write()
    claim = ghost(manifest, f"claims/{manifest.cells[0].id}-0.0", 200)
    ghost(manifest, "drivers/command-1.0", 200)
    assert watch_shards(tmp_path, None, 0.1, as_json=False, pause=lambda _: pytest.fail("it goes on for ever")) == 1
    assert "2 waiting" in capsys.readouterr().out
    assert run_shard(manifest, 0, run_cell=lambda cell: (finished_run(manifest, cell), "stub")).exit_code == 0
    assert not list(claim.parent.iterdir())


def test_why_a_shard_was_given_up_is_told_while_its_worker_seems_to_live(stub: None, tmp_path: Path) -> None:
    """Its node died a minute ago: until its claim is old, only the note is newer than its last sign of life."""
    manifest = stub_plan(tmp_path).write()
    cell = manifest.cells[0]
    claim = ghost(manifest, f"claims/{cell.id}-0.0", 60)
    assert states(manifest)[0].status == "running"
    write_failed(manifest, cell, UsageError("no such layer", "choose another"))
    (state, _), (failure, _) = states(manifest), collect(manifest).failures
    assert (state.status, state.workers) == ("failed", ("process 12 on node7",))
    assert failure.error.what == "no such layer" and failure.error.exit_code == 2
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        ghost(manifest, f"claims/{cell.id}-0.0", 200)

    assert watch_shards(tmp_path, None, 0.1, as_json=False, pause=pause) == 1
    assert len(looks) == 1, "another worker may go on with it"
    os.utime(claim)
    assert states(manifest)[0].status == "running", "somebody works on it after it had failed"


def test_what_ends_a_worker_outside_of_its_cells_is_told(stub: None, tmp_path: Path) -> None:
    """Its code and the last line that it left, in the place of "was not finished"; a note of its own stays."""
    manifest = stub_plan(tmp_path).write()
    manifest.path.write_text(manifest.path.read_text().replace('"schema":1', '"schema":99'))
    told: list[str] = []
    run_local(manifest, told.append, workers=2)
    failure, _ = collect(manifest).failures
    what = "manifest.json was written by another version of emotion-circuits"
    assert f"stub on one: its process ended with code 1: {manifest.folder}/{what}; its log is " in failure.error.what
    assert failure.error.fix == "use one version on all machines, or plan the study again"
    assert any(line.startswith("shard 0 (one): ended with code 1: ") and line.endswith(what) for line in told), told
    code = "import sys; print('2026-01-01 00:00:00,123 ERROR no such place', file=sys.stderr); sys.exit(2)"
    run_manifest_with(manifest, code, told.append)
    failure, _ = collect(manifest).failures
    assert "ended with code 2: no such place; its log is" in failure.error.what and failure.error.exit_code == 2
    assert "look at the log" in failure.error.fix
    run_local(manifest, told.append, command=lambda *_: [sys.executable, "-c", "raise ImportError('no torch')"])
    assert "no such place" in collect(manifest).failures[0].error.what, "what was noted first"
    run_manifest_with(manifest, "raise ImportError('no torch')", told.append)
    assert "ended with code 1: ImportError: no torch;" in collect(manifest).failures[0].error.what


def run_manifest_with(manifest: Manifest, code: str, tell: Any) -> None:
    """Run it again with workers that execute ``code``, forgetting why it failed before as the command does."""
    for cell in manifest.cells:
        forget_failure(manifest, cell)
    run_local(manifest, tell, command=lambda *_: [sys.executable, "-c", code])


def test_a_failure_that_cannot_be_noted_is_what_the_worker_ends_with(
    stub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full: the reason is the last that its log says, for the command that reads it."""
    manifest = stub_plan(tmp_path).write()

    def full(*_: Any) -> None:
        raise StoreError("cannot write failed.json: the disk is full", "free some space")

    def fail(cell: Any) -> Any:
        raise UsageError("no such layer", "choose another")

    monkeypatch.setattr(shard, "write_failed", full)
    report = run_shard(manifest, 0, run_cell=fail)
    assert report.exit_code == 2 and report.failure is not None and report.failure.error.what == "no such layer"
    assert "the disk is full" in caplog.messages[-2] and "no such layer" in caplog.messages[-1]


def test_a_shard_is_not_given_up_in_a_folder_that_has_gone(stub: None, tmp_path: Path) -> None:
    manifest = stub_plan(tmp_path / "share").write()
    (tmp_path / "share").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="has gone"):
        give_up(manifest, 0, "it died", "begin again")
    assert not (tmp_path / "share").exists()


def test_only_a_wrong_command_line_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.main(["manifest.json"]) == worker.main(["manifest.json", "two"]) == 2

    def broken(path: str, number: int) -> int:
        raise ValueError("shapes differ")

    monkeypatch.setattr(worker, "work", broken)
    with pytest.raises(ValueError, match="shapes differ"):
        worker.main(["manifest.json", "2"])

"""Claims in a shared folder: one holder, a heartbeat, and takeover of what died."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.errors import StoreError
from emotion_circuits.store import Claims, write_once


class Clock:
    """Seconds that the test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_holder_and_free_again_after_release(tmp_path: Path) -> None:
    one, other = Claims(tmp_path), Claims(tmp_path)
    claim = one.take("block-1")
    assert claim is not None and other.take("block-1") is None
    assert "process" in other.held()["block-1"]
    with claim:
        assert other.take("block-1") is None
    assert other.take("block-1") is not None
    assert list(other.held()) == ["block-1"]


def test_a_claim_whose_heartbeat_stands_still_is_taken_over(tmp_path: Path) -> None:
    clock = Clock()
    first = Claims(tmp_path, stale=100).take("a")
    watcher = Claims(tmp_path, stale=5, clock=clock)  # what the holder has written into its claim counts
    assert first is not None and watcher.take("a") is None
    clock.now = 99
    assert watcher.take("a") is None
    assert first.beat()
    clock.now = 150
    assert watcher.take("a") is None, "it beat after it was seen first, so that its time begins anew"
    clock.now = 251
    second = watcher.take("a")
    assert second is not None and second.generation == 1
    assert not first.beat() and first.lost, "the first holder notices that it was taken over"
    first.release()
    assert Claims(tmp_path).take("a") is None, "releasing a lost claim frees nothing"
    second.release()
    assert not list(tmp_path.iterdir())


def elsewhere(path: Path, seconds_ago: float, **more: Any) -> Path:
    """A claim of a process on another machine (or before this one was started again), renewed the last time then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": "node7", "place": "another boot", "pid": 12, "born": "34", **more}))
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def test_what_died_on_another_machine_is_seen_at_the_first_look(tmp_path: Path) -> None:
    """Whoever looks once, as `ls` does, and whoever begins again, does not have to watch it for minutes."""
    elsewhere(tmp_path / "dead.0", 190)
    elsewhere(tmp_path / "alive.0", 60)
    elsewhere(tmp_path / "slow.0", 2000, stale=3600)
    elsewhere(tmp_path / "quick.0", 20, stale=10)
    assert Claims(tmp_path).held() == {"alive": "process 12 on node7", "slow": "process 12 on node7"}
    assert Claims(tmp_path).take("alive") is None and Claims(tmp_path).take("slow") is None
    claim = Claims(tmp_path, stale=77).take("dead")
    assert claim is not None and claim.generation == 1 and json.loads(claim.path.read_text())["stale"] == 77
    assert {path.name for path in tmp_path.iterdir()} == {"dead.0", "dead.1", "alive.0", "slow.0", "quick.0"}


def test_age_is_counted_by_the_clock_of_the_file_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour ahead of this machine's; who may not write there has this machine's clock only."""
    elsewhere(tmp_path / "dead.0", 200 - 3600)
    elsewhere(tmp_path / "alive.0", 20 - 3600)
    utime = os.utime

    def served(path: Path, times: Any = None) -> None:
        utime(path, times or (time.time() + 3600, time.time() + 3600))

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", served)
        assert list(Claims(tmp_path).held()) == ["alive"]

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    elsewhere(tmp_path / "dead.0", 200)
    elsewhere(tmp_path / "alive.0", 20)
    assert list(Claims(tmp_path).held()) == ["alive"]


def _hold(folder: Path, ready: Connection) -> None:
    Claims(folder).take("a")
    ready.send(os.getpid())
    signal.pause()


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="only Linux tells at once that a process has gone")
def test_a_holder_that_was_killed_on_this_machine_is_noticed_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    ours.recv()
    watcher = Claims(tmp_path)
    assert watcher.take("a") is None
    process.kill()
    process.join()
    claim = watcher.take("a")
    assert claim is not None and claim.generation == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_a_folder_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        Claims(blocked).take("a")
    claim = Claims(tmp_path / "shared").take("a")
    assert claim is not None
    claim.path.unlink()
    claim.path.parent.rmdir()
    assert not claim.beat() and not claim.lost, "it may come back"
    claim.release()


@pytest.mark.parametrize("failing", ["utime", "iterdir"])
def test_a_heartbeat_goes_on_after_a_file_server_did_not_answer(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the renewing nor the look for other holders may end the heartbeat, or fail work that is finished."""
    claim = Claims(tmp_path, heartbeat=0.01).take("a")
    assert claim is not None
    calls = list[int]()

    def refuse(*_: Any) -> Any:
        calls.append(1)
        raise OSError(errno.EIO, "Input/output error")

    with claim:
        with monkeypatch.context() as patch:
            patch.setattr(os if failing == "utime" else Path, failing, refuse)
            wait_for(lambda: len(calls) >= 3)
        os.utime(claim.path, (0, 0))
        wait_for(lambda: claim.path.stat().st_mtime > 0)
    assert not claim.lost and not list(tmp_path.iterdir())
    assert caplog.text.count("cannot be renewed now") == 1
    with pytest.raises(ZeroDivisionError), Claims(tmp_path).take("b") or pytest.fail("it is free"):
        monkeypatch.setattr(os if failing == "utime" else Path, failing, refuse)
        raise ZeroDivisionError  # what ended the work is what is told


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_write_once_has_one_winner(tmp_path: Path) -> None:
    path = tmp_path / "x" / "plan.json"
    assert write_once(path, "first") and not write_once(path, "second")
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]

"""What only other processes can show: kills in the middle, two runners on one folder, memory that does not grow."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from emotion_circuits.errors import StoreError
from emotion_circuits.store import Store, TensorFileWriter, locks, open_tensors, read_jsonl

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@contextmanager
def child(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process whose pipes are closed and which is gone when the block ends."""
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_from(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None and process.stderr is not None
    return process.stdout.readline().strip() or process.stderr.read()


WRITE_ROWS = """
import sys
from pathlib import Path
import numpy as np
from emotion_circuits.store import TensorFileWriter, tensors
tensors.FLUSH_BYTES = 0   # every batch is flushed, so that the test can kill between known rows
with TensorFileWriter(Path(sys.argv[1]), {"x": ((64, 50, 7), "F32"), "m": ((64,), "I64")}) as writer:
    for row in writer.missing_rows():
        writer.write_rows("x", row, np.random.default_rng(row).normal(size=(50, 7)))
        writer.write_rows("m", row, np.int64(row))
        writer.finish_rows(row)
        sys.stdout.write(f"{row}\\n"); sys.stdout.flush()
"""


@posix
def test_killed_writer_resumes_to_identical_bytes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITE_ROWS, str(tmp_path / "whole")], check=True, capture_output=True)
    seen: list[int] = []
    for last in (9, 40):
        with child(WRITE_ROWS, str(tmp_path / "acts")) as writer:
            row = -1
            while row < last:
                row = int(line_from(writer))
                seen.append(row)
            writer.send_signal(signal.SIGKILL)
            assert writer.wait() == -signal.SIGKILL
        assert not (tmp_path / "acts").exists()
    with child(WRITE_ROWS, str(tmp_path / "acts")) as writer:
        rest = writer.communicate()[0].split()
    assert (tmp_path / "acts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(set(seen)) == len(seen), "no row that was reported as finished is computed again"
    assert int(rest[0]) > 40


APPEND_FOREVER = """
import sys
from pathlib import Path
from emotion_circuits.store import Store
run = Store(Path(sys.argv[1])).run("p", "m", "e", {})
with run.open():
    i = len(run.read_jsonl("g.jsonl"))
    while True:
        run.append_jsonl("g.jsonl", [{"i": i, "text": "x" * 5000}])
        run.write_json("state.json", {"i": i, "text": "x" * 5000})
        sys.stdout.write(f"{i}\\n"); sys.stdout.flush()
        i += 1
"""


@posix
def test_killed_run_is_partial_and_takes_up_its_lines(tmp_path: Path) -> None:
    run = Store(tmp_path).run("p", "m", "e", {})
    for _ in range(2):
        with child(APPEND_FOREVER, str(tmp_path)) as process:
            last = int(line_from(process))
            for _ in range(20):
                last = int(line_from(process))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert run.status == "partial", "the lock of a killed process does not count"
        rows = read_jsonl(run.folder / "g.jsonl")
        assert [row["i"] for row in rows] == list(range(len(rows))) and len(rows) > last
        assert run.read_json("state.json")["i"] in (len(rows) - 1, len(rows) - 2)
    run.parts.folder.mkdir()
    (run.parts.folder / ".cell.parquet.0123.tmp").write_text("half of a part")
    with run.open():
        assert not list(run.folder.rglob(".*.tmp")), "what a kill left half-written is removed"
        run.finish({})


COMPUTE_ONCE = """
import sys
from pathlib import Path
from emotion_circuits.store import Store
sys.stdin.readline()
run = Store(Path(sys.argv[1])).run("p", "m", "e", {})
with run.open():
    if run.done:
        sys.stdout.write("reused\\n")
    else:
        run.append_jsonl("computed.jsonl", [{"n": i} for i in range(50)])
        run.finish({"answer": 42})
        sys.stdout.write("computed\\n")
"""


def test_two_runners_on_one_folder_compute_once(tmp_path: Path) -> None:
    with child(COMPUTE_ONCE, str(tmp_path)) as one, child(COMPUTE_ONCE, str(tmp_path)) as two:
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = sorted(process.communicate()[0].strip() for process in (one, two))
    assert answers == ["computed", "reused"]
    run = Store(tmp_path).run("p", "m", "e", {})
    assert run.read_summary() == {"answer": 42} and len(run.read_jsonl("computed.jsonl")) == 50


HOLD = """
import sys
from pathlib import Path
from emotion_circuits.store import Store
with Store(Path(sys.argv[1])).run("p", "m", "e", {}).open():
    sys.stdout.write("held\\n"); sys.stdout.flush()
    sys.stdin.readline()
"""


def test_second_runner_is_told_who_holds_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Store(tmp_path).run("p", "m", "e", {})
    with child(HOLD, str(tmp_path)) as holder:
        assert line_from(holder) == "held"
        assert run.status == "running"
        with pytest.raises(StoreError, match=f"in use by process {holder.pid} on "), run.open(wait=0):
            pytest.fail("the run was opened twice")
        with pytest.raises(StoreError, match=f"in use by process {holder.pid} on "), run.lock(wait=0.01):
            pytest.fail("the run was locked twice")
    assert f"waiting for process {holder.pid}" in caplog.text
    with run.lock(wait=0):
        pass


@posix
def test_a_lock_that_no_server_gives_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A long wait says which file to remove when the holder's machine is known to be gone; that frees the run."""
    monkeypatch.setattr(locks, "LONG_SECONDS", 0.3)
    run = Store(tmp_path).run("p", "m", "e", {})
    told = threading.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "still waiting" in record.getMessage():
                told.set()

    def remove() -> None:
        assert told.wait(30)
        run.folder.with_name(f".{run.key}.lock").unlink()

    with child(HOLD, str(tmp_path)) as holder:
        assert line_from(holder) == "held"
        locks.logger.addHandler(listening := Listening())
        person = threading.Thread(target=remove)
        person.start()
        try:
            with run.lock():
                assert holder.poll() is None, "it was not waited for to the end"
        finally:
            locks.logger.removeHandler(listening)
            person.join()
    line = next(r.getMessage() for r in caplog.records if "still waiting" in r.getMessage())
    assert f"process {holder.pid} on " in line and f"remove {run.folder.with_name(f'.{run.key}.lock')}" in line


PEAK = """
import sys
from pathlib import Path
import numpy as np
from emotion_circuits.store import TensorFileWriter

def anonymous_kb():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])

rows, width = 1000, 50_000   # 200 MB
batch = np.ones((8, width), np.float32)
with TensorFileWriter(Path(sys.argv[1]), {"x": ((rows, width), "F32")}) as writer:
    before = peak = anonymous_kb()
    for start in range(0, rows, 8):
        writer.write_rows("x", range(start, start + 8), batch)
        writer.finish_rows(range(start, start + 8))
        peak = max(peak, anonymous_kb())
sys.stdout.write(str(peak - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is read from /proc")
def test_writing_200_mb_takes_no_memory(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "x")], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "x").stat().st_size > 200_000_000
    assert int(answer.stdout) < 20_000
    assert np.all(open_tensors(tmp_path / "x")["x"][[0, 999]] == 1)


def test_writer_of_a_finished_file_replaces_it(tmp_path: Path) -> None:
    for value in (1, 2):
        with TensorFileWriter(tmp_path / "x", {"x": ((3,), "I64")}) as writer:
            writer.write_rows("x", range(3), np.full(3, value))
            writer.finish_rows(range(3))
    assert open_tensors(tmp_path / "x")["x"].tolist() == [2, 2, 2]

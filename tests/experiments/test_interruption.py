"""Kills, signals, full disks and two processes at once: the same command goes on and finds the same numbers."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.store import tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")

KILLED = """
import os, signal, sys
import emotion_circuits.experiments._fitted as fitted
from emotion_circuits.cli import main
from emotion_circuits.engine.capture import run_capture
from emotion_circuits.store import tensors

where, *words = sys.argv[1:]
tensors.FLUSH_BYTES = 0  # what was captured is on the disk at once, so that the kill falls between known batches

def killed(*args, **options):
    for number, done in enumerate(run_capture(*args, **options)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield done

def load_and_die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

if where == "capture":
    sys.modules["emotion_circuits.engine.capture"].run_capture = killed
else:
    fitted.captured = load_and_die
main(words)
"""


def words(model: Path, profile: Path, results: Path) -> list[str]:
    line = ["run", "directions", "--model", model, "--profile", profile, "--results", results, "--rows", "9", "--quiet"]
    return [str(w) for w in line]


def numbers(results: Path) -> dict[str, bytes]:
    """The bytes of everything that holds a number, by experiment and file."""
    kept = ("summary.json", "section.json", "observations.parquet", "texts.safetensors", "directions.safetensors")
    return {f"{p.parent.parent.name}/{p.name}": p.read_bytes() for p in results.glob("*/*/*/*/*") if p.name in kept}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, model: Path, profile: Path) -> dict[str, bytes]:
    """What an uninterrupted run finds."""
    from emotion_circuits.cli import main

    results = tmp_path_factory.mktemp("reference")
    assert main(words(model, profile, results)) == 0
    return numbers(results)


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``with interrupt(signal or None)``: the third capture batch raises the signal; counts batches otherwise."""

    @contextlib.contextmanager
    def patched(number: int | None) -> Iterator[list[int]]:
        module = sys.modules["emotion_circuits.engine.capture"]
        original, batches = module.run_capture, []

        def counting(*args: Any, **options: Any) -> Iterator[int]:
            for done in original(*args, **options):
                batches.append(done)
                if number is not None and len(batches) == 3:
                    signal.raise_signal(number)
                yield done

        # A test run that a shell began in the background ignores Ctrl-C, and so would the code under test.
        earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(module, "run_capture", counting)
                patch.setattr(tensors, "FLUSH_BYTES", 0)
                yield batches
        finally:
            signal.signal(signal.SIGINT, earlier)

    return patched


def test_killed_while_capturing_then_while_analysing(
    cli: Any, interrupt: Any, model: Path, profile: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    line = words(model, profile, tmp_path)
    for where in ("capture", "analysis"):
        done = subprocess.run([sys.executable, "-c", KILLED, where, *line], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        finished = sorted(p.parent.parent.name for p in tmp_path.glob("*/*/*/*/done.json"))
        assert finished == ([] if where == "capture" else ["extract"])
        if where == "capture":
            assert list(tmp_path.glob("*/*/extract/*/texts.safetensors.partial"))
    with interrupt(None) as batches:
        assert cli(*line).code == 0
    assert not batches, "the capture was finished by the second attempt"
    assert numbers(tmp_path) == reference
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("change", ["more rows", "fewer rows", "another device"])
def test_a_capture_goes_on_in_the_batches_it_was_begun_with(
    cli: Any, interrupt: Any, model: Path, profile: Path, reference: dict[str, bytes], tmp_path: Path, change: str
) -> None:
    """Or starts anew: on another device, and where fewer rows are asked for, because memory ran out."""
    line = words(model, profile, tmp_path)
    with interrupt(signal.SIGINT) as batches:
        assert cli(*line).code == 130
    assert len(batches) == 3
    (record,) = tmp_path.glob("*/*/extract/*/texts-batches.json")
    begun = json.loads(record.read_text())
    assert begun["rows"] == 9
    if change == "another device":
        record.write_text(json.dumps({**begun, "device": "another"}))
    else:
        line[line.index("--rows") + 1] = "2" if change == "fewer rows" else "40"
    done = sum(batches)
    with interrupt(None) as batches:
        assert cli(*line).code == 0
    texts = len(tensors.open_tensors(record.with_name("texts.safetensors"))["resid_post@mean-content"])
    if change == "fewer rows":
        assert sum(batches) == texts and max(batches) == 2
        assert json.loads(record.read_text())["rows"] == 2
        return
    assert max(batches) <= 9 and sum(batches) == (texts if change == "another device" else texts - done)
    assert numbers(tmp_path) == reference


def test_ctrl_c_keeps_what_was_captured(
    cli: Any, interrupt: Any, model: Path, profile: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    line = words(model, profile, tmp_path)
    with interrupt(signal.SIGINT) as before:
        answer = cli(*line)
    assert answer.code == 130 and answer.err == "stopped; the same command resumes\n"
    assert not list(tmp_path.rglob("failed.json")), "an interruption is no failure"
    with interrupt(None) as after:
        assert cli(*line).code == 0
    assert len(before) == 3 and sum(before) + sum(after) == 80, "no text is captured twice"
    assert numbers(tmp_path) == reference


def test_ctrl_c_in_a_study(cli: Any, interrupt: Any, profile: Path, tmp_path: Path) -> None:
    line = ("study", profile, "--results", tmp_path, "--rows", 9, "--quiet")
    with interrupt(signal.SIGINT):
        assert cli(*line).code == 130
    assert cli(*line).code == 0


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [1_500, 12_000, 25_000])
def test_disk_that_is_full_at_several_stages(
    cli: Any, model: Path, profile: Path, reference: dict[str, bytes], tmp_path: Path, size: int
) -> None:
    """The specification, the capture, and the tables of the analysis are what does not fit."""
    line = words(model, profile, tmp_path)
    with largest_file(size):
        answer = cli(*line)
    answer.refused(1, "cannot write")
    assert "directions" not in [p.parent.parent.name for p in tmp_path.glob("*/*/*/*/done.json")]
    assert cli(*line).code == 0
    assert numbers(tmp_path) == reference


def test_two_processes_on_one_folder(
    cli: Any, model: Path, profile: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    line = words(model, profile, tmp_path)
    command = [sys.executable, "-m", "emotion_circuits", *line]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        answers = [cli(*line) for _ in range(2)]
        out, err = other.communicate()
    assert other.returncode == 0, err
    assert [a.code for a in answers] == [0, 0]
    assert answers[0].out == out
    assert numbers(tmp_path) == reference
    specs = [json.loads(p.read_text()) for p in tmp_path.glob("*/*/*/*/spec.json")]
    assert len(specs) == 2 and all("resumed" not in s for s in specs), "each run was computed by one of them"

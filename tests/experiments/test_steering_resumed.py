"""Steering that is killed, repeated, or runs out of memory finds the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steering_runs import SWEEP, WORDS, folder_of, line

# ---- resuming -----------------------------------------------------------------------------------------------------
KILLED = """
import os, signal, sys
import emotion_circuits.experiments._measure as measure
from emotion_circuits.cli import main
from emotion_circuits.store import tensors

after, *words = sys.argv[1:]
tensors.FLUSH_BYTES = 0
write = measure.Measure._keep_texts
written = []

def counted(*args):
    write(*args)
    written.append(1)
    if len(written) == int(after):
        os.kill(os.getpid(), signal.SIGKILL)

measure.Measure._keep_texts = counted
main(words)
"""
NUMBERS = ("summary.json", "sweep.json", "observations.parquet", "grid.safetensors", "random_effects.safetensors")


def numbers(results: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in results.glob("*/*/sweep/*/*") if p.name in NUMBERS}


def texts(results: Path) -> list[dict[str, Any]]:
    (path,) = results.glob("*/*/sweep/*/generations.jsonl")
    return [json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_killed_sweep_goes_on_and_finds_the_same_numbers(
    command: Any, worded: Path, small_profile: Path, tmp_path: Path
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    words = [*map(str, (*SWEEP, "--rows", 7))]
    assert command("sweep", *words, results=once).code == 0
    code = [sys.executable, "-c", KILLED, "4", *line("sweep", worded, small_profile, twice), *words]
    done = subprocess.run(code, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = texts(twice)
    assert kept and not list(twice.glob("*/*/sweep/*/done.json"))
    assert command("sweep", *words, results=twice).code == 0
    assert texts(twice)[: len(kept)] == kept, "finished texts were written again"
    key = [(t["step"], t["prompt"], t["condition"], t["sample"]) for t in texts(twice)]
    assert len(key) == len(set(key))
    assert numbers(twice) == numbers(once)


def test_the_same_command_twice_measures_once(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_circuits.experiments._measure import Measure

    first = command("sweep", *SWEEP, "--json").json

    def never(*args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Measure, "score", never)
    monkeypatch.setattr(Measure, "generate", never)
    assert command("sweep", *SWEEP, "--json").json == first


def test_rows_change_rounding_only(command: Any, shared_results: Path, tmp_path: Path) -> None:
    a = command("sweep", *SWEEP, "--json").json
    b = command("sweep", *SWEEP, "--rows", 3, "--json", results=tmp_path).json
    assert [r["layer"] for r in a["test"]] == [r["layer"] for r in b["test"]]
    for x, y in zip(a["test"], b["test"], strict=True):
        assert x["effect"] == pytest.approx(y["effect"], abs=1e-4)
        assert x["prompting_effect"] == pytest.approx(y["prompting_effect"], abs=1e-4)


# ---- memory -------------------------------------------------------------------------------------------------------
def test_memory_that_runs_out_halves_the_rows_of_a_sweep_and_changes_nothing(
    command: Any, shared_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Passes of more than five rows fail, in every step: the sweep says so, goes on, and finds what it finds else."""
    from transformers import LlamaForCausalLM

    enough = command("sweep", *SWEEP, "--json").json
    forward, failed, most = LlamaForCausalLM.forward, [], 0

    def small(self: Any, input_ids: Any = None, **inputs: Any) -> Any:
        nonlocal most
        if len(input_ids) > 5:
            failed.append(len(input_ids))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        most = max(most, len(input_ids))
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", small)
    with caplog.at_level("WARNING"):
        found = command("sweep", *SWEEP, "--rows", 16, "--json", results=tmp_path).json
    assert failed and most > 1
    said = [r.getMessage() for r in caplog.records if "memory ran out" in r.getMessage()]
    assert len(said) == len(failed) and "going on with" in said[0]
    written = [
        json.loads(line) for line in (folder_of(tmp_path, "sweep") / "generations.jsonl").read_text().splitlines()
    ]
    assert len({(t["step"], t["prompt"], t["condition"], t["sample"]) for t in written}) == len(written)
    for x, y in zip(enough["test"], found["test"], strict=True):
        assert (x["emotion"], x["layer"], x["alpha"]) == (y["emotion"], y["layer"], y["alpha"])
        assert x["effect"] == pytest.approx(y["effect"], abs=1e-4)
        assert x["ppl_ratio"] == pytest.approx(y["ppl_ratio"], abs=1e-3) and x["rep4"] == pytest.approx(y["rep4"])


def test_a_single_row_that_does_not_fit_is_one_paragraph(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    def nothing(self: Any, **inputs: Any) -> Any:
        raise MemoryError("no more")

    monkeypatch.setattr(LlamaForCausalLM, "forward", nothing)
    command("steer", *WORDS["steer"], results=tmp_path).refused(1, "memory ran out", "--rows")

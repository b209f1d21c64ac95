"""The benchmark for accelerators: what it prints without one, and that it runs on a CPU with a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    answer = run()
    assert answer.returncode == 0 and answer.stdout.startswith("no cuda device on this machine")


def test_every_way_runs_on_a_tiny_model() -> None:
    answer = run("--device", "cpu", "--model", "random-tiny", "--dtype", "float32", "--conditions", "3",
                 "--new-tokens", "4", "--vectors", "4", "--repeats", "1")  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    for way in ("packed", "bare generate", "condition by condition", "scores"):
        assert any(line.startswith(way) and line.endswith("/s") for line in answer.stdout.splitlines()), answer.stdout

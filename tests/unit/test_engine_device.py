"""The engine with a model on another device than the CPU: a pretended one, since tests have no accelerator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


def runs(family: str, dtype: str) -> Any:
    """In a process of its own: the pretended device stays registered with PyTorch."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, TESTS / "pretended_runs.py", family, dtype]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("family", "dtype"), [("gemma3", "float32"), ("llama", "bfloat16")])
def test_no_tensor_is_left_on_the_wrong_device_and_no_step_copies_vectors(family: str, dtype: str) -> None:
    found = runs(family, dtype)
    assert found["device"] == "pretended:0"
    assert found["differs"] == [] and found["broken"] == []
    three, six = found["greedy"]
    assert six["to device"] == three["to device"], "a step copies nothing to the device"
    assert six["to host"] - three["to host"] == 2 * 3, "a step reads back which rows are sound, and their tokens"
    three, six = found["drawn"]
    assert six["to device"] - three["to device"] == 3, "a step copies its draws, in one go"

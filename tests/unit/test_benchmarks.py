"""The benchmarks run, at sizes that say nothing about speed, and count what they could not measure as missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(to: Path, script: str, *words: str) -> dict[str, Any]:
    line = [sys.executable, str(FOLDER / script), *words, "--json", str(to)]
    answer = subprocess.run(line, capture_output=True, text=True, check=False)
    assert to.exists(), answer.stderr
    found: dict[str, Any] = json.loads(to.read_text(encoding="utf-8"))
    return found


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("script", "words", "works"),
    [
        ("scorers.py", ("--texts", "10", "--repeats", "1"), {"embedded scorer", "perplexity"}),
        (
            "generation.py",
            ("--model", "tiny", "--repeats", "1"),
            {"packed vs bare", "share of the GEMM", "texts equal"},
        ),
        ("capture.py", ("--prompts", "8", "--repeats", "1"), {"capture / bare, same products", "growth of memory"}),
    ],
)
def test_a_benchmark_measures_what_it_names(
    embedded: Any, tmp_path: Path, script: str, words: tuple[str, ...], works: set[str]
) -> None:
    embedded("smollm2-135m")
    rows = run(tmp_path / "figures.json", script, *words)["rows"]
    for work in works:
        assert any(row["work"].startswith(work) and row["value"] >= 0 for row in rows), work
    equal = [row["value"] for row in rows if row["work"].startswith("texts equal")]
    assert all(share > 0.9 for share in equal), "only choices between equal logits may differ"


def test_what_could_not_be_measured_is_not_a_success(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
from pathlib import Path
from ratios import Ratio, finish
reached = Ratio("work", 2.0, 2.0, 2.0, 1, 1.0)
missed = Ratio("work", 2.0, 2.0, 2.0, 1, 3.0)
to = Path({str(tmp_path / "figures.json")!r})
print([finish([reached], to), finish([missed], to), finish([reached], to, {{"peer": "it is not here"}})])
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[0, 1, 1]"
    assert json.loads((tmp_path / "figures.json").read_text())["missing"] == {"peer": "it is not here"}

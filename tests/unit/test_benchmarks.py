"""The benchmarks run, at sizes that say nothing about speed, and count what they could not measure as missed."""

from __future__ import annotations

import importlib
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


# ---- the page ----------------------------------------------------------------------------------------------------
@pytest.fixture
def performance(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("performance")


def page_of(performance: Any, *rows: tuple[Any, ...]) -> str:
    names = ("work", "value", "goal")
    told = [{**dict(zip(names, row, strict=False)), "low": 0.0, "high": 9.0, "repeats": 1} for row in rows]
    about = {"command": "python benchmarks/x.py", "machine": "a machine", "revision": "abc", "day": "2026-01-01"}
    return "\n".join(performance.page({"levers": {"rows": told, "missing": {}, **about}}, {}))


def test_what_was_tried_is_said_with_the_figures_of_the_rows(performance: Any) -> None:
    rows = [("packed vs bare generate, same products, float32", 1.57),
            ("packed vs condition by condition, same products, float32", 4.49),
            ("a step, plain / compiled", 0.87), ("a step, ours / compiled", 0.63)]  # fmt: skip
    page = page_of(performance, *rows)
    assert "packing gains 1.6 over `generate` on as many rows and 4.5 over condition by condition" in page
    assert "a plain step takes 0.87 times as long as a compiled one; ours 0.63 times)" in page
    assert "compiling one shape" not in page, "it was not measured"


def test_without_the_rows_nothing_is_said_of_them(performance: Any) -> None:
    """On Intel's processors both sides have the same products anyhow, and there are no such rows."""
    page = page_of(performance, ("a step, plain / compiled", 0.9))
    assert "With the same products on both sides" not in page and "times as long as with a static" not in page


def test_a_goal_that_is_missed_stands_with_its_reason(performance: Any) -> None:
    rows = [("packed vs condition by condition, large, float32", 3.0, 5.0),
            ("share of the GEMM limit, large, float32", 0.75), ("another work", 2.0, 3.0)]  # fmt: skip
    page = page_of(performance, *rows)
    (line,) = [line for line in page.splitlines() if line.startswith("- packed vs condition by condition, large")]
    assert "3 instead of 5. Condition by condition has 50 prompts a batch" in line
    assert "alone take 75% of our time and would give 4." in line
    assert "- another work: 2 instead of 3." in page and page.count("**missed**") == 2
    assert "Goals that are missed" not in page_of(performance, ("another work", 4.0, 3.0))


def test_the_page_is_written_anew_from_the_figures_alone(
    performance: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performance, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(performance, "run", lambda name: pytest.fail("nothing may be run"))
    before = performance.FIGURES.read_bytes()
    monkeypatch.setattr(sys, "argv", ["performance.py", "--page"])
    assert performance.main() == 0
    assert performance.FIGURES.read_bytes() == before
    first = next(iter(json.loads(before)["benchmarks"].values()))["rows"][0]
    assert f"| {first['work']} | {first['value']:.3g} |" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_the_goals_hold_for_both_sizes_and_for_like_number_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    goals = importlib.import_module("generation").GOALS
    assert goals["large, float32"] == goals["float32"] and goals["float32"]["condition by condition"] == 5
    assert goals["bfloat16"]["condition by condition"] == 8 and "tiny, float32" not in goals

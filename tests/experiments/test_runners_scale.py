"""A plan of very many cells, and a merge of very many rows: seconds and memory, by the benchmark that measures them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


@pytest.mark.parametrize("models", [12, pytest.param(130, marks=pytest.mark.slow)])
def test_plan_and_merge_keep_their_goals(models: int, tmp_path: Path) -> None:
    """Planned, written, read, noted as done and gathered: 130 models are 101,010 cells; and 100,000 rows merged."""
    words = [sys.executable, SCRIPT, "--only", "plan", "merge", "--models", str(models), "--json", tmp_path / "found"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "found").read_text())["rows"]
    assert f"{6 * models * models - 3 * models} cells" in rows[0]["work"]
    assert [row["goal"] for row in rows] == [60.0, 500.0] * 2 and all(row["value"] <= row["goal"] for row in rows)
    assert rows[3]["value"] > 5, "the merge's memory is its own, not below the peak of what ran before it"


def test_time_that_grows_faster_than_the_cells_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed part would hide it in the whole: 16 times the cells take less than four times as long here."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    growth_of = importlib.import_module("scaling").growth_of

    def rows(quadratic: float) -> Any:
        return growth_of({n: [10 + n + quadratic * n * n] for n in (1, 4, 16)})

    whole, added = rows(0.05)[-2:]
    assert whole.value < 4 and added.value == pytest.approx(1.6) and not added.reached
    assert rows(0.0)[-1].reached and rows(0.0)[-1].value == pytest.approx(1.0)

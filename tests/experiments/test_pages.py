"""What the documentation shows runs as written, on a tiny random model, each page in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pages import ROOT, blocks

PAGES = ["docs/extend/emotion.md", "docs/extend/scorer.md", "docs/extend/model-family.md", "docs/extend/experiment.md"]


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_from_top_to_bottom(page: str, model: Path, tmp_path: Path) -> None:
    tests = ROOT / "tests"
    environment = os.environ | {"PYTHONPATH": str(tests), "EMOTION_CIRCUITS_DATA": str(tmp_path / "data")}
    words = [sys.executable, str(tests / "run_page.py"), page, str(model)]
    ended = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_quick_start_in_python_is_ten_lines_and_runs(page: str, model: Path, tmp_path: Path) -> None:
    (start,) = [block.text for block in blocks(page) if block.language == "python"]
    assert len(start.splitlines()) == 10
    code = start.replace("smollm2-135m", str(model))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "(3, 32)"), ended.stderr[-3000:]


def test_the_page_on_ones_own_arrays_finds_what_it_planted(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("docs/extend/arrays.md"):
        exec(compile(block.text, "docs/extend/arrays.md", "exec"), names)
    assert names["found"].verdict == "shared"
    assert names["unrelated"].verdict in ("not shared", "inconclusive")
    assert names["with_floor"].verdict == "shared" and names["with_floor"].floor["untrained"] is not None
    assert "shared - " in capsys.readouterr().out

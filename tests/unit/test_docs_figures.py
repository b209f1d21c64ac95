"""``scripts/docs_check.py``: figures in documents against the runs and commands they come from."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pages import ROOT

SCRIPT = ROOT / "scripts" / "docs_check.py"
REGISTER = """
[[figures]]
name = "lines"
command = "emotion-circuits run directions"
run = "p/m/directions"
lines = "verdicts"
tolerance = 0.01

[[figures]]
name = "table"
command = "emotion-circuits run directions"
run = "p/m/directions"
integers = true
numbers = ["results[emotion=anger].n", "results[emotion=anger].auroc"]

[[pages]]
page = "docs/made.md"
command = "make it"
"""
PAGE = """
Chance is .5, on Python 3.11, under CC BY 4.0.

<!-- figures: lines -->
```
Question 1.
  anger: layer 7, AUROC 0.81
```

<!-- figures: table -->
| emotion | n | AUROC |
|---|---|---|
| anger | 1,592 | 0.806 |

Nothing measured here.
"""
SUMMARY = {"verdicts": ["anger: layer 7, AUROC 0.80"], "results": [{"emotion": "anger", "n": 1592, "auroc": 0.8062}]}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    found = importlib.util.spec_from_file_location("docs_check", SCRIPT)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["docs_check"] = module
    found.loader.exec_module(module)
    return module


@pytest.fixture
def outcomes(tool: ModuleType, tmp_path: Path) -> Any:
    """Checks a small repository with PAGE as README, and with a summary on disk."""

    def check(page: str = PAGE, summary: Any = SUMMARY) -> list[tuple[str, str]]:
        for name, text in {"README.md": page, "README.ja.md": "", "docs/figures.toml": REGISTER,
                           "docs/made.md": "0.123 by a command"}.items():  # fmt: skip
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        folder = tmp_path / "results" / "p" / "m" / "directions"
        if summary is not None:
            (folder / "k").mkdir(parents=True)
            (folder / "latest").write_text("k\n")
            (folder / "k" / "summary.json").write_text(json.dumps(summary))
        return list(tool.check(tmp_path / "results", run=False, quick=False, root=tmp_path))

    return check


def test_figures_that_agree_within_rounding_and_tolerance(outcomes: Any) -> None:
    assert outcomes() == [("ok", "README.md: lines"), ("ok", "README.md: table")]


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ("AUROC 0.81", "AUROC 0.82", "0.82 is quoted, 0.8 comes out"),
        ("layer 7", "layer 8", "8 is quoted, 7 comes out"),
        ("anger: layer", "rage: layer", "the block lacks “anger"),
        ("0.806", "0.807", "0.807 is quoted, 0.8062 comes out"),
        ("| 1,592 ", "", "1 numbers in the block, 2 in"),
        ("figures: table", "figures: tables", "tables is not in docs/figures.toml"),
        ("Nothing measured here.", "It reached 0.97.", "0.97 is quoted without"),
    ],
)
def test_a_figure_that_does_not_agree_is_named(outcomes: Any, was: str, now: str, said: str) -> None:
    assert was in PAGE
    wrong = [sentence for outcome, sentence in outcomes(PAGE.replace(was, now)) if outcome == "wrong"]
    assert len(wrong) >= 1 and any(said in sentence for sentence in wrong), wrong


def test_without_a_run_nothing_is_claimed(outcomes: Any) -> None:
    assert [outcome for outcome, _ in outcomes(summary=None)] == ["not made", "not made"]


def test_examples_of_marks_in_fences_are_no_figures(outcomes: Any) -> None:
    assert outcomes(PAGE + "\n```\n<!-- figures: nothing -->\n0.5\n```\n")[-1] == ("ok", "README.md: table")


def test_this_repository_quotes_no_figure_without_its_command(tool: ModuleType) -> None:
    known = tool.entries()
    for page in tool.documents():
        assert tool.unmarked(page) == [], page
        for quoted in tool.quotations(page):
            entry = known[quoted.name]
            if entry.numbers:
                shown = (tool._NUMBER if entry.integers else tool._MEASURED).findall(quoted.text)
                assert len(shown) == len(entry.numbers), quoted


def test_figures_of_this_repository_that_need_no_model() -> None:
    words = [sys.executable, str(SCRIPT), "--quick"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0 and "ok" in ended.stdout, ended.stdout + ended.stderr


def test_words_are_whole_cells_and_the_highest_of_a_table_is_found(tool: ModuleType) -> None:
    entry = tool.Entry("t", "c", words=("verdict", "other"), numbers=("floor.highest",))
    block = tool.Quoted("README.md", "t", "| all | partly shared | .5 |\n| rest | *shared* | 0.80 |")
    source = {"verdict": "partly shared", "other": "shared", "floor": {"a": 0.7, "b": 0.8, "c": None}}
    tool.compare(block, entry, source)
    for wrong in ({"verdict": "shared"}, {"other": "not shared"}, {"floor": {"a": 0.7}}, {"floor": {"a": None}}):
        with pytest.raises(tool.FigureError):
            tool.compare(block, entry, {**source, **wrong})

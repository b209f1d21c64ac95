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
        ("0.81\n", "0.81\n  joy: layer 9, AUROC 0.99\n", "nothing gives “joy: layer 9, AUROC 0.99”"),
        ("0.81\n", "0.81\n  anger: layer 7, AUROC 0.93\n", "nothing gives “anger: layer 7, AUROC 0.93”"),
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


@pytest.mark.parametrize(("quoted", "made"), [("0.075", 0.025), ("0.05", 0.06), ("0.04", 0.06)])
def test_a_p_value_stays_on_its_side_of_the_limit_whatever_the_tolerance(
    tool: ModuleType, quoted: str, made: float
) -> None:
    entry = tool.Entry("t", "c", numbers=("p_bh", "effect"), tolerance=0.05)
    block = tool.Quoted("README.md", "t", f"p {quoted}, effect {quoted}")
    tool.compare(block, entry, {"p_bh": float(quoted), "effect": made})
    with pytest.raises(tool.FigureError, match="on the other side"):
        tool.compare(block, entry, {"p_bh": made, "effect": made})
    lines = tool.Entry("t", "c", lines="verdicts", tolerance=0.05)
    for said in ("rank p ≤ {}", "the largest null p is {}", "(p = {})", "shuffled-label p {}"):
        with pytest.raises(tool.FigureError, match="on the other side"):
            tool.compare(tool.Quoted("p", "t", said.format(quoted)), lines, {"verdicts": [said.format(made)]})


def test_members_of_a_list_are_counted(tool: ModuleType) -> None:
    rows = [{"emotion": "anger", "p": p, "ablation": a} for p, a in ((0.01, -1.0), (0.2, -1.0), (0.01, 2.0))]
    source = {"scores": [*rows, {"emotion": "joy", "p": None, "ablation": -3.0}]}
    assert tool.value_at(source, "scores[emotion=anger,p<0.05,ablation<0].count") == 1
    assert tool.value_at(source, "scores[ablation<0].count") == 3
    assert tool.value_at(source, "scores[emotion=fear].count") == 0
    assert tool.value_at(source, "scores[p>0.1].ablation") == -1.0


def test_quoted_texts_were_written_under_the_condition_that_is_named(tool: ModuleType) -> None:
    entry = tool.Entry("t", "c", texts=("read/+v/p1", "read/-v/p1"))
    rows = [{"step": "read", "condition": c, "prompt": "p1", "text": t} for c, t in (("+v", " so\nglad"), ("-v", "no"))]
    tool.compare(tool.Quoted("README.md", "t", 'After *Hm*, "… so glad" and\n"no".'), entry, rows)
    for wrong in ('"so sad" and "no"', '"no" and "so glad"', '"so glad"'):
        with pytest.raises(tool.FigureError):
            tool.compare(tool.Quoted("README.md", "t", wrong), entry, rows)


def test_stored_runs_are_compared_and_no_command_is_run(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_command", lambda *_: pytest.fail("a command was run"))
    with pytest.raises(tool.NotMadeError, match="only `c` gives it"):
        tool.source_of(tool.Entry("t", "c"), tmp_path, run=False)

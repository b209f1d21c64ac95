"""The planted-truth checks at a size that fits a test run (`python -m emotion_circuits.stats.calibration` runs all)."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from emotion_circuits import stats
from emotion_circuits.errors import UsageError
from emotion_circuits.stats.calibration import Check, markdown, run_check
from emotion_circuits.stats.calibration.__main__ import MODULES, collect, main

CHECKS = collect(list(MODULES))
DOCUMENT = Path(__file__).parents[2] / "docs" / "calibration.md"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.test}-{check.name}-{check.setting}")
def test_planted_truth(check: Check) -> None:
    outcome = run_check(check, check.quick)
    assert outcome.passed, f"{outcome.observed} outside [{outcome.low}, {outcome.high}]: {check.reason}"


def test_every_required_test_is_there_and_gives_a_reason() -> None:
    assert {check.test for check in CHECKS} >= set(range(18, 28))
    assert all(len(check.reason) > 40 for check in CHECKS)


def test_bounds_widen_as_stated_when_fewer_are_simulated() -> None:
    check = Check(1, "level", "", lambda s, seed: 0.05, 1000, high=0.073, spread=math.sqrt(0.05 * 0.95))
    assert check.bound(1000)[1] == 0.073
    assert check.bound(400)[1] == pytest.approx(0.086, abs=0.001)


def liberal(simulations: int, seed: int) -> float:
    """A test that rejects three times in ten where it promised one in twenty."""
    return 0.30


def test_a_broken_statistic_is_caught_and_named_in_the_table() -> None:
    outcome = run_check(Check(1, "level", "setting", liberal, 1000, high=0.073))
    assert not outcome.passed
    text = markdown([outcome], "command")
    assert "Outside the bound: level" in text
    assert "| 0.3 ✗ |" in text
    assert not run_check(Check(1, "nan", "", lambda s, seed: math.nan, 1000, high=1)).passed


def markdown_note(page: str) -> str:
    """The sentence on checks of functions that no command calls."""
    return next(line for line in page.splitlines() if line.startswith("† "))


def zero(simulations: int, seed: int) -> float:
    """Nothing is simulated here."""
    return 0.0


def test_functions_that_no_command_calls_are_named_and_no_others() -> None:
    named = {c.library for c in CHECKS if c.library}
    assert {"select_best", "random_control_test"} <= named and "two_way_interval" not in named
    package = Path(stats.__file__).parents[1]
    code = {p: p.read_text(encoding="utf-8") for p in package.rglob("*.py") if "calibration" not in p.parts}
    for name in named:
        users = [p.name for p, text in code.items() if re.search(rf"(?<!def )(?<!`){name}\(", text)]
        assert not users, f"{name} is called by {users}"


def test_a_check_without_a_reason_is_refused() -> None:
    with pytest.raises(UsageError, match="no reason"):
        _ = Check(1, "level", "", lambda s, seed: 0.0, 1).reason


def test_the_committed_table_is_the_full_run_of_these_checks() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (\d+) \| .+ \|$", text, flags=re.MULTILINE)
    listed = {(int(test), name, setting, int(count)) for test, name, setting, count in rows}
    marked = {(c.test, f"{c.name} †" if c.library else c.name, c.setting, c.simulations) for c in CHECKS}
    assert marked <= listed
    assert markdown_note(text) == markdown_note(markdown([run_check(replace(c, run=zero), 1) for c in CHECKS], ""))
    assert "✗" not in text


def test_the_committed_table_holds_what_a_full_run_observes() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    check = next(c for c in CHECKS if c.name == "cluster-t coverage")
    observed = run_check(check).observed
    row = next(line for line in text.splitlines() if f"| {check.name} |" in line)
    assert row.endswith(f"| {observed:.4g} |")


def test_a_module_without_checks_is_named() -> None:
    with pytest.raises(UsageError, match="has no CHECKS"):
        main(["--checks", "math"])

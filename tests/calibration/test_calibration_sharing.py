"""The planted-truth checks of subspaces, maps and transfer, at a size that fits a test run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emotion_circuits.representations.calibration.checks import CHECKS
from emotion_circuits.stats.calibration import Check, run_check

DOCUMENT = Path(__file__).parents[2] / "docs" / "calibration.md"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.test}-{check.name}-{check.setting}")
def test_planted_truth(check: Check) -> None:
    outcome = run_check(check, check.quick)
    assert outcome.passed, f"{outcome.observed} outside [{outcome.low}, {outcome.high}]: {check.reason}"


def test_every_required_test_is_there_and_gives_a_reason() -> None:
    assert {check.test for check in CHECKS} == set(range(1, 18))
    assert all(len(check.reason) > 40 for check in CHECKS)


def test_the_committed_table_is_the_full_run_of_these_checks() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (\d+) \| .+ \|$", text, flags=re.MULTILINE)
    listed = {(int(test), name, setting, int(count)) for test, name, setting, count in rows}
    assert {(c.test, c.name, c.setting, c.simulations) for c in CHECKS} <= listed

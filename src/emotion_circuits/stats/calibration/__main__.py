"""``python -m emotion_circuits.stats.calibration [--write FILE] [--checks MODULE …] [--quick]``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.calibration import Check, Outcome, markdown, run_check

MODULES = (
    "emotion_circuits.stats.calibration.inference",
    "emotion_circuits.stats.calibration.rare_and_separated",
    "emotion_circuits.stats.calibration.designs",
)


def main(arguments: list[str] | None = None) -> int:
    """Run every check of the named modules; 1 if any lies outside its bound."""
    parser = argparse.ArgumentParser(prog="python -m emotion_circuits.stats.calibration", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to this Markdown file")
    parser.add_argument(
        "--checks",
        action="append",
        default=[],
        metavar="MODULE",
        help="a further module with a CHECKS list (repeatable)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer simulations, with bounds widened to match")
    chosen = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for check in collect([*MODULES, *chosen.checks]):
        outcome = run_check(check, check.quick if chosen.quick else None)
        outcomes.append(outcome)
        mark = "ok  " if outcome.passed else "FAIL"
        sys.stdout.write(
            f"{mark} {check.test:>3} {check.name}: {outcome.observed:.4g} in [{outcome.low:.4g}, {outcome.high:.4g}]\n"
        )
        sys.stdout.flush()
    extra = "".join(f" --checks {module}" for module in chosen.checks)
    if chosen.write:
        quick = " --quick" if chosen.quick else ""
        command = f"python -m emotion_circuits.stats.calibration{extra}{quick} --write {chosen.write.as_posix()}"
        chosen.write.write_text(markdown(outcomes, command), encoding="utf-8")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def collect(modules: list[str]) -> list[Check]:
    """The checks of all modules, ordered by test number."""
    checks: list[Check] = []
    for name in modules:
        found = getattr(importlib.import_module(name), "CHECKS", None)
        if not found:
            raise UsageError(f"module {name} has no CHECKS", "define CHECKS = [Check(…), …] in it")
        checks += list(found)
    return sorted(checks, key=lambda check: check.test)


if __name__ == "__main__":
    sys.exit(main())

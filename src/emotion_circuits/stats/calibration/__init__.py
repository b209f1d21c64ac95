"""Planted-truth checks: the library's own statistics on data whose truth is known.

A :class:`Check` simulates, calls public functions only, and returns one number that must lie within its bound. Run
all of them at full size with ``python -m emotion_circuits.stats.calibration``; the test suite runs a small version.
Another part of the package adds checks by a module with its own ``CHECKS``, named on the command line (``--checks
MODULE``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emotion_circuits.errors import UsageError


@dataclass(frozen=True)
class Check:
    """One planted-truth check.

    ``run(simulations, seed)`` returns the observed number; its docstring is the reason for the check. ``low`` and
    ``high`` bound it at the full number of ``simulations``. ``spread`` is the standard deviation of one simulation's
    contribution (√(p(1-p)) for a rate, 0 for an exact check) and widens the bound when fewer are run. ``library`` names
    the function that it checks where no command calls that function.
    """

    test: int
    name: str
    setting: str
    run: Callable[[int, int], float]
    simulations: int
    low: float = -math.inf
    high: float = math.inf
    spread: float = 0.0
    quick: int = 400
    library: str = ""

    def bound(self, simulations: int) -> tuple[float, float]:
        """The bound at ``simulations``: the full one, widened by 3.3 standard errors of the missing simulations.

        3.3 is the margin behind the stated bounds: .05 + 3.3·√(.05·.95/1000) = .073 and, at 400, .086.
        """
        if simulations >= self.simulations:
            return self.low, self.high
        extra = 3.3 * self.spread * (1 / math.sqrt(simulations) - 1 / math.sqrt(self.simulations))
        return self.low - extra, self.high + extra

    @property
    def reason(self) -> str:
        """First paragraph of the run function's docstring."""
        text = (self.run.__doc__ or "").strip()
        if not text:
            raise UsageError(f"check {self.name!r} gives no reason", "say why in its docstring")
        return " ".join(text.split("\n\n")[0].split())


@dataclass(frozen=True)
class Outcome:
    """A check that was run: what was observed and whether it lies within the bound."""

    check: Check
    simulations: int
    observed: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Within the bound; NaN never is."""
        return self.low <= self.observed <= self.high


def run_check(check: Check, simulations: int | None = None, seed: int = 0) -> Outcome:
    """Run one check, at full size unless ``simulations`` says otherwise. Seeds differ from check to check."""
    size = check.simulations if simulations is None else simulations
    low, high = check.bound(size)
    return Outcome(check, size, float(check.run(size, seed + 1000 * check.test)), low, high)


def markdown(outcomes: Sequence[Outcome], command: str) -> str:
    """The table of ``docs/calibration.md``: test, setting, bound, observed, and below it the reason for each check."""
    failed = [outcome.check.name for outcome in outcomes if not outcome.passed]
    verdict = (
        f"**Outside the bound: {', '.join(failed)}.**" if failed else f"All {len(outcomes)} are within their bound."
    )
    lines = [
        "# Calibration",
        "",
        "The package's own statistics on simulated data whose truth is known. α = .05 and confidence .95 throughout;",
        f"seeds are fixed, so `{command}` reproduces this page. {verdict}",
        "",
        "| Test | What | Setting | Simulations | Bound | Observed |",
        "|---:|---|---|---:|---|---:|",
    ]
    for item in outcomes:
        mark = "" if item.passed else " ✗"
        name = f"{item.check.name} †" if item.check.library else item.check.name
        observed = f"{item.observed:.4g}{mark}"
        lines.append(
            f"| {item.check.test} | {name} | {item.check.setting} | {item.simulations} "
            f"| {_bound(item.low, item.high)} | {observed} |"
        )
    if library := sorted({item.check.library for item in outcomes if item.check.library}):
        names = ", ".join(f"`{name}`" for name in library)
        lines += ["", f"† Checks a function that is there for use from Python and that no command calls: {names}."]
    lines += ["", "## Why each is there", ""]
    lines += [f"- **{item.check.test}, {item.check.name}**: {item.check.reason}" for item in outcomes]
    return "\n".join(lines) + "\n"


def _bound(low: float, high: float) -> str:
    if low == high:
        return f"{low:.4g}"
    if math.isinf(low):
        return f"≤ {high:.4g}"
    if math.isinf(high):
        return f"≥ {low:.4g}"
    return f"{low:.4g} to {high:.4g}"

"""Ratios of interleaved timings against goals: how every benchmark here measures, prints and hands on its figures.

A machine's speed drifts, so two ways of one piece of work are timed in turn and compared within each repeat; the median
of the repeats' ratios is the figure, their range its spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Direction = Literal["at least", "at most"]


@dataclass(frozen=True)
class Seconds:
    """What a way took that timed itself."""

    value: float


@dataclass(frozen=True)
class Ratio:
    """One figure: its median, its range over repeats, and the goal it is held against (None: only reported)."""

    work: str
    value: float
    low: float
    high: float
    repeats: int
    goal: float | None = None
    direction: Direction = "at least"

    @property
    def reached(self) -> bool:
        """Whether the median is on the right side of the goal."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.direction == "at least" else self.value <= self.goal

    def line(self) -> str:
        """One line of at most 80 columns."""
        goal = ""
        if self.goal is not None:
            sign = "≥" if self.direction == "at least" else "≤"
            goal = f"goal {sign} {self.goal:g}  {'ok' if self.reached else 'MISSED'}"
        return f"{self.work:38} {self.value:7.3g} [{self.low:.3g}, {self.high:.3g}]  {goal}".rstrip()


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    options.add_argument("--repeats", type=int, default=repeats, help="interleaved repeats of every way")
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    return options


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way, one after the other, ``repeats`` times; progress goes to standard error.

    A way that returns :class:`Seconds` has timed itself.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            own = way()
            seconds[name].append(own.value if isinstance(own, Seconds) else time.perf_counter() - start)
            progress(f"{repeat + 1}/{repeats} {name}: {seconds[name][-1]:.2f} s")
    return seconds


def progress(text: str) -> None:
    """A line on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)


def ratio(
    work: str, over: Sequence[float], under: Sequence[float], goal: float | None = None,
    direction: Direction = "at least",
) -> Ratio:  # fmt: skip
    """The ratio of two ways' values, repeat by repeat."""
    return summary(work, [a / b for a, b in zip(over, under, strict=True)], goal, direction)


def summary(
    work: str, values: Sequence[float], goal: float | None = None, direction: Direction = "at least"
) -> Ratio:  # fmt: skip
    """Median and range of a figure that is no ratio of two timings."""
    return Ratio(work, statistics.median(values), min(values), max(values), len(values), goal, direction)


def finish(rows: Sequence[Ratio], to: Path | None, missing: Mapping[str, str] | None = None) -> int:
    """Print the table, write it as JSON where asked, and return the exit code: 1 when a goal is missed.

    ``missing``: what could not be measured here, and why; a goal that was not measured is missed too.
    """
    print(f"{'work':38}  median [range]")
    for row in rows:
        print(row.line())
    for what, why in (missing or {}).items():
        print(f"{what}: not measured, {why}")
    if to is not None:
        found = {"rows": [asdict(row) for row in rows], "missing": dict(missing or {})}
        to.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return int(bool(missing) or not all(row.reached for row in rows))

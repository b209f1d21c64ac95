"""How long ``study quickstart`` takes once everything is installed and fetched, and where the time goes.

Run: ``python benchmarks/study.py`` (some six minutes on 2 cores). Exits 1 when the goal is missed. The study runs as a
process of its own in an empty results folder; a stage is the time from a run's first start to its end, as the runs
themselves record it. What is left over is start-up, loading, and the report.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from ratios import Ratio, finish, parser, progress, summary

GOAL = 6.0
"""Minutes on 2 cores."""
PROFILE = "quickstart"


def stages(runs: list[str]) -> dict[str, float]:
    """Seconds of every run, by experiment; a run that another one requires is its own stage."""
    found: dict[str, float] = {}
    folders = {Path(run) for run in runs}
    for spec in sorted({s for folder in folders for s in folder.parent.parent.glob("*/*/spec.json")}):
        told = json.loads(spec.read_text(encoding="utf-8"))
        ended = json.loads((spec.parent / "done.json").read_text(encoding="utf-8"))["finished"]
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(told["started"])).total_seconds()
        found[told["experiment"]] = found.get(told["experiment"], 0.0) + seconds
    return found


def measure(repeats: int) -> list[Ratio]:
    """Minutes of the whole study, and the share of every stage."""
    minutes, shares = [], {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "emotion_circuits", "study", PROFILE, "--results", folder, "--json"]
            start = time.perf_counter()
            told = json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout)
            whole = time.perf_counter() - start
            own = stages(told["runs"])
        minutes.append(whole / 60)
        own["starting, loading and report"] = whole - sum(own.values())
        for name, seconds in own.items():
            progress(f"{name}: {seconds:.1f} s")
            shares.setdefault(name, []).append(seconds / whole)
    return [
        summary(f"study {PROFILE}, minutes", minutes, GOAL, "at most"),
        *(summary(f"share of {name}", values) for name, values in shares.items()),
    ]


def main() -> int:
    chosen = parser(__doc__, repeats=1).parse_args()
    return finish(measure(chosen.repeats), chosen.json)


if __name__ == "__main__":
    sys.exit(main())

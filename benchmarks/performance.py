"""Every benchmark in turn, one table of ratios, written to ``docs/performance.md`` with the commands that make it.

Run: ``make bench`` (about forty minutes on 2 idle cores). ``--only generation stats`` runs some of them and keeps the
other figures of the last complete run. A benchmark that cannot run here is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratios import Ratio

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "benchmarks" / "figures.json"
PAGE = ROOT / "docs" / "performance.md"
BENCHMARKS = {
    "capture": ("capture.py",),
    "generation": ("generation.py",),
    "generation-bf16": ("generation.py", "--dtype", "bfloat16"),
    "generation-large": ("generation.py", "--size", "large", "--repeats", "1"),
    "generation-tiny": ("generation.py", "--model", "tiny"),
    "levers": ("levers.py",),
    "peers": ("peers.py",),
    "memory": ("memory.py",),
    "heads": ("heads.py",),
    "screens": ("screens.py",),
    "transfer": ("transfer.py",),
    "stats": ("stats.py",),
    "scorers": ("scorers.py",),
    "explorer": ("explorer.py",),
    "startup": ("startup.py",),
    "study": ("study.py",),
}

LEVERS = (
    "Kept, because faster and equal up to rounding: rows of all conditions packed; a prompt's columns and the blocks "
    "below the first edit computed once for all its conditions; α = 0 only once; logits of the last position only; "
    "finished rows dropped from the batch; batches by length; oneDNN's products; a nucleus without sorting the "
    "vocabulary; KL in place; captures written through memory maps; one pass of the tokenizer.",
    "Not taken: a static cache (attention over its empty columns costs what concatenating costs); `torch.compile` "
    "(every batch shape compiles anew, and a step saves too little to pay for it); scoring texts on another thread "
    "(the products keep all cores busy already); keeping freed memory in the process (scores gained, decoding lost). "
    "The rows of `levers.py` measure the first two.",
)
"""Decisions that the table's figures stand behind."""


@dataclass(frozen=True)
class Outcome:
    """One benchmark's figures, or why there are none."""

    name: str
    command: str
    rows: tuple[Ratio, ...]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"command": self.command, "rows": [vars(r) for r in self.rows], "reason": self.reason}


def run(name: str) -> Outcome:
    """Run one benchmark in its own process; its progress is shown."""
    command = ("python", *(f"benchmarks/{part}" if part.endswith(".py") else part for part in BENCHMARKS[name]))
    print(f"{name}: {' '.join(command)}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "figures.json"
        done = subprocess.run([sys.executable, *command[1:], "--json", str(found)], cwd=ROOT, check=False)
        if not found.exists():
            return Outcome(name, " ".join(command), (), f"ended with exit code {done.returncode} before measuring")
        rows = tuple(Ratio(**row) for row in json.loads(found.read_text(encoding="utf-8")))
    return Outcome(name, " ".join(command), rows)


def page(outcomes: dict[str, Any], machine: str) -> Iterator[str]:
    """The lines of ``docs/performance.md``."""
    yield "# Performance\n"
    yield (
        "Ratios of interleaved timings in one process (peers: two processes in turn), median of the repeats and their "
        "range. Absolute times say more about a machine than about a tool, so there are none. "
        f"Measured on: {machine}. Regenerate with `make bench`.\n"
    )
    yield (
        "Where PyTorch's default library leaves AVX-512 unused (processors that are not Intel's), our own passes "
        "multiply float32 matrices by oneDNN; the other ways are timed as their users run them, with PyTorch's "
        "default. That is part of these ratios; `EMOTION_CIRCUITS_PRODUCTS=torch` measures without it.\n"
    )
    yield "| work | median | range | repeats | goal | |"
    yield "|---|---:|---|---:|---|---|"
    for outcome in outcomes.values():
        for row in (Ratio(**r) for r in outcome["rows"]):
            sign = "≥" if row.direction == "at least" else "≤"
            goal = "" if row.goal is None else f"{sign} {row.goal:g}"
            state = "" if row.goal is None else ("reached" if row.reached else "**missed**")
            yield (
                f"| {row.work} | {row.value:.3g} | {row.low:.3g} – {row.high:.3g} | {row.repeats} | {goal} | {state} |"
            )
    yield "\n## What was tried\n"
    yield from (f"- {line}" for line in LEVERS)
    yield "\n## Commands\n"
    for name, outcome in outcomes.items():
        yield f"- {name}: `{outcome['command']}`" + (f" – {outcome['reason']}" if outcome["reason"] else "")
    yield ""


def machine() -> str:
    """What a reader has to know of the machine."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores of {model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), help="run these alone")
    chosen = options.parse_args()
    known = json.loads(FIGURES.read_text(encoding="utf-8"))["benchmarks"] if FIGURES.exists() else {}
    for name in chosen.only or BENCHMARKS:
        known[name] = run(name).to_dict()
    ordered = {name: known[name] for name in BENCHMARKS if name in known}
    described = machine()
    FIGURES.write_text(json.dumps({"machine": described, "benchmarks": ordered}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text("\n".join(page(ordered, described)), encoding="utf-8")
    for outcome in ordered.values():
        for row in outcome["rows"]:
            print(Ratio(**row).line())
    return int(not all(Ratio(**row).reached for o in ordered.values() for row in o["rows"]))


if __name__ == "__main__":
    sys.exit(main())

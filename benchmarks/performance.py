"""Every benchmark in turn, one table of ratios, written to ``docs/performance.md`` with the commands that make it.

Run: ``make bench`` (about an hour on 2 idle cores). ``--only generation stats`` runs some of them and keeps the
other figures as they were measured before. A benchmark that cannot run here is listed with its reason.
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
from datetime import UTC, datetime
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
    "dtypes": ("dtypes.py",),
    "levers": ("levers.py",),
    "peers": ("peers.py",),
    "memory": ("memory.py",),
    "heads": ("heads.py", "--every", "5"),
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
    "finished rows dropped from the batch; batches by length; oneDNN's products, with weights laid out for them once; "
    "a nucleus without sorting the vocabulary; KL in place; captures written through memory maps; one pass of the "
    "tokenizer.",
    "Not taken: a static cache, which is no faster, and `torch.compile`, whose step was no faster than the plain one "
    "with the same products, half as fast as ours, and took a minute to compile for one shape (rows of `levers.py`).",
    "With the same products on both sides packing gains 1.2 over `generate` on as many rows and 3.6 over condition by "
    "condition; the rest of their ratios is oneDNN.",
    "Not taken, and without a row above: scoring texts on another thread, because the products keep all cores busy "
    "already; keeping freed memory in the process, which gained in scores what it lost in decoding.",
)
"""What was decided."""


@dataclass(frozen=True)
class Outcome:
    """One benchmark's figures with where and when they were measured; ``missing``: what could not be, and why."""

    command: str
    rows: tuple[Ratio, ...]
    missing: dict[str, str]
    machine: str
    revision: str
    day: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return vars(self) | {"rows": [vars(r) for r in self.rows]}


def run(name: str) -> Outcome | str:
    """Run one benchmark in its own process; its progress is shown. Why there are no figures where there are none."""
    command = command_of(name)
    print(f"{name}: {command}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "figures.json"
        line = [sys.executable, *command.split()[1:], "--json", str(found)]
        done = subprocess.run(line, cwd=ROOT, check=False)
        if not found.exists():
            return f"it ended with exit code {done.returncode} before measuring"
        told = json.loads(found.read_text(encoding="utf-8"))
    rows = tuple(Ratio(**row) for row in told["rows"])
    return Outcome(command, rows, told["missing"], machine(), revision(), f"{datetime.now(UTC):%Y-%m-%d}")


def command_of(name: str) -> str:
    """What to type for one benchmark."""
    first, *options = BENCHMARKS[name]
    return " ".join(("python", f"benchmarks/{first}", *options))


def page(outcomes: dict[str, Any], failed: dict[str, str]) -> Iterator[str]:
    """The lines of ``docs/performance.md``; ``failed``: benchmarks whose figures are of an earlier run, or missing."""
    yield "# Performance\n"
    yield (
        "Ratios of interleaved timings in one process (peers: several processes in turn), median of the repeats and "
        "their range. Absolute times say more about a machine than about a tool, so there are hardly any. Regenerate "
        "with `make bench`; where and when each figure was measured stands with its command.\n"
    )
    yield (
        "Where PyTorch's default library leaves AVX-512 unused (processors that are not Intel's), our own passes "
        "multiply float32 matrices by oneDNN; the other ways are timed as their users run them, with PyTorch's "
        'default. That is part of their ratios. "Same products": the other way with our products, so that the ratio '
        "is what the rest gains; `EMOTION_CIRCUITS_PRODUCTS=torch` measures everything with PyTorch's default.\n"
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
        for what, why in outcome["missing"].items():
            yield f"| {what} | | | | | not measured: {why} |"
    yield "\n## What was tried\n"
    yield from (f"- {line}" for line in LEVERS)
    yield "\n## Commands\n"
    for name in BENCHMARKS:
        known = outcomes.get(name)
        if known is None:
            yield f"- {name}: `{command_of(name)}` – never measured" + (f": {failed[name]}" if name in failed else "")
            continue
        where = f"{known['day']}, {known['machine']}, revision {known['revision']}"
        yield f"- {name}: `{known['command']}` – {where}" + (f"; since then {failed[name]}" if name in failed else "")
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


def revision() -> str:
    """The commit that is measured."""
    from emotion_circuits.store.provenance import git_revision

    found = git_revision()
    return "unknown" if found is None else found[:10] + ("+changes" if found.endswith("+changes") else "")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), help="run these alone")
    chosen = options.parse_args()
    known: dict[str, Any] = {}
    if FIGURES.exists():
        known = json.loads(FIGURES.read_text(encoding="utf-8"))["benchmarks"]
    failed = {}
    for name in chosen.only or BENCHMARKS:
        found = run(name)
        if isinstance(found, str):
            failed[name] = found
        else:
            known[name] = found.to_dict()
        ordered = {name: known[name] for name in BENCHMARKS if name in known}
        # After each: an hour of figures is not lost with the next one.
        FIGURES.write_text(json.dumps({"benchmarks": ordered}, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text("\n".join(page(ordered, failed)), encoding="utf-8")
    rows = [Ratio(**row) for outcome in ordered.values() for row in outcome["rows"]]
    for row in rows:
        print(row.line())
    for name, why in failed.items():
        print(f"{name}: {why}")
    missing = any(outcome["missing"] for outcome in ordered.values())
    return int(bool(failed) or missing or not all(row.reached for row in rows))


if __name__ == "__main__":
    sys.exit(main())

"""Every benchmark in turn, one table of ratios, written to ``docs/performance.md`` with the commands that make it.

Run: ``make bench`` (about an hour on 2 idle cores). ``--only generation stats`` runs some of them and keeps the
other figures as they were measured before; ``--page`` runs nothing and writes the page from ``figures.json``. A
benchmark that cannot run here is listed with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
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

KEPT = (
    "Kept, because faster and equal up to rounding: rows of all conditions packed; a prompt's columns and the blocks "
    "below the first edit computed once for all its conditions; α = 0 only once; logits of the last position only; "
    "finished rows dropped from the batch; batches by length; oneDNN's products, with weights laid out for them once; "
    "a nucleus without sorting the vocabulary; KL in place; captures written through memory maps; one pass of the "
    "tokenizer."
)
TRIED = {
    "growing / static cache": "`generate` with a growing cache takes {:.2g} times as long as with a static one",
    "a step, plain / compiled": "a plain step takes {:.2g} times as long as a compiled one",
    "a step, ours / compiled": "ours {:.2g} times",
    "compiling a step for one shape, seconds": "compiling one shape takes {:.0f} s",
}
NOT_TIMED = (
    "Not taken, and without a row above: scoring texts on another thread, because the products keep all cores busy "
    "already; keeping freed memory in the process, which gained in scores what it lost in decoding."
)
PACKED = "packed vs condition by condition"
WHY_MISSED = {
    f"{PACKED}, large, float32": "Condition by condition has 50 prompts a batch there, 8 in the small sweep: its "
    "products are nearly as full as ours, and packing has less to gain.",
    f"{PACKED}, bfloat16": "The products are faster in bfloat16, what stands beside them (attention over the cache, "
    "norms, the choice of a token) is not.",
}
"""Why a goal is out of reach, by row; figures come from the rows."""


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
        "Median of the repeats and their range. Times that a row compares were taken in turn, repeat by repeat, as "
        "a machine's speed drifts: within one process, peers and commands in processes of their own. The study is one "
        "run as a whole with its stages; memory, verdicts and texts are no times. Absolute times say more about a "
        "machine than about a tool, so there are hardly any. Regenerate with `make bench`; where and when each figure "
        "was measured stands with its command.\n"
    )
    yield (
        "Where PyTorch's default library leaves AVX-512 unused (processors that are not Intel's), our own passes "
        "multiply float32 matrices by oneDNN; the other ways are timed as their users run them, with PyTorch's "
        'default. That is part of their ratios. "Same products": the other way with our products, so that the ratio '
        "is what the rest gains; `EMOTION_CIRCUITS_PRODUCTS=torch` measures everything with PyTorch's default.\n"
    )
    yield "| work | median | range | repeats | goal | |"
    yield "|---|---:|---|---:|---|---|"
    rows: dict[str, Ratio] = {}
    for outcome in outcomes.values():
        for row in (Ratio(**r) for r in outcome["rows"]):
            rows[row.work] = row
            sign = "≥" if row.direction == "at least" else "≤"
            goal = "" if row.goal is None else f"{sign} {row.goal:g}"
            state = "" if row.goal is None else ("reached" if row.reached else "**missed**")
            yield (
                f"| {row.work} | {row.value:.3g} | {row.low:.3g} – {row.high:.3g} | {row.repeats} | {goal} | {state} |"
            )
        for what, why in outcome["missing"].items():
            yield f"| {what} | | | | | not measured: {why} |"
    if found := list(missed(rows)):
        yield "\n## Goals that are missed\n"
        yield from (f"- {line}" for line in found)
    yield "\n## What was tried\n"
    yield from (f"- {line}" for line in levers(rows))
    yield "\n## Commands\n"
    for name in BENCHMARKS:
        known = outcomes.get(name)
        if known is None:
            yield f"- {name}: `{command_of(name)}` – never measured" + (f": {failed[name]}" if name in failed else "")
            continue
        where = f"{known['day']}, {known['machine']}, revision {known['revision']}"
        yield f"- {name}: `{known['command']}` – {where}" + (f"; since then {failed[name]}" if name in failed else "")
    yield ""


def missed(rows: Mapping[str, Ratio]) -> Iterator[str]:
    """Every goal that is missed: by how much, and why, where that is known."""
    for work, row in rows.items():
        if row.reached:
            continue
        line = f"{work}: {row.value:.3g} instead of {row.goal:g}."
        share = rows.get(work.replace(PACKED, "share of the GEMM limit"))
        if work in WHY_MISSED:
            line = f"{line} {WHY_MISSED[work]}"
        if work.startswith(PACKED) and share is not None:
            most = row.value / share.value
            line = f"{line} Matrix products alone take {share.value:.0%} of our time and would give {most:.3g}."
        yield line


def levers(rows: Mapping[str, Ratio]) -> Iterator[str]:
    """What was decided, with the figures of the rows that were measured."""
    yield KEPT
    if tried := [text.format(rows[work].value) for work, text in TRIED.items() if work in rows]:
        yield f"Not taken: a static cache and `torch.compile` ({'; '.join(tried)})."
    same = [rows.get(f"packed vs {way}, same products, float32") for way in ("bare generate", "condition by condition")]
    if same[0] is not None and same[1] is not None:
        yield (
            f"With the same products on both sides packing gains {same[0].value:.2g} over `generate` on as many rows "
            f"and {same[1].value:.2g} over condition by condition; the rest of their ratios is oneDNN."
        )
    yield NOT_TIMED


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


def write_page(outcomes: dict[str, Any], failed: dict[str, str]) -> None:
    """Write ``docs/performance.md``."""
    PAGE.write_text("\n".join(page(outcomes, failed)), encoding="utf-8")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="+", choices=sorted(BENCHMARKS), help="run these alone")
    options.add_argument(
        "--page", action="store_true", help="run nothing: write the page from what was measured before"
    )
    chosen = options.parse_args()
    known: dict[str, Any] = {}
    if FIGURES.exists():
        known = json.loads(FIGURES.read_text(encoding="utf-8"))["benchmarks"]
    if chosen.page:
        write_page(known, {})
        return 0
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
        write_page(ordered, failed)
    rows = [Ratio(**row) for outcome in ordered.values() for row in outcome["rows"]]
    for row in rows:
        print(row.line())
    for name, why in failed.items():
        print(f"{name}: {why}")
    missing = any(outcome["missing"] for outcome in ordered.values())
    return int(bool(failed) or missing or not all(row.reached for row in rows))


if __name__ == "__main__":
    sys.exit(main())

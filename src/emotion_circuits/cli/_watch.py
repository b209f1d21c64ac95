"""``ls --watch``: what the workers of studies do now, read from the files that they leave."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.cli._console import WIDTH, duration_text, print_json, print_text, say

if TYPE_CHECKING:
    from emotion_circuits.runners import CellState, Manifest

PARTLY_DONE = 3
SHOWN = 12
"""Cells that are running or failed of which a study shows the first ones."""


def watch_shards(
    results: Path, profile: str | None, every: float, *, as_json: bool, pause: Callable[[float], None] = time.sleep
) -> int:
    """Show the plans of every profile that somebody works on until there are none; with ``as_json`` look once.

    Where nobody works on any plan of a profile, the one that a command asked for last is shown. Somebody works on a
    plan as long as a worker holds one of its cells, or the command that started them waits.

    Returns:
        The exit code: 0 everything is done (or goes on), 1 nothing is done, 3 partly done.
    """
    previous: list[str] = []
    while True:
        found = _look(results, profile)
        if not found:
            say(f"no study with --runner in {results}")
            return 0
        if as_json:
            print_json({"studies": [_plain(manifest, cells) for manifest, cells in found]})
            return _exit_code(found)
        lines = [folded for manifest, cells in found for line in _lines(manifest, cells) for folded in _folded(line)]
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[2J\x1b[H")
            print_text(time.strftime("%H:%M:%S"))
        if sys.stdout.isatty() or lines != previous:
            print_text("\n".join(lines))
        sys.stdout.flush()
        previous = lines
        if not any(_goes_on(manifest, cells) for manifest, cells in found):
            return _exit_code(found)
        pause(every)


def _look(results: Path, profile: str | None) -> list[tuple[Manifest, list[CellState]]]:
    from emotion_circuits.runners.state import is_worked_on, manifests, states
    from emotion_circuits.store import slug

    planned: dict[str, list[Manifest]] = {}
    for manifest in manifests(Path(results), None if profile is None else slug(profile)):
        planned.setdefault(manifest.work.profile, []).append(manifest)
    shown = [m for plans in planned.values() for m in [p for p in plans if is_worked_on(p)] or plans[-1:]]
    return [(manifest, states(manifest)) for manifest in shown]


def _lines(manifest: Manifest, cells: Sequence[CellState]) -> list[str]:
    from emotion_circuits.experiments._crew import progress_of

    count = {status: sum(c.status == status for c in cells) for status in ("done", "running", "waiting", "failed")}
    lines = [f"{manifest.work.profile} ({manifest.key}): {len(cells)} cell{'s' * (len(cells) != 1)}, "
             + ", ".join(f"{n} {status}" for status, n in count.items() if n)]  # fmt: skip
    running = [c for c in cells if c.status == "running"]
    for cell in running[:SHOWN]:
        lines.append(f"  running  {cell.cell.shown} – {len(cell.workers)} workers: {', '.join(cell.workers[:4])}")
    if running:
        for step in progress_of(manifest.folder.parents[1]):
            share = step.blocks_done / step.blocks if step.blocks else 1.0
            lines.append(f"           {step.experiment} on {step.model}, {step.step}: {share:.0%} of {step.rows} rows")
    failed = [c for c in cells if c.status == "failed"]
    if count["waiting"] and not _goes_on(manifest, cells):
        lines.append("           nobody works on it: the same command resumes")
    for cell in failed[:SHOWN]:
        lines.append(f"  failed   {cell.cell.shown} after {duration_text(cell.seconds)}: {cell.message}")
        lines.append(f"           → {cell.fix}")
    for kind in (running, failed):
        if len(kind) > SHOWN:
            lines.append(f"           … and {len(kind) - SHOWN} more {kind[0].status}: --json lists them")
    return lines


def _folded(line: str) -> list[str]:
    """A line in as many as the terminal needs (80 columns when there is none), behind the name of its state."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    return textwrap.wrap(line, width, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False)


def _goes_on(manifest: Manifest, cells: Sequence[CellState]) -> bool:
    from emotion_circuits.runners.state import drivers_of

    return any(cell.workers and cell.status != "done" for cell in cells) or bool(drivers_of(manifest).held())


def _plain(manifest: Manifest, cells: Sequence[CellState]) -> dict[str, Any]:
    from emotion_circuits.experiments._crew import progress_of

    return {
        "profile": manifest.work.profile, "manifest": manifest.path, "cells": cells,
        "steps": [vars(step) for step in progress_of(manifest.folder.parents[1])],
    }  # fmt: skip


def _exit_code(found: Sequence[tuple[Manifest, Sequence[CellState]]]) -> int:
    done = any(cell.status == "done" for _, cells in found for cell in cells)
    for manifest, cells in found:
        wanting = {"failed"} if _goes_on(manifest, cells) else {"failed", "waiting"}
        if any(cell.status in wanting for cell in cells):
            return PARTLY_DONE if done else 1
    return 0

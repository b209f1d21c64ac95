"""``--dry-run``: every run that is still to be made, what it computes, and how long that may take on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emotion_circuits.cli._console import duration_text, print_json, print_table, print_text, size_text

if TYPE_CHECKING:
    from emotion_circuits.experiments._outline import Cell

HEADINGS = {
    "experiment": "experiment", "texts": "read", "scored": "scored", "written": "written", "tokens": "tokens",
    "forwards": "passes", "memory": "memory", "time": "time",
}  # fmt: skip
LEGEND = (
    "read: texts captured · scored: rows scored at their next token · written: texts\ngenerated · passes: of the model"
)


def show_cells(cells: Sequence[Cell], *, as_json: bool) -> int:
    """Print the cells of an outline, a table for every model."""
    seconds = sum(c.work.seconds for c in cells)
    if as_json:
        rows = [{"model": c.model, "experiment": c.experiment, "key": c.key, "counted": c.counted,
                 "state": "done" if c.done else "to do", **vars(c.work)} for c in cells]  # fmt: skip
        print_json({"cells": rows, "model_seconds": seconds})
        return 0
    for model in dict.fromkeys(c.model for c in cells):
        print_table([_shown(c) for c in cells if c.model == model], HEADINGS, model)
        print_text("")
    print_text(LEGEND)
    uncounted = dict.fromkeys(c.experiment for c in cells if not c.counted)
    if uncounted:
        print_text(f"not counted: what {', '.join(uncounted)} run on the model")
    captured = sum(c.work.captured_bytes for c in cells)
    print_text(f"model time left: about {duration_text(seconds)}, timed here; evaluators and analysis come on top")
    if captured:
        print_text(f"captures take {size_text(captured)} on disk")
    return 0


def _shown(cell: Cell) -> dict[str, object]:
    """Nothing where nothing runs, so that the eye finds what will."""
    work = cell.work
    numbers = {name: _short(getattr(work, name)) for name in ("texts", "scored", "written", "tokens", "forwards")}
    took = duration_text(work.seconds) if work.seconds else "–" if cell.counted else "not counted"
    memory = size_text(work.memory_bytes) if work.memory_bytes else None
    return {"experiment": cell.experiment, **numbers, "memory": memory, "time": "done" if cell.done else took}


def _short(count: int) -> str | None:
    """``581 900`` as ``582 k``; None for 0."""
    if not count:
        return None
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f} k" if count < 1e6 else f"{count / 1e6:.1f} M"

"""What the command line prints: results on stdout, progress and remarks on stderr.

Texts come from models and files, so nothing is read as markup.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from emotion_circuits.store.keys import plain

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 80
LINE_EVERY_SECONDS = 30.0

_SHORT = 12


class Advance(Protocol):
    """Reports that ``steps`` more are done; ``note`` says what is being worked on."""

    def __call__(self, steps: int = 1, note: str = "") -> None: ...


def say(text: str, *, quiet: bool = False) -> None:
    """One remark on stderr."""
    if not quiet:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def print_text(text: str) -> None:
    """Result text on stdout."""
    sys.stdout.write(text + "\n")


def print_json(value: object) -> None:
    """``value`` as strict JSON on stdout (dataclasses, paths, arrays allowed; a number that is not finite is null)."""
    print_text(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str], title: str = "") -> None:
    """Rows as a table on stdout, as wide as the terminal (80 columns when there is none).

    ``columns`` maps a row's key to its heading. Numbers are set right, floats with four significant digits, missing
    values as ``–``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = {key: [_cell(row.get(key)) for row in rows] for key in columns}
    numeric = {key for key in columns if any(_is_number(row.get(key)) for row in rows)}
    widths = {key: max(map(len, [columns[key], *cells[key]])) for key in columns}
    short = {key for key, width in widths.items() if width <= _SHORT}
    # Long texts fold so that keys, numbers and dates stay whole, as long as those fit at all.
    whole = short if sum(widths[key] + 2 for key in short) <= WIDTH - _SHORT else set()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for key, heading in columns.items():
        justify: Literal["left", "right"] = "right" if key in numeric else "left"
        table.add_column(Text(heading), justify=justify, overflow="fold", no_wrap=key in whole)
    for values in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, values))
    if title:
        print_text(title)
    _console(sys.stdout).print(table)


@contextmanager
def progress(
    description: str,
    total: int | None = None,
    *,
    quiet: bool = False,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Show how far a piece of work is, on stderr: a bar on a terminal, else one line every 30 seconds.

    ::

        with progress("capture", total=len(prompts), quiet=options.quiet) as advance:
            for batch in batches:
                …
                advance(len(batch), note="layer 12")
    """
    stream = stream or sys.stderr
    if quiet:
        yield _nothing
    elif stream.isatty():
        with _bar(description, total, stream) as advance:
            yield advance
    else:
        yield _Lines(description, total, stream, clock)


def size_text(size: int) -> str:
    """Bytes for people: ``512 B``, ``1.4 MB``."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration_text(seconds: float) -> str:
    """Seconds for people: ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class _Lines:
    """Progress for logs: a line at most every 30 seconds."""

    def __init__(self, description: str, total: int | None, stream: TextIO, clock: Callable[[], float]) -> None:
        self.description, self.total, self.stream, self.clock = description, total, stream, clock
        self.count, self.started = 0, clock()
        self.shown = self.started

    def __call__(self, steps: int = 1, note: str = "") -> None:
        self.count += steps
        now = self.clock()
        if now - self.shown < LINE_EVERY_SECONDS:
            return
        self.shown = now
        elapsed = now - self.started
        line = f"{self.description}: {self.count}"
        if self.total:
            left = elapsed / max(self.count, 1) * max(self.total - self.count, 0)
            line += f" of {self.total} ({self.count / self.total:.0%}), about {duration_text(left)} left"
        else:
            line += f" after {duration_text(elapsed)}"
        self.stream.write(line + (f" – {note}" if note else "") + "\n")
        self.stream.flush()


@contextmanager
def _bar(description: str, total: int | None, stream: TextIO) -> Iterator[Advance]:
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=_console(stream), transient=True) as bar:
        task = bar.add_task(escape(description), total=total, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, note=escape(note))

        yield advance


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else WIDTH, markup=False, highlight=False, emoji=False)


def _nothing(steps: int = 1, note: str = "") -> None:
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)

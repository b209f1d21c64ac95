"""``run_shard``: what every backend calls, whatever started the process."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.experiments._crew import Crew
from emotion_circuits.experiments._runner import Progress, no_progress
from emotion_circuits.experiments._study import Failure, attempt, clear_log, leave_log
from emotion_circuits.runners.desk import Desk
from emotion_circuits.runners.manifest import Cell, Manifest
from emotion_circuits.runners.state import claims_of, is_done, write_done, write_failed
from emotion_circuits.store import Claim, Store

if TYPE_CHECKING:
    from emotion_circuits.store import Run

log = logging.getLogger(__name__)

RunCell = Callable[[Cell], "tuple[Run, str]"]


@dataclass
class ShardReport:
    """What one call of :func:`run_shard` did: cells that it took part in, that were done before, and its failure."""

    number: int
    computed: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 1 or 2 failed, 3 partly done."""
        if self.failure is None:
            return 0
        return 3 if self.computed or self.there else self.failure.error.exit_code


def run_shard(
    manifest: Manifest,
    number: int,
    *,
    crew: Crew | None = None,
    progress: Progress = no_progress,
    run_cell: RunCell | None = None,
) -> ShardReport:
    """Compute the cells of shard ``number`` that are not done, in order; may be called anywhere, any number of times.

    A cell on one model is computed together with whoever else computes it. A cell on a pair is claimed: while another
    worker holds it, this one waits. The first failure ends the shard, because later cells build on earlier ones.

    Where the study names files by relative paths (``manifest.work.folder``), the *process* works in the folder of the
    planning until this returns: other threads' relative paths change with it, and two such studies cannot run in
    threads of one process.

    Args:
        crew: how workers watch each other. run_cell: computes one cell (default: the study's experiment).

    Raises:
        UsageError: no such shard, or this machine has not the folder that paths are relative to. StoreError: the
            results folder cannot be read or written.
    """
    with _planned_folder(manifest):
        return _run_cells(manifest, number, replace(crew or Crew(), marker=manifest.path), progress, run_cell)


def _run_cells(
    manifest: Manifest, number: int, crew: Crew, progress: Progress, run_cell: RunCell | None
) -> ShardReport:
    cells = manifest.cells_of(number)
    store, names = Store(manifest.results), _name(manifest.shards[number].models)
    run_cell = run_cell or Desk(manifest, crew, progress).run
    report = ShardReport(number)
    if (missing := _missing(manifest, number)) is not None:
        error = EmotionCircuitsError(f"{cells[0].shown} needs {missing.shown}, which is not finished",
                                     "run the same command again: it resumes")  # fmt: skip
        report.failure = Failure(" → ".join(cells[0].models), cells[0].experiment, error)
        write_failed(manifest, cells[0], error)
        return report
    for cell in cells:
        crew.require_folder()
        if is_done(manifest, cell):
            report.there.append(cell.id)
            continue
        started = time.monotonic()
        with _claimed(manifest, number, cell, crew):
            if is_done(manifest, cell):
                report.there.append(cell.id)
                continue
            log.info("shard %d: %s", number, cell.shown)
            found = attempt(" → ".join(cell.models), cell.experiment, functools.partial(run_cell, cell))
            seconds = time.monotonic() - started
            crew.require_folder()  # where it has gone, that is why the cell failed, and nothing can be noted
            if isinstance(found, Failure):
                try:
                    write_failed(manifest, cell, found.error, seconds)
                except StoreError as error:  # a full disk, say: what started the shard has its log, or the report
                    log.warning("%s", error.what)
                log.error("%s failed: %s", cell.shown, found.error)
                leave_log(store, manifest.work.profile, found, names)
                report.failure = found
                return report
            run, source = found
            write_done(manifest, cell, run.folder, source, seconds)
            report.computed.append(cell.id)
    clear_log(store, manifest.work.profile, names)
    return report


def _planned_folder(manifest: Manifest) -> AbstractContextManager[None]:
    """Work where relative paths of parameters mean what they meant at planning; anywhere, where there are none."""
    folder = manifest.work.folder
    if not folder:
        return nullcontext()
    if not Path(folder).is_dir():
        raise UsageError(
            f"the study names files by their paths relative to {folder}, which this machine does not have",
            "give whole paths of files that all machines see",
        )
    return chdir(folder)


def _missing(manifest: Manifest, number: int) -> Cell | None:
    """A cell that this shard builds on and that is not finished."""
    needed = (cell for n in manifest.shards[number].after for cell in manifest.cells_of(n))
    return next((cell for cell in needed if not is_done(manifest, cell)), None)


def _name(models: tuple[str, ...]) -> str | tuple[str, ...]:
    return models[0] if len(models) == 1 else models


@contextmanager
def _claimed(manifest: Manifest, number: int, cell: Cell, crew: Crew) -> Iterator[None]:
    """Hold a cell; workers on the same single-model cell each hold a claim of their own, which only shows them."""
    claims = claims_of(manifest, crew.heartbeat, crew.stale)

    def take() -> Claim | None:
        if len(cell.models) > 1:
            return claims.take(cell.id)
        # Whoever begins a shard again takes over what its predecessor left. Where that one may still live (a shard that
        # was started twice, or that died a moment ago on another machine) both are shown.
        return claims.take(f"{cell.id}-{number}") or claims.take(f"{cell.id}-{number}-{secrets.token_hex(4)}")

    while (claim := take()) is None:
        if is_done(manifest, cell):
            yield
            return
        crew.pause(crew.look_again)
        crew.require_folder()
    with claim:
        yield

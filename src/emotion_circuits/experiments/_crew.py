"""Several processes that compute one run together, block by block, through files only.

Every member executes the same experiment. Where it asks for many rows of the model, the rows are planned into blocks;
each member claims blocks that nobody has, writes each as one part, and goes on once all parts are there. What the
experiment then reads is the same for all of them, so that a step that depends on an earlier one needs no messages. A
member that dies loses the block it was working on, which another one claims; the last one alive finishes.

The parts of a run lie beside its folder in ``.{key}.crew/{step}/``. Blocks and their names depend on the rows alone:
not on the machine, and not on how many members there are.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError
from emotion_circuits.store import Claims, content_key, read_json, write_once
from emotion_circuits.store.claims import HEARTBEAT_SECONDS, STALE_SECONDS
from emotion_circuits.store.files import look_anew, remove_discarded, require_marker

if TYPE_CHECKING:
    from emotion_circuits.store import Run

log = logging.getLogger(__name__)

PLAN, PARTS = "plan.json", "parts"
SUFFIX = ".crew"
FIRST_LOOK_SECONDS = 0.05


class OvertakenError(StoreError):
    """The other members have finished the run while this one was still reading an earlier step."""


@dataclass(frozen=True)
class Crew:
    """How the members of a crew watch each other; seconds. ``pause`` waits between two looks at what is missing.

    The first look comes early and each further one twice as late, up to ``look_again``: small steps end together, and
    a shared folder is asked seldom during long ones.

    ``marker`` is a file that lies in the shared folder as long as it is there: a folder that was unmounted would
    otherwise be made anew, on one machine's own disk.
    """

    heartbeat: float = HEARTBEAT_SECONDS
    stale: float = STALE_SECONDS
    look_again: float = 1.0
    pause: Callable[[float], None] = time.sleep
    marker: Path | None = None

    def require_folder(self) -> None:
        """Raise :class:`StoreError` when the shared folder has gone."""
        require_marker(self.marker)


@dataclass(frozen=True)
class Block:
    """Batches that one member computes in one go; ``name`` depends on what is in them."""

    name: str
    batches: tuple[tuple[int, ...], ...]


def plan_blocks(names: Sequence[str], batches: Sequence[Sequence[int]], least_rows: int) -> list[Block]:
    """Consecutive batches as blocks of at least ``least_rows`` rows (the last one may be smaller).

    Args:
        names: what each row is. batches: row numbers, as an uninterrupted run has them.
    """
    blocks: list[Block] = []
    waiting: list[tuple[int, ...]] = []
    rows = 0
    for number, batch in enumerate(batches):
        waiting.append(tuple(batch))
        rows += len(batch)
        if rows >= least_rows or number == len(batches) - 1:
            content = [[names[row] for row in one] for one in waiting]
            blocks.append(Block(f"{len(blocks):06d}-{content_key({'rows': content})}", tuple(waiting)))
            waiting, rows = [], 0
    return blocks


def crew_folder(run: Run) -> Path:
    """Where a run's parts are, beside its folder."""
    return run.folder.with_name(f".{run.key}{SUFFIX}")


def begun_by_crew(run: Run, step: str) -> bool:
    """Whether an earlier attempt computed ``step`` in parts."""
    return (crew_folder(run) / step / PLAN).exists()


def clear_finished(profile_folder: Path) -> None:
    """Remove the parts of all finished runs of a profile; what was merged from them is in the run folders.

    With them goes what is left of runs and parts that were begun anew.
    """
    for folder in profile_folder.glob(f"*/*/.*{SUFFIX}"):
        if (folder.with_name(folder.name[1 : -len(SUFFIX)]) / "done.json").exists():
            shutil.rmtree(folder, ignore_errors=True)
    remove_discarded(profile_folder, "*/*/.*")


def share(
    crew: Crew,
    folder: Path,
    blocks: Sequence[Block],
    finished: Callable[[Block], bool],
    compute: Callable[[Block], None],
    over: Callable[[], bool],
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Return once every block is finished, computing those that nobody else does.

    Args:
        folder: the step's. finished: whether a block's part is on disk. compute: writes it. over: whether the whole run
            is finished (its parts may be gone then). advance: gets the number of rows of every block that is done,
            whoever did it.

    Raises:
        OvertakenError: the run is over. StoreError: the members do not compute the same blocks, or the shared folder
            has gone; whatever ``compute`` raises.
    """

    def compute_if_needed(block: Block) -> None:
        crew.require_folder()
        if over():
            raise OvertakenError(f"{folder.parent} was finished by other workers")
        compute(block)

    crew.require_folder()
    if over():
        raise OvertakenError(f"{folder.parent} was finished by other workers")
    _agree(folder, blocks)
    claims = Claims(folder / "claims", crew.heartbeat, crew.stale)
    waiting = list(blocks)
    told, pause = time.monotonic(), FIRST_LOOK_SECONDS
    while waiting:
        left = []
        for block in waiting:
            crew.require_folder()  # a claim would make it anew
            if not _settle(claims, block, finished, compute_if_needed, advance):
                left.append(block)
        if len(left) == len(waiting):
            if time.monotonic() - told > 60:
                told = time.monotonic()
                log.info("%d blocks of %s are with other workers: %s", len(left), folder.name, claims.held())
            crew.pause(min(pause, crew.look_again))
            pause *= 2
            crew.require_folder()
        else:
            pause = FIRST_LOOK_SECONDS
        waiting = left


def _settle(
    claims: Claims,
    block: Block,
    finished: Callable[[Block], bool],
    compute: Callable[[Block], None],
    advance: Callable[[int], None],
) -> bool:
    """True when the block is finished, by whomever; False while somebody else works on it."""
    if not finished(block):
        claim = claims.take(block.name)
        if claim is None:
            return False
        with claim:
            # Its holder may have written the part before it released the claim. On NFS this machine may still believe
            # what it found a moment ago, that there is none.
            step = claims.folder.parent
            look_anew(step, step / PARTS)
            if not finished(block):
                compute(block)
    advance(sum(map(len, block.batches)))
    return True


def _agree(folder: Path, blocks: Sequence[Block]) -> None:
    """Write down the blocks of a step, or find the same ones there."""
    import json

    digest = content_key({"blocks": [block.name for block in blocks]})
    plan = {"blocks": len(blocks), "rows": sum(len(b) for block in blocks for b in block.batches), "digest": digest}
    path = folder / PLAN
    if write_once(path, json.dumps(plan) + "\n"):
        return
    found = read_json(path)
    if found.get("digest") != digest:
        raise StoreError(
            f"{folder} was begun with other rows ({found.get('rows')}, here {plan['rows']}): the workers of one run do "
            "not see the same prompts, vectors or package",
            f"use one version of the package on all machines; remove {folder.parent} to begin anew",
        )


@dataclass(frozen=True)
class StepProgress:
    """How far a crew is with one step of a run: ``model`` and ``experiment`` are folder names."""

    model: str
    experiment: str
    step: str
    blocks_done: int
    blocks: int
    rows: int


def progress_of(profile_folder: Path) -> Iterator[StepProgress]:
    """The steps of all unfinished runs of a profile that crews have begun, from the files alone."""
    for plan in sorted(profile_folder.glob(f"*/*/.*{SUFFIX}/*/{PLAN}")):
        crew = plan.parents[1]
        if (crew.with_name(crew.name[1 : -len(SUFFIX)]) / "done.json").exists():
            continue
        try:
            content: dict[str, Any] = read_json(plan)
            parts = sum(1 for p in (plan.parent / PARTS).glob("[!.]*") if p.suffix in (".parquet", ".safetensors"))
        except (StoreError, OSError):  # its crew has finished and cleared away while we looked
            continue
        done = min(parts, content["blocks"])
        yield StepProgress(crew.parents[1].name, crew.parent.name, plan.parent.name, done, content["blocks"],
                           content["rows"])  # fmt: skip

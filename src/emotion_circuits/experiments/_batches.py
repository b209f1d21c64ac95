"""The batches of a step that was interrupted: its rest is computed in those of the first attempt, or all of it anew.

Rounding depends on a batch's shape and on the device, so that rows of two kinds of batches in one file would be numbers
that no uninterrupted run gives.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError, StoreError
from emotion_circuits.experiments._crew import Crew, crew_folder

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run

log = logging.getLogger(__name__)


BATCHES_OF_CAPTURE = {"batches": "of one emotion"}
"""What the record of a capture says beside device and rows (see ``engine.capture.capture_batches``)."""

_UNSAID = {"attention": "sdpa"}
"""What a record means by leaving a key out; another key that is missing was not known to the version that wrote it."""


def rows_of_step(
    lm: LM, run: Run, name: str, wanted: int, forget: Callable[[], None], finished: Callable[[], bool], *, asked: bool,
    crew: Crew | None = None, shared: bool = False, cut: Mapping[str, str] = MappingProxyType({}),
) -> int:  # fmt: skip
    """Rows per batch for the step ``name``: ``wanted`` when it begins, the first attempt's when it goes on.

    The step starts anew where the first attempt was on another device (or cut its tokens otherwise), and where fewer
    rows than its were ``asked`` for, because memory ran out: ``forget`` removes what is kept of it. A step that others
    have ``finished`` meanwhile is kept, and the rows are those that it was computed with.

    Args:
        crew: watches the workers that compute the step in parts; None where this process does it by itself.
        shared: others may compute the step now. They take the batches of the first of them, and have to be on one kind
            of device. cut: how rows become batches, where another version of the package did it otherwise.

    Raises:
        EmotionCircuitsError: another kind of device than the other workers of this run.
    """
    from emotion_circuits.store import write_once
    from emotion_circuits.store.files import discard_folder

    record = batch_record(name)
    here = {**_place(lm), **cut, "rows": wanted}
    if write_once(run.path(record), json.dumps(here) + "\n"):
        return wanted
    while True:
        first = _record_now(run, name)
        rows, unlike = int(first["rows"]), _unlike(first, here)
        if not unlike and not (asked and wanted < rows):
            if rows != wanted:
                log.info("%s goes on with %d rows a batch, as it was begun", name, rows)
            return rows
        busy = bool(unlike) and shared
        if not busy and crew is not None:
            busy = not _left_alone(crew, run, name, first)
            if busy and _record_now(run, name) != first:
                continue  # those who are busy with it have begun it anew
        if busy and unlike:
            raise EmotionCircuitsError(
                f"{run.folder} is being computed otherwise than this worker would ({unlike}): their numbers differ in "
                "rounding",
                "give all workers of one model the same kind of device, processor and settings, or run without "
                "--runner, once no worker is left, to begin the step anew",
            )
        if busy:
            log.warning("%s goes on with %d rows a batch: others are computing it so", name, rows)
            return rows
        why = unlike or f"it was begun with {rows}"
        with run.lock() if shared else nullcontext():
            if _record_now(run, name) == first:  # else another worker has just done it
                if finished():  # by the last of those that computed it, which held the lock to write it
                    log.info("%s was finished by others, with %d rows a batch", name, rows)
                    return rows
                log.warning("%s starts anew with %d rows a batch: %s", name, wanted, why)
                forget()
                discard_folder(crew_folder(run) / name, run.folder)
                run.path(_halved(name)).unlink(missing_ok=True)
                run.write_json(record, here)  # last: until then a kill leaves the step as it was, or with less of it


def require_rows(run: Run, name: str, rows: int) -> None:
    """Refuse to keep what was computed with ``rows`` rows a batch of a step that was begun anew with others meanwhile.

    Raises:
        StoreError: it was.
    """
    now = run.read_json(batch_record(name))["rows"]
    if now != rows:
        raise StoreError(
            f"the step {name} of {run.folder} was begun anew with {now} rows a batch while this worker had {rows}",
            "let the other workers finish it, or run the same command again: it resumes",
        )


def remove_partial(files: Iterable[Path]) -> None:
    """Remove tensor files, finished or not, with the lists of their finished rows."""
    for file in files:
        for suffix in ("", ".partial", ".rows"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)


def batch_record(name: str) -> str:
    """The file of a run that says in what batches the step ``name`` was computed."""
    return f"{name}-batches.json"


def note_halved(run: Run, name: str) -> None:
    """Write down that memory ran out in the step ``name``, so that some batches were smaller than its record says."""
    run.write_json(_halved(name), {"halved": True})


def same_batches(lm: LM, run: Run, name: str, rows: int, cut: Mapping[str, str]) -> bool:
    """Whether the step ``name`` of ``run`` was computed as this process would, with ``rows`` rows a batch."""
    record = batch_record(name)
    if not run.path(record).exists() or run.path(_halved(name)).exists():
        return False
    return bool(run.read_json(record) == {**_place(lm), **cut, "rows": rows})


def _halved(name: str) -> str:
    return f"{name}-halved.json"


def _unlike(first: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two records beside the rows, with both values; empty where nothing does."""
    keys = [key for key in {**here, **first} if key != "rows" and first.get(key) != here.get(key)]
    shown = ((key, *(record.get(key, _UNSAID.get(key, "not recorded")) for record in (first, here))) for key in keys)
    return ", ".join(f"{key}: {there} there, {mine} here" for key, there, mine in shown)


def _record_now(run: Run, name: str) -> Any:
    """The record of a step as the file server has it, and with it the other names in the run's folder."""
    from emotion_circuits.store.files import look_anew

    look_anew(run.folder)
    return run.read_json(batch_record(name))


def _left_alone(crew: Crew, run: Run, name: str, first: Any) -> bool:
    """Whether nobody holds a block of the step; waits for claims whose holder may have died on another machine.

    False at once where the record of the step is no longer ``first``: what is held then are blocks of the step anew.
    """
    from emotion_circuits.store import Claims

    claims = Claims(crew_folder(run) / name / "claims", crew.heartbeat, crew.stale)
    deadline = time.monotonic() + crew.stale + crew.heartbeat
    while claims.held():
        if time.monotonic() > deadline or _record_now(run, name) != first:
            return False
        crew.pause(crew.look_again)
        crew.require_folder()
    return True


def _place(lm: LM) -> dict[str, Any]:
    """What batches and rounding depend on, beside the rows."""
    from emotion_circuits.engine.batching import capture_tokens
    from emotion_circuits.models.products import product_library

    place = {"device": _device_name(lm), "tokens": capture_tokens(lm.device), "products": product_library()}
    attention = lm.config._attn_implementation
    return place if attention == "sdpa" else {**place, "attention": attention}


def _device_name(lm: LM) -> str:
    """Kind and model of the device, or of all that a model is spread over: two kinds of GPU round differently."""
    import torch

    # What accelerate offloads has no device of its own: it is multiplied on the one that it is fetched to.
    used = {lm.device, *(p.device for p in lm.model.parameters() if not p.is_meta)}
    return " + ".join(sorted({torch.cuda.get_device_name(d) if d.type == "cuda" else d.type for d in used}))

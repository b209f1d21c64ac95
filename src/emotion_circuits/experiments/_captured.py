"""Captured activations on disk: streamed while they are computed, mapped when they are read."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from emotion_circuits.errors import StoreError
from emotion_circuits.experiments._batches import (
    BATCHES_OF_CAPTURE,
    note_halved,
    remove_partial,
    require_rows,
    rows_of_step,
)
from emotion_circuits.experiments._contract import CaptureStep
from emotion_circuits.experiments._crew import Crew, begun_by_crew
from emotion_circuits.types import Activations, Prompt

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run

log = logging.getLogger(__name__)
Advance = Callable[[int, str], None]


def capture_to_run(
    lm: LM,
    run: Run,
    step: CaptureStep,
    max_rows: int | None,
    advance: Advance,
    crew: Crew | None = None,
    *,
    anew: bool = False,
) -> Activations:
    """Run a capture step into the run folder; rows that an earlier attempt finished are not computed again.

    Emotions whose texts another run captured in the same batches are copied from there, bit for bit, unless everything
    has to be computed ``anew``. With a ``crew`` its members compute it together, and the first one that is done writes
    the files.
    """  # fmt: skip
    from emotion_circuits.engine.capture import MAX_ROWS, plan_capture, run_capture, split_shapes
    from emotion_circuits.experiments._captured_before import copy_known, find_known
    from emotion_circuits.experiments._crew_steps import share_capture
    from emotion_circuits.store import TensorFileWriter

    finished = run.path(f"{step.name}.json").exists
    if finished():
        return load_capture(run, step.name)
    plan = plan_capture(lm, step.prompts, step.kinds, step.positions, step.layers)
    log.info("capturing %s: %d texts, %.1f MB", step.name, len(plan.encoded), plan.bytes / 1e6)
    by_prompt, by_token = split_shapes(plan)
    files = [(f"{step.name}.safetensors", by_prompt), (f"{step.name}-tokens.safetensors", by_token)]
    alone = crew is None
    crew = crew or (Crew() if begun_by_crew(run, step.name) else None)
    rows = rows_of_step(
        lm, run, step.name, max_rows or MAX_ROWS,
        functools.partial(remove_partial, [run.path(file) for file, _ in files]), finished,
        asked=bool(max_rows), crew=crew, shared=not alone, cut=BATCHES_OF_CAPTURE,
    )  # fmt: skip
    if finished():  # by others, while this process waited for them
        return load_capture(run, step.name)
    halved = functools.partial(note_halved, run, step.name)
    known = () if anew else find_known(lm, run, step.name, plan, rows)
    fill = functools.partial(copy_known, step.name, plan, known)
    merge = None
    if crew is not None:
        merge = share_capture(crew, lm, run, step.name, plan, rows, lambda done: advance(done, step.name), fill, halved)
    with ExitStack() as stack:
        if not alone:  # a process that runs alone holds the run already
            stack.enter_context(run.lock())
            if finished():
                return load_capture(run, step.name)
            require_rows(run, step.name, rows)
        writers = [
            stack.enter_context(TensorFileWriter(run.path(file), {n: (s, "float32") for n, s in shapes.items()}))
            if shapes
            else None
            for file, shapes in files
        ]
        if merge is not None:
            merge(*writers)
        else:
            advance(fill(writers[0], writers[1]), step.name)
            for writer in writers:
                if writer is not None:
                    writer.flush()  # what is not on the disk counts as missing
            for done in run_capture(lm, plan, writers[0], writers[1], max_rows=rows, halved=halved):
                advance(done, step.name)
    index = {
        "model": lm.name,
        "layers": plan.layers,
        "kinds": plan.kinds,
        "positions": [str(p) for p in plan.positions],
        "token_starts": plan.token_starts,
        "prompts": [asdict(e.prompt) for e in plan.encoded],
        "copied_from": {str(k.run.folder.relative_to(results_of(run))): len(k.here) for k in known},
    }
    # Written last: a capture with an index is complete.
    run.write_json(f"{step.name}.json", index)
    return load_capture(run, step.name)


def results_of(run: Run) -> Path:
    """The folder that holds the runs of every profile."""
    return run.folder.parents[3]


def fingerprint_prompts(prompts: Iterable[Prompt]) -> str:
    """SHA-256 of prompts in their order, every field of theirs."""
    from emotion_circuits.store import fingerprint_texts

    return fingerprint_texts(json.dumps(asdict(p), sort_keys=True) for p in prompts)


def load_capture(run: Run, name: str) -> Activations:
    """A finished capture of a run, mapped from disk."""
    from emotion_circuits.store import open_tensors

    index = run.read_json(f"{name}.json")
    files = [Path(run.path(f"{name}{suffix}.safetensors")) for suffix in ("", "-tokens")]
    arrays = {n: a for file in files if file.exists() for n, a in open_tensors(file).items()}
    names = [f"{k}@{p}" for k in index.get("kinds", ()) for p in index.get("positions", ())]
    if lost := [n for n in names if n not in arrays]:
        raise StoreError(
            f"the capture {name!r} of {run.folder} has lost {lost[0]} (a file was moved or removed)",
            f"remove the folder {run.folder} and run the same command again",
        )
    try:
        prompts = TypeAdapter(tuple[Prompt, ...]).validate_python(index["prompts"])
        values = {(k, p): arrays[f"{k}@{p}"] for k in index["kinds"] for p in index["positions"]}
        return Activations(prompts, tuple(index["layers"]), values, index["model"], tuple(index["token_starts"]))
    except (KeyError, ValidationError) as error:
        raise StoreError(
            f"the capture {name!r} of {run.folder} was written by another version of this package, or damaged",
            f"remove the folder {run.folder} and run the same command again",
        ) from error

"""The batches of a capture that was interrupted: its rest is computed in those of the first attempt, or all anew.

Rounding depends on a batch's shape and on the device, so that rows of two kinds of batches in one file would be numbers
that no uninterrupted capture gives.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run

log = logging.getLogger(__name__)


BATCHES_OF_CAPTURE = {"batches": "of one emotion"}
"""What the record of a capture says beside device and rows (see ``engine.capture.capture_batches``)."""


def rows_of_capture(
    lm: LM, run: Run, name: str, wanted: int, files: Sequence[Path], together: bool = False,
    cut: Mapping[str, str] = MappingProxyType({}),
) -> int:  # fmt: skip
    """Rows per batch for the capture ``name``: ``wanted`` when it begins, the first attempt's when it goes on.

    What an attempt on another device (or with other batches of tokens) left of ``files`` is removed. Workers that
    compute it ``together`` take the batches of the first of them, and have to be on one kind of device. ``cut`` says
    how rows become batches, where another version of the package did it otherwise.

    Raises:
        EmotionCircuitsError: another kind of device than the other workers of this run.
    """
    from emotion_circuits.store import write_once

    record = batch_record(name)
    place = {**_place(lm), **cut}
    if together:
        write_once(run.path(record), json.dumps({**place, "rows": wanted}) + "\n")
        first = run.read_json(record)
        if {key: first.get(key) for key in place} != place:
            raise EmotionCircuitsError(
                f"{run.folder} is being computed on {first.get('device')}, and this worker runs on {place['device']}: "
                "their numbers differ in rounding",
                "give all workers of one model the same kind of device, or run without --runner to begin anew",
            )
        return int(first["rows"])
    if run.path(record).exists():
        first = run.read_json(record)
        if {key: first.get(key) for key in place} == place:
            if first["rows"] != wanted:
                log.info("capturing %s goes on with %d rows a batch, as it was begun", name, first["rows"])
            return int(first["rows"])
        log.warning("capturing %s starts anew: it was begun on %s", name, first.get("device"))
        for file in files:
            for suffix in ("", ".partial", ".rows"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
    run.write_json(record, {**place, "rows": wanted})
    return wanted


def batch_record(name: str) -> str:
    """The file of a run that says in what batches the step ``name`` was computed."""
    return f"{name}-batches.json"


def same_batches(lm: LM, run: Run, name: str, rows: int, cut: Mapping[str, str]) -> bool:
    """Whether the step ``name`` of ``run`` was computed as this process would, with ``rows`` rows a batch."""
    record = batch_record(name)
    return run.path(record).exists() and run.read_json(record) == {**_place(lm), **cut, "rows": rows}


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

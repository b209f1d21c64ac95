"""Texts that an earlier run captured: an emotion that is added to a set costs the forward passes of its own texts only.

Captures are computed in batches of one emotion each (``engine.capture.capture_batches``). So the activations of an
emotion's texts are the same bits in every run that captures all of these texts, in this order, with the same model on
the same kind of device, whatever other emotions it captures; a later run copies them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import StoreError
from emotion_circuits.experiments._batches import BATCHES_OF_CAPTURE, same_batches

if TYPE_CHECKING:
    from emotion_circuits.engine.capture import CapturePlan, Sink
    from emotion_circuits.models.lm import LM
    from emotion_circuits.store import Run
    from emotion_circuits.types import Activations, Prompt

log = logging.getLogger(__name__)

COPIED_AT_ONCE = 32
"""Texts between two writes: activations of a large model do not fit into memory all at once."""

DECIDING_PACKAGES = ("torch", "transformers", "tokenizers")
"""Another version of these may round otherwise, or cut a text into other tokens."""


@dataclass(frozen=True)
class Known:
    """Texts that ``run`` has captured: text ``here[i]`` of a plan is text ``there[i]`` of ``captured``."""

    run: Run
    captured: Activations
    here: tuple[int, ...]
    there: tuple[int, ...]


def find_known(lm: LM, run: Run, name: str, plan: CapturePlan, max_rows: int) -> list[Known]:
    """Where texts of whole emotions of ``plan`` are already, for the capture ``name`` of ``run``: newest runs first.

    Looks at finished runs of the same experiment and model in every profile of the same results folder. Attention
    patterns are never taken over: their rows are as wide as the longest text of a capture, and a capture that reads
    them runs in another attention implementation.
    """
    from emotion_circuits.engine.capture import emotion_groups

    if "pattern" in plan.kinds:
        return []
    prompts = [e.prompt for e in plan.encoded]
    wanted = {_content(prompts, rows): tuple(rows) for rows in emotion_groups(prompts).values()}
    known = []
    try:
        for donor, captured in _donors(lm, run, name, plan, max_rows):
            here: list[int] = []
            there: list[int] = []
            for rows in emotion_groups(captured.prompts).values():
                own = wanted.pop(_content(captured.prompts, rows), ())
                here += own
                there += rows if own else []
            if here:
                known.append(Known(donor, captured, tuple(here), tuple(there)))
                log.info("%s: %d of %d texts are copied from %s", name, len(here), len(prompts), donor.folder)
            if not wanted:
                break
    except StoreError as error:  # an earlier run that cannot be read is no reason to stop: its texts are computed
        log.warning("captured texts of earlier runs are not used: %s", error)
    return known


def copy_known(
    name: str, plan: CapturePlan, known: Sequence[Known], by_prompt: Sink | None, by_token: Sink | None
) -> int:
    """Write what is known of the prompts that the sinks of the capture ``name`` still miss; how many those were."""
    from emotion_circuits.engine.capture import unfinished_prompts

    missing, copied = unfinished_prompts(plan, by_prompt, by_token), 0
    for source in known:
        pairs = [(h, t) for h, t in zip(source.here, source.there, strict=True) if h in missing]
        for start in range(0, len(pairs), COPIED_AT_ONCE):
            _copy(plan, source.captured, pairs[start : start + COPIED_AT_ONCE], by_prompt, by_token)
        copied += len(pairs)
    return copied


def _copy(
    plan: CapturePlan,
    captured: Activations,
    pairs: Sequence[tuple[int, int]],
    by_prompt: Sink | None,
    by_token: Sink | None,
) -> None:
    import numpy as np

    here, there = ([pair[side] for pair in pairs] for side in (0, 1))
    layers = [captured.layers.index(layer) for layer in plan.layers]
    tokens_here = np.concatenate([np.arange(*plan.token_starts[h : h + 2]) for h in here])
    tokens_there = np.concatenate([np.arange(*captured.token_starts[t : t + 2]) for t in there])
    for kind in plan.kinds:
        for position in plan.positions:
            whole = position.kind == "all"
            sink, rows, source = (by_token, tokens_here, tokens_there) if whole else (by_prompt, here, there)
            assert sink is not None
            values = np.asarray(captured.values[kind, str(position)][source])[:, layers]
            sink.write_rows(f"{kind}@{position}", rows, np.ascontiguousarray(values))
    if by_token is not None:
        by_token.finish_rows(tokens_here)
    if by_prompt is not None:
        by_prompt.finish_rows(here)


def _donors(lm: LM, run: Run, name: str, plan: CapturePlan, max_rows: int) -> Iterator[tuple[Run, Activations]]:
    """Finished runs whose capture ``name`` has everything that ``plan`` asks of a text, newest first."""
    from emotion_circuits.experiments._captured import load_capture, results_of
    from emotion_circuits.store import Store

    needed = {(kind, str(position)) for kind in plan.kinds for position in plan.positions}
    for donor in reversed(Store(results_of(run)).find(model=run.model, experiment=run.experiment)):
        if donor.key == run.key or not donor.done or not _same_maker(donor, run):
            continue
        if not donor.path(f"{name}.json").exists() or not same_batches(lm, donor, name, max_rows, BATCHES_OF_CAPTURE):
            continue
        captured = load_capture(donor, name)
        eager = any(kind == "pattern" for kind, _ in captured.values)
        if captured.values.keys() >= needed and {*captured.layers} >= {*plan.layers} and not eager:
            yield donor, captured


def _same_maker(donor: Run, run: Run) -> bool:
    """Whether the same version of the same experiment ran the same weights, under the same versions of packages."""
    from emotion_circuits.store import plain
    from emotion_circuits.store.provenance import package_versions
    from emotion_circuits.store.runs import SPEC

    if any(donor.inputs[part] != plain(run.inputs[part]) for part in ("experiment", "model")):
        return False
    spec, here = donor.read_json(SPEC), package_versions()
    attempts: list[Any] = [spec, *spec.get("resumed", [])]
    return all(a["versions"].get(package) == here.get(package) for a in attempts for package in DECIDING_PACKAGES)


def _content(prompts: Sequence[Prompt], rows: Sequence[int]) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    """What activations depend on, of one emotion's texts in their order: names and labels are not part of it."""
    return tuple((prompts[r].text, prompts[r].spans) for r in rows)

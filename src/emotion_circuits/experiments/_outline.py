"""What a study would do, before it does it: runs, texts, forward passes, disk, and a measured estimate of time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._contract import PairExperiment
from emotion_circuits.experiments._profiles import Profile
from emotion_circuits.experiments._registry import find_experiment
from emotion_circuits.experiments._runner import Prepared, Workbench, prepare

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

WARM_UP, MEASURED = 1, 3
"""Batches that are run to estimate tokens per second."""


@dataclass(frozen=True)
class Cell:
    """One run: its key, whether it is done already, and what is left to compute (0 where nothing is).

    ``memory_bytes``: the model's weights and the widest values of its largest batch, on the device that it runs on.
    """

    model: str
    experiment: str
    key: str
    done: bool
    texts: int
    tokens: int
    forwards: int
    captured_bytes: int
    memory_bytes: int


def outline(profile: Profile, bench: Workbench, overrides: Mapping[str, Any] | None = None) -> list[Cell]:
    """Every run of a study on one model, required ones first, each once."""
    cells: dict[str, Cell] = {}
    for name, _ in profile.experiments:
        if isinstance(find_experiment(name), PairExperiment):
            continue  # of two models: its own work is linear algebra on captures
        for prepared in _in_order(prepare(name, profile.params(name, overrides), bench)):
            cells.setdefault(prepared.run.key, _cell(prepared, bench))
    return list(cells.values())


def tokens_per_second(lm: LM) -> float:
    """Tokens per second of a forward pass without LM head, measured on a few batches of this machine."""
    import torch

    ids = torch.full((32, 16), int(lm.prefix_ids[0]) if lm.prefix_ids else 1, device=lm.device)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        for _ in range(WARM_UP):
            lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        start = time.perf_counter()
        for _ in range(MEASURED):
            lm.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
    return MEASURED * ids.numel() / (time.perf_counter() - start)


def _in_order(prepared: Prepared) -> Iterator[Prepared]:
    for needed in prepared.required.values():
        yield from _in_order(needed)
    yield prepared


def _cell(prepared: Prepared, bench: Workbench) -> Cell:
    from emotion_circuits.engine.batching import capture_tokens, length_buckets
    from emotion_circuits.engine.capture import MAX_ROWS, plan_capture

    texts = tokens = forwards = size = memory = 0
    done = prepared.run.done
    for step in () if done else prepared.steps:
        plan = plan_capture(bench.lm, step.prompts, step.kinds, step.positions, step.layers)
        texts += len(plan.encoded)
        tokens += sum(len(e) for e in plan.encoded)
        batches = list(length_buckets(plan.encoded, bench.rows or MAX_ROWS, capture_tokens(bench.lm.device)))
        forwards += len(batches)
        size += plan.bytes
        widest = max(len(rows) * len(plan.encoded[rows[0]]) for rows in batches)
        kept = plan.bytes * max(map(len, batches)) // len(plan.encoded)
        memory = max(memory, _weight_bytes(bench.lm) + widest * _token_bytes(bench.lm) + kept)
    return Cell(bench.lm.name, prepared.experiment.name, prepared.run.key, done, texts, tokens, forwards, size, memory)


def _weight_bytes(lm: LM) -> int:
    return sum(p.numel() * p.element_size() for p in lm.model.parameters())


def _token_bytes(lm: LM) -> int:
    """Bytes of one token inside a block: the residual stream, its norm and a sublayer's output, and an MLP that is
    gated (three values a neuron); blocks come one after another, so one of them counts."""
    return (4 * lm.d_model + 3 * lm.d_mlp) * lm.dtype.itemsize

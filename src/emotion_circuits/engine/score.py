"""``score``: what the next token would be after every prompt under every condition, as numbers.

Teacher-forced: one forward pass a row, logits at the prompt's last token only. What rows of a prompt share is computed
once (:mod:`~emotion_circuits.engine.prefix`), so that a vector added at layer L from the last token on costs one token
through the blocks above L.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache

from emotion_circuits.engine.batching import Batch, pad
from emotion_circuits.engine.chunks import is_unedited, plan_chunks, scored_at_once
from emotion_circuits.engine.decode import BASELINE, AnyRow, Row, require_numbers
from emotion_circuits.engine.edits import Clock, Edits
from emotion_circuits.engine.generation import require_own_names
from emotion_circuits.engine.memory import run_chunks
from emotion_circuits.engine.prefix import (
    Below,
    copied,
    distinct,
    first_layer,
    output_below,
    prefill,
    shared_columns,
    skip_below,
)
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.products import inference
from emotion_circuits.types import Condition, Prompt

Logits = Float[Tensor, "row vocabulary"]
Metric = Callable[[Logits, Logits], Float[Tensor, " row"]]
"""A number per row from its float32 logits and those of its prompt's unedited row.

Where all rows are of one prompt the second argument is that prompt's one row: metrics broadcast it.
"""


def score(
    lm: LM,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition],
    metrics: Sequence[Metric],
    *,
    max_rows: int | None = None,
) -> Float[np.ndarray, "prompt condition metric"]:
    """Every metric of the next-token logits of every prompt under every condition, float32.

    Raises:
        UsageError: nothing to score, two conditions of one name, or one that cannot act on a prompt.
        ModelError: logits that are no numbers.
    """
    require_own_names(conditions)
    rows = [Row(e, c) for e in lm.encode(prompts) for c in conditions]
    found = np.zeros((len(rows), len(metrics)), np.float32)
    for numbers, values in score_rows(lm, rows, metrics, max_rows=max_rows):
        found[numbers] = values
    return found.reshape(len(prompts), len(conditions), len(metrics))


def score_rows(
    lm: LM,
    rows: Sequence[AnyRow],
    metrics: Sequence[Metric],
    *,
    max_rows: int | None = None,
    chunks: Sequence[Sequence[int]] | None = None,
) -> Iterator[tuple[list[int], Float[np.ndarray, "row metric"]]]:
    """Score rows batch by batch, yielding (row numbers, values) of a batch as soon as it is finished.

    Batches, and what happens where memory runs out, are those of
    :func:`~emotion_circuits.engine.generation.generate_rows`. A prompt's unedited row rides in every batch of its rows,
    and counts towards ``max_rows``. ``chunks`` are batches that were planned before, where only some of them are to be
    scored.
    """
    if not metrics:
        raise UsageError("nothing to score: no metric was given", "give at least one metric")
    shared = _PromptPass(lm)

    def run(chunk: Sequence[int]) -> Float[np.ndarray, "row metric"]:
        logits, baseline = shared.logits([rows[n] for n in chunk])
        return torch.stack([m(logits, baseline).float() for m in metrics], 1).cpu().numpy()

    planned = plan_chunks(lm, rows, scored_at_once(lm, rows, max_rows)) if chunks is None else chunks
    yield from run_chunks(planned, run, shared.forget)


def kl_from_baseline() -> Metric:
    """KL(unedited ‖ edited) of the next token in nats: Σ p₀ log(p₀ / p) (Kullback and Leibler 1951)."""

    def metric(logits: Logits, baseline: Logits) -> Tensor:
        old = baseline.log_softmax(-1)
        p = old.exp()
        # One array of this size at a time, worked on in place: fresh memory costs more than the arithmetic. A token
        # that the unedited row excludes adds nothing, whatever it has now.
        return (old - logits.log_softmax(-1)).mul_(p).masked_fill_(p == 0, 0.0).sum(-1)

    return metric


def log_sum_exp_difference(ids: Sequence[int], neutral_ids: Sequence[int]) -> Metric:
    """log Σ exp of the logits of ``ids`` minus that of ``neutral_ids``, in nats.

    The log odds that the next token is one of the first set rather than one of the second (both softmaxes share their
    denominator, which cancels).

    Raises:
        UsageError: an empty set, or a token in both.
    """
    if not ids or not neutral_ids or set(ids) & set(neutral_ids):
        raise UsageError(
            f"token sets of {len(ids)} and {len(neutral_ids)} tokens are empty or overlap",
            "give two sets of tokens that have none in common",
        )

    def metric(logits: Logits, baseline: Logits) -> Tensor:
        return logits[:, list(ids)].logsumexp(-1) - logits[:, list(neutral_ids)].logsumexp(-1)

    return metric


@dataclass(frozen=True)
class _Kept:
    """What batches of the same prompts share: keys and values of their first columns, and what a block receives."""

    key: tuple[Any, ...]
    cache: Cache | None
    below: Below | None


class _PromptPass:
    """Logits of batches of rows; keeps what the next batch of the same prompts needs again."""

    def __init__(self, lm: LM) -> None:
        self._lm = lm
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """Free what is kept between batches."""
        self._kept = None

    def logits(self, rows: Sequence[AnyRow]) -> tuple[Logits, Logits]:
        """Float32 logits at the last prompt token of each row, and those of the unedited row of its prompt.

        The second has one row where all are of one prompt.
        """
        lm = self._lm
        firsts, owner = distinct([r[0] for r in rows])
        layers = [first_layer(lm, r[1]) for r in rows]
        # A row that edits nothing serves as its prompt's unedited row; other prompts get one more row each.
        unedited = {owner[n]: n for n in reversed(range(len(rows))) if is_unedited(rows[n])}
        extra = [p for p in range(len(firsts)) if p not in unedited]
        unedited.update({p: len(rows) + n for n, p in enumerate(extra)})
        everything = [*rows, *(Row(rows[firsts[p]][0], BASELINE) for p in extra)]
        found = self._forward(everything, [*owner, *extra], firsts, min(layers))
        require_numbers(lm, found, everything)
        if len(firsts) == 1:
            return found[: len(rows)], found[unedited[0]].unsqueeze(0)
        return found[: len(rows)], found[[unedited[p] for p in owner]]

    def _forward(self, rows: Sequence[AnyRow], owner: Sequence[int], firsts: Sequence[int], layer: int) -> Logits:
        lm = self._lm
        encoded, conditions = [r[0] for r in rows], [r[1] for r in rows]
        batch = pad(lm, encoded, range(len(rows)), "left")
        columns = shared_columns(batch, encoded, conditions)
        if len(firsts) == len(rows):  # every row is its prompt's unedited row
            layer = 0
        edits = Edits(lm, batch, encoded, conditions, Clock(), columns)
        edits.require_steps(1)
        with inference(lm.model):
            kept = self._prompts(batch, [encoded[n].ids for n in firsts], firsts, columns, layer)
            inputs = _inputs(batch, slice(None), columns)
            if kept.cache is not None:
                inputs["past_key_values"] = copied(kept.cache, owner, below=layer)
            if kept.below is None:
                with edits.hooks():
                    return lm.model(**inputs, logits_to_keep=1).logits[:, -1].float()
            with edits.hooks(), skip_below(lm, layer, kept.below.rows(owner)):
                return lm.model(**inputs, logits_to_keep=1).logits[:, -1].float()

    def _prompts(self, batch: Batch, ids: Sequence[Any], firsts: Sequence[int], columns: int, layer: int) -> _Kept:
        """The unedited prompts' own pass: keys and values of the first columns, and what block ``layer`` receives."""
        key = (tuple(ids), batch.ids.shape[1], columns, layer)
        if self._kept is None or self._kept.key != key:
            self._kept = None  # freed before its successor is made
            cache = prefill(self._lm, batch, firsts, columns) if columns else None
            below = None
            if layer:
                inputs = _inputs(batch, list(firsts), columns)
                if cache is not None:
                    inputs["past_key_values"] = copied(cache, range(len(firsts)))
                below = output_below(self._lm, layer, inputs)
            self._kept = _Kept(key, cache, below)
        return self._kept


def _inputs(batch: Batch, rows: slice | list[int], columns: int) -> dict[str, Any]:
    return {
        "input_ids": batch.ids[rows, columns:],
        "attention_mask": batch.mask[rows],
        "position_ids": batch.positions[rows, columns:],
        "use_cache": columns > 0,
    }

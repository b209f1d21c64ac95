"""``generate``: continuations of many prompts under many conditions, packed as rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from emotion_circuits.engine.chunks import plan_chunks
from emotion_circuits.engine.decode import BASELINE, Row, decode
from emotion_circuits.engine.memory import run_chunks
from emotion_circuits.engine.sampling import Chooser, Sampling, chooser, uniforms
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.types import Condition, Prompt

GREEDY = Sampling()


@dataclass(frozen=True)
class Generation:
    """What one row wrote: ``tokens`` without the prompt and without the stop token that ended it (if any)."""

    prompt: str
    condition: str
    tokens: tuple[int, ...]
    text: str
    stopped: bool
    sample: int = 0


def generate(
    lm: LM,
    prompts: Sequence[Prompt],
    conditions: Sequence[Condition] = (BASELINE,),
    sampling: Sampling = GREEDY,
    *,
    max_rows: int | None = None,
) -> list[Generation]:
    """Continue every prompt under every condition; rows are packed, so a condition costs no extra model call.

    Args:
        max_rows: rows of a batch at most; None chooses from free memory.

    Returns:
        One :class:`Generation` per (prompt, condition, sample), prompts outermost.

    Raises:
        UsageError: a text that leaves no room for the tokens asked for, two conditions of one name, or one that cannot
            act. ModelError: logits that are no numbers.
    """
    require_own_names(conditions)
    rows = [Row(e, c, s) for e in lm.encode(prompts) for c in conditions for s in range(sampling.samples)]
    results: dict[int, Generation] = {}
    for chunk in generate_rows(lm, rows, sampling, max_rows=max_rows):
        results.update(chunk)
    return [results[n] for n in range(len(rows))]


def generate_rows(
    lm: LM,
    rows: Sequence[Row],
    sampling: Sampling = GREEDY,
    *,
    max_rows: int | None = None,
    chunks: Sequence[Sequence[int]] | None = None,
) -> Iterator[list[tuple[int, Generation]]]:
    """Continue rows batch by batch, yielding (row number, result) of a batch as soon as it is finished.

    Batches are those of :func:`~emotion_circuits.engine.chunks.plan_chunks`; ``chunks`` are batches that were planned
    before, where only some of them are to be written. Where memory runs out, a warning is logged and half as many rows
    run at a time, also in the batches that follow. What a row writes does not depend on the rows beside it (up to the
    rounding of float32, which two equally likely tokens can make visible), nor does what it draws.

    Raises:
        UsageError, ModelError: as :func:`generate`.
    """
    new = sampling.max_new_tokens
    require_room(lm, rows, new)

    def run(chunk: Sequence[int]) -> list[tuple[int, Generation]]:
        batch = [rows[n] for n in chunk]
        decoded = list(decode(lm, batch, range(len(batch)), new, chooser_of(sampling, batch)))
        texts = lm.tokenizer.batch_decode([tokens for _, tokens, _ in decoded], skip_special_tokens=True)
        return [
            (chunk[n], _generation(batch[n], tokens, text, stopped))
            for (n, tokens, stopped), text in zip(decoded, texts, strict=True)
        ]

    planned = plan_chunks(lm, rows, max_rows, new_tokens=new) if chunks is None else chunks
    for _, result in run_chunks(planned, run):
        yield result


def require_own_names(conditions: Sequence[Condition]) -> None:
    """Raise when two conditions share a name: results are found by it, and draws are keyed by it."""
    names = [c.name for c in conditions]
    if len(set(names)) != len(names):
        raise UsageError("two conditions have the same name", "give every condition a name of its own")


def require_room(lm: LM, rows: Sequence[Row], new: int) -> None:
    """Raise when a prompt leaves no room for ``new`` tokens."""
    for e in {r.encoded.ids: r.encoded for r in rows}.values():
        if len(e) + new > lm.max_length:
            raise UsageError(
                f"prompt {e.prompt.id!r} ({len(e)} tokens) leaves no room for {new} more: "
                f"{lm.name} has positions for {lm.max_length}",
                "shorten the text or generate fewer tokens",
            )


def chooser_of(sampling: Sampling, batch: Sequence[Row]) -> Chooser:
    """What chooses the tokens of these rows, numbered from 0."""
    return chooser(sampling, None if sampling.greedy else np.stack([_draws(sampling, row) for row in batch]))


def _generation(row: Row, tokens: list[int], text: str, stopped: bool) -> Generation:
    return Generation(row.encoded.prompt.id, row.condition.name, tuple(tokens), text, stopped, row.sample)


def _draws(sampling: Sampling, row: Row) -> np.ndarray:
    return uniforms(sampling.seed, row.encoded.prompt.id, row.condition.name, row.sample, sampling.max_new_tokens)

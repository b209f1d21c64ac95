"""The decode loop: explicit masks and positions, a KV cache, and conditions as rows of one batch.

Hooks cannot infer the generation step or absolute positions from tensor shapes under a KV cache, so the loop publishes
them (:class:`~emotion_circuits.engine.edits.Clock`). The tokens in front of the first edit run once a prompt
(:mod:`~emotion_circuits.engine.prefix`). Rows that reached a stop token are dropped from the batch.

The cache grows by concatenation. Writing into a buffer of the final length instead gave the same texts and took 4 %
more CPU time (SmolLM2-135M, float32, 120 rows × 20 tokens, one thread: 8.3 against 8.0 s), so there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache

from emotion_circuits.engine.batching import Batch, pad
from emotion_circuits.engine.edits import Clock, Edits
from emotion_circuits.engine.prefix import copied, distinct, prefill, shared_columns
from emotion_circuits.engine.sampling import Chooser, greedy
from emotion_circuits.errors import ModelError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.products import inference
from emotion_circuits.types import Condition

BASELINE = Condition("baseline")


class Row(NamedTuple):
    """A row of a packed batch: a prompt under a condition, and which sample of it."""

    encoded: Encoded
    condition: Condition
    sample: int = 0


AnyRow = Row | tuple[Encoded, Condition]
"""A row; where nothing is drawn, a pair will do."""


class Watch(Protocol):
    """Looks on while a batch is decoded: its hooks see what the edits left, its steps the tokens as they are chosen."""

    def hooks(self, lm: LM) -> AbstractContextManager[object]:
        """Entered around the forward passes, inside the edits' hooks."""

    def step(self, rows: Sequence[int], tokens: Sequence[int], ended: Sequence[bool]) -> None:
        """The numbers of the rows that are alive, the token that each chose, and whether it is a stop token.

        What it raises ends the decoding.
        """


def decode(
    lm: LM, rows: Sequence[AnyRow], numbers: Sequence[int], max_new_tokens: int, choose: Chooser = greedy,
    watch: Watch | None = None,
) -> Iterator[tuple[int, list[int], bool]]:  # fmt: skip
    """Decode one packed batch; yields (row number, tokens, stopped by a stop token).

    Raises:
        UsageError: an edit that cannot act. ModelError: logits that are no numbers.
    """
    encoded, conditions = [r[0] for r in rows], [r[1] for r in rows]
    batch = pad(lm, encoded, list(numbers), "left")
    clock = Clock()
    with inference(lm.model):
        cache, start = _shared(lm, batch, encoded, conditions)
        edits = Edits(lm, batch, encoded, conditions, clock, start)
        edits.require_steps(max_new_tokens)
        stops = stop_ids(lm)
        ids, mask, positions = batch.ids[:, start:], batch.mask, batch.positions[:, start:]
        alive = list(range(len(rows)))
        written: list[list[int]] = [[] for _ in rows]
        stopped = [False] * len(rows)
        with edits.hooks(), nullcontext() if watch is None else watch.hooks(lm):
            for step in range(max_new_tokens):
                clock.step = step
                out = lm.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                    logits_to_keep=1,
                )  # fmt: skip
                logits = out.logits[:, -1]
                require_numbers(lm, logits, [rows[r] for r in alive], step)
                tokens = choose(logits, [numbers[r] for r in alive], step)
                chosen = tokens.tolist()
                ended = [token in stops for token in chosen]
                if watch is not None:
                    watch.step([numbers[r] for r in alive], chosen, ended)
                for r, token, end in zip(alive, chosen, ended, strict=True):
                    stopped[r] = end
                    if not end:
                        written[r].append(token)
                going = [i for i, end in enumerate(ended) if not end]
                if not going or step + 1 == max_new_tokens:
                    break
                if len(going) < len(alive):
                    kept = torch.tensor(going)  # on the CPU, where it indexes the layers of every device
                    cache.batch_select_indices(kept)
                    edits.keep(going)
                    alive = [alive[i] for i in going]
                    tokens, mask, positions = tokens[kept], mask[kept], positions[kept]
                ids = tokens.unsqueeze(1)
                mask = torch.cat([mask, torch.ones_like(ids)], 1)
                positions = positions[:, -1:] + 1
    for r, number in enumerate(numbers):
        yield number, written[r], stopped[r]


def _shared(lm: LM, batch: Batch, encoded: Sequence[Encoded], conditions: Sequence[Condition]) -> tuple[Cache, int]:
    """The cache that the rows start from, and how many columns of the batch it holds already."""
    firsts, owner = distinct(encoded)
    columns = shared_columns(batch, encoded, conditions)
    if columns == 0:
        return DynamicCache(config=lm.model.config), 0
    return copied(prefill(lm, batch, firsts, columns), owner), columns


def next_token_logits(lm: LM, rows: Sequence[AnyRow]) -> Float[Tensor, "row vocabulary"]:
    """Logits at the last prompt token of packed rows, in one forward pass."""
    encoded, conditions = [r[0] for r in rows], [r[1] for r in rows]
    batch = pad(lm, encoded, range(len(rows)), "left")
    edits = Edits(lm, batch, encoded, conditions, Clock())
    edits.require_steps(1)
    with inference(lm.model), edits.hooks():
        out = lm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
    return out.logits[:, -1]


def require_numbers(lm: LM, logits: Float[Tensor, "row vocabulary"], rows: Sequence[AnyRow], step: int) -> None:
    """Raise :class:`ModelError` naming the first row whose logits hold NaN or +infinity."""
    broken = [row for row, finite in enumerate(logits.amax(-1).isfinite().tolist()) if not finite]
    if broken:
        encoded, condition = rows[broken[0]][:2]
        raise ModelError(
            f"{lm.name} gives no numbers for prompt {encoded.prompt.id!r} under condition {condition.name!r} at step "
            f"{step} ({len(broken)} of {len(rows)} rows): an activation left the range of {lm.dtype}",
            "use a smaller strength, or --dtype float32",
        )


def stop_ids(lm: LM) -> set[int]:
    """Tokens that end a text: the generation config's EOS ids, and the tokenizer's."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list) else [configured]) | {lm.tokenizer.eos_token_id}
    return {int(i) for i in ids if i is not None}

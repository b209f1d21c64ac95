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
from functools import partial
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Cache, DynamicCache

from emotion_circuits.engine.batching import Batch, pad
from emotion_circuits.engine.edits import Clock, Edits
from emotion_circuits.engine.hooks import Hooks
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
        UsageError: an edit that cannot act. ModelError: logits that are no numbers, naming the first layer with some.
    """
    try:
        yield from _decode(lm, rows, numbers, max_new_tokens, choose, watch)
    except BrokenRowError as error:
        if isinstance(watch, _EveryBlock):
            raise
        raise _no_numbers(lm, error) from None


def _decode(
    lm: LM, rows: Sequence[AnyRow], numbers: Sequence[int], max_new_tokens: int, choose: Chooser, watch: Watch | None
) -> Iterator[tuple[int, list[int], bool]]:
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
                _check(logits, [rows[r] for r in alive], [written[r] for r in alive])
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


class BrokenRowError(Exception):
    """Logits of a ``row`` that wrote ``tokens`` are no numbers. Raised while hooks are open, told once they are not."""

    def __init__(self, row: AnyRow, tokens: Sequence[int], share: str) -> None:
        super().__init__(share)
        self.row, self.tokens, self.share = row, tokens, share


def require_numbers(lm: LM, logits: Float[Tensor, "row vocabulary"], rows: Sequence[AnyRow]) -> None:
    """Raise :class:`ModelError` naming the first row whose next-token logits hold NaN or +infinity.

    Call it where no hook is open: the row is run again to find the layer.
    """
    try:
        _check(logits, rows, [()] * len(rows))
    except BrokenRowError as error:
        raise _no_numbers(lm, error) from None


def _check(logits: Float[Tensor, "row vocabulary"], rows: Sequence[AnyRow], written: Sequence[Sequence[int]]) -> None:
    broken = [row for row, finite in enumerate(logits.amax(-1).isfinite().tolist()) if not finite]
    if broken:
        first = broken[0]
        raise BrokenRowError(rows[first], tuple(written[first]), f"{len(broken)} of {len(rows)} rows")


def _no_numbers(lm: LM, error: BrokenRowError) -> ModelError:
    encoded, condition = error.row[:2]
    layer = _first_broken_layer(lm, error)
    where = "" if layer is None else f" in layer {layer}"
    return ModelError(
        f"{lm.name} gives no numbers for prompt {encoded.prompt.id!r} under condition {condition.name!r} at step "
        f"{len(error.tokens)} ({error.share}): an activation left the range of {lm.dtype}{where}",
        "use a smaller strength, or --dtype float32",
    )


def _first_broken_layer(lm: LM, error: BrokenRowError) -> int | None:
    """The first layer whose block gives NaN or infinity when the row runs by itself, writing what it wrote.

    None where every block gives numbers: the logits themselves left the range, or the row is sound by itself.
    """
    written = error.tokens

    def again(logits: Tensor, numbers: Sequence[int], step: int) -> Tensor:
        return torch.tensor([written[step] if step < len(written) else 0], device=logits.device)

    watch = _EveryBlock()
    try:
        # Two steps at least: an edit of generated tokens is refused where none is read.
        for _ in decode(lm, [error.row], [0], max(2, len(written) + 1), again, watch):
            pass
    except (BrokenRowError, _FoundError):
        return watch.broken
    return None


class _FoundError(Exception):
    """Ends a pass behind the first block that gives no numbers."""


class _EveryBlock:
    """Looks for the first block whose output, edits included, holds NaN or infinity."""

    broken: int | None = None

    def hooks(self, lm: LM) -> AbstractContextManager[object]:
        hooks = Hooks()
        for layer in range(lm.n_layers):
            hooks.visit(lm.module(layer, "block"), "output", f"L{layer}.resid_post", partial(self._look, layer))
        return hooks

    def step(self, rows: Sequence[int], tokens: Sequence[int], ended: Sequence[bool]) -> None:
        """Nothing to see: the tokens are known."""

    def _look(self, layer: int, x: Tensor) -> None:
        if not bool(x.isfinite().all()):
            self.broken = layer
            raise _FoundError


def stop_ids(lm: LM) -> set[int]:
    """Tokens that end a text: the generation config's EOS ids, and the tokenizer's."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list) else [configured]) | {lm.tokenizer.eos_token_id}
    return {int(i) for i in ids if i is not None}

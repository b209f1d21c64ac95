"""How many rows fit into free memory, and how to go on with fewer when they did not."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from emotion_circuits.models.lm import LM
from emotion_circuits.models.memory import free_bytes, is_out_of_memory

log = logging.getLogger(__name__)

CPU_ROWS, ACCELERATOR_ROWS = 128, 512
"""More rows than these gain nothing: the matrix products are full."""

_SHARE = {"cpu": 0.5, "cuda": 0.8}
"""Share of free memory that rows may take; a CPU's memory is shared with other programs."""

_LOGIT_COPIES = 4
"""Float32 copies of a row's logits that live at once while metrics or a sampler work on them."""

T = TypeVar("T")


@dataclass(frozen=True)
class RowBudget:
    """Why a batch holds as many rows as it does: ``share`` of the ``free`` bytes, ``row`` bytes each, at most ``cap``.

    On a CPU ``cap`` is 128 rows, elsewhere 512.
    """

    cap: int
    share: float
    free: int
    row: int

    @property
    def rows(self) -> int:
        """Rows of one batch, 1 at least."""
        return max(1, min(self.cap, int(self.share * self.free // self.row)))


def row_budget(lm: LM, width_tokens: int, new_tokens: int) -> RowBudget:
    """What one packed batch may hold, from memory that is free now.

    Args:
        width_tokens: tokens of the longest prompt, prefix included. new_tokens: tokens generated after it.
    """
    kind = lm.device.type
    cap = CPU_ROWS if kind == "cpu" else ACCELERATOR_ROWS
    return RowBudget(cap, _SHARE.get(kind, 0.5), free_bytes(lm.device), row_bytes(lm, width_tokens, new_tokens))


def automatic_rows(lm: LM, width_tokens: int, new_tokens: int) -> int:
    """Rows that one packed batch may hold: those of :func:`row_budget`."""
    return row_budget(lm, width_tokens, new_tokens).rows


def row_bytes(lm: LM, width_tokens: int, new_tokens: int) -> int:
    """Memory of one row: its keys and values, the activations of one block over the prompt, and its logits."""
    size = torch.finfo(lm.dtype).bits // 8
    length = width_tokens + new_tokens
    cache = length * lm.n_layers * 2 * lm.n_kv_heads * lm.d_head * size
    # Residual stream, norms and their float32 copies; queries, keys, values; gate, up and their product; scores.
    block = width_tokens * (8 * lm.d_model + 4 * lm.n_heads * lm.d_head + 3 * lm.d_mlp + 2 * lm.n_heads * width_tokens)
    return cache + block * max(size, 4) + _LOGIT_COPIES * 4 * lm.vocabulary_size


def run_chunks(
    chunks: Sequence[Sequence[int]], work: Callable[[Sequence[int]], T], release: Callable[[], None] | None = None
) -> Iterator[tuple[list[int], T]]:
    """``work`` on every chunk of rows, yielding (rows, result); where memory runs out, on halves of the chunk.

    From then on no chunk is larger than the half that fitted. What was yielded stays; a single row that does not fit
    raises the error itself. ``release`` drops what ``work`` keeps between chunks.
    """
    waiting = deque(list(c) for c in chunks)
    limit: int | None = None
    while waiting:
        chunk = waiting.popleft()
        if limit is not None and len(chunk) > limit:
            waiting.extendleft(reversed(_cut(chunk, limit)))
            continue
        failed = None
        try:
            result = work(chunk)
        except (MemoryError, RuntimeError) as error:
            if len(chunk) == 1 or not is_out_of_memory(error):
                raise
            failed = str(error).split("\n")[0]
        # Outside the handler: the error's traceback held the batch.
        if failed is None:
            yield chunk, result
            continue
        limit = (len(chunk) + 1) // 2
        log.warning("memory ran out with %d rows (%s): going on with %d at a time", len(chunk), failed, limit)
        if release is not None:
            release()
        _free()
        waiting.appendleft(chunk)


def _cut(rows: list[int], limit: int) -> list[list[int]]:
    pieces = -(-len(rows) // limit)
    size = -(-len(rows) // pieces)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""``stream``: a few rows of one batch, token by token, with the residual stream that each token was read at.

What is written is what :func:`~emotion_circuits.engine.generation.generate` writes for the same rows in one batch, bit
for bit: same passes, same draws. One pass more reads the last token, so that every token has its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.engine.decode import Row, decode
from emotion_circuits.engine.generation import Generation, chooser_of, require_own_names, require_room
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.sampling import Sampling
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM


@dataclass(frozen=True)
class Step:
    """One row at one step.

    ``token`` is the token that was written (None: a stop token ended the row, or the row is full). ``residual`` is what
    the token *read* at this step left at the asked layers: the prompt's last one at step 0, then the one written at the
    step before.
    """

    row: int
    step: int
    token: int | None
    residual: Float[np.ndarray, "layer d_model"]


def stream(
    lm: LM, rows: Sequence[Row], sampling: Sampling, layers: Sequence[int], each: Callable[[Step], None]
) -> list[Generation]:
    """Continue rows of one prompt side by side and report every token at once.

    Args:
        each: called for every row after every forward pass; what it raises (a cancellation) ends the work and is passed
            on, with no hook left behind.

    Raises:
        UsageError: no rows, no room for the tokens, conditions of one name. ModelError: logits that are no numbers.
    """
    if not rows:
        raise UsageError("there is nothing to continue", "give at least one row")
    require_own_names([r.condition for r in rows])
    new = sampling.max_new_tokens
    require_room(lm, rows, new)
    watch = _Steps(lm.layers(layers), new, each)
    room = min(lm.max_length - len(r.encoded) for r in rows)
    steps = min(new + 1, room)
    longer = Sampling(steps, sampling.temperature, sampling.top_p, sampling.samples, sampling.seed)
    found = []
    for n, tokens, stopped in decode(lm, rows, range(len(rows)), steps, chooser_of(longer, rows), watch):
        kept = tokens[:new]
        text = str(lm.tokenizer.decode(kept, skip_special_tokens=True))
        ended = stopped and len(tokens) < new
        found.append(
            Generation(rows[n].encoded.prompt.id, rows[n].condition.name, tuple(kept), text, ended, rows[n].sample)
        )
    return found


class _Steps:
    """Keeps what the last token of every row left at some layers, and hands it on with the token that follows."""

    def __init__(self, layers: Sequence[int], new: int, each: Callable[[Step], None]) -> None:
        self._layers, self._new, self._each = layers, new, each
        self._seen: dict[int, Tensor] = {}
        self._step = 0

    def hooks(self, lm: LM) -> AbstractContextManager[object]:
        hooks = Hooks()
        for layer in self._layers:
            hooks.visit(lm.module(layer, "block"), "output", f"L{layer}.resid_post", self._keeper(layer))
        return hooks

    def step(self, rows: Sequence[int], tokens: Sequence[int], ended: Sequence[bool]) -> None:
        width = [self._seen[layer] for layer in self._layers]
        values = torch.stack([x.float().cpu() for x in width], dim=1).numpy() if width else np.zeros((len(rows), 0, 0))
        self._seen.clear()
        for i, (row, token, end) in enumerate(zip(rows, tokens, ended, strict=True)):
            written = None if end or self._step >= self._new else token
            self._each(Step(row, self._step, written, values[i]))
        self._step += 1

    def _keeper(self, layer: int) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            self._seen[layer] = x[:, -1]

        return keep

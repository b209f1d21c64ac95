"""What happened inside while a text was written: its tokens are read again, with the same edit at every step.

Reading a finished text in one pass gives the activations of its step-by-step generation (up to the rounding of another
batch shape), because each token attends to earlier ones only. The edit of step t acts on the token that step read: the
prompt's last token at step 0, the t-th written token at step t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from emotion_circuits.engine.batching import pad
from emotion_circuits.engine.decode import BASELINE
from emotion_circuits.engine.edits import Clock, Edits
from emotion_circuits.engine.replacement import last_logits
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.products import inference
from emotion_circuits.types import Condition, Intervention, Positions, Prompt

STEERED = ("onward", "generated")
"""Positions whose edits can be replayed: one token a step."""


def replay(
    lm: LM, prompt: Prompt, tokens: Sequence[int], condition: Condition = BASELINE, layers: Sequence[int] | None = None
) -> Float[np.ndarray, "step layer d_model"]:
    """resid_post at the token that each step read, after the edit: step 0 is the prompt's last token.

    Args:
        tokens: what was written after ``prompt`` under ``condition``; its edits add at ``onward`` or ``generated``.

    Raises:
        UsageError: nothing was written, or an edit of another kind or at other positions.
    """
    if not tokens:
        raise UsageError(f"nothing was written after prompt {prompt.id!r}", "replay texts that are not empty")
    (encoded,) = lm.encode([prompt])
    # The last token was written but never read.
    whole = _appended(encoded, tuple(tokens)[:-1])
    steps = len(tokens)
    edits = tuple(_at_steps(edit, whole, steps) for edit in condition.interventions)
    wanted = lm.layers(layers)
    batch = pad(lm, [whole], [0], "left")
    compiled = Edits(lm, batch, [whole], [Condition(condition.name, edits)], Clock())
    with inference(lm.model), compiled.hooks():
        _, kept = last_logits(lm, batch, [("resid_post", layer) for layer in wanted])
    values = torch.stack([kept["resid_post", layer][0, -steps:].float().cpu() for layer in wanted], dim=1)
    return np.asarray(values.numpy())


def _appended(encoded: Encoded, tokens: tuple[int, ...]) -> Encoded:
    """The prompt with written tokens behind it; each covers a character of its own, so that it counts as content."""
    end = len(encoded.prompt.text)
    offsets = tuple((end + i, end + i + 1) for i in range(len(tokens)))
    return replace(encoded, ids=(*encoded.ids, *tokens), offsets=(*encoded.offsets, *offsets))


def _at_steps(edit: Intervention, whole: Encoded, steps: int) -> Intervention:
    """The edit with a value for every step it acts on."""
    if edit.op != "add" or edit.vector is None or edit.positions.kind not in STEERED or edit.vector.ndim != 1:
        raise UsageError(
            f"the edit of {edit.site} ({edit.op} at {edit.positions}) cannot be replayed",
            f"replay vectors that are added at {' or '.join(STEERED)}",
        )
    first = 0 if edit.positions.kind == "onward" else 1
    content = len(whole.content)
    places = tuple(range(content - steps + first, content))
    if not places:
        return replace(edit, strength=0.0)
    factors = [edit.schedule[min(t, len(edit.schedule) - 1)] for t in range(first, steps)]
    values = np.outer(np.asarray(factors), np.asarray(edit.vector, dtype=np.float64))
    return replace(edit, positions=Positions("at", values=places), vector=values, schedule=(1.0,))

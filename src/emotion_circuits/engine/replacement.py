"""Activations of many packed rows replaced by others through masks: one tensor operation per tap.

Where an intervention (:mod:`~emotion_circuits.engine.edits`) names one site, a replacement covers any number of heads,
neurons and tokens of a tap at once, each row with its own: what screens and circuits need, whose rows replace from one
head to nearly all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emotion_circuits.engine.batching import Batch
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.taps import Tap, tap
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.products import inference
from emotion_circuits.types import SiteKind


@dataclass(frozen=True)
class Replacement:
    """At one tap, ``values`` stand in where ``mask`` is true.

    ``mask`` is ``[row, token]`` for whole sites, ``[row, token, head]`` for q, k, v and z, ``[row, token, neuron]`` for
    neurons; ``values`` broadcast to ``[row, token, *lm.width(kind)]``. Tokens are columns of the batch, padding
    included.
    """

    kind: SiteKind
    layer: int
    mask: Bool[Tensor, "row token *index"]
    values: Float[Tensor, "row token *width"]


def replacing(lm: LM, replacements: Sequence[Replacement]) -> Hooks:
    """A context in which forward passes of the replacements' batch see the replaced activations.

    Raises:
        UsageError: a tap that does not exist, or two replacements of one tap (put them into one mask).
    """
    hooks = Hooks()
    seen: set[tuple[SiteKind, int]] = set()
    for r in replacements:
        if (r.kind, r.layer) in seen:
            raise UsageError(f"two replacements of L{r.layer}.{r.kind} in one batch", "join their masks")
        seen.add((r.kind, r.layer))
        t = tap(lm, r.kind, r.layer)
        hooks.visit(t.module, t.side, f"L{r.layer}.{r.kind}", _visitor(t, r))
    return hooks


def _visitor(t: Tap, r: Replacement) -> Callable[[Tensor], Tensor]:
    def visitor(x: Tensor) -> Tensor:
        replaced = x.clone()
        view = t.view(replaced)
        mask = r.mask.to(view.device)
        mask = mask.view(*mask.shape, *(1,) * (view.ndim - mask.ndim))
        view.copy_(torch.where(mask, r.values.to(view.device, view.dtype), view))
        return replaced

    return visitor


def last_logits(
    lm: LM, batch: Batch, taps: Sequence[tuple[SiteKind, int]] = ()
) -> tuple[Float[Tensor, "row vocabulary"], dict[tuple[SiteKind, int], Tensor]]:
    """One forward pass of a left-padded batch: logits at the last token, and what stands at ``taps``.

    Returns:
        Float32 logits, and per tap ``[row, token, *lm.width(kind)]`` in the model's dtype, padding included. Runs
        inside any :func:`replacing` context that is open.
    """
    kept: dict[tuple[SiteKind, int], Tensor] = {}

    def keep(kind: SiteKind, layer: int, t: Tap) -> Callable[[Tensor], None]:
        def visitor(x: Tensor) -> None:
            kept[kind, layer] = t.view(x)

        return visitor

    hooks = Hooks()
    for kind, layer in taps:
        t = tap(lm, kind, layer)
        hooks.visit(t.module, t.side, f"L{layer}.{kind}", keep(kind, layer, t))
    with inference(lm.model), hooks:
        out = lm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
    return out.logits[:, -1].float(), kept

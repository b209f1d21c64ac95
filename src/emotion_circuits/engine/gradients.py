"""Gradients of a number read from last-position logits with respect to activations anywhere in the model.

The model itself stays untouched: its parameters need no gradient inside :func:`metric_gradients` (they get their
setting back), and the graph begins at the first block's input. Rows of a batch do not interact, so the gradient of the
sum over rows holds every row's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.engine.batching import Batch, pad
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.taps import tap
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.types import SiteKind

Metric = Callable[[Float[Tensor, "row vocabulary"]], Float[Tensor, " row"]]
"""From logits at the last prompt token to one number a row, in float32."""

TapName = tuple[SiteKind, int]


@dataclass(frozen=True)
class Gradients:
    """Activations and gradients of a left-padded batch, on the model's device.

    ``values[kind, layer]`` and ``gradients[kind, layer]`` are ``[row, token, *lm.width(kind)]``; ``metric`` is
    ``[row]``; ``batch`` says where each row starts.
    """

    values: Mapping[TapName, Tensor]
    gradients: Mapping[TapName, Tensor]
    metric: Float[Tensor, " row"]
    batch: Batch


def metric_gradients(lm: LM, encoded: Sequence[Encoded], taps: Sequence[TapName], metric: Metric) -> Gradients:
    """d metric / d activation at ``taps`` in one forward and one backward pass.

    Args:
        encoded: the rows. taps: (site kind, layer); not ``result`` and ``pattern``, which are derived.
        metric: differentiable function of the last-position logits.

    Raises:
        UsageError: a tap that does not exist in this model.
    """
    batch = pad(lm, encoded, range(len(encoded)), "left")
    kept: dict[TapName, Tensor] = {}
    hooks = Hooks()
    first = tap(lm, "resid_pre", 0)
    hooks.visit(first.module, first.side, "graph starts here", lambda x: x.detach().requires_grad_())
    places = {name: tap(lm, *name) for name in taps}
    for name, place in places.items():
        hooks.visit(place.module, place.side, f"L{name[1]}.{name[0]}", _keep(kept, name))
    with frozen_parameters(lm), torch.inference_mode(False), torch.enable_grad(), hooks:
        out = lm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
        values = metric(out.logits[:, -1].float())
        # A neuron tap of a layer can share its tensor with nothing else, but an unused one would have no gradient.
        found = torch.autograd.grad(values.sum(), [kept[name] for name in taps], materialize_grads=True)
    return Gradients(
        {name: places[name].view(kept[name].detach()) for name in taps},
        {name: places[name].view(g) for name, g in zip(taps, found, strict=True)},
        values.detach(),
        batch,
    )


def _keep(kept: dict[TapName, Tensor], name: TapName) -> Callable[[Tensor], None]:
    def visitor(x: Tensor) -> None:
        kept[name] = x

    return visitor


@contextmanager
def frozen_parameters(lm: LM) -> Iterator[None]:
    """No parameter asks for a gradient inside; each gets its own setting back afterwards."""
    asking = [p for p in lm.model.parameters() if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)

"""What one head or MLP reads: gradients with respect to it, and changes of it that nothing else sees.

A block's input reaches the next blocks past its sublayers and, through a norm, its attention and its MLP. The tensor in
front of such a norm is a *branch*: what is added there changes what the sublayer reads and leaves the residual stream
as it is. All heads of a layer share a branch; a head's own part of the gradient is the one that flows back through its
output ``z`` alone, which holds for grouped keys, rotary embeddings and query/key norms alike.

Readers are named by their outputs: ``z`` with a head, ``mlp_out``, and ``resid_post`` of the last layer for the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from emotion_circuits.engine.batching import Batch
from emotion_circuits.engine.gradients import Metric, frozen_parameters
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.taps import Tap, tap
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.types import Site


def branch(lm: LM, reader: Site) -> Tap:
    """Where the branch of a reader begins.

    Raises:
        UsageError: no head, MLP or last residual stream.
    """
    if reader.kind == "z" and reader.index is not None:
        return Tap(lm.module(reader.layer, "attention_norm"), "input", _whole)
    if reader.kind == "mlp_out":
        return Tap(lm.module(reader.layer, "mlp_norm"), "input", _whole)
    if reader.kind == "resid_post" and reader.layer == lm.n_layers - 1:
        return tap(lm, "resid_post", reader.layer)
    raise UsageError(
        f"{reader} reads no branch of its own", "name a head's z, an MLP's mlp_out, or the last resid_post"
    )


def _whole(x: Tensor) -> Tensor:
    return x


def branch_gradients(
    lm: LM, batch: Batch, stream: Float[Tensor, "row token d_model"], readers: Sequence[Site], metric: Metric
) -> dict[Site, Float[Tensor, "row token d_model"]]:
    """d metric / d branch of every reader, through that reader alone, in float32.

    One forward and one backward pass, and one backward pass through a single attention for each head.

    Args:
        batch: left-padded. stream: what enters the first block. metric: of the last-position logits.
    """
    added: dict[tuple[str, int], Tensor] = {}
    kept: dict[int, Tensor] = {}
    hooks = Hooks()
    first = tap(lm, "resid_pre", 0)
    hooks.visit(first.module, first.side, "graph starts here", lambda x: stream.to(x).detach().clone().requires_grad_())
    for name, reader in {(r.kind, r.layer): r for r in readers}.items():
        place = branch(lm, reader)
        hooks.visit(place.module, place.side, f"branch of {reader}", _plus_zero(added, name))
    for layer in sorted({r.layer for r in readers if r.kind == "z"}):
        place = tap(lm, "z", layer)
        hooks.visit(place.module, place.side, f"L{layer}.z", _keep(kept, layer))
    with frozen_parameters(lm), torch.inference_mode(False), torch.enable_grad(), hooks:
        out = lm.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False,
            logits_to_keep=1,
        )  # fmt: skip
        total = metric(out.logits[:, -1].float()).sum()
        whole = [r for r in dict.fromkeys(readers) if r.kind != "z"]
        wanted = [added[r.kind, r.layer] for r in whole] + list(kept.values())
        found = torch.autograd.grad(total, wanted, retain_graph=True, materialize_grads=True)
        gradients = dict(zip(whole, found, strict=False))
        by_layer = dict(zip(kept, found[len(whole) :], strict=True))
        for r in (r for r in dict.fromkeys(readers) if r.kind == "z"):
            view = tap(lm, "z", r.layer).view
            own = torch.zeros_like(by_layer[r.layer])
            view(own)[..., r.index, :] = view(by_layer[r.layer])[..., r.index, :]
            (gradients[r],) = torch.autograd.grad(kept[r.layer], added["z", r.layer], own, retain_graph=True)
    return {r: g.detach().float() for r, g in gradients.items()}


def _plus_zero(added: dict[tuple[str, int], Tensor], name: tuple[str, int]) -> Callable[[Tensor], Tensor]:
    def visitor(x: Tensor) -> Tensor:
        added[name] = torch.zeros_like(x).requires_grad_()
        return x + added[name]

    return visitor


def _keep(kept: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
    def visitor(x: Tensor) -> None:
        kept[layer] = x

    return visitor


def adding_to_branch(lm: LM, reader: Site, change: Float[Tensor, "row token d_model"]) -> Hooks:
    """A context in which the reader's branch holds ``change`` more. The other heads of its layer see it as well."""
    place = branch(lm, reader)
    hooks = Hooks()
    hooks.visit(place.module, place.side, f"branch of {reader}", lambda x: x + change.to(x))
    return hooks

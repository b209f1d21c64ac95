"""Where each kind of site is found in a model, and how its tensor is viewed by head or neuron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emotion_circuits.engine.hooks import Side
from emotion_circuits.errors import UsageError
from emotion_circuits.models.family import Projection
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import norm_epsilon, weight_of
from emotion_circuits.types import Site, SiteKind


@dataclass(frozen=True)
class Tap:
    """A place in the forward pass: ``module``'s input or output, and a view of it by head.

    ``view`` maps the raw tensor ``[row, token, …]`` to ``[row, token, *lm.width(kind)]`` sharing its memory, so writing
    into the view of a clone edits the clone.
    """

    module: nn.Module
    side: Side
    view: Callable[[Tensor], Tensor]


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def tap(lm: LM, kind: SiteKind, layer: int) -> Tap:
    """The tap of one site kind in one layer.

    Raises:
        UsageError: ``resid_mid`` where attention and MLP run in parallel; ``result`` and ``pattern`` (derived).
    """
    family = lm.family
    if kind in ("resid_pre", "resid_post"):
        return Tap(lm.module(layer, "block"), "input" if kind == "resid_pre" else "output", _whole)
    if kind == "resid_mid":
        if lm.parallel:
            raise UsageError(
                f"{lm.name} runs attention and MLP in parallel: resid_mid does not exist", "use resid_pre or resid_post"
            )
        return Tap(lm.module(layer, "mlp_norm"), "input", _whole)
    if kind == "attn_out":
        part = "post_attention_norm" if family.post_attention_norm else "attention"
        return Tap(lm.module(layer, part), "output", _whole)
    if kind == "mlp_out":
        return Tap(lm.module(layer, "post_mlp_norm" if family.post_mlp_norm else "mlp"), "output", _whole)
    if kind == "neuron":
        return Tap(lm.module(layer, "down_projection"), "input", _whole)
    if kind == "z":
        return Tap(lm.module(layer, "out_projection"), "input", lambda x: x.unflatten(-1, (lm.n_heads, lm.d_head)))
    if kind in ("q", "k", "v"):
        projection: Projection = kind
        return Tap(lm.module(layer, projection), "output", lambda x: family.qkv.heads(x, projection, lm.d_head))
    raise UsageError(f"{kind} is not tapped directly", "capture() reads `result` and `pattern`")


def check_site(lm: LM, site: Site) -> Site:
    """The site with its layer normalised; raises when layer, head or neuron is out of the model's range."""
    (layer,) = lm.layers([site.layer])
    if site.index is not None:
        size = lm.d_mlp if site.kind == "neuron" else lm.n_kv_heads if site.kind in ("k", "v") else lm.n_heads
        if site.index >= size:
            noun = "neuron" if site.kind == "neuron" else "head"
            raise UsageError(
                f"{site}: {lm.name} has {size} {noun}s per layer in {lm.n_layers} layers",
                f"choose a {noun} from 0 to {size - 1}",
            )
    return Site(site.kind, layer, site.index)


def post_norm_rms(lm: LM, layer: int, attention_output: Tensor) -> Tensor:
    """1 / RMS ``[row, token, 1]`` of the total attention output, which the norm after attention divides by."""
    norm = lm.module(layer, "post_attention_norm")
    eps = norm_epsilon(norm)
    return torch.rsqrt(attention_output.float().pow(2).mean(-1, keepdim=True) + eps)


def post_norm_weight(lm: LM, layer: int) -> Tensor:
    """The factor ``[d_model]`` of the norm after attention: w, or 1 + w in Gemma."""
    weight = weight_of(lm.module(layer, "post_attention_norm")).float()
    return weight + 1 if lm.family.norm == "rms-plus-one" else weight

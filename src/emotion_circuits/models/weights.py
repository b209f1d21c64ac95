"""Per-head weights in one layout for every family, read through the same views that the activation taps use.

Shapes follow the field's convention (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; the
``W_Q``, ``W_K``, ``W_V``, ``W_O`` of TransformerLens), with grouped key and value heads repeated for each query head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float
from torch import Tensor, nn

from emotion_circuits.models.family import Projection
from emotion_circuits.models.lm import LM


@dataclass(frozen=True)
class HeadWeights:
    """One layer's attention weights; biases are zero where the model has none."""

    w_q: Float[Tensor, "head d_model d_head"]
    w_k: Float[Tensor, "head d_model d_head"]
    w_v: Float[Tensor, "head d_model d_head"]
    w_o: Float[Tensor, "head d_head d_model"]
    b_q: Float[Tensor, "head d_head"]
    b_k: Float[Tensor, "head d_head"]
    b_v: Float[Tensor, "head d_head"]
    b_o: Float[Tensor, " d_model"]


def head_weights(lm: LM, layer: int) -> HeadWeights:
    """Split layer ``layer``'s projections into heads; float32, on the device of the weights."""
    w_q, b_q = _heads(lm, layer, "q")
    w_k, b_k = _heads(lm, layer, "k")
    w_v, b_v = _heads(lm, layer, "v")
    w_o, b_o = output_heads(lm, layer)
    group = lm.n_heads // lm.n_kv_heads
    expand = [t.repeat_interleave(group, 0) for t in (w_k, w_v, b_k, b_v)]
    return HeadWeights(w_q, expand[0], expand[1], w_o, b_q, expand[2], expand[3], b_o)


def output_heads(lm: LM, layer: int) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, " d_model"]]:
    """W_O per head and the output bias (zeros where there is none)."""
    weight, bias = matrix(lm.module(layer, "out_projection"))
    return weight.unflatten(0, (lm.n_heads, lm.d_head)), bias


def neuron_outputs(lm: LM, layer: int) -> tuple[Float[Tensor, "neuron d_model"], Float[Tensor, " d_model"]]:
    """Each neuron's write vector (a row of the down-projection) and the output bias."""
    return matrix(lm.module(layer, "down_projection"))


def parameter(module: nn.Module, name: str = "weight") -> Tensor | None:
    """A module's own parameter, detached; fetched where accelerate keeps it off the device; None when it has none."""
    with align_module_device(module):
        own = cast("Tensor | None", getattr(module, name, None))
        if own is None:
            return None
        # Inside the context a fetched tensor is the module's; behind it only this reference holds it.
        return own.detach()


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a module that has one; see :func:`parameter`."""
    return cast(Tensor, parameter(module))


def norm_epsilon(norm: nn.Module) -> float:
    """What a norm adds to the mean square or the variance; Hugging Face's classes call it by two names."""
    own = (getattr(norm, name, None) for name in ("eps", "variance_epsilon"))
    return next((float(value) for value in own if value is not None), 1e-6)


def matrix(module: nn.Module) -> tuple[Float[Tensor, "in out"], Float[Tensor, " out"]]:
    """Weight as ``[in, out]`` (``x @ W + b``) and bias of a ``Linear`` or GPT-2 ``Conv1D``, float32."""
    with align_module_device(module):
        weight = cast(Tensor, module.weight).detach()
        weight = (weight.T if isinstance(module, nn.Linear) else weight).float().clone()
        bias = cast("Tensor | None", module.bias)
        offset = torch.zeros(weight.shape[1], device=weight.device) if bias is None else bias.detach().float().clone()
    return weight, offset


def _heads(
    lm: LM, layer: int, projection: Projection
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"]]:
    weight, bias = matrix(lm.module(layer, projection))
    split = lm.family.qkv.heads
    return split(weight, projection, lm.d_head).transpose(0, 1), split(bias, projection, lm.d_head)

"""Weights of linear layers laid out for oneDNN once, beside the model's own, instead of in every product.

A copy takes as much memory as its weight, so there are none where that is not to spare. It is made when a layer is
first multiplied, and anew when its weight was replaced or changed in place. Changes through ``weight.data`` (adapters
are merged so), which PyTorch does not record, show in a few numbers that are compared before every pass; a change of
single numbers that way is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from emotion_circuits.models.memory import free_bytes

SHARE_OF_MACHINE, SHARE_OF_FREE = 1 / 8, 1 / 4
"""All copies take at most this much of the machine's memory, and those of a model of what is free before."""
LAID_OUT_FOR_ROWS = 128
SAMPLE = 61
"""Numbers of a weight that are compared, evenly spread."""


@dataclass(frozen=True)
class _Packed:
    """A laid-out weight, and where and in which state the weight was that it was made from.

    ``made_from`` is held so that nothing else can come to lie in its place.
    """

    made_from: Tensor
    version: int
    sample: Tensor
    weight: Tensor


_PACKED: WeakKeyDictionary[nn.Linear, _Packed] = WeakKeyDictionary()


def packed_weight(module: nn.Linear) -> Tensor:
    """The layer's weight laid out for oneDNN, as it is now; requires :func:`can_be_packed`."""
    weight = module.weight
    known = _PACKED.get(module)
    if known is None or (known.made_from.data_ptr(), known.version) != (weight.data_ptr(), weight._version):
        known = _PACKED[module] = _Packed(weight.detach(), weight._version, _sampled(weight).clone(), _laid_out(weight))
    return known.weight


def forget_changed(modules: Iterable[nn.Linear]) -> None:
    """Drop the copies of weights whose numbers are others than when they were made."""
    for module in modules:
        known = _PACKED.get(module)
        if known is not None and not torch.equal(_sampled(module.weight), known.sample):
            del _PACKED[module]


def _sampled(weight: Tensor) -> Tensor:
    numbers = weight.detach().reshape(-1)
    return numbers[:: max(1, numbers.numel() // SAMPLE)]


def can_be_packed(weight: Tensor) -> bool:
    """Whether the weight lies in main memory, and changes of it would be seen."""
    return weight.device.type == "cpu" and not weight.is_inference() and has_layout()


def has_room(modules: Sequence[nn.Linear]) -> bool:
    """Whether the weights of all these layers may have copies, beside those of other models; theirs that exist take no
    more."""
    wanted = sum(m.weight.nbytes for m in modules if can_be_packed(m.weight))
    made = sum(_PACKED[m].weight.nbytes for m in modules if m in _PACKED)
    others = sum(packed.weight.nbytes for packed in list(_PACKED.values())) - made
    free = free_bytes(torch.device("cpu"))
    return wanted + others <= SHARE_OF_MACHINE * _machine_bytes() and wanted - made <= SHARE_OF_FREE * free


def copies_at_most(weights: int) -> int:
    """Bytes that copies of ``weights`` bytes take at most, before it is known which layers there are."""
    return weights if weights <= SHARE_OF_MACHINE * _machine_bytes() else 0


@cache
def has_layout() -> bool:
    """Whether this build of PyTorch lays weights out, and a product with one is that of the weight itself."""
    return gives_product(_laid_out)


def gives_product(prepare: Callable[[Tensor], Tensor] = lambda weight: weight) -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer, and it gives the product with a prepared weight."""
    try:
        x, weight = torch.eye(3), torch.arange(12.0).reshape(4, 3)
        with torch.inference_mode():
            product = torch.ops.mkldnn._linear_pointwise(x, prepare(weight), None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product, weight.T)


def _laid_out(weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, LAID_OUT_FOR_ROWS)
    return found


@cache
def bfloat16_in_hardware() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor at all."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


@cache
def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4 << 30  # nothing tells: a small machine is assumed

"""Weights of linear layers laid out for oneDNN once, beside the model's own, instead of in every product.

A copy takes as much memory as its weight, so there are none where that is not to spare. It is made when a layer is
first multiplied, and anew when its weight was replaced or changed in place; a change through ``weight.data``, which
PyTorch itself does not record, is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from emotion_circuits.models.memory import free_bytes

SHARE_OF_MACHINE, SHARE_OF_FREE = 1 / 8, 1 / 4
"""The copies of a model take at most this much of the machine's memory, and of what is free before they are made."""
LAID_OUT_FOR_ROWS = 128


@dataclass(frozen=True)
class _Packed:
    """A laid-out weight, and where and in which state the weight was that it was made from."""

    place: int
    version: int
    weight: Tensor


_PACKED: WeakKeyDictionary[nn.Linear, _Packed] = WeakKeyDictionary()


def packed_weight(module: nn.Linear) -> Tensor:
    """The layer's weight laid out for oneDNN, as it is now; requires :func:`can_be_packed`."""
    weight = module.weight
    known = _PACKED.get(module)
    if known is None or (known.place, known.version) != (weight.data_ptr(), weight._version):
        laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, LAID_OUT_FOR_ROWS)
        known = _PACKED[module] = _Packed(weight.data_ptr(), weight._version, laid_out)
    return known.weight


def can_be_packed(weight: Tensor) -> bool:
    """Whether the weight lies in main memory, and changes of it would be seen."""
    return weight.device.type == "cpu" and not weight.is_inference() and has_layout()


def has_room(weights: Sequence[Tensor]) -> bool:
    """Whether copies of all these weights may be made; those that exist take no more."""
    wanted = sum(w.nbytes for w in weights if w.device.type == "cpu")
    made = sum(p.weight.nbytes for p in _PACKED.values())
    return wanted <= SHARE_OF_MACHINE * _machine_bytes() and wanted - made <= SHARE_OF_FREE * free_bytes(
        torch.device("cpu")
    )


def copies_at_most(weights: int) -> int:
    """Bytes that copies of ``weights`` bytes take at most, before it is known which layers there are."""
    return weights if weights <= SHARE_OF_MACHINE * _machine_bytes() else 0


@cache
def has_layout() -> bool:
    """Whether this build of PyTorch lays weights out, and a product with one is that of the weight itself."""
    try:
        x, weight = torch.eye(3), torch.arange(12.0).reshape(4, 3)
        with torch.inference_mode():
            laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, LAID_OUT_FOR_ROWS)
            product = torch.ops.mkldnn._linear_pointwise(x, laid_out, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(product, weight.T)


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

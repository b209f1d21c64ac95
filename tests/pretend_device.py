"""A pretended accelerator: tensors that say they lie elsewhere, and what a real one would make of mixing them.

Values stay on the CPU, so that results can be compared to the bit. What a CUDA device refuses is refused here: an
operation on tensors of two devices (but numbers, indices and copies), and NumPy on a tensor that is not on the CPU.
Every copy between the host and the device is counted by its direction: on a real device each makes the host wait.

Importing this module registers the device with PyTorch for the rest of the process, so that tests do so in a process
of their own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from emotion_circuits.models import LM

_setup_privateuseone_for_python_backend("pretended")
DEVICE = torch.device("pretended:0")
_MAY_MIX = {
    torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default, torch.ops.aten.copy_.default,
}  # fmt: skip


class _There(Tensor):
    """A tensor that says it is on the pretended device; ``inner`` holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> _There:
        with torch.inference_mode(False):  # a view of a tensor that is not of this mode may not be either
            made: _There = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
                device=DEVICE, requires_grad=False,
            )  # fmt: skip
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """As a device's: a copy to the host first."""
        return self.cpu().tolist()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of PretendedDevice()")


class PretendedDevice(TorchDispatchMode):
    """Inside the context tensors may lie on :data:`DEVICE`; ``copies`` counts ``to device`` and ``to host``."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if isinstance(x, _There)]
        named = [x for x in tree_iter((args, kwargs)) if isinstance(x, torch.device)]
        target = named[0].type if named else None
        if not there and target != DEVICE.type:
            return func(*args, **kwargs)
        here = [x for x in tensors if not isinstance(x, _There)]
        fills_host = func is torch.ops.aten.copy_.default and not isinstance(args[0], _There)
        if target == "cpu" or fills_host or func is torch.ops.aten._local_scalar_dense.default:
            self.copies["to host"] += 1
        elif here and (target == DEVICE.type or func in _MAY_MIX):
            self.copies["to device"] += 1
        elif there and any(x.ndim for x in here):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu")
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        found = func(*inner_args, **inner_kwargs)
        if fills_host:
            return args[0]
        if target == "cpu":
            return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, found)
        known = {id(x.inner): x for x in there}

        def outside(x: Any) -> Any:
            return known.get(id(x), x if isinstance(x, _There) else _There(x)) if isinstance(x, Tensor) else x

        return tree_map(outside, found)


def _inner(x: Any) -> Any:
    if isinstance(x, torch.device):
        return torch.device("cpu")
    return x.inner if isinstance(x, _There) else x


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **options: Any) -> Tensor:
    return _There(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(to).copy_(_inner(source))
    return to


# PyTorch makes the index of `x[[0, 1]]` with dispatch modes switched off: these are what it calls then.
_library = torch.library.Library("aten", "IMPL")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")
_library.impl("_copy_from", _copy_from, "PrivateUse1")


def move(lm: LM) -> None:
    """Put the weights and buffers of a model on the pretended device, tied ones once."""
    moved: dict[int, nn.Parameter] = {}
    for module in lm.model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = moved.setdefault(id(parameter), nn.Parameter(_There(parameter.data), requires_grad=False))
                module._parameters[name] = made
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _There(buffer)

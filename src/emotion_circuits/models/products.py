"""Matrix products of a model's linear layers by the faster of PyTorch's two libraries, with weights laid out for it.

PyTorch multiplies float32 matrices through MKL, which leaves AVX-512 unused on processors that are not Intel's. oneDNN,
which the same PyTorch carries (and uses for bfloat16), does use it: on an AMD EPYC with AVX-512 it multiplied the
weights of SmolLM2-135M 2.2 times as fast for 120 rows (timed as in :mod:`~emotion_circuits.models.product_limit`). Both
are float32 throughout; they add in another order, so results differ by rounding (some 1e-6 of a logit's size).

oneDNN lays a weight out anew for every product unless it gets one that is laid out already. Such a copy is kept beside
the model's own weight (:mod:`~emotion_circuits.models.packing`): on that processor 1.25 times as fast in float32 and
1.35 times in bfloat16 for 120 rows, twice for 8, and the same bits.

The model's own forward stays as it is outside the context: its logits are Hugging Face's bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emotion_circuits.models.packing import (
    bfloat16_in_hardware,
    can_be_packed,
    forget_changed,
    gives_product,
    has_layout,
    has_room,
    packed_weight,
)

SETTING = "EMOTION_CIRCUITS_PRODUCTS"
"""Environment variable: ``torch`` leaves every product to PyTorch's default, ``onednn`` asks for oneDNN anywhere."""

SMALLEST = 1 << 16
"""Weights with fewer entries gain nothing: there the call costs more than the product."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """PyTorch's inference mode with :func:`fast_products`."""
    with torch.inference_mode(), fast_products(model):
        yield


@contextmanager
def fast_products(model: nn.Module) -> Iterator[None]:
    """Inside the context, the model's linear layers on the CPU multiply with oneDNN where that is faster.

    That is float32 where :func:`product_library` says so, and bfloat16, which PyTorch gives to oneDNN anyway, where
    weights can be laid out for it. Only where no gradient is recorded. Layers whose forward somebody else replaced
    keep it; those that accelerate offloads multiply the same way, so that where a weight lies changes no number.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    try:
        found = _faster(model)
        modules = [module for module, _ in found]
        forget_changed(modules)
        packs = has_room(modules)
        for module, name in found:
            own = vars(module)
            replaced.append((own, name, own.get(name)))
            own[name] = partial(_linear, module, packs and can_be_packed(module.weight))
        yield
    finally:
        for own, name, before in replaced:
            if before is None:
                del own[name]
            else:
                own[name] = before


def bytes_of_copies(model: nn.Module) -> int:
    """Bytes of the weights that are laid out for oneDNN beside the model's own, once it has run; 0 without room."""
    modules = [module for module, _ in _faster(model)]
    return sum(m.weight.nbytes for m in modules if can_be_packed(m.weight)) if has_room(modules) else 0


@cache
def product_library() -> str:
    """``onednn`` or ``torch``: what :func:`fast_products` multiplies float32 with on this machine.

    Depends on the processor alone, so that a run which is taken up again multiplies as it began.
    """
    asked = os.environ.get(SETTING, "")
    wanted = asked if asked in ("torch", "onednn") else faster_library()
    return wanted if wanted == "torch" or has_onednn() else "torch"


def faster_library() -> str:
    """``onednn`` or ``torch``: what multiplies faster on this processor, whether this PyTorch has it or not."""
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    slow = torch.backends.mkl.is_available() and _maker() not in ("", "GenuineIntel")
    return "onednn" if wide and slow else "torch"


def has_onednn() -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer, and it gives the product."""
    return _operator() is not None


def _faster(model: nn.Module) -> list[tuple[nn.Linear, str]]:
    """The layers that oneDNN multiplies faster, each with the attribute that holds what it computes."""
    return [
        (m, name) for m in model.modules() if isinstance(m, nn.Linear) and (name := _forward_of(m)) is not None
    ]  # fmt: skip


def _forward_of(module: nn.Linear) -> str | None:
    """The attribute that holds what the layer computes, or None for a layer that is left alone.

    Where accelerate fetches a layer's weights it wraps ``forward`` and keeps the layer's own as ``_old_forward``.
    """
    weight, own = module.weight, vars(module)
    if type(module) is not nn.Linear or not multiplies_faster(weight.dtype) or weight.numel() < SMALLEST:
        return None  # quantised layers are subclasses
    fetched = hasattr(module, "_hf_hook") and "_old_forward" in own
    name = "_old_forward" if fetched else "forward"
    if isinstance(own.get(name), partial) or (not fetched and name in own):
        return None  # an outer context's, or somebody else's
    return name if weight.device.type in (("cpu", "meta") if fetched else ("cpu",)) else None


def multiplies_faster(dtype: torch.dtype) -> bool:
    """Whether anything is to be gained for weights of a number type on this machine."""
    if dtype is torch.bfloat16:
        return os.environ.get(SETTING) != "torch" and has_layout() and bfloat16_in_hardware()
    return dtype is torch.float32 and product_library() == "onednn"


def _linear(module: nn.Linear, packed: bool, x: Tensor) -> Tensor:
    """``x`` ``[..., in]`` → ``[..., out]``, as the module itself would."""
    operator, weight = _operator(), module.weight
    plain = torch.is_grad_enabled() or x.dtype is not weight.dtype or x.device.type != "cpu"
    if operator is None or plain:
        return nn.functional.linear(x, weight, module.bias)
    # One row of float32 is another kind of product to oneDNN: its last bits would differ with a packed weight.
    if packed and (x.shape[:-1].numel() > 1 or weight.dtype is torch.bfloat16):
        weight = packed_weight(module)
    elif weight.dtype is torch.bfloat16:
        return nn.functional.linear(x, weight, module.bias)
    product: Tensor = operator(x, weight, module.bias, "none", [], "")
    return product


@cache
def _operator() -> Callable[..., Any] | None:
    """PyTorch's own oneDNN linear layer, or None in a build without it, or where it does not give the product."""
    return torch.ops.mkldnn._linear_pointwise if gives_product() else None


def _maker() -> str:
    """The processor's maker as it calls itself (``AuthenticAMD``), empty where it cannot be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")

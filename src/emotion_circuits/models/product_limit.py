"""The machine's own limit: how long a model's matrix products take alone, for a given number of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from emotion_circuits.models.lm import LM
from emotion_circuits.models.products import inference


def seconds_per_forward(lm: LM, rows: int, *, head: bool = True, repeats: int = 4) -> float:
    """Seconds of every linear layer on ``[rows, d_in]``, the least disturbed of ``repeats`` with each library.

    No way to run the same weights in the same number type can be faster on this machine, whatever it does around them.
    ``head``: with the product that makes the logits.
    """
    layers = list(linear_layers(lm.model if head else lm.decoder))
    inputs: dict[tuple[int, torch.device], Tensor] = {}
    for m in layers:
        key = _takes(m, lm)
        if key not in inputs:
            inputs[key] = torch.randn(rows, key[0], dtype=lm.dtype, device=key[1])
    best = float("inf")
    for context in (torch.inference_mode, lambda: inference(lm.model)) * repeats:
        with context():
            best = min(best, timed(lambda: [m(inputs[_takes(m, lm)]) for m in layers], lm.device))
    return best


def linear_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Every layer that is one matrix product (GPT-2 has a class of its own for them)."""
    return (m for m in model.modules() if isinstance(m, nn.Linear | Conv1D))


def multiply_adds(model: nn.Module) -> int:
    """Multiplications with an addition that one row costs in all linear layers."""
    return sum(_width_of(m) * _outputs_of(m) for m in linear_layers(model))


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, until the device has finished it."""
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def settle(device: torch.device) -> None:
    """Wait for what the device was given to do; a CPU does it at once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _takes(module: nn.Module, lm: LM) -> tuple[int, torch.device]:
    """Width and place of what the layer reads; offloaded weights are fetched to where the model runs."""
    place = next(module.parameters()).device
    return _width_of(module), lm.device if place.type == "meta" else place


def _width_of(module: nn.Module) -> int:
    return module.in_features if isinstance(module, nn.Linear) else int(module.nx)  # type: ignore[arg-type]


def _outputs_of(module: nn.Module) -> int:
    return module.out_features if isinstance(module, nn.Linear) else int(module.nf)  # type: ignore[arg-type]

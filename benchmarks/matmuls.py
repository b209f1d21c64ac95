"""The machine's own limit: how long a model's matrix products take alone, for a given number of rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emotion_circuits.models import LM


def seconds_per_forward(lm: LM, rows: int, *, head: bool = True, repeats: int = 4) -> float:
    """Seconds of every linear layer on ``[rows, d_in]``, the least disturbed of ``repeats`` with each library.

    No way to run the same weights in the same number type can be faster on this machine, whatever it does around them.
    ``head``: with the product that makes the logits.
    """
    import torch

    from emotion_circuits.models.products import inference

    layers = [m for m in (lm.model if head else lm.decoder).modules() if isinstance(m, torch.nn.Linear)]
    inputs = {m.in_features: torch.randn(rows, m.in_features, dtype=m.weight.dtype) for m in layers}
    best = float("inf")
    for context in (torch.inference_mode, lambda: inference(lm.model)) * repeats:
        with context():
            start = time.perf_counter()
            for m in layers:
                m(inputs[m.in_features])
            best = min(best, time.perf_counter() - start)
    return best

"""The machine's own limit: how long a model's matrix products take alone, for a given number of rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emotion_circuits.models import LM


def seconds_per_forward(lm: LM, rows: int, *, head: bool = True, repeats: int = 4) -> float:
    """Seconds of every linear layer on ``[rows, d_in]``, the least disturbed of ``repeats``.

    No way to run the same weights in the same number type can be faster on this machine, whatever it does around them.
    ``head``: with the product that makes the logits.
    """
    import torch

    weights = [m.weight for m in (lm.model if head else lm.decoder).modules() if isinstance(m, torch.nn.Linear)]
    inputs = {w.shape[1]: torch.randn(rows, w.shape[1], dtype=w.dtype) for w in weights}
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            for w in weights:
                torch.nn.functional.linear(inputs[w.shape[1]], w)
            best = min(best, time.perf_counter() - start)
    return best

"""Length-bucketed batches with explicit masks and positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from emotion_circuits.models.lm import LM, Encoded

CAPTURE_TOKENS = 512
"""Tokens per capture batch on a CPU: its matrix products are full from here on. Larger batches leave its caches (4096
was 10 % slower on SmolLM2) and fragment the heap: at 1024 the peak varied by 100 MB between runs, at 512 by 35."""
ACCELERATOR_TOKENS = 16384
"""Tokens per capture batch on a GPU."""


def capture_tokens(device: torch.device) -> int:
    """How many tokens, padding included, one capture batch holds at most on ``device``."""
    return CAPTURE_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS


@dataclass(frozen=True)
class Batch:
    """Padded rows. ``starts[r]`` is the column of row r's first (prefix) token: 0 with right padding."""

    rows: tuple[int, ...]
    ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    positions: Int[Tensor, "row token"]
    starts: tuple[int, ...]


def pad(lm: LM, encoded: Sequence[Encoded], rows: Sequence[int], side: Literal["left", "right"]) -> Batch:
    """Pad rows to one length; position ids come from the mask, never from the shape."""
    width = max(len(e) for e in encoded)
    # Padding is masked, so its id does not matter; 0 exists in every vocabulary (pad = EOS tells nothing).
    ids = torch.zeros(len(encoded), width, dtype=torch.long)
    mask = torch.zeros(len(encoded), width, dtype=torch.long)
    starts = []
    for r, e in enumerate(encoded):
        start = width - len(e) if side == "left" else 0
        ids[r, start : start + len(e)] = torch.tensor(e.ids)
        mask[r, start : start + len(e)] = 1
        starts.append(start)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    device = lm.device
    return Batch(tuple(rows), ids.to(device), mask.to(device), positions.to(device), tuple(starts))


def length_buckets(encoded: Sequence[Encoded], max_rows: int, max_tokens: int = CAPTURE_TOKENS) -> Iterator[list[int]]:
    """Row indices in batches of like length, longest first, so that the first batch shows the peak memory."""
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))
    batch: list[int] = []
    for i in order:
        longest = len(encoded[batch[0]]) if batch else len(encoded[i])
        if batch and (len(batch) >= max_rows or (len(batch) + 1) * longest > max_tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

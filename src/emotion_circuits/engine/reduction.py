"""From every token's activation to what is kept: one token, a mean over tokens, or all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.models.lm import Encoded
from emotion_circuits.types import Positions


@dataclass(frozen=True)
class Reduction:
    """What one position keeps of a right-padded batch.

    Exactly one field is set: ``picks`` gathers a token per row (exact, no arithmetic), ``weights`` averages tokens in
    float32, ``tokens`` keeps the (row, token) pairs of every content token. Made on the CPU and copied once to each
    device that activations lie on.
    """

    picks: Int[Tensor, " row"] | None = None
    weights: Float[Tensor, "row token"] | None = None
    tokens: tuple[Int[Tensor, " kept"], Int[Tensor, " kept"]] | None = None
    _copies: dict[torch.device, Reduction] = field(default_factory=dict, init=False, repr=False, compare=False)

    def apply(self, x: Float[Tensor, "row token *width"]) -> Float[Tensor, " kept *width"]:
        """``[row, token, …]`` → ``[row, …]``, or ``[kept token, …]`` for all tokens; float32 on x's device."""
        here = self._on(x.device)
        if here.picks is not None:
            return x[torch.arange(len(here.picks), device=x.device), here.picks].float()
        if here.tokens is not None:
            return x[here.tokens].float()
        assert here.weights is not None
        flat = x.float().flatten(2) if x.ndim > 3 else x.float()
        return torch.bmm(here.weights.unsqueeze(1), flat).squeeze(1).unflatten(-1, x.shape[2:])

    def _on(self, device: torch.device) -> Reduction:
        if device not in self._copies:
            picks, weights = (None if t is None else t.to(device) for t in (self.picks, self.weights))
            tokens = None if self.tokens is None else (self.tokens[0].to(device), self.tokens[1].to(device))
            self._copies[device] = Reduction(picks, weights, tokens)
        return self._copies[device]


def reduction(batch: Sequence[Encoded], positions: Positions, width: int) -> Reduction:
    """The reduction of one position for right-padded rows of ``width`` tokens."""
    indices = [prompt_indices(e, positions) for e in batch]
    if positions.kind == "all":
        rows = [r for r, kept in enumerate(indices) for _ in kept]
        return Reduction(tokens=(torch.tensor(rows), torch.tensor([c for kept in indices for c in kept])))
    if all(len(kept) == 1 for kept in indices):
        return Reduction(picks=torch.tensor([kept[0] for kept in indices]))
    weights = torch.zeros(len(batch), width)
    for r, kept in enumerate(indices):
        weights[r, kept] = 1 / len(kept)
    return Reduction(weights=weights)

"""The number that circuits are judged by: emotion tokens against matched neutral tokens, at the last position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import weight_of


@dataclass(frozen=True)
class Endpoint:
    """log-sum-exp of the ``targets``' logits minus that of the ``foils``, in nats; with one token each, a logit gap."""

    targets: tuple[int, ...]
    foils: tuple[int, ...]

    def __post_init__(self) -> None:
        both = set(self.targets) & set(self.foils)
        if not self.targets or not self.foils or both:
            raise UsageError(
                f"an endpoint needs target and foil tokens that differ (shared: {sorted(both)})",
                "give at least one of each, and none twice",
            )

    def __call__(self, logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, " row"]:
        """One value a row, float32."""
        logits = logits.float()
        targets, foils = (torch.tensor(ids, device=logits.device) for ids in (self.targets, self.foils))
        return torch.logsumexp(logits[:, targets], -1) - torch.logsumexp(logits[:, foils], -1)

    def direction(self, lm: LM) -> Float[Tensor, " d_model"]:
        """Mean unembedding of the targets minus that of the foils, before the final norm is folded in.

        Its product with the normed residual stream is the difference of *mean* logits (less the head's bias): linear,
        as a decomposition has to be, where the endpoint itself is not.
        """
        weight = weight_of(cast(nn.Module, lm.model.get_output_embeddings()))
        return weight[list(self.targets)].float().mean(0) - weight[list(self.foils)].float().mean(0)

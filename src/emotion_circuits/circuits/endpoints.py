"""The number that circuits are judged by: emotion tokens against matched neutral tokens, at the last position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from emotion_circuits.engine.score import Logits, Metric, log_sum_exp_difference
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import weight_of


@dataclass(frozen=True)
class Endpoint:
    """log-sum-exp of the ``targets``' logits minus that of the ``foils``, in nats; with one token each, a logit gap.

    An endpoint is a metric of :func:`~emotion_circuits.engine.score.score` too; what the unedited row has is not asked.

    Raises:
        UsageError: no targets, no foils, or a token in both.
    """

    targets: tuple[int, ...]
    foils: tuple[int, ...]

    def __post_init__(self) -> None:
        _ = self._metric  # sets that are no endpoint are refused where they are given

    @cached_property
    def _metric(self) -> Metric:
        return log_sum_exp_difference(self.targets, self.foils)

    def __call__(self, logits: Logits, unedited: Logits | None = None) -> Float[Tensor, " row"]:
        """One value a row, float32."""
        logits = logits.float()
        return self._metric(logits, logits)

    def direction(self, lm: LM) -> Float[Tensor, " d_model"]:
        """Mean unembedding of the targets minus that of the foils, before the final norm is folded in.

        Its product with the normed residual stream is the difference of *mean* logits (less the head's bias): linear,
        as a decomposition has to be, where the endpoint itself is not.
        """
        weight = weight_of(cast(nn.Module, lm.model.get_output_embeddings()))
        return weight[list(self.targets)].float().mean(0) - weight[list(self.foils)].float().mean(0)

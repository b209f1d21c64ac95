"""QK circuits: which heads attend *by* emotion content, from weights where that is valid, measured otherwise.

Attention scores are a bilinear form of the normed residual stream only where nothing else enters: no rotary embedding,
no norm on queries and keys. That is GPT-2 and GPT-Neo. For every other family the answer is measured: how much higher
the log-attention to emotion words is than to matched words. The result says which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.circuits.attention import attention_to_words
from emotion_circuits.circuits.direction import checked_direction
from emotion_circuits.circuits.ov import fold_norm
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.errors import ContractError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import head_weights

FLOOR = 1e-6
"""Added to attention before its logarithm: what float32 can hardly tell from nothing."""

Method = Literal["weights", "measured"]
UNITS: dict[Method, str] = {
    "weights": "size of the score that emotion content at the key evokes, relative to a random direction (1 = chance)",
    "measured": "log-attention to emotion words minus log-attention to matched neutral words (0 = no preference)",
}


@dataclass(frozen=True)
class QKScores:
    """``values`` ``[layer, head]`` in ``unit``; ``per_cluster`` ``[layer, head, scenario]`` where they are measured."""

    method: Method
    unit: str
    values: NDArray[np.float64]
    per_cluster: NDArray[np.float64] | None = None
    clusters: tuple[str, ...] = ()


def qk_scores(
    lm: LM,
    direction: NDArray[np.floating[Any]],
    pairs: Sequence[Pair],
) -> QKScores:
    """Score every head by weights where the family allows it, measured on the pairs otherwise."""
    if lm.family.qk_from_weights:
        return QKScores("weights", UNITS["weights"], key_scores_from_weights(lm, direction))
    return measured_key_scores(lm, pairs)


def key_scores_from_weights(
    lm: LM,
    direction: NDArray[np.floating[Any]],
) -> Float[NDArray[np.float64], "layer head"]:
    """‖W_Q W_Kᵀ d̂‖ · √d_model / ‖W_Q W_Kᵀ‖_F: how strongly content d̂ at the key moves a head's scores.

    Norm weights are folded in; 1 is what a random direction gives.

    Raises:
        ContractError: a family whose scores are no bilinear form (rotary embeddings, norms on queries and keys).
    """
    if not lm.family.qk_from_weights:
        raise ContractError(
            f"QK circuits of {lm.name} ({lm.family.name}) cannot be read from weights: rotary embeddings or norms "
            "stand between the projections and the scores",
            "use measured_key_scores",
        )
    d = torch.as_tensor(checked_direction(lm, direction), dtype=torch.float32)
    d = d / d.norm()
    values = np.empty((lm.n_layers, lm.n_heads))
    for layer in range(lm.n_layers):
        w = head_weights(lm, layer)
        norm = lm.module(layer, "attention_norm")
        q, _ = fold_norm(lm, norm, w.w_q, w.b_q)
        k, _ = fold_norm(lm, norm, w.w_k, w.b_k)
        along = torch.einsum("hmd,hd->hm", q, torch.einsum("m,hmd->hd", d.to(k.device), k))
        full = torch.einsum("hmd,hnd->hmn", q, k).flatten(1).norm(dim=1)
        values[layer] = (along.norm(dim=1) / full * lm.d_model**0.5).double().cpu().numpy()
    return values


def measured_key_scores(lm: LM, pairs: Sequence[Pair]) -> QKScores:
    """log(attention to emotion words) − log(attention to matched words), scenario by scenario, for any family."""
    found = attention_to_words(lm, pairs)
    per_cluster = np.log(found.emotion + FLOOR) - np.log(found.neutral + FLOOR)
    return QKScores("measured", UNITS["measured"], per_cluster.mean(-1), per_cluster, found.clusters)

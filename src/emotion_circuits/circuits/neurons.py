"""Neurons ranked by what they write: their write vector, activation × write, and activation × gradient.

A neuron adds activation · W_out to the residual stream. Behind a norm on the MLP's output (Gemma 3) the norm's weight
is folded into W_out and its scale is left out, which leaves ranks within a layer untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.circuits.components import Neuron
from emotion_circuits.circuits.direction import checked_direction
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.engine.batching import capture_tokens, length_buckets
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.gradients import Metric, TapName, metric_gradients
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import neuron_outputs, weight_of
from emotion_circuits.types import Positions

Array = NDArray[np.float64]
LAST = Positions("last")


def write_scores(
    lm: LM,
    direction: NDArray[np.floating[Any]],
) -> Float[Array, "layer neuron"]:
    """W_out · d̂ of every neuron: what one unit of its activation adds along the direction (scaled to length 1)."""
    vector = checked_direction(lm, direction)
    norm = float(np.linalg.norm(vector))
    scores = np.empty((lm.n_layers, lm.d_mlp))
    for layer in range(lm.n_layers):
        weight, _ = neuron_outputs(lm, layer)
        d = vector / norm * _output_norm_weight(lm, layer)
        scores[layer] = weight.double().cpu().numpy() @ d
    return scores


def activation_times_write(
    lm: LM,
    pairs: Sequence[Pair],
    direction: NDArray[np.floating[Any]],
    *,
    position: Positions = LAST,
) -> Float[Array, "layer neuron pair"]:
    """(activation in the clean text − in the donor text) × write score: what a neuron adds because of the emotion."""
    writes = write_scores(lm, direction)
    clean, donor = (
        np.asarray(capture(lm, texts, ["neuron"], [position]).get("neuron", position), dtype=np.float64)
        for texts in ([p.clean for p in pairs], [p.donor for p in pairs])
    )
    return np.asarray((clean - donor).transpose(1, 2, 0) * writes[..., None])


def activation_times_gradient(
    lm: LM, pairs: Sequence[Pair], metric: Metric, *, position: Positions = LAST
) -> Float[Array, "layer neuron pair"]:
    """Activation × gradient of the endpoint in the clean texts, summed over the tokens of ``position``.

    A first-order estimate of what zeroing the neuron takes away (attribution patching against zero); for donors'
    activations and a check against exact ablation use :func:`~.attribution.gated_attribution`.
    """
    encoded = lm.encode([p.clean for p in pairs])
    taps: list[TapName] = [("neuron", layer) for layer in range(lm.n_layers)]
    found = np.empty((lm.n_layers, lm.d_mlp, len(pairs)))
    for rows in length_buckets(encoded, 1 << 30, capture_tokens(lm.device)):
        g = metric_gradients(lm, [encoded[r] for r in rows], taps, metric)
        for i, r in enumerate(rows):
            tokens = [g.batch.starts[i] + c for c in prompt_indices(encoded[r], position)]
            for layer in range(lm.n_layers):
                product = g.values["neuron", layer][i, tokens].float() * g.gradients["neuron", layer][i, tokens].float()
                found[layer, :, r] = product.sum(0).double().cpu().numpy()
    return found


@dataclass(frozen=True)
class RankedNeuron:
    """A neuron and its score, with its rank from 1."""

    neuron: Neuron
    score: float
    rank: int


def top_neurons(scores: Float[Array, "layer neuron"], k: int) -> list[RankedNeuron]:
    """The ``k`` neurons with the highest score, over all layers.

    Raises:
        UsageError: k is not between 1 and the number of neurons.
    """
    if not 1 <= k <= scores.size:
        raise UsageError(f"cannot take the top {k} of {scores.size} neurons", f"choose 1 to {scores.size}")
    order = np.argsort(-scores, axis=None, kind="stable")[:k]
    cells = zip(*np.unravel_index(order, scores.shape), strict=True)
    return [
        RankedNeuron(Neuron(int(layer), int(n)), float(scores[layer, n]), rank)
        for rank, (layer, n) in enumerate(cells, start=1)
    ]


def _output_norm_weight(lm: LM, layer: int) -> Array | float:
    if not lm.family.post_mlp_norm:
        return 1.0
    weight = weight_of(lm.module(layer, "post_mlp_norm")).double().cpu().numpy()
    return np.asarray(weight + (lm.family.norm == "rms-plus-one"))

"""OV circuits: what each head would write, and from which source tokens, whatever it attends to.

A head moves x_source · W_V · W_O to the position that attends. Norms are folded as far as they are linear: the weight
of the norm before attention (and its centring) into W_V, the weight of a norm after attention (Gemma 3) into W_O. What
is left of them is a positive scale per text, so scores are comparable within a head and, relative to chance, between
heads (Elhage et al. 2021). Grouped value heads are repeated for each query head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from emotion_circuits.circuits.components import Grid, Head
from emotion_circuits.circuits.direction import checked_direction
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.taps import post_norm_weight
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import head_weights, norm_epsilon, parameter, weight_of
from emotion_circuits.types import Positions, Prompt

VOCABULARY_ROWS = 8192
"""Embeddings that are normed and multiplied at once."""


@dataclass(frozen=True)
class OVFactors:
    """One layer's OV circuits: ``read`` ``[head, d_model, d_head]``, ``write`` ``[head, d_head, d_model]``.

    A head's output from a normed source x̂ (norm without its weight) is x̂ · read · write + ``constant`` · write, with
    ``constant`` ``[head, d_head]`` from biases.
    """

    read: Float[Tensor, "head d_model d_head"]
    write: Float[Tensor, "head d_head d_model"]
    constant: Float[Tensor, "head d_head"]


def ov_factors(lm: LM, layer: int) -> OVFactors:
    """OV factors of one layer, float32, with its norms folded in."""
    w = head_weights(lm, layer)
    norm = lm.module(layer, "attention_norm")
    read, constant = fold_norm(lm, norm, w.w_v, w.b_v)
    write = w.w_o
    if lm.family.post_attention_norm:
        write = write * post_norm_weight(lm, layer).to(write.device)
    return OVFactors(read, write, constant)


def fold_norm(
    lm: LM, norm: nn.Module, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]
) -> tuple[Tensor, Tensor]:
    """A projection behind a norm as a projection of x̂: the norm's weight, bias and centring move into it."""
    scale, offset = parameter(norm), parameter(norm, "bias")
    if offset is not None:
        bias = bias + torch.einsum("m,hmd->hd", offset.to(weight), weight)
    if scale is not None:
        factor = scale.to(weight) + (lm.family.norm == "rms-plus-one")
        weight = weight * factor.view(1, -1, 1)
    if lm.family.norm == "layer":
        weight = weight - weight.mean(1, keepdim=True)
    return weight, bias


@dataclass(frozen=True)
class OVScores:
    """How much each head's OV circuit has to do with a direction d̂ of length 1, ``[layer, head]``.

    ``write``: ‖W_O d̂‖ over what a random direction would give (1 = chance), how much the head can write along d̂.
    ``copy``: d̂ · W_OV · d̂ over the root mean square that random pairs of directions would give (0 = chance, sign
    matters): whether it writes d̂ where it reads d̂.
    """

    write: NDArray[np.float64]
    copy: NDArray[np.float64]


def ov_scores(lm: LM, direction: NDArray[np.floating[Any]]) -> OVScores:
    """Score every head's OV circuit on one direction of the residual stream ``[d_model]``."""
    d = _unit(lm, direction)
    write, copy = np.zeros((2, lm.n_layers, lm.n_heads))
    for layer in range(lm.n_layers):
        f = ov_factors(lm, layer)
        on = d.to(f.write.device)
        along = f.write @ on  # [head, d_head]
        full = f.write.flatten(1).norm(dim=1)
        write[layer] = (along.norm(dim=1) / full * lm.d_model**0.5).double().cpu().numpy()
        products = torch.einsum("hmd,hde->hme", f.read, f.write).flatten(1).norm(dim=1)
        both = torch.einsum("m,hmd,hd->h", on, f.read, along)
        copy[layer] = (both / products * lm.d_model).double().cpu().numpy()
    return OVScores(write, copy)


@dataclass(frozen=True)
class SourceToken:
    """A token that makes a head write along a direction: ``score`` per x̂ of that token (weights) or summed attention-
    weighted contributions (prompts); ``count`` is how often it occurred (0: not measured on texts)."""

    token: str
    score: float
    count: int = 0


def listed(lm: LM, tokens: Sequence[SourceToken]) -> str:
    """Tokens as readers see them, strongest first; one that is blank is shown as ␣."""
    return " ".join(lm.tokenizer.convert_tokens_to_string([t.token]).strip() or "␣" for t in tokens)


def top_source_tokens(
    lm: LM,
    heads: Sequence[Head],
    direction: NDArray[np.floating[Any]],
    *,
    k: int = 10,
) -> dict[Head, list[SourceToken]]:
    """The ``k`` vocabulary entries whose embedding makes each head write most along the direction.

    Read from weights: the token's embedding alone, normed as the head's layer norms it (without position embeddings and
    without what earlier layers add, so the later the layer, the rougher the figure).
    """
    d = _unit(lm, direction)
    columns, constants = [], []
    for head in heads:
        _check(lm, head)
        f = ov_factors(lm, head.layer)
        along = f.write[head.index] @ d.to(f.write.device)
        columns.append((f.read[head.index] @ along).cpu())
        constants.append(float(f.constant[head.index] @ along))
    reader = torch.stack(columns, 1)  # [d_model, head]
    embedding = weight_of(lm.model.get_input_embeddings())
    scale = float(cast(float, getattr(lm.model.get_input_embeddings(), "scalar_embed_scale", 1.0)))
    scores = []
    eps = [norm_epsilon(lm.module(head.layer, "attention_norm")) for head in heads]
    for start in range(0, len(embedding), VOCABULARY_ROWS):
        x = embedding[start : start + VOCABULARY_ROWS].float().cpu() * scale
        if lm.family.norm == "layer":
            x = x - x.mean(1, keepdim=True)
        rms = x.square().mean(1, keepdim=True)
        scores.append((x @ reader) * torch.rsqrt(rms + torch.tensor(eps)) + torch.tensor(constants))
    every = torch.cat(scores)
    best = every.topk(min(k, len(every)), dim=0).indices
    return {
        head: [SourceToken(_text(lm, int(t)), float(every[t, i])) for t in best[:, i]] for i, head in enumerate(heads)
    }


def source_tokens_in_prompts(
    lm: LM,
    prompts: Sequence[Prompt],
    heads: Sequence[Head],
    direction: NDArray[np.floating[Any]],
    *,
    position: Positions | None = None,
    k: int = 10,
) -> dict[Head, list[SourceToken]]:
    """The tokens of these texts from which each head writes most along the direction, as measured.

    A token's contribution to the position that attends is attention · v · W_O · d̂, summed over its occurrences. Norms
    after attention enter with their weight only.

    Args:
        position: who attends: one token (default: the last).
    """
    d, where, everywhere = _unit(lm, direction), position or Positions("last"), Positions("all")
    for head in heads:
        _check(lm, head)
    layers = sorted({h.layer for h in heads})
    patterns = capture(lm, prompts, ["pattern"], [where], layers=layers).get("pattern", where)
    values = capture(lm, prompts, ["v"], [everywhere], layers=layers)
    v, starts, encoded = values.get("v", everywhere), values.token_starts, lm.encode(prompts)
    group = lm.n_heads // lm.n_kv_heads
    found = {}
    for head in heads:
        row = layers.index(head.layer)
        along = (ov_factors(lm, head.layer).write[head.index] @ d.to(lm.device)).cpu().numpy()
        written = v[:, row, head.index // group] @ along  # [content token]
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for p, e in enumerate(encoded):
            for i, at in enumerate(e.content):
                text = _text(lm, e.ids[at])
                amount = float(patterns[p, row, head.index, at] * written[starts[p] + i])
                sums[text], counts[text] = sums.get(text, 0.0) + amount, counts.get(text, 0) + 1
        order = sorted(sums, key=lambda t: -sums[t])[:k]
        found[head] = [SourceToken(t, sums[t], counts[t]) for t in order]
    return found


def _unit(lm: LM, direction: NDArray[np.floating[Any]]) -> Tensor:
    d = torch.as_tensor(checked_direction(lm, direction), dtype=torch.float32)
    return d / float(d.norm())


def _check(lm: LM, head: Head) -> None:
    grid = Grid.of(lm)
    if not (0 <= head.layer < grid.layers and 0 <= head.index < grid.heads):
        raise UsageError(f"head {head} does not exist; {grid}", "choose a head inside the grid")


def _text(lm: LM, token: int) -> str:
    return str(lm.tokenizer.convert_ids_to_tokens(token))

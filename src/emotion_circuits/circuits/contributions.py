"""Direct contributions: what each head, each MLP and the embedding add to a direction of the residual stream.

The residual stream is a sum, so its projection onto a direction is the sum of its parts' projections (Elhage et al.
2021, "direct logit attribution" when the direction is an unembedding). Head results are those of
:func:`emotion_circuits.engine.capture`, where a norm after attention is frozen at its own text; the final norm is
frozen in the same way. Contributions are direct only: what a head does through later components is found by ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from emotion_circuits.circuits.direction import checked_direction
from emotion_circuits.engine.capture import capture
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import neuron_outputs, norm_epsilon, output_heads, parameter, weight_of
from emotion_circuits.types import Positions, Prompt, Site, SiteKind

CHUNK_BYTES = 1 << 28
"""Head results held at once: 256 MB."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Contributions:
    """Parts of the projection of the residual stream at ``site`` onto one direction.

    ``heads`` ``[prompt, layer, head]``, ``mlps`` ``[prompt, layer]``, ``embedding`` (position embeddings included) and
    ``bias`` (all output biases, and the final norm's where it is folded) ``[prompt]``; parts behind the site are 0.
    ``total`` ``[prompt]`` is the projection itself, not a sum.
    """

    site: Site
    heads: Array
    mlps: Array
    embedding: Array
    bias: Array
    total: Array

    def error(self) -> float:
        """Largest |Σ parts − total| over prompts, relative to the largest sum of the parts' absolute values."""
        parts = self.heads.sum((1, 2)) + self.mlps.sum(1) + self.embedding + self.bias
        size = np.abs(self.heads).sum((1, 2)) + np.abs(self.mlps).sum(1) + np.abs(self.embedding) + np.abs(self.bias)
        return float(np.abs(parts - self.total).max() / max(float(size.max()), 1e-30))


@dataclass(frozen=True)
class Reading:
    """A direction ``vector`` ``[d_model]`` read from the residual stream at ``site`` (resid_pre, _mid or _post)."""

    site: Site
    vector: NDArray[np.floating[Any]]

    def depth(self, lm: LM) -> tuple[int, int]:
        """How many layers' attention and how many layers' MLPs lie before the site."""
        (layer,) = lm.layers([self.site.layer])
        after = {"resid_pre": (layer, layer), "resid_mid": (layer + 1, layer), "resid_post": (layer + 1, layer + 1)}
        if self.site.kind not in after:
            raise UsageError(
                f"{self.site} is not in the residual stream: contributions to it do not add up",
                "read the direction at resid_pre, resid_mid or resid_post",
            )
        return after[self.site.kind]


def direct_contributions(
    lm: LM, prompts: Sequence[Prompt], readings: Sequence[Reading], position: Positions
) -> list[Contributions]:
    """Contributions to several directions, each scaled to length 1, in one pass over the texts.

    Args:
        position: where the residual stream is read; several tokens are averaged (``all`` is refused).

    Raises:
        UsageError: a site outside the residual stream, a vector of another width or zero, no prompts.
    """
    units = [_unit(lm, r) for r in readings]
    return _contributions(lm, prompts, [r.site for r in readings], units, position, [r.depth(lm) for r in readings])


def endpoint_contributions(
    lm: LM, prompts: Sequence[Prompt], direction: Float[Tensor, " d_model"], *, position: Positions | None = None
) -> Contributions:
    """Contributions to a direction of the *normed* final residual stream (:meth:`Endpoint.direction`), in logits.

    The final norm is frozen at each text: its scale divides every part, its bias joins ``bias``.

    Args:
        position: one token (default: the last).
    """
    where = position or Positions("last")
    site = Site("resid_post", lm.n_layers - 1)
    u = direction.detach().double().cpu()
    folded, offset = _fold_final_norm(lm, u)
    (raw,) = _contributions(lm, prompts, [site], [folded.numpy()], where, [(lm.n_layers, lm.n_layers)])
    final = torch.from_numpy(
        capture(lm, prompts, ["resid_post"], [where], layers=[site.layer]).get("resid_post", where)[:, 0]
    )
    scale = _final_scale(lm, final.double()).numpy()
    return Contributions(
        site,
        raw.heads * scale[:, None, None],
        raw.mlps * scale[:, None],
        raw.embedding * scale,
        raw.bias * scale + offset,
        raw.total * scale + offset,
    )


def _fold_final_norm(lm: LM, u: Tensor) -> tuple[Tensor, float]:
    """The direction before the final norm's weight (and, for LayerNorm, its centring), and what its bias adds."""
    norm = lm.final_norm
    weight = weight_of(norm).double().cpu()
    folded = u * (weight + 1 if lm.family.norm == "rms-plus-one" else weight)
    if lm.family.norm == "layer":
        folded = folded - folded.mean()
    bias = parameter(norm, "bias")
    return folded, 0.0 if bias is None else float(bias.double().cpu() @ u)


def _final_scale(lm: LM, x: Tensor) -> Tensor:
    """1 / (SD or RMS) ``[prompt]`` that the final norm divides ``x`` ``[prompt, d_model]`` by."""
    norm = lm.final_norm
    if lm.family.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    return torch.rsqrt(x.square().mean(-1) + norm_epsilon(norm))


def _contributions(
    lm: LM,
    prompts: Sequence[Prompt],
    sites: Sequence[Site],
    vectors: Sequence[Array],
    position: Positions,
    depths: Sequence[tuple[int, int]],
) -> list[Contributions]:
    if position.kind == "all":
        raise UsageError("direct contributions are read at one position", "use last, emotion-word-last or mean-content")
    directions = np.stack(vectors)  # [reading, d_model]
    layers = range(max(1, *(max(d) for d in depths)))
    kinds: list[SiteKind] = ["resid_pre", "resid_post", "attn_out", "mlp_out", "result"]
    if any(s.kind == "resid_mid" for s in sites):
        kinds.append("resid_mid")
    n, k = len(prompts), len(sites)
    heads, mlps = np.zeros((k, n, lm.n_layers, lm.n_heads)), np.zeros((k, n, lm.n_layers))
    embedding, bias, total = np.zeros((k, n)), np.zeros((k, n)), np.zeros((k, n))
    step = max(1, CHUNK_BYTES // (4 * len(layers) * lm.n_heads * lm.d_model))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        a = capture(lm, prompts[rows], kinds, [position], layers=layers)
        parts = {kind: np.asarray(a.get(kind, position), dtype=np.float64) @ directions.T for kind in kinds}
        for i, (site, (attention, mlp)) in enumerate(zip(sites, depths, strict=True)):
            heads[i, rows, :attention] = parts["result"][:, :attention, :, i]
            embedding[i, rows] = parts["resid_pre"][:, 0, i]
            total[i, rows] = parts[site.kind][:, lm.layers([site.layer])[0], i]
            output_bias = _biases(lm, parts, i, directions[i], attention, mlp)
            bias[i, rows] = output_bias.sum(1)
            mlps[i, rows, :mlp] = parts["mlp_out"][:, :mlp, i] - output_bias[:, lm.n_layers :][:, :mlp]
    return [Contributions(s, heads[i], mlps[i], embedding[i], bias[i], total[i]) for i, s in enumerate(sites)]


def _biases(lm: LM, parts: dict[SiteKind, Array], reading: int, vector: Array, attention: int, mlp: int) -> Array:
    """What output biases add, ``[prompt, attention layers then MLP layers]``; 0 behind the site.

    Behind a norm on the sublayer's output a bias is scaled text by text. For attention it is then what head results
    leave over; for an MLP it stays part of the MLP (no supported model has one).
    """
    found = np.zeros((len(parts["resid_pre"]), 2 * lm.n_layers))
    for layer in range(attention):
        if lm.family.post_attention_norm:
            _, b = output_heads(lm, layer)
            if bool(b.any()):
                found[:, layer] = parts["attn_out"][:, layer, reading] - parts["result"][:, layer, :, reading].sum(1)
        else:
            found[:, layer] = float(output_heads(lm, layer)[1].double().cpu().numpy() @ vector)
    for layer in range(mlp):
        if not lm.family.post_mlp_norm:
            found[:, lm.n_layers + layer] = float(neuron_outputs(lm, layer)[1].double().cpu().numpy() @ vector)
    return found


def _unit(lm: LM, reading: Reading) -> Array:
    vector = checked_direction(lm, reading.vector, str(reading.site))
    return np.asarray(vector / float(np.linalg.norm(vector)))

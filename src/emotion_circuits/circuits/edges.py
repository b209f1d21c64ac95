"""Edges of a circuit: how much of one node's effect passes through what another node reads.

The effect of the edge u → v is the change of the endpoint when v alone reads u's output of the donor text. Edge
attribution patching estimates it as (donor − clean output of u) · d endpoint / d (what v reads) (Syed et al. 2023);
with integrated gradients the gradient is the mean over inputs on the way from the donor's embeddings to the clean ones
(Hanna et al. 2024, "Have faith in faithfulness", EAP-IG; midpoints of equal steps here). Norms after a sublayer
(Gemma 3) are frozen at the clean text. The estimate is checked by exact patching of the strongest and of random edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from emotion_circuits.circuits.attribution import Gate, judge
from emotion_circuits.circuits.components import MLP, Grid, Head, Node
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.substitution import Mode, Tap, Texts, tap_of, texts_of
from emotion_circuits.engine.branches import adding_to_branch, branch_gradients
from emotion_circuits.engine.gradients import Metric
from emotion_circuits.engine.replacement import Replacement, last_logits, replacing
from emotion_circuits.engine.taps import post_norm_rms, post_norm_weight
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.models.weights import output_heads
from emotion_circuits.types import Site

STEPS = 5
CHECKED = 15
"""Strongest edges, and random others, that are patched exactly."""
_EMBEDDING: Tap = ("resid_pre", 0)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Edge:
    """From a node to another one; ``target`` None is the endpoint (the last residual stream)."""

    source: Node
    target: Node | None

    def __str__(self) -> str:
        return f"{self.source} → {self.target or 'endpoint'}"


@dataclass(frozen=True)
class EdgeScores:
    """``changes`` ``[edge, pair]``: donor − clean of the endpoint; negative where the edge supports it."""

    edges: tuple[Edge, ...]
    changes: Array


@dataclass(frozen=True)
class CheckedEdges:
    """Estimates of all edges, exact changes ``[checked, pair]`` of some (``checked`` are their places), the verdict."""

    estimated: EdgeScores
    checked: tuple[int, ...]
    exact: Array
    gate: Gate


def edges_between(nodes: Sequence[Node], *, parallel: bool = False) -> tuple[Edge, ...]:
    """Every edge from a node to a later one, and from each to the endpoint.

    In a block the MLP comes after the heads; where both run in ``parallel`` neither reads the other.
    """
    return tuple(
        Edge(u, v)
        for u in nodes
        for v in (*nodes, None)
        if v is None
        or v.layer > u.layer
        or (v.layer == u.layer and isinstance(u, Head) and isinstance(v, MLP) and not parallel)
    )


def attribute_edges(
    lm: LM, pairs: Sequence[Pair], edges: Sequence[Edge], metric: Metric, *, mode: Mode = "resample", steps: int = STEPS
) -> EdgeScores:
    """EAP-IG of ``edges``; ``steps`` 0 takes the gradient at the clean text alone (plain EAP).

    Cost: a forward and a backward pass for each step and batch, and a backward pass of one attention per head that is
    a target.

    Raises:
        UsageError: an edge that leads back, or a node outside the grid.
    """
    _check(lm, edges)
    readers = {e.target: _reader(lm, e.target) for e in edges}
    changes = np.zeros((len(edges), len(pairs)))
    for texts, outputs in _changed_outputs(lm, pairs, {e.source for e in edges}, metric, mode):
        clean = outputs.clean[_EMBEDDING]
        gradients: dict[Site, Tensor] = {}
        for share in [(k + 0.5) / steps for k in range(steps)] or [1.0]:
            stream = clean + (1 - share) * outputs.embedding
            found = branch_gradients(lm, texts.batch, stream, tuple(readers.values()), metric)
            gradients = {r: g + gradients[r] if gradients else g for r, g in found.items()}
        for i, e in enumerate(edges):
            own = (outputs.of(e.source) * gradients[readers[e.target]]).sum((1, 2)) / max(steps, 1)
            changes[i, list(texts.numbers)] = own.double().cpu().numpy()
    return EdgeScores(tuple(edges), changes)


def patch_edges(
    lm: LM, pairs: Sequence[Pair], edges: Sequence[Edge], metric: Metric, *, mode: Mode = "resample"
) -> EdgeScores:
    """The exact change of each edge alone: two forward passes a batch where the target is a head, one elsewhere."""
    _check(lm, edges)
    changes = np.zeros((len(edges), len(pairs)))
    for texts, outputs in _changed_outputs(lm, pairs, {e.source for e in edges}, metric, mode):
        for i, e in enumerate(edges):
            logits = _one_edge(lm, texts, e, outputs.of(e.source))
            changes[i, list(texts.numbers)] = (metric(logits) - texts.clean).double().cpu().numpy()
    return EdgeScores(tuple(edges), changes)


def checked_edges(
    lm: LM,
    pairs: Sequence[Pair],
    nodes: Sequence[Node],
    metric: Metric,
    *,
    mode: Mode = "resample",
    steps: int = STEPS,
    checked: int = CHECKED,
    seed: int = 0,
) -> CheckedEdges:
    """EAP-IG of every edge between ``nodes`` and to the endpoint, and exact patching of the strongest and of others."""
    edges = edges_between(nodes, parallel=lm.parallel)
    found = attribute_edges(lm, pairs, edges, metric, mode=mode, steps=steps)
    mean = found.changes.mean(-1)
    order = np.argsort(-np.abs(mean), kind="stable")
    others = np.random.default_rng(seed).permutation(order[checked:])[:checked]
    chosen = [int(i) for i in (*order[:checked], *others)]
    exact = patch_edges(lm, pairs, [edges[i] for i in chosen], metric, mode=mode).changes
    return CheckedEdges(found, tuple(chosen), exact, judge(mean[chosen], exact.mean(-1)))


@dataclass(frozen=True)
class _Outputs:
    """Donor − clean at the edited tokens, ``[text, token, …]``: activations at ``differences``, and the embedding."""

    lm: LM
    clean: dict[Tap, Tensor]
    differences: dict[Tap, Tensor]

    @property
    def embedding(self) -> Tensor:
        return self.differences[_EMBEDDING]

    def of(self, node: Node) -> Float[Tensor, "text token d_model"]:
        """What the node would add to the residual stream if it carried the donor's activation, less what it adds."""
        difference = self.differences[tap_of(node)]
        if isinstance(node, MLP):
            return difference
        w_o, bias = output_heads(self.lm, node.layer)
        written = difference[..., node.index, :] @ w_o[node.index].to(difference)
        if not self.lm.family.post_attention_norm:
            return written
        total = torch.einsum("rthd,hdm->rtm", self.clean[tap_of(node)], w_o.to(difference)) + bias.to(difference)
        weight = post_norm_weight(self.lm, node.layer).to(difference)
        return written * post_norm_rms(self.lm, node.layer, total) * weight


def _changed_outputs(
    lm: LM, pairs: Sequence[Pair], sources: set[Node], metric: Metric, mode: Mode
) -> Iterator[tuple[Texts, _Outputs]]:
    taps = sorted({_EMBEDDING, *(tap_of(n) for n in sources)})
    for texts in texts_of(lm, pairs, taps, metric, mode=mode):
        _, kept = last_logits(lm, texts.batch, taps)
        clean = {t: x.float() for t, x in kept.items()}
        differences = {}
        for t, x in clean.items():
            edited = texts.edited.to(x.device).view(*texts.edited.shape, *(1,) * (x.ndim - 2))
            differences[t] = torch.where(edited, texts.substitutes[t].to(x) - x, 0.0)
        yield texts, _Outputs(lm, clean, differences)


def _one_edge(lm: LM, texts: Texts, edge: Edge, change: Tensor) -> Tensor:
    """Last logits when the edge's target alone reads ``change`` more."""
    reader = _reader(lm, edge.target)
    if not isinstance(edge.target, Head):
        with adding_to_branch(lm, reader, change):
            return last_logits(lm, texts.batch)[0]
    place = tap_of(edge.target)
    with adding_to_branch(lm, reader, change):
        _, kept = last_logits(lm, texts.batch, [place])
    mask = torch.zeros(*texts.edited.shape, lm.n_heads, dtype=torch.bool, device=lm.device)
    mask[..., edge.target.index] = True
    with replacing(lm, [Replacement(*place, mask, kept[place])]):
        return last_logits(lm, texts.batch)[0]


def _reader(lm: LM, target: Node | None) -> Site:
    if target is None:
        return Site("resid_post", lm.n_layers - 1)
    kind, layer = tap_of(target)
    return Site(kind, layer, target.index if isinstance(target, Head) else None)


def _check(lm: LM, edges: Sequence[Edge]) -> None:
    if not edges:
        raise UsageError("no edges to measure", "name nodes of at least two layers")
    grid, known = Grid.of(lm), set(Grid.of(lm).all_nodes())
    for e in edges:
        if {e.source, *([e.target] if e.target else [])} - known:
            raise UsageError(f"edge {e} leaves the model; {grid}", "join nodes inside the grid")
    nodes = {n for e in edges for n in (e.source, e.target) if n is not None}
    wrong = set(edges) - set(edges_between(sorted(nodes, key=str), parallel=lm.parallel))
    if wrong:
        raise UsageError(f"no edge can lead {sorted(map(str, wrong))[0]}", "edges lead to later components")

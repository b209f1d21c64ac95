"""A circuit as the graph JSON that circuit-tracer's viewer opens, and as a summary in JSON and Markdown.

The viewer knows feature, embedding and logit nodes (circuit-tracer's ``frontend/graph_models.py``). A head or MLP is
written as a feature node of its layer: heads have their own number, the MLP the number behind the last head. Features
of the viewer's own dictionaries are not looked up: every node carries its text in ``clerp``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotion_circuits.circuits.components import Grid, Head, Node
from emotion_circuits.circuits.roles import Role
from emotion_circuits.errors import UsageError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class CircuitNode:
    """A node with what was measured: ``change`` of the endpoint (ablated − clean; log-sum-exp, nats) and ``direct``,
    its own contribution to the difference of mean logits, which is another measure of the same words.

    ``reads`` lists (token index in the shown text, weight): where it reads from there.
    """

    node: Node
    change: float
    direct: float
    roles: tuple[Role, ...] = ()
    reads: tuple[tuple[int, float], ...] = ()

    @property
    def label(self) -> str:
        """The text shown beside the node."""
        kind = "head" if isinstance(self.node, Head) else "MLP"
        does = f" ({', '.join(self.roles)})" if self.roles else ""
        return f"{kind} {self.node}{does}: change {self.change:+.3f}, direct {self.direct:+.3f} (mean logits)"


@dataclass(frozen=True)
class CircuitSummary:
    """What a report says about one circuit; ``figures`` are named numbers (faithfulness, CMD, …)."""

    emotion: str
    grid: Grid
    nodes: tuple[CircuitNode, ...]
    figures: Mapping[str, float]


def viewer_graph(
    summary: CircuitSummary,
    *,
    slug: str,
    prompt: str,
    token_ids: Sequence[int],
    tokens: Sequence[str],
    endpoint: str,
    edges: Sequence[tuple[Node, Node, float]] = (),
) -> dict[str, Any]:
    """The circuit on one text, as plain data for ``json.dump``.

    Args:
        slug: file name and address of the graph. tokens: the shown text's tokens (prefix included), as text.
        endpoint: what the circuit serves, the label of the output node.
        edges: (from, to, weight) between nodes, where they are known. Each node also has a link to the endpoint
            (its direct contribution) and from the tokens it reads.

    Raises:
        UsageError: nodes outside the grid, tokens that do not exist, an edge between nodes that are not in the circuit
            or that leads back to an earlier layer.
    """
    grid, last = summary.grid, len(tokens) - 1
    if len(token_ids) != len(tokens) or not tokens:
        raise UsageError(f"{len(tokens)} tokens for {len(token_ids)} token ids", "give one text per token id")
    names = {c.node: _node_id(c.node, grid, last) for c in summary.nodes}
    target = f"{grid.layers + 1}_0_{last}"
    nodes = [_token_node(i, t) for i, t in enumerate(token_ids)]
    largest = max((abs(c.change) for c in summary.nodes), default=0.0) or 1.0
    nodes += [_feature_node(c, grid, last, names[c.node], abs(c.change) / largest) for c in summary.nodes]
    nodes.append(_endpoint_node(target, grid, last, endpoint))
    links = []
    for c in summary.nodes:
        for at, weight in c.reads:
            if not 0 <= at <= last:
                raise UsageError(f"{c.node} reads token {at} of {len(tokens)}", f"tokens count from 0 to {last}")
            links.append(_link(f"E_{token_ids[at]}_{at}", names[c.node], weight))
        links.append(_link(names[c.node], target, c.direct))
    for source, sink, weight in edges:
        if source not in names or sink not in names or sink.layer < source.layer:
            raise UsageError(f"no edge can lead from {source} to {sink}", "edges join nodes of the circuit, upwards")
        links.append(_link(names[source], names[sink], weight))
    return {
        "metadata": {
            "slug": slug,
            "scan": grid.model,
            "transcoder_list": [],
            "prompt_tokens": list(tokens),
            "prompt": prompt,
            "node_threshold": None,
            "schema_version": SCHEMA_VERSION,
        },
        "qParams": {
            "pinnedIds": [*names.values(), target], "supernodes": _supernodes(summary, names), "linkType": "both",
            "clickedId": "", "sg_pos": "",
        },
        "nodes": nodes,
        "links": links,
    }  # fmt: skip


def summary_data(summary: CircuitSummary) -> dict[str, Any]:
    """The summary as plain data for JSON."""
    return {
        "emotion": summary.emotion,
        "model": summary.grid.model,
        "layers": summary.grid.layers,
        "heads_per_layer": summary.grid.heads,
        **{name: float(value) for name, value in summary.figures.items()},
        "nodes": [
            {
                "node": str(c.node),
                "kind": "head" if isinstance(c.node, Head) else "mlp",
                "layer": c.node.layer,
                "change": float(c.change),
                "direct": float(c.direct),
                "roles": list(c.roles),
            }
            for c in summary.nodes
        ],
    }


def summary_markdown(summary: CircuitSummary, edges: Sequence[Mapping[str, Any]] = ()) -> str:
    """The summary as Markdown: the figures, a table of nodes, and one of ``edges`` where they were measured.

    Args:
        edges: rows ``{source, target, estimate, exact}``; ``exact`` is None where an edge was not patched.
    """
    heads = sum(isinstance(c.node, Head) for c in summary.nodes)
    lines = [
        f"## Circuit for {summary.emotion} in {summary.grid.model}",
        "",
        f"Heads: {heads}, MLPs: {len(summary.nodes) - heads}; the model has {summary.grid.layers} layers × "
        f"{summary.grid.heads} heads.",
        "",
        *(f"- {name.replace('_', ' ')}: {value:.3f}" for name, value in summary.figures.items()),
        "",
        "| node | roles | change when ablated (log-sum-exp) | direct contribution (mean logits) |",
        "|---|---|---:|---:|",
        *(f"| {c.node} | {', '.join(c.roles) or '–'} | {c.change:+.3f} | {c.direct:+.3f} |" for c in summary.nodes),
    ]
    if edges:
        lines += ["", "| edge | EAP-IG | patched exactly |", "|---|---:|---:|"]
        lines += [f"| {e['source']} → {e['target']} | {e['estimate']:+.3f} | {_shown(e['exact'])} |" for e in edges]
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _number(node: Node, grid: Grid) -> int:
    number = node.index if isinstance(node, Head) else grid.heads
    if node.layer >= grid.layers or (isinstance(node, Head) and number >= grid.heads):
        raise UsageError(f"{node} does not exist; {grid}", "choose nodes inside the grid")
    return number


def _node_id(node: Node, grid: Grid, position: int) -> str:
    return f"{node.layer}_{_number(node, grid)}_{position}"


def _feature_node(c: CircuitNode, grid: Grid, position: int, node_id: str, influence: float) -> dict[str, Any]:
    layer, number = c.node.layer, _number(c.node, grid)
    pair = (layer + number) * (layer + number + 1) // 2 + number  # Cantor's pairing, one number per (layer, feature)
    return {
        **_BLANK, "node_id": node_id, "feature": pair, "layer": str(layer), "ctx_idx": position,
        "feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{number}-0", "clerp": c.label,
        "influence": float(influence), "activation": float(c.change),
    }  # fmt: skip


def _token_node(position: int, token: int) -> dict[str, Any]:
    return {
        **_BLANK, "node_id": f"E_{token}_{position}", "feature": position, "layer": "E", "ctx_idx": position,
        "feature_type": "embedding", "jsNodeId": f"E_{token}-{position}",
    }  # fmt: skip


def _endpoint_node(node_id: str, grid: Grid, position: int, label: str) -> dict[str, Any]:
    return {
        **_BLANK, "node_id": node_id, "feature": 0, "layer": str(grid.layers + 1), "ctx_idx": position,
        "feature_type": "logit", "jsNodeId": f"L_0-{position}", "clerp": label, "is_target_logit": True,
        "token_prob": 1.0,
    }  # fmt: skip


def _supernodes(summary: CircuitSummary, names: Mapping[Node, str]) -> list[list[str]]:
    """Nodes of one role are one group of the viewer; a node that has several is in its first one."""
    groups: dict[str, list[str]] = {}
    for c in summary.nodes:
        if c.roles:
            groups.setdefault(c.roles[0], []).append(names[c.node])
    return [[role, *members] for role, members in groups.items() if len(members) > 1]


def _link(source: str, target: str, weight: float) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": float(weight)}


_BLANK: dict[str, Any] = {
    "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": "", "influence": None,
    "activation": None,
}  # fmt: skip

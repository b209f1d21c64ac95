"""The graph that the viewer opens has its structure, and the summaries say what the circuit holds."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ConfigDict

from emotion_circuits.circuits.components import MLP, Grid, Head
from emotion_circuits.circuits.viewer import CircuitNode, CircuitSummary, summary_data, summary_markdown, viewer_graph
from emotion_circuits.errors import UsageError

GRID = Grid("tiny", layers=4, heads=4, neurons=8)
SUMMARY = CircuitSummary(
    "apology",
    GRID,
    (
        CircuitNode(Head(1, 2), -3.7, 2.1, ("reads", "writes"), reads=((2, 0.9),)),
        CircuitNode(Head(2, 2), -0.7, 0.1, ("reads", "aggregates")),
        CircuitNode(MLP(3), -1.5, 1.6, ("writes",)),
    ),
    {"faithfulness": 0.99, "cmd": 0.03},
)
TEXT = {
    "slug": "apology-tiny",
    "prompt": "I am sorry",
    "token_ids": (0, 5, 9),
    "tokens": ("<|endoftext|>", "I", " sorry"),
}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    slug: str
    scan: str
    transcoder_list: list[str]
    prompt_tokens: list[str]
    prompt: str
    node_threshold: float | None
    schema_version: int | None


class QParams(Strict):
    pinnedIds: list[str]  # noqa: N815 (the file format's own name)
    supernodes: list[list[str]]
    linkType: str  # noqa: N815 (the file format's own name)
    clickedId: str  # noqa: N815 (the file format's own name)
    sg_pos: str


class Node(Strict):
    node_id: str
    feature: int
    layer: str
    ctx_idx: int
    feature_type: str
    token_prob: float
    is_target_logit: bool
    run_idx: int
    reverse_ctx_idx: int
    jsNodeId: str  # noqa: N815 (the file format's own name)
    clerp: str
    influence: float | None
    activation: float | None


class Link(Strict):
    source: str
    target: str
    weight: float


class Graph(Strict):
    """The structure of a graph file as circuit-tracer declares it."""

    metadata: Metadata
    qParams: QParams  # noqa: N815 (the file format's own name)
    nodes: list[Node]
    links: list[Link]


def graph(**changes) -> Graph:
    made = viewer_graph(SUMMARY, **{**TEXT, "endpoint": "apology − neutral", **changes})
    return Graph.model_validate_json(json.dumps(made))


def test_the_graph_has_the_viewers_structure():
    g = graph(edges=[(Head(1, 2), MLP(3), 0.5)])
    ids = [n.node_id for n in g.nodes]
    assert len(set(ids)) == len(ids) == 3 + 3 + 1
    assert len({n.jsNodeId for n in g.nodes}) == len(ids)
    assert {x for link in g.links for x in (link.source, link.target)} <= set(ids)
    assert set(g.qParams.pinnedIds) <= set(ids)
    types = [n.feature_type for n in g.nodes]
    assert (types.count("embedding"), types.count("cross layer transcoder"), types.count("logit")) == (3, 3, 1)
    assert len(g.links) == 1 + 3 + 1
    by_id = {n.node_id: n for n in g.nodes}
    assert by_id["1_2_2"].clerp.startswith("head 1:2 (reads, writes)") and by_id["3_4_2"].clerp.startswith("MLP m3")
    assert max(n.influence for n in g.nodes if n.influence is not None) == 1
    assert g.qParams.supernodes == [["reads", "1_2_2", "2_2_2"]]
    (output,) = [n for n in g.nodes if n.is_target_logit]
    assert output.layer == "5" and output.clerp == "apology − neutral"


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": (0, 5)},
        {"token_ids": (0, 5), "tokens": ("a", "b")},  # a node reads the third token
        {"edges": [(MLP(3), Head(1, 2), 0.5)]},
        {"edges": [(Head(0, 0), MLP(3), 0.5)]},
    ],
)
def test_graphs_that_cannot_be_drawn_are_refused(changes):
    with pytest.raises(UsageError):
        graph(**changes)


def test_nodes_outside_the_grid_are_refused():
    wrong = CircuitSummary("joy", GRID, (CircuitNode(Head(4, 0), 0.0, 0.0),), {})
    with pytest.raises(UsageError, match="4 layers × 4 heads"):
        viewer_graph(wrong, **TEXT, endpoint="joy")


def test_summaries_hold_every_node_and_figure():
    data = json.loads(json.dumps(summary_data(SUMMARY)))
    assert data["cmd"] == 0.03 and [n["node"] for n in data["nodes"]] == ["1:2", "2:2", "m3"]
    text = summary_markdown(SUMMARY)
    assert "Heads: 2, MLPs: 1" in text and "| m3 | writes | -1.500 | +1.600 |" in text and "faithfulness: 0.990" in text


def test_an_effect_and_a_contribution_are_named_as_two_measures() -> None:
    """Log-sum-exp and mean logits: side by side under one unit they would be read as a share."""
    (heading,) = [line for line in summary_markdown(SUMMARY).splitlines() if line.startswith("| node")]
    assert "log-sum-exp" in heading and "mean logits" in heading
    assert "direct +2.100 (mean logits)" in SUMMARY.nodes[0].label

"""``circuit.report``: a node set per emotion, how faithful it is on texts it was not found on, and its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from emotion_circuits.experiments._contract import Context, Experiment, Needed, Outcome, ScoreStep, TextStep
from emotion_circuits.experiments._heads import (
    RANDOM_SETS,
    AblationParams,
    Bench,
    circuit_inputs,
    required_directions,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.models.lm import LM

EDGES_SAID = {
    "none": "A node set, not a wiring diagram: edges between nodes were not measured (--edges eap-ig).",
    "eap-ig": "Edges say how much of a node's effect passes through what another node reads, on fit and dev scenarios; "
    "they are described, not tested. Lines of the drawing were patched exactly, or estimated where the gate allows it.",
}
LISTED_EDGES = 15
"""Edges of each emotion in the report; the JSON files have all."""


@experiment("circuit.report", "A circuit of heads and MLPs per emotion: faithfulness, completeness, roles, graph.")
class CircuitReport(Experiment):
    """Nodes are ranked on fit and dev scenarios; faithfulness and its controls are measured on test scenarios."""

    version = 2

    class Params(AblationParams):
        """Parameters of ``circuit.report``."""

        limit: int = Field(16, ge=4, description="Pairs of texts per emotion, for choosing and for testing.")
        exact: int = Field(
            0, ge=0, description="Ablate only this many nodes with the strongest attribution exactly (0: every node)."
        )
        size: int = Field(20, ge=2, description="Nodes of the circuit.")
        random: int = Field(RANDOM_SETS, ge=19, description="Random circuits of equal size.")
        subsets: int = Field(10, ge=1, description="Random subsets for completeness.")
        contexts: int = Field(2, ge=0, description="Random contexts per node for minimality.")
        edges: Literal["none", "eap-ig"] = Field(
            "none", description="eap-ig: edges between the nodes, some of them checked by exact patching."
        )
        edge_steps: int = Field(5, ge=1, description="Steps of the integrated gradients of --edges eap-ig.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def workload(self, lm: LM, params: Params) -> Sequence[ScoreStep | TextStep]:
        from emotion_circuits.experiments._component_work import component_work
        from emotion_circuits.experiments._components.circuit import circuit_rows

        nodes = lm.n_layers * (lm.n_heads + 1)
        alone = min(2 * params.exact, nodes) if params.exact else nodes
        choosing, testing = circuit_rows(params)
        return component_work(lm, params, testing=testing, choosing=choosing, alone=alone)

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.circuits.viewer import summary_data, summary_markdown
        from emotion_circuits.experiments._components.circuit import FoundCircuit, find_circuit

        bench = Bench(context, params)
        every = [find_circuit(bench, s, params) for s in bench.subjects]
        found = [f for f in every if isinstance(f, FoundCircuit)]
        said = [line for f in every for line in (f.sentences() if isinstance(f, FoundCircuit) else [f.sentence()])]
        nothing = [
            {"emotion": f.emotion, "gap": f.gap, "ci": list(f.ci), "texts": f.texts}
            for f in every if not isinstance(f, FoundCircuit)
        ]  # fmt: skip
        results = [{**summary_data(f.summary), **f.numbers} for f in found]
        documents = {f"graph-{f.summary.emotion}": f.graph for f in found}
        documents["circuits"] = {"circuits": results}
        markdown = "\n".join(summary_markdown(f.summary, f.wiring.rows if f.wiring else ()) for f in found)
        wired = [r for r in results if "edges" in r]
        section = Section(
            "circuit", "Does a small circuit carry it?",
            [s + "." for s in (*said, *(line for f in found for line in f.shortlist()))],
            [*([_curve([f.numbers for f in found])] if found else []), *(_drawing(r) for r in results)],
            [*([_table(results)] if found else []), *([_edge_table(wired)] if wired else [])],
            [EDGES_SAID[params.edges],
             f"Nodes outside the circuit carry {params.mode} activations; faithfulness above 1 means that opponents "
             "were left out."],
        )  # fmt: skip
        return Outcome(
            {"mode": params.mode, "results": results, "unexplained": nothing}, said, section, documents=documents,
            files={"circuits.md": markdown},
        )  # fmt: skip


def _curve(numbers: Sequence[Mapping[str, Any]]) -> Figure:
    data = [
        {"x": k, "series": n["name"], "value": f, "low": low, "high": high}
        for n in numbers
        for k, f, (low, high) in zip(n["fractions"], n["faithfulness_curve"], n["curve_ci"], strict=True)
    ]
    return Figure(
        "circuit-faithfulness", "lines", "Faithfulness of the strongest nodes",
        "f: share of the endpoint that is left when all other nodes are resampled; test scenarios.",
        "Curves of faithfulness over the share of nodes that is kept.", data,
        {"x": "share of nodes kept", "y": "faithfulness f", "reference": 1, "interval_label": "95 % cluster bootstrap"},
    )  # fmt: skip


def _drawing(result: Mapping[str, Any]) -> Figure:
    data = [
        {"layer": n["layer"], "label": n["node"], "value": n["change"], "direct": n["direct"],
         "role": " + ".join(n["roles"]) or "no role"}
        for n in result["nodes"]
    ]  # fmt: skip
    return Figure(
        f"circuit-{result['emotion']}", "circuit", f"Circuit for {result['emotion']}",
        "Heads (layer:head) and MLPs (m) by layer; size is |change when ablated|, colour the role.",
        f"Drawing of the circuit for {result['emotion']}: its nodes by layer.", data, {"edges": _lines(result)},
    )  # fmt: skip


def _lines(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Edges between nodes that are drawn: the strongest ones whose weight can be trusted."""
    from emotion_circuits.experiments._components.circuit import ENDPOINT, drawn_weight

    valid = result.get("edges_gate", {}).get("valid", False)
    found = [
        {"source": r["source"], "target": r["target"], "value": weight}
        for r in result.get("edges", ())
        if r["target"] != ENDPOINT and (weight := drawn_weight(r, valid)) is not None
    ]
    return sorted(found, key=lambda r: -abs(r["value"]))[:LISTED_EDGES]


def _table(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = [{"emotion": r["emotion"], **n, "roles": ", ".join(n["roles"])} for r in results for n in r["nodes"]]
    columns = {"emotion": "emotion", "node": "node", "roles": "roles", "change": "change when ablated",
               "direct": "direct contribution"}  # fmt: skip
    caption = (
        "Changes are of the endpoint's log-sum-exp, direct contributions of the difference of mean logits: two "
        "measures of the same words, so that one is no share of the other."
    )
    return Table("circuit-nodes", "Nodes of the circuits", caption, columns, rows)


def _edge_table(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = [{"emotion": r["emotion"], **e} for r in results for e in r["edges"][:LISTED_EDGES]]
    columns = {"emotion": "emotion", "source": "from", "target": "to", "estimate": "EAP-IG", "exact": "patched exactly"}
    return Table("circuit-edges", "Strongest edges", "In nats of the endpoint; negative supports it.", columns, rows)

"""``circuit.report``: a node set per emotion, how faithful it is on texts it was not found on, and its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from emotion_circuits.experiments._contract import Context, Experiment, Needed, Outcome
from emotion_circuits.experiments._heads import (
    RANDOM_SETS,
    Bench,
    CircuitParams,
    circuit_inputs,
    required_directions,
)
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.types import Figure, Section, Table


@experiment("circuit.report", "A circuit of heads and MLPs per emotion: faithfulness, completeness, roles, graph.")
class CircuitReport(Experiment):
    """Nodes are ranked on fit and dev scenarios; faithfulness and its controls are measured on test scenarios."""

    class Params(CircuitParams):
        """Parameters of ``circuit.report``."""

        limit: int = Field(16, ge=4, description="Pairs of texts per emotion, for choosing and for testing.")
        size: int = Field(20, ge=2, description="Nodes of the circuit.")
        random: int = Field(RANDOM_SETS, ge=19, description="Random circuits of equal size.")
        subsets: int = Field(10, ge=1, description="Random subsets for completeness.")
        contexts: int = Field(2, ge=0, description="Random contexts per node for minimality.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_directions(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        return circuit_inputs(params)

    def summarise(self, context: Context, params: Params) -> Outcome:
        from emotion_circuits.circuits.viewer import summary_data, summary_markdown
        from emotion_circuits.experiments._components.circuit import find_circuit

        bench = Bench(context, params)
        found = [find_circuit(bench, s, params) for s in bench.subjects]
        said = [f.sentence() for f in found]
        results = [{**summary_data(f.summary), **f.numbers} for f in found]
        documents = {f"graph-{f.summary.emotion}": f.graph for f in found}
        documents["circuits"] = {"circuits": results}
        markdown = "\n".join(summary_markdown(f.summary) for f in found)
        section = Section(
            "circuit", "Does a small circuit carry it?", [s + "." for s in said],
            [_curve([f.numbers for f in found]), *(_drawing(r) for r in results)],
            [_table(results)],
            ["A node set, not a wiring diagram: edges between nodes are not measured.",
             f"Nodes outside the circuit carry {params.mode} activations; faithfulness above 1 means that opponents "
             "were left out."],
        )  # fmt: skip
        return Outcome(
            {"mode": params.mode, "results": results}, said, section, documents=documents,
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
        f"Drawing of the circuit for {result['emotion']}: its nodes by layer.", data,
    )  # fmt: skip


def _table(results: Sequence[Mapping[str, Any]]) -> Table:
    rows = [{"emotion": r["emotion"], **n, "roles": ", ".join(n["roles"])} for r in results for n in r["nodes"]]
    columns = {"emotion": "emotion", "node": "node", "roles": "roles", "change": "change when ablated",
               "direct": "direct contribution"}  # fmt: skip
    return Table("circuit-nodes", "Nodes of the circuits", "In nats of the endpoint.", columns, rows)

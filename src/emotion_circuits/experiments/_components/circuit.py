"""The circuit of one emotion: nodes ranked on fit and dev scenarios, judged on test scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.attention import attention_to_words
from emotion_circuits.circuits.attribution import Gate, attribute, checked_cells, judge
from emotion_circuits.circuits.components import Grid, Head, Node
from emotion_circuits.circuits.contributions import endpoint_contributions
from emotion_circuits.circuits.edges import CHECKED, checked_edges, edges_between
from emotion_circuits.circuits.graph import (
    FRACTIONS,
    completeness,
    faithfulness_curve,
    minimality,
    random_circuits,
    run_circuits,
)
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.roles import NodeFigures, node_roles
from emotion_circuits.circuits.stability import selection_stability
from emotion_circuits.circuits.viewer import CircuitNode, CircuitSummary, viewer_graph
from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._component_work import GRADIENT
from emotion_circuits.experiments._heads import Bench, Subject
from emotion_circuits.stats import UnclearDenominatorError, bootstrap_interval, ratio_interval

if TYPE_CHECKING:
    from emotion_circuits.experiments.circuit_report import CircuitReport

Array = NDArray[np.float64]

ENDPOINT = "endpoint"
"""The target of an edge that the logits read."""


@dataclass(frozen=True)
class FoundCircuit:
    """One emotion's circuit with its figures and its graph for the viewer."""

    summary: CircuitSummary
    numbers: Mapping[str, Any]
    graph: Mapping[str, Any]
    wiring: Wiring | None = None
    gate: Gate | None = None

    def sentences(self) -> list[str]:
        """The verdicts in words: the node set, and the edges where they were measured."""
        said = [self.sentence()]
        if self.wiring is not None:
            said.append(f"{self.summary.emotion}: edges: {self.wiring.sentence()}")
        return said

    def shortlist(self) -> list[str]:
        """How the other nodes are ranked where only some were ablated."""
        if self.gate is None:
            return []
        rest = "the others are ranked by their estimates" if self.gate.valid else "the others rank behind them"
        exact = self.numbers["exactly_ablated"]
        return [f"{self.summary.emotion}: {exact} nodes were ablated exactly, {rest}: {self.gate.sentence()}"]

    def sentence(self) -> str:
        """The verdict in words."""
        f, n = self.summary.figures, self.numbers
        verdict = "more faithful" if n["beaten"] > 0.95 * n["random_circuits"] else "NOT more faithful"
        return (
            f"{self.summary.emotion}: {len(self.summary.nodes)} of {n['all_nodes']} nodes reach faithfulness "
            f"{f['faithfulness']:.2f} on test scenarios, {verdict} than random circuits (|1 − f| smaller than "
            f"{n['beaten']} of {n['random_circuits']}); CMD {f['cmd']:.2f}, stability {f['stability']:.2f} (chance "
            f"{f['stability_chance']:.2f})"
        )


@dataclass(frozen=True)
class Wiring:
    """Every edge between the circuit's nodes and to the endpoint: EAP-IG estimates, exact changes of some of them.

    ``rows`` are strongest first by the estimate; ``exact`` is None where an edge was not patched.
    """

    rows: tuple[Mapping[str, Any], ...]
    gate: Gate
    nodes: Mapping[str, Node]

    def sentence(self) -> str:
        """Whether the estimates hold, and the strongest edges."""
        g = self.gate
        verdict = "may be used" if g.valid else "must not be used: read the exactly patched edges alone"
        shown = self.rows if g.valid else [r for r in self.rows if r["exact"] is not None]
        key = "estimate" if g.valid else "exact"
        best = sorted(shown, key=lambda r: -abs(r[key]))[:3]
        named = ", ".join(f"{r['source']} → {r['target']} {r[key]:+.3f}" for r in best)
        return (
            f"EAP-IG of {len(self.rows)} edges {verdict} (rank correlation {g.spearman:.2f}, same sign {g.signs:.0%}, "
            f"on {g.checked} exactly patched edges); strongest: {named} nats"
        )

    def links(self) -> list[tuple[Node, Node, float]]:
        """Edges between nodes for the graph: what is known exactly, estimates elsewhere if they hold.

        A link that supports the endpoint is positive there, as the nodes' direct contributions are.
        """
        return [
            (self.nodes[r["source"]], self.nodes[r["target"]], -weight)
            for r in self.rows
            if r["target"] != ENDPOINT and (weight := drawn_weight(r, self.gate.valid)) is not None
        ]


def drawn_weight(row: Mapping[str, Any], valid: bool) -> float | None:
    """An edge's exact change where it was patched, its estimate elsewhere; None where neither can be trusted."""
    if row["exact"] is not None:
        return float(row["exact"])
    return float(row["estimate"]) if valid else None


@dataclass(frozen=True)
class Unexplained:
    """An emotion whose endpoint hardly hangs on heads and MLPs in these texts: a share of that would mean nothing.

    ``gap``: the whole model minus none of it, in nats, with its interval over test scenarios.
    """

    emotion: str
    gap: float
    ci: tuple[float, float]
    texts: int

    def sentence(self) -> str:
        """Why there is no circuit."""
        unclear = "not clearly above 0" if self.ci[0] <= 0 else "but not above 0 in every resample of the pairs"
        return (
            f"{self.emotion}: no circuit: with every head and MLP replaced the endpoint of {self.texts} test texts is "
            f"lower by {self.gap:+.2f} [{self.ci[0]:+.2f}, {self.ci[1]:+.2f}] nats, {unclear}, so there is no effect "
            "to explain; more pairs (--limit) may show one"
        )


def find_circuit(bench: Bench, subject: Subject, params: CircuitReport.Params) -> FoundCircuit | Unexplained:
    """Rank, cut, judge and describe, where there is something to explain."""
    if (nothing := _unexplained(bench, subject, params)) is not None:
        return nothing
    lm, emotion, metric, seed = bench.context.lm, subject.emotion, subject.metric, bench.context.seed
    grid, mode, test = Grid.of(lm), params.mode, subject.testing
    nodes = grid.all_nodes()
    size = min(params.size, len(nodes) // 2, params.exact or len(nodes))
    scored = bench.saved(f"{emotion}-nodes", lambda: _scores(bench, subject, params))
    changes, measured = scored["changes"], scored["measured"]
    gate = _gate(scored["gate"]) if params.exact else None
    order = ranked(changes.mean(-1), measured, estimates_hold=gate is not None and gate.valid)
    ranking = [nodes[i] for i in order]
    circuit = ranking[:size]
    clusters = [p.cluster for p in subject.choosing]

    def curve() -> dict[str, Any]:
        found = faithfulness_curve(lm, test, ranking, metric, mode=mode)
        interval = found.runs.interval(seed=seed, resamples=params.resamples)
        return {"f": found.f, "low": interval.low, "high": interval.high, "cmd": found.cmd, "sizes": found.sizes}

    def against_random() -> dict[str, Any]:
        random = random_circuits(circuit, grid, params.random, seed=seed)
        runs = run_circuits(lm, test, [circuit, *random], metric, mode=mode)
        return {"f": runs.faithfulness}

    def complete() -> dict[str, Any]:
        return {"gaps": completeness(lm, test, circuit, metric, subsets=params.subsets, seed=seed, mode=mode).gaps}

    def minimal() -> dict[str, Any]:
        found = minimality(lm, test, circuit, metric, contexts=params.contexts, seed=seed, mode=mode)
        return {"matters": [found[n] for n in circuit]}

    c = bench.saved(f"{emotion}-curve", curve)
    f = bench.saved(f"{emotion}-random", against_random)["f"]
    gaps = bench.saved(f"{emotion}-completeness", complete)["gaps"]
    matters = bench.saved(f"{emotion}-minimality", minimal)["matters"]
    # Where estimates do not hold, they have no say in which nodes another draw of texts would select.
    eligible = np.arange(len(nodes)) if gate is None or gate.valid else np.nonzero(measured)[0]
    stable = selection_stability(changes[eligible], clusters, size, seed=seed)
    share = dict(zip(eligible.tolist(), stable.share.tolist(), strict=True))
    described = _described(bench, subject, circuit, changes[order[:size]])
    figures = {
        "faithfulness": float(f[0]), "cmd": float(c["cmd"]), "completeness_gap": float(gaps.max()),
        "minimality": float(matters.min()), "stability": stable.jaccard, "stability_chance": stable.chance,
        "random_faithfulness": float(f[1:].mean()),
    }  # fmt: skip
    summary = CircuitSummary(emotion, grid, described, figures)
    numbers: dict[str, Any] = {
        "name": emotion, "exactly_ablated": int(measured.sum()), "attribution": gate and asdict(gate),
        "fractions": list(FRACTIONS), "sizes": c["sizes"].tolist(),
        "faithfulness_curve": c["f"].tolist(), "curve_ci": np.stack([c["low"], c["high"]], 1).tolist(),
        "random_circuits": params.random, "beaten": int((abs(1 - f[0]) < np.abs(1 - f[1:])).sum()),
        "all_nodes": len(nodes), "minimality_by_node": dict(zip(map(str, circuit), matters.tolist(), strict=True)),
        "selected_share": {str(nodes[i]): share[int(i)] for i in order[:size]},
    }  # fmt: skip
    wiring = _wiring(bench, subject, circuit, params) if params.edges == "eap-ig" else None
    if wiring is not None:
        numbers["edges"] = [dict(r) for r in wiring.rows]
        numbers["edges_gate"] = asdict(wiring.gate)
    return FoundCircuit(summary, numbers, _graph(bench, subject, summary, wiring), wiring, gate)


def _unexplained(bench: Bench, subject: Subject, params: CircuitReport.Params) -> Unexplained | None:
    """Asked before anything is ranked, with the draws that faithfulness is resampled with."""
    lm, seed = bench.context.lm, bench.context.seed

    def compute() -> dict[str, Array]:
        runs = run_circuits(lm, subject.testing, [()], subject.metric, mode=params.mode)
        return {"gap": runs.full - runs.empty}

    gap = bench.saved(f"{subject.emotion}-gap", compute)["gap"]
    clusters = [p.cluster for p in subject.testing]
    found = bootstrap_interval(gap, clusters, resamples=params.resamples, seed=seed)
    nothing = Unexplained(subject.emotion, float(gap.mean()), (float(found.low), float(found.high)), len(gap))
    try:
        ratio_interval(gap, gap, clusters, resamples=params.resamples, seed=seed)
    except UnclearDenominatorError:
        return nothing
    return nothing if gap.mean() <= 0 else None


def circuit_rows(params: CircuitReport.Params) -> tuple[int, int]:
    """Whole passes that a circuit costs for each text it is chosen on, and for each it is tested on."""
    attribution = 2 * (GRADIENT + 1) if params.exact else 0
    # A step of integrated gradients, then two passes for each of the edges that are patched exactly.
    edges = params.edge_steps * GRADIENT + 4 * CHECKED if params.edges == "eap-ig" else 0
    ends = 2  # the whole model and none of it, in each of four families of circuits
    curve, random, complete = len(FRACTIONS), 1 + params.random, 2 * (1 + params.subsets)
    minimal = 2 * params.size * (1 + params.contexts)
    return 2 + 4 + attribution + edges, curve + random + complete + minimal + 4 * (ends + 2)


def ranked(change: Array, measured: NDArray[np.bool_], *, estimates_hold: bool) -> NDArray[np.intp]:
    """Nodes from the largest |``change``| ``[node]`` on; those whose estimates do not hold come after all others."""
    behind = ~measured.astype(bool) & (not estimates_hold)
    return np.lexsort((np.arange(len(change)), -np.abs(change), behind))


def _scores(bench: Bench, subject: Subject, params: CircuitReport.Params) -> dict[str, Any]:
    """``changes`` ``[node, pair]`` when each node is ablated alone, where ``measured`` exactly, else by attribution.

    ``params.exact`` 0: every node exactly. Else a shortlist of the strongest estimates and as many random nodes are,
    and ``gate`` says whether the estimates of the others hold.
    """
    lm, metric, mode, seed = bench.context.lm, subject.metric, params.mode, bench.context.seed
    nodes, pairs = Grid.of(lm).all_nodes(), subject.choosing
    chosen, estimates = np.arange(len(nodes)), np.zeros((len(nodes), len(pairs)))
    if params.exact:
        heads, mlps = (attribute(lm, pairs, metric, kind=kind, mode=mode).estimates for kind in ("head", "mlp"))
        estimates = np.concatenate([heads.reshape(-1, len(pairs)), mlps[:, 0]])
        cells = checked_cells(estimates.mean(-1)[None], top=params.exact, random=params.exact, seed=seed)
        chosen = cells[:, 1]
    exact = ablate_sets(lm, pairs, [(nodes[i],) for i in chosen], metric, mode=mode).changes
    gate = judge(estimates[chosen].mean(-1), exact.mean(-1))
    changes, measured = estimates.copy(), np.zeros(len(nodes), dtype=bool)
    changes[chosen], measured[chosen] = exact, True
    figures = astuple(gate) if params.exact else ()
    return {"changes": changes, "measured": measured, "gate": np.asarray(figures, dtype=np.float64)}


def _gate(saved: Array) -> Gate:
    spearman, signs, checked, valid = saved.tolist()
    return Gate(spearman, signs, int(checked), bool(valid))


def _wiring(bench: Bench, subject: Subject, circuit: Sequence[Node], params: CircuitReport.Params) -> Wiring:
    """EAP-IG on the texts that nodes were chosen on; the edges are described there, not tested."""
    lm, seed = bench.context.lm, bench.context.seed

    def compute() -> dict[str, Any]:
        found = checked_edges(
            lm, subject.choosing, circuit, subject.metric, mode=params.mode, steps=params.edge_steps, seed=seed
        )
        gate = found.gate
        return {
            "estimates": found.estimated.changes.mean(-1), "checked": np.asarray(found.checked),
            "exact": found.exact.mean(-1), "gate": np.asarray(astuple(gate), dtype=np.float64),
        }  # fmt: skip

    saved = bench.saved(f"{subject.emotion}-edges", compute)
    exact = dict(zip(saved["checked"].tolist(), saved["exact"].tolist(), strict=True))
    edges, estimates = edges_between(circuit, parallel=lm.parallel), saved["estimates"]
    rows = tuple(
        {"source": str(edges[i].source), "target": str(edges[i].target or ENDPOINT),
         "estimate": float(estimates[i]), "exact": exact.get(int(i))}
        for i in np.argsort(-np.abs(estimates), kind="stable")
    )  # fmt: skip
    return Wiring(rows, _gate(saved["gate"]), {str(n): n for n in circuit})


def _described(bench: Bench, subject: Subject, circuit: Sequence[Node], changes: Array) -> tuple[CircuitNode, ...]:
    """Every node with its direct contribution to the endpoint and its roles."""
    direct = bench.saved(f"{subject.emotion}-endpoint-direct", lambda: _endpoint_direct(bench, subject))
    low = _attention_low(bench, subject, subject.choosing)
    clusters = [p.cluster for p in subject.choosing]
    found = bootstrap_interval(changes, clusters, resamples=bench.params.resamples, seed=bench.context.seed)
    nodes = []
    for i, node in enumerate(circuit):
        head = isinstance(node, Head)
        own = float(direct["heads"][node.layer, node.index] if isinstance(node, Head) else direct["mlps"][node.layer])
        reads = float(low[node.layer, node.index]) if isinstance(node, Head) and low is not None else None
        change = float(changes[i].mean())
        known = NodeFigures(change, float(found.low[i]), float(found.high[i]), own, reads if head else None)
        nodes.append(CircuitNode(node, change, own, node_roles(known)))
    return tuple(nodes)


def _endpoint_direct(bench: Bench, subject: Subject) -> dict[str, Array]:
    """Direct contributions to the endpoint's direction, emotional text minus twin, means over pairs."""
    lm, direction = bench.context.lm, subject.metric.direction(bench.context.lm)
    own = endpoint_contributions(lm, [p.clean for p in subject.choosing], direction)
    twin = endpoint_contributions(lm, [p.donor for p in subject.choosing], direction)
    return {"heads": (own.heads - twin.heads).mean(0), "mlps": (own.mlps - twin.mlps).mean(0)}


def _attention_low(bench: Bench, subject: Subject, pairs: Sequence[Pair]) -> Array | None:
    """Lower limits of the attention difference ``[layer, head]``; None where no emotion word can be matched."""

    def compute() -> dict[str, Array]:
        found = attention_to_words(bench.context.lm, [p for p in pairs if p.clean.spans])
        limits = bootstrap_interval(
            found.deltas, found.clusters, resamples=bench.params.resamples, seed=bench.context.seed
        )
        return {"low": np.asarray(limits.low)}

    try:
        return np.asarray(bench.saved(f"{subject.emotion}-attention", compute)["low"])
    except UsageError:
        return None


def _graph(bench: Bench, subject: Subject, summary: CircuitSummary, wiring: Wiring | None) -> dict[str, Any]:
    """The circuit on the first test text, for circuit-tracer's viewer."""
    lm, prompt = bench.context.lm, subject.testing[0].clean
    (encoded,) = lm.encode([prompt])
    tokens = [str(lm.tokenizer.decode([i])) for i in encoded.ids]
    return viewer_graph(
        summary, slug=f"{lm.name}-{summary.emotion}", prompt=prompt.text, token_ids=list(encoded.ids), tokens=tokens,
        endpoint=f"{summary.emotion} words − neutral words", edges=wiring.links() if wiring is not None else (),
    )  # fmt: skip

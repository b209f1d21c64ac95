"""Circuits: node sets of heads and MLPs, and how faithfully they carry the endpoint when all else is resampled.

f(C) = (m(C) − m(∅)) / (m(M) − m(∅)): m(C) is the mean endpoint when every node *outside* C carries its donor's
activation, M is the whole model (nothing replaced), ∅ replaces every node (Marks et al. 2024; Mueller et al. 2025,
"MIB"). f is 1 for a circuit that does all, 0 for one that does nothing, and above 1 for one that leaves out what works
against the endpoint. CMD = ∫ |1 − f_k| dk punishes both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.components import Component, Grid, Head, Node
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.substitution import Mode
from emotion_circuits.engine.gradients import Metric
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.stats import Interval, ratio_interval

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MEASURE = "trapezoid over the fraction of nodes k, linear in k, from the smallest fraction to 1"

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """Endpoints with only some nodes left intact: ``kept`` ``[circuit, pair]``, ``full`` and ``empty`` ``[pair]``."""

    circuits: tuple[tuple[Node, ...], ...]
    kept: Array
    full: Array
    empty: Array
    clusters: tuple[str, ...]

    @property
    def faithfulness(self) -> Float[Array, " circuit"]:
        """f of every circuit."""
        return np.asarray((self.kept.mean(-1) - self.empty.mean()) / self.gap)

    @property
    def gap(self) -> float:
        """m(M) − m(∅), in the endpoint's unit."""
        return float(self.full.mean() - self.empty.mean())

    def interval(self, *, seed: int = 0, resamples: int = 10_000) -> Interval:
        """f of every circuit with its cluster-bootstrap interval (a ratio of means over pairs)."""
        top = self.kept - self.empty
        gap = np.broadcast_to(self.full - self.empty, top.shape)
        return ratio_interval(top, gap, self.clusters, seed=seed, resamples=resamples)


@dataclass(frozen=True)
class FaithfulnessCurve:
    """f_k over fractions of the nodes: ``sizes`` nodes were kept at each; ``cmd`` is ∫ |1 − f_k| dk by ``measure``."""

    fractions: tuple[float, ...]
    sizes: tuple[int, ...]
    f: Array
    cmd: float
    runs: Runs
    measure: str = MEASURE


def run_circuits(
    lm: LM, pairs: Sequence[Pair], circuits: Sequence[Sequence[Node]], metric: Metric, *, mode: Mode = "resample"
) -> Runs:
    """Run the model with every node outside each circuit ablated; all circuits are rows of the same batches.

    Raises:
        UsageError: ablating every node does not change the mean endpoint, so that f does not exist; nodes outside the
            grid.
    """
    nodes = Grid.of(lm).all_nodes()
    unknown = sorted({str(n) for c in circuits for n in c} - {str(n) for n in nodes})
    if unknown:
        raise UsageError(f"{', '.join(unknown)} is no node; {Grid.of(lm)}", "choose heads and MLPs inside the grid")
    # Nested circuits repeat (the whole model, none of it): each is run once.
    distinct = list(dict.fromkeys([frozenset(nodes), frozenset[Node](), *(frozenset(c) for c in circuits)]))
    sets: list[list[Component]] = [[n for n in nodes if n not in c] for c in distinct]
    found = ablate_sets(lm, pairs, sets, metric, mode=mode)
    row = {c: i for i, c in enumerate(distinct)}
    kept = found.ablated[[row[frozenset(c)] for c in circuits]]
    runs = Runs(tuple(tuple(c) for c in circuits), kept, found.ablated[0], found.ablated[1], found.clusters)
    if abs(runs.gap) <= 1e-6 * max(1.0, float(np.abs(runs.full).max())):
        raise UsageError(
            f"replacing every head and MLP of {lm.name} changes the endpoint by {runs.gap:.1e}: "
            "there is nothing to explain",
            "use pairs whose clean and donor texts differ in the endpoint",
        )
    return runs


def faithfulness_curve(
    lm: LM,
    pairs: Sequence[Pair],
    ranking: Sequence[Node],
    metric: Metric,
    *,
    mode: Mode = "resample",
    fractions: Sequence[float] = FRACTIONS,
) -> FaithfulnessCurve:
    """f of the first nodes of ``ranking`` (all nodes of the model, most important first) at each fraction.

    A fraction k keeps the nearest whole number of nodes, at least one.
    """
    total = len(Grid.of(lm).all_nodes())
    if len(set(ranking)) != total:
        raise UsageError(
            f"a ranking of {len(set(ranking))} nodes for the {total} of {lm.name}",
            "rank every head and every MLP once",
        )
    sizes = tuple(max(1, math.floor(k * total + 0.5)) for k in fractions)
    runs = run_circuits(lm, pairs, [ranking[:n] for n in sizes], metric, mode=mode)
    return FaithfulnessCurve(
        tuple(fractions), sizes, runs.faithfulness, circuit_distance(fractions, runs.faithfulness), runs
    )


def circuit_distance(fractions: Sequence[float], f: Float[Array, " k"]) -> float:
    """CMD = ∫ |1 − f_k| dk, see :data:`MEASURE`: 0 for a ranking whose every prefix is faithful."""
    k, miss = np.asarray(fractions, dtype=np.float64), np.abs(1 - np.asarray(f, dtype=np.float64))
    if len(k) < 2 or np.any(np.diff(k) <= 0):
        raise UsageError("CMD needs at least two rising fractions", "use the default fractions")
    return float(np.trapezoid(miss, k))


@dataclass(frozen=True)
class Completeness:
    """For each subset K of the circuit C: f(C∖K) against f(M∖K); ``gaps`` are |f(C∖K) − f(M∖K)|, 0 if C is complete."""

    subsets: tuple[tuple[Node, ...], ...]
    circuit: Array
    model: Array

    @property
    def gaps(self) -> Array:
        return np.abs(self.circuit - self.model)


def completeness(
    lm: LM,
    pairs: Sequence[Pair],
    circuit: Sequence[Node],
    metric: Metric,
    *,
    subsets: int = 10,
    seed: int = 0,
    mode: Mode = "resample",
) -> Completeness:
    """Take the same nodes out of the circuit and out of the model: a complete circuit suffers as the model does.

    Subsets: the empty one, and random ones that hold each node with probability ½ (Wang et al. 2022, "IOI").
    """
    rng = np.random.default_rng(seed)
    chosen = [()] + [tuple(n for n in circuit if rng.random() < 0.5) for _ in range(subsets)]
    nodes = Grid.of(lm).all_nodes()
    without = [[n for n in circuit if n not in k] for k in chosen]
    model = [[n for n in nodes if n not in k] for k in chosen]
    f = run_circuits(lm, pairs, [*without, *model], metric, mode=mode).faithfulness
    return Completeness(tuple(chosen), f[: len(chosen)], f[len(chosen) :])


def minimality(
    lm: LM,
    pairs: Sequence[Pair],
    circuit: Sequence[Node],
    metric: Metric,
    *,
    contexts: int = 5,
    seed: int = 0,
    mode: Mode = "resample",
) -> dict[Node, float]:
    """How much each node matters inside the circuit: the largest |f(C∖K) − f(C∖(K∪{v}))| over some K.

    K is the empty set and ``contexts`` random halves of the other nodes (a node whose work another one repeats matters
    only where that one is out). A node near 0 does not belong to a minimal circuit (Wang et al. 2022).
    """
    rng = np.random.default_rng(seed)
    cases: list[tuple[Node, ...]] = []
    for v in circuit:
        for i in range(contexts + 1):
            rest = tuple(n for n in circuit if n != v and (i == 0 or rng.random() < 0.5))
            cases += [(*rest, v), rest]
    f = run_circuits(lm, pairs, cases, metric, mode=mode).faithfulness.reshape(len(circuit), contexts + 1, 2)
    return dict(zip(circuit, np.abs(f[..., 0] - f[..., 1]).max(1).tolist(), strict=True))


def random_circuits(circuit: Sequence[Node], grid: Grid, count: int = 100, *, seed: int = 0) -> list[tuple[Node, ...]]:
    """``count`` different circuits with as many heads and as many MLPs, from anywhere, none the given one.

    Raises:
        UsageError: not so many exist.
    """
    heads = sum(isinstance(n, Head) for n in circuit)
    mlps = len(circuit) - heads
    all_heads, all_mlps = grid.all_heads(), grid.all_nodes()[grid.layers * grid.heads :]
    possible = math.comb(len(all_heads), heads) * math.comb(len(all_mlps), mlps) - 1
    if possible < count:
        raise UsageError(
            f"only {possible} other circuits have {heads} heads and {mlps} MLPs; {grid}",
            "ask for fewer random circuits, or compare a smaller or larger circuit",
        )
    rng = np.random.default_rng(seed)
    found: dict[frozenset[Node], tuple[Node, ...]] = {}
    while len(found) < count:
        drawn = (
            *(all_heads[i] for i in sorted(rng.choice(len(all_heads), heads, replace=False))),
            *(all_mlps[i] for i in sorted(rng.choice(len(all_mlps), mlps, replace=False))),
        )
        if frozenset(drawn) != frozenset(circuit):
            found.setdefault(frozenset(drawn), drawn)
    return list(found.values())

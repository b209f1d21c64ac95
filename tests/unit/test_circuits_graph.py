"""Circuits on a planted model: recovery, CMD, over-performance, completeness, minimality, random ones, stability."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.components import MLP, Grid
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.graph import (
    circuit_distance,
    completeness,
    faithfulness_curve,
    minimality,
    random_circuits,
    run_circuits,
)
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.roles import NodeFigures, node_roles
from emotion_circuits.circuits.stability import selection_stability
from emotion_circuits.errors import UsageError
from emotion_circuits.stats import random_control_test
from emotion_circuits.types import Prompt
from planted_circuits import OPPONENT, READER, planted
from tiny_models import ARCHITECTURES

ENDPOINT = Endpoint((5, 9), (7, 30))
TEXTS = [
    ("Thank you for walking the dog.", "The parcel arrived on Tuesday."),
    ("We were away", "It was raining at noon"),
]
PAIRS = [
    Pair(Prompt(f"e{i}", a, "joy", f"s{i}"), Prompt(f"n{i}", b, scenario=f"s{i}")) for i, (a, b) in enumerate(TEXTS)
]


@pytest.fixture(scope="module")
def plant(tokenizers):
    return planted(tokenizers["byte-level"])


def each_node(plant):
    """Every head and MLP, and ``[node, pair]`` its change when it is ablated alone."""
    nodes = Grid.of(plant.lm).all_nodes()
    return nodes, ablate_sets(plant.lm, plant.pairs, [(n,) for n in nodes], plant.endpoint).changes


def ranked(plant):
    """The nodes by size of their mean change, strongest first, and those mean changes in the nodes' own order."""
    nodes, changes = each_node(plant)
    mean = changes.mean(-1)
    return [nodes[i] for i in np.argsort(-np.abs(mean), kind="stable")], mean


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_whole_model_is_one_and_nothing_is_zero(tiny, architecture):
    lm = tiny(architecture)
    nodes = Grid.of(lm).all_nodes()
    runs = run_circuits(lm, PAIRS, [nodes, (), nodes[: len(nodes) // 2]], ENDPOINT)
    np.testing.assert_allclose(runs.faithfulness[:2], [1, 0], atol=1e-5)
    assert np.abs(runs.full - runs.empty).max() > 1e-3 and np.abs(runs.kept[2] - runs.full).max() > 1e-3


def test_the_planted_circuit_is_recovered_first_and_covers_everything(plant):
    ranking, _ = ranked(plant)
    assert set(ranking[:2]) == {READER, MLP(3)} and ranking[0] == READER
    curve = faithfulness_curve(plant.lm, plant.pairs, ranking, plant.endpoint)
    assert curve.sizes[:5] == (1, 1, 1, 1, 1) and curve.sizes[-1] == 20
    covered = np.array(curve.sizes) >= 2
    np.testing.assert_allclose(curve.f[covered], 1, atol=0.01)
    fractions = np.array(curve.fractions)[covered]
    assert circuit_distance(fractions, curve.f[covered]) < 0.005
    assert curve.cmd < 0.05
    backwards = faithfulness_curve(plant.lm, plant.pairs, ranking[::-1], plant.endpoint)
    assert backwards.cmd > 0.5 > curve.cmd
    assert curve.runs.interval(resamples=200).low[-1] == pytest.approx(1, abs=1e-5)


def test_a_head_alone_is_covered_from_the_first_fraction_on(tokenizers):
    plant = planted(tokenizers["byte-level"], confirmers=0.0)
    ranking, _ = ranked(plant)
    assert ranking[0] == READER
    assert faithfulness_curve(plant.lm, plant.pairs, ranking, plant.endpoint).cmd < 0.01


def test_a_circuit_that_over_performs_is_penalised(tokenizers):
    plant = planted(tokenizers["byte-level"], opponent=0.5, confirmers=0.0)
    ranking, mean = ranked(plant)
    assert set(ranking[:2]) == {READER, OPPONENT}
    nodes = Grid.of(plant.lm).all_nodes()
    supporters = [nodes[i] for i in np.argsort(mean, kind="stable")]
    assert supporters[0] == READER and supporters[-1] == OPPONENT
    both = faithfulness_curve(plant.lm, plant.pairs, ranking, plant.endpoint)
    without = faithfulness_curve(plant.lm, plant.pairs, supporters, plant.endpoint)
    assert without.f[-2] > 1.3
    assert without.cmd > both.cmd + 0.2


def test_cmd_is_the_area_between_the_curve_and_one():
    k = [0.0, 0.5, 1.0]
    assert circuit_distance(k, np.array([1.0, 1.0, 1.0])) == 0
    assert circuit_distance(k, np.array([0.0, 1.0, 1.0])) == pytest.approx(0.25)
    assert circuit_distance(k, np.array([2.0, 1.0, 1.0])) == pytest.approx(0.25)
    with pytest.raises(UsageError):
        circuit_distance([0.5], np.array([1.0]))
    with pytest.raises(UsageError):
        circuit_distance([0.5, 0.5], np.array([1.0, 1.0]))


def test_the_planted_circuit_is_complete_and_minimal_and_an_extra_node_is_not(plant):
    circuit = (READER, MLP(3))
    found = completeness(plant.lm, plant.pairs, circuit, plant.endpoint)
    assert found.gaps.max() < 0.02
    assert completeness(plant.lm, plant.pairs, (MLP(3), MLP(2)), plant.endpoint).gaps.max() > 0.3
    needed = minimality(plant.lm, plant.pairs, (*circuit, MLP(0)), plant.endpoint)
    assert needed[READER] > 0.5 and needed[MLP(3)] > 0.1 and needed[MLP(0)] < 0.02


def test_the_planted_circuit_beats_random_circuits(plant):
    grid = Grid.of(plant.lm)
    circuit = (READER, MLP(3))
    others = random_circuits(circuit, grid, 60, seed=1)
    assert len({frozenset(c) for c in others}) == 60 and frozenset(circuit) not in {frozenset(c) for c in others}
    assert all(sum(isinstance(n, MLP) for n in c) == 1 and len(c) == 2 for c in others)
    miss = np.abs(1 - run_circuits(plant.lm, plant.pairs, [circuit, *others], plant.endpoint).faithfulness)
    assert random_control_test(miss[0], miss[1:], alternative="less").p <= 0.02
    with pytest.raises(UsageError, match="only 63 other"):
        random_circuits(circuit, grid, 100)


def test_selection_is_stable_where_the_signal_is(plant):
    nodes, changes = each_node(plant)
    found = selection_stability(changes, [p.cluster for p in plant.pairs], 2, resamples=300)
    assert found.share[nodes.index(READER)] == 1 and found.share[nodes.index(MLP(3))] == 1
    assert found.jaccard == 1 and found.chance < 0.1
    noise = np.random.default_rng(0).normal(size=(40, 12))
    unstable = selection_stability(noise, [str(i) for i in range(12)], 5)
    assert unstable.jaccard < 0.6 and unstable.share.sum() == pytest.approx(5)
    with pytest.raises(UsageError):
        selection_stability(noise, [str(i) for i in range(12)], 40)
    with pytest.raises(UsageError):
        selection_stability(noise, ["one"] * 12, 5)


def test_roles_follow_their_rules():
    assert node_roles(NodeFigures(-2.0, -2.2, -1.8, direct=1.9, delta_low=0.3)) == ("reads", "writes")
    assert node_roles(NodeFigures(-2.0, -2.2, -1.8, direct=0.1, delta_low=0.3)) == ("reads", "aggregates")
    assert node_roles(NodeFigures(-2.0, -2.2, -1.8, direct=-1.9)) == ("aggregates",)
    assert node_roles(NodeFigures(2.0, 1.8, 2.2, direct=-1.9)) == ("writes",)
    assert node_roles(NodeFigures(-0.1, -0.2, 0.1, direct=0.1, delta_low=-0.3)) == ()


def test_what_cannot_be_a_circuit_is_refused(tiny):
    lm = tiny("gpt2")
    with pytest.raises(UsageError, match="3 layers × 4 heads"):
        run_circuits(lm, PAIRS, [(MLP(7),)], ENDPOINT)
    with pytest.raises(UsageError, match="ranking"):
        faithfulness_curve(lm, PAIRS, [MLP(0)], ENDPOINT)
    with pytest.raises(UsageError, match="nothing to explain"):
        run_circuits(lm, [Pair(PAIRS[0].clean, PAIRS[0].clean)], [(MLP(0),)], ENDPOINT)

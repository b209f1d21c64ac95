"""Edges: chain-rule exactness in every family, exact patching on a planted model, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.attribution import attribute
from emotion_circuits.circuits.components import MLP, Grid, Head
from emotion_circuits.circuits.edges import Edge, attribute_edges, checked_edges, edges_between, patch_edges
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Prompt
from planted_circuits import READER, planted
from tiny_models import ARCHITECTURES

ENDPOINT = Endpoint((5, 9), (7, 30))
PAIRS = [
    Pair(Prompt("e0", "Thank you for the dog.", "joy", "s0"), Prompt("n0", "The parcel arrived.", scenario="s0")),
    Pair(Prompt("e1", "We were away", "joy", "s1"), Prompt("n1", "It was raining at noon", scenario="s1")),
]  # fmt: skip


@pytest.fixture(scope="module")
def plant(tokenizers):
    return planted(tokenizers["byte-level"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_out_of_a_node_add_up_to_the_attribution_of_the_node(tiny, architecture):
    """By the chain rule a gradient at a node's output is the sum of those of everything that reads it."""
    lm = tiny(architecture)
    before = count_hooks(lm.model)
    edges = edges_between(Grid.of(lm).all_nodes(), parallel=lm.parallel)
    found = attribute_edges(lm, PAIRS, edges, ENDPOINT, steps=0).changes
    mlps = attribute(lm, PAIRS, ENDPOINT, kind="mlp").estimates[:, 0]
    heads = attribute(lm, PAIRS, ENDPOINT).estimates
    sums = {n: sum(found[i] for i, e in enumerate(edges) if e.source == n) for n in Grid.of(lm).all_nodes()}
    largest = np.abs(heads).max()
    for layer in range(lm.n_layers):
        np.testing.assert_allclose(sums[MLP(layer)], mlps[layer], atol=1e-4 * np.abs(mlps).max())
        if lm.family.post_attention_norm:
            continue  # attribution of a head moves the norm behind it, an edge holds that norm fixed
        for h in range(lm.n_heads):
            np.testing.assert_allclose(sums[Head(layer, h)], heads[layer, h], atol=1e-4 * largest)
    assert largest > 1e-3 and count_hooks(lm.model) == before


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
def test_exact_edges_into_the_endpoint_are_exact_patches_of_what_only_the_endpoint_reads(tiny, architecture):
    lm = tiny(architecture)
    last = lm.n_layers - 1
    nodes = [MLP(last), *([Head(last, 1)] if lm.parallel else [])]
    edges = patch_edges(lm, PAIRS, [Edge(n, None) for n in nodes], ENDPOINT).changes
    ablated = ablate_sets(lm, PAIRS, [[n] for n in nodes], ENDPOINT).changes
    np.testing.assert_allclose(edges, ablated, atol=1e-4)
    assert np.abs(ablated).max() > 1e-3


def test_the_planted_edges_come_first_and_estimates_are_exact(plant):
    """The reader writes for the confirming neurons and for the unembedding; nothing else does anything."""
    nodes = [READER, MLP(3), MLP(2), Head(0, 0), Head(2, 2), Head(3, 1)]
    found = checked_edges(plant.lm, plant.pairs, nodes, plant.endpoint, steps=5)
    edges, mean = found.estimated.edges, found.estimated.changes.mean(-1)
    order = [edges[i] for i in np.argsort(mean)]
    assert set(order[:3]) == {Edge(READER, None), Edge(READER, MLP(3)), Edge(MLP(3), None)}
    exact = patch_edges(plant.lm, plant.pairs, order[:3], plant.endpoint).changes.mean(-1)
    np.testing.assert_allclose(np.sort(mean)[:3], exact, rtol=0.05)
    assert abs(np.sort(mean)[3]) < 0.05 * abs(mean.min())
    assert found.gate.checked == min(30, len(edges))


def test_integrated_gradients_are_nearer_to_the_exact_change_than_one_gradient(tokenizers):
    """The gated neurons and the final norm bend: the gradient at the clean text alone misses that."""
    plant = planted(tokenizers["byte-level"], confirmers=8.0)
    edge = [Edge(READER, MLP(3))]
    exact = patch_edges(plant.lm, plant.pairs, edge, plant.endpoint).changes.mean()
    one, many = (attribute_edges(plant.lm, plant.pairs, edge, plant.endpoint, steps=s).changes.mean() for s in (0, 9))
    assert abs(many - exact) < abs(one - exact)


def test_a_text_patched_with_itself_has_no_edges(tiny):
    lm = tiny("gemma3_text")
    same = [Pair(PAIRS[0].clean, PAIRS[0].clean)]
    edges = edges_between([Head(0, 1), MLP(1)])
    for found in (attribute_edges(lm, same, edges, ENDPOINT), patch_edges(lm, same, edges, ENDPOINT)):
        assert np.abs(found.changes).max() < 1e-5


def test_parameters_keep_their_setting(tiny):
    lm = tiny("llama")
    asked = [p.requires_grad for p in lm.model.parameters()]
    attribute_edges(lm, PAIRS, [Edge(Head(0, 1), Head(1, 2))], ENDPOINT)
    assert [p.requires_grad for p in lm.model.parameters()] == asked
    assert not torch.is_inference_mode_enabled()


def test_edges_lead_upwards_and_past_parallel_sublayers():
    heads = (Head(1, 0), MLP(1), Head(2, 0))
    assert edges_between(heads) == (
        Edge(heads[0], heads[1]), Edge(heads[0], heads[2]), Edge(heads[0], None),
        Edge(heads[1], heads[2]), Edge(heads[1], None), Edge(heads[2], None),
    )  # fmt: skip
    assert Edge(heads[0], heads[1]) not in edges_between(heads, parallel=True)


@pytest.mark.parametrize(
    "edges", [[], [Edge(MLP(1), Head(1, 0))], [Edge(Head(0, 0), Head(0, 1))], [Edge(Head(0, 99), None)]]
)
def test_impossible_edges_are_refused(tiny, edges):
    with pytest.raises(UsageError) as caught:
        attribute_edges(tiny("llama"), PAIRS, edges, ENDPOINT)
    assert caught.value.fix

"""Exact ablation: rows packed = one run at a time, in every family; planted heads and neurons are found first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.attribution import Attribution, attribute, checked_cells, gated_attribution, judge
from emotion_circuits.circuits.components import MLP, Grid, Head, Neuron, random_matched_sets
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.pairs import Pair, align, length_matched, twin_pairs
from emotion_circuits.engine.decode import next_token_logits
from emotion_circuits.engine.gradients import metric_gradients
from emotion_circuits.engine.hooks import Hooks, count_hooks
from emotion_circuits.errors import UsageError
from emotion_circuits.stats import random_control_test
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from planted_circuits import CONFIRMERS, D_MLP, READER, planted
from tiny_models import ARCHITECTURES, tiny_lm

TEXTS = ("Thank you for walking the dog.", "I am sorry that I broke the window.", "He parked in my space, which is it.")
TWINS = ("The parcel arrived on Tuesday.", "The bus left the station at noon today.", "It was raining in the street.")
PAIRS = [Pair(Prompt(f"e{i}", a, "joy", f"s{i}"), Prompt(f"n{i}", b, scenario=f"s{i}")) for i, (a, b) in
         enumerate(zip(TEXTS, TWINS, strict=True))]  # fmt: skip
ENDPOINT = Endpoint((5, 9), (7, 30))


@pytest.fixture(scope="module")
def plant(tokenizers):
    return planted(tokenizers["byte-level"])


def each_head(lm, pairs, endpoint, **options):
    """``[layer, head, pair]``: (ablated, ablated − clean) of every head ablated alone."""
    found = ablate_sets(lm, pairs, [(h,) for h in Grid.of(lm).all_heads()], endpoint, **options)
    shape = (lm.n_layers, lm.n_heads, len(pairs))
    return found.ablated.reshape(shape), found.changes.reshape(shape)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_ablation_equals_one_intervention_at_a_time(tiny, architecture):
    lm = tiny(architecture)
    before = count_hooks(lm.model)
    ablated, changes = each_head(lm, PAIRS, ENDPOINT, mode="zero")
    encoded = lm.encode([p.clean for p in PAIRS])
    for head in (Head(0, 1), Head(1, 3), Head(2, 0)):
        zeroed = Condition("z", (Intervention(Site("z", head.layer, head.index), "zero", Positions("all")),))
        alone = ENDPOINT(torch.cat([next_token_logits(lm, [(e, zeroed)]) for e in encoded]))
        np.testing.assert_allclose(ablated[head.layer, head.index], alone.numpy(), atol=2e-4)
    assert np.abs(changes).max() > 0.01
    assert count_hooks(lm.model) == before


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "gpt_neo", "llama", "gemma3_text"])
def test_resampling_everything_from_a_twin_of_equal_length_is_the_twin_up_to_its_embedding(tiny, architecture):
    lm = tiny(architecture)
    pair = Pair(PAIRS[0].clean, PAIRS[0].clean)
    nodes = Grid.of(lm).all_nodes()
    found = ablate_sets(lm, [pair], [nodes, ()], ENDPOINT)
    np.testing.assert_allclose(found.ablated[0], found.clean, atol=1e-5)  # patched with itself
    np.testing.assert_allclose(found.ablated[1], found.clean, atol=1e-5)  # nothing patched
    other = ablate_sets(lm, PAIRS, [nodes], ENDPOINT)
    assert np.abs(other.changes).min() > 1e-3


@pytest.mark.parametrize("mode", ["resample", "mean", "zero"])
def test_sets_of_every_kind_run_packed_as_alone(tiny, mode):
    lm = tiny("llama")
    sets = [(Head(0, 1), Head(2, 3)), (MLP(1),), (Neuron(2, 5), Neuron(1, 7)), (), (Head(1, 0), MLP(2), Neuron(0, 3))]
    together = ablate_sets(lm, PAIRS, sets, ENDPOINT, mode=mode)
    for i, one in enumerate(sets):
        alone = ablate_sets(lm, PAIRS[1:2], [one], ENDPOINT, mode=mode) if mode != "mean" else None
        if alone is not None:
            np.testing.assert_allclose(together.ablated[i, 1], alone.ablated[0, 0], atol=1e-4)
    moved = np.abs(together.changes).max(1)
    assert moved[3] < 1e-5 and (moved[[0, 1, 2, 4]] > 1e-3).all()
    assert together.clusters == ("s0", "s1", "s2")


def test_positions_limit_what_is_replaced(tiny):
    lm = tiny("gpt2")
    last, _ = each_head(lm, PAIRS, ENDPOINT, mode="zero", positions=Positions("last"))
    everywhere, _ = each_head(lm, PAIRS, ENDPOINT, mode="zero")
    # In the last layer earlier tokens no longer matter; before it they do.
    np.testing.assert_allclose(last[-1], everywhere[-1], atol=1e-5)
    assert np.abs(last[0] - everywhere[0]).max() > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_are_those_of_finite_differences(tokenizers, architecture):
    lm = tiny_lm(architecture, tokenizers["byte-level"])
    encoded = lm.encode([p.clean for p in PAIRS])
    taps = [("z", 1), ("mlp_out", 0), ("neuron", 1), ("resid_post", 1)]
    asked = [p.requires_grad for p in lm.model.parameters()]
    found = metric_gradients(lm, encoded, taps, ENDPOINT)
    assert asked == [p.requires_grad for p in lm.model.parameters()] and count_hooks(lm.model) == 0
    rng = np.random.default_rng(0)
    for kind, layer in taps:
        direction = rng.normal(size=lm.width(kind)).astype(np.float32)
        per_head = [(h, direction[h]) for h in range(lm.n_heads)] if kind == "z" else [(None, direction)]
        values = []
        for step in (5e-3, -5e-3):
            edits = tuple(Intervention(Site(kind, layer, h), "add", Positions("last"), v, step) for h, v in per_head)
            values.append(ENDPOINT(next_token_logits(lm, [(e, Condition("d", edits)) for e in encoded])).double())
        measured = ((values[0] - values[1]) / 1e-2).numpy()
        gradient = found.gradients[kind, layer][:, -1].double().numpy()
        predicted = (gradient * direction).reshape(len(encoded), -1).sum(1)
        np.testing.assert_allclose(predicted, measured, rtol=0.05, atol=0.02)


def test_attribution_is_exact_where_the_model_is_linear(tokenizers):
    lm = tiny_lm("gpt2", tokenizers["byte-level"])
    with torch.no_grad():
        for layer in range(lm.n_layers):
            lm.module(layer, "down_projection").weight.zero_()
            if layer:
                lm.module(layer, "out_projection").weight.zero_()
    lm.decoder.ln_f = torch.nn.Identity()
    endpoint = Endpoint((5,), (7,))
    _, exact = each_head(lm, PAIRS, endpoint)
    estimated = attribute(lm, PAIRS, endpoint).estimates
    assert np.abs(exact[0]).max() > 0.1
    # Differences of logits are rounded at the size of the logits.
    np.testing.assert_allclose(estimated, exact, atol=1e-6 * np.abs(exact).max() + 5e-6)
    assert gated_attribution(lm, PAIRS, endpoint).gate.valid


def test_planted_head_comes_first_and_attribution_passes_its_gate(plant):
    found = gated_attribution(plant.lm, plant.pairs, plant.endpoint)
    assert found.gate.valid and found.gate.checked == 16, found.gate.sentence()
    mean = found.attribution.estimates.mean(-1)
    assert np.unravel_index(mean.argmin(), mean.shape) == (READER.layer, READER.index)
    for mode in ("resample", "mean", "zero"):
        mean = each_head(plant.lm, plant.pairs, plant.endpoint, mode=mode)[1].mean(-1)
        assert np.unravel_index(mean.argmin(), mean.shape) == (READER.layer, READER.index)
        others = np.delete(mean.ravel(), READER.layer * 4 + READER.index)
        assert mean.min() < 50 * others.min()


def test_planted_neurons_come_first_and_beat_random_sets(plant):
    found = gated_attribution(plant.lm, plant.pairs, plant.endpoint, kind="neuron")
    assert found.gate.valid, found.gate.sentence()
    order = np.argsort(found.attribution.estimates.mean(-1), axis=None)[:2]
    assert {Neuron(int(i) // D_MLP, int(i) % D_MLP) for i in order} == set(CONFIRMERS)
    sets = [CONFIRMERS, *random_matched_sets(CONFIRMERS, Grid.of(plant.lm), 100)]
    changes = ablate_sets(plant.lm, plant.pairs, sets, plant.endpoint).changes.mean(-1)
    assert random_control_test(changes[0], changes[1:], alternative="less").p <= 0.02


def test_the_gate_refuses_what_does_not_agree():
    rng = np.random.default_rng(0)
    exact = rng.normal(size=100)
    assert judge(exact * 2 + 0.01, exact).spearman > 0.99
    assert judge(exact * 2, exact).valid
    assert not judge(rng.normal(size=100), exact).valid
    flipped = np.where(np.arange(100) < 8, -0.001, 1.0) * np.abs(exact)
    assert not judge(flipped, np.abs(exact)).valid
    assert not judge(np.zeros(100), exact).valid
    assert not judge(np.array([]), np.array([])).valid
    assert "must not" in judge(-exact, exact).sentence()


def test_checked_cells_are_the_top_and_distinct_others():
    mean = np.random.default_rng(0).normal(size=(20, 12))
    cells = checked_cells(mean)
    assert cells.shape == (100, 2) and len({tuple(c) for c in cells}) == 100
    assert np.abs(mean[tuple(cells[:50].T)]).min() >= np.sort(np.abs(mean).ravel())[-50]
    assert Attribution("neuron", np.zeros((20, 12, 1))).component(3, 4) == Neuron(3, 4)


def test_twins_and_alignment(tiny):
    prompts = [p for pair in PAIRS for p in (pair.clean, pair.donor)]
    assert twin_pairs(prompts, "joy") == PAIRS
    lm = tiny("gpt2")
    for pair in PAIRS:
        a, b = lm.encode([pair.clean, pair.donor])
        matched = align(a, b)
        assert len(matched) == len(a) and matched == sorted(matched)
        assert matched[: a.n_prefix] == list(range(a.n_prefix)) and matched[-1] == len(b) - 1
        assert align(a, a) == list(range(len(a)))
    same = Pair(PAIRS[0].clean, PAIRS[0].clean)
    assert same in length_matched(lm, [*PAIRS, same])


@pytest.mark.parametrize(
    "call",
    [
        lambda lm: twin_pairs([PAIRS[0].clean], "joy"),
        lambda lm: ablate_sets(lm, [], [(Head(0, 0),)], ENDPOINT),
        lambda lm: ablate_sets(lm, PAIRS, [], ENDPOINT),
        lambda lm: ablate_sets(lm, PAIRS, [(Head(12, 99),)], ENDPOINT),
        lambda lm: ablate_sets(lm, PAIRS, [(Head(0, 0),)], ENDPOINT, mode="median"),
        lambda lm: length_matched(lm, [Pair(Prompt("a", "The bus"), Prompt("b", "The bus left the station at noon"))]),
    ],
)
def test_what_cannot_be_done_is_refused(tiny, call):
    with pytest.raises(UsageError) as caught:
        call(tiny("gpt2"))
    assert caught.value.fix


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "llama", "gemma3_text"])
def test_blocks_below_the_ablated_head_run_for_the_clean_and_the_donor_texts_only(tiny, architecture):
    lm = tiny(architecture)

    def passes(layer: int) -> int:
        hooks = Hooks(minimum=0)
        hooks.visit(lm.module(0, "attention"), "output", "lowest", lambda x: None)
        with hooks:
            ablate_sets(lm, PAIRS, [(Head(layer, h),) for h in range(lm.n_heads)] * 40, ENDPOINT)
        return hooks.fired["lowest"]

    # clean run, donors' run, and the first block's run that tells how blocks return their output
    assert passes(2) == 3
    assert passes(0) > 4

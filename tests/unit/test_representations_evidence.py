"""Evidence on planted and on empty data: p values that keep their promise, controls that mean what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.representations import Labelled, extract_directions, gather_evidence
from emotion_circuits.representations.evidence import Evidence, choose_layer, layer_auroc, own_vs_rest
from emotion_circuits.representations.labelled import concatenate
from planted import EMOTIONS, world

BOUND = 0.086
"""Highest share of p ≤ .05 in 400 simulations that a true 5 % reaches but once in a thousand times."""
SIMULATIONS, PERMUTATIONS = 400, 99


def evidence(data: Labelled, emotion: str = "anger", depth: int = 6, **options: int) -> Evidence:
    directions = extract_directions(data.split("fit"))
    chosen = {"permutations": PERMUTATIONS, "resamples": 200, **options}
    return gather_evidence(directions, data, emotion, depth, **chosen)


def noise(seed: int, paired: bool) -> Labelled:
    """Texts whose labels say nothing: content and noise, two emotions, correlated layers, a massive dimension."""
    rng = np.random.default_rng(seed)
    scenarios, layers, d = 30, 3, 10
    mixing = rng.normal(size=(d, d)) * np.linspace(0.2, 6, d)
    labels = np.array(["neutral", "anger", "joy"] * scenarios)
    groups = np.repeat(np.arange(scenarios), 3)
    x = rng.normal(size=(scenarios, layers, d))[groups] + rng.normal(size=(len(labels), layers, d))
    x[:, 1] = x[:, 0] + 0.3 * x[:, 1]
    names = groups if paired else np.arange(len(labels))
    splits = np.array(["fit"] * 5 + ["dev"] * 2 + ["test"] * 3)[groups % 10]
    empty = np.array([""] * len(labels))
    return Labelled(
        x @ mixing, np.arange(len(labels)).astype(str), labels, names.astype(str), splits, empty, empty, (0, 1, 2)
    )


@pytest.mark.parametrize("paired", [True, False])
def test_p_values_are_honest_where_nothing_is_there(paired: bool) -> None:
    found = [evidence(noise(s, paired), depth=5, seed=s) for s in range(SIMULATIONS)]
    for name in ("p_max_layer", "p_shuffled", "p_random"):
        values = np.array([getattr(e, name) for e in found])
        assert (values <= 0.05).mean() <= BOUND, name
        assert values.min() >= 1 / (PERMUTATIONS + 1)
    assert np.mean([e.against_neutral.interval.estimate.mean() for e in found]) == pytest.approx(0.5, abs=0.02)


def test_p_values_are_honest_where_whole_unpaired_scenarios_carry_one_label() -> None:
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), 4)
        labels = np.where(groups % 2 == 0, "neutral", "anger")
        x = 0.8 * rng.normal(size=(60, 2, 6))[groups] + 0.6 * rng.normal(size=(240, 2, 6))
        splits = np.array(["fit", "fit", "dev", "dev", "test", "test"])[groups % 6]
        empty = np.array([""] * 240)
        names = np.arange(240).astype(str)
        data = Labelled(x, names, labels, groups.astype(str), splits, empty, empty, (0, 1))
        found.append(evidence(data, depth=4, seed=seed))
    assert found[0].n_exchangeable == 20
    for name in ("p_max_layer", "p_layer", "p_shuffled"):
        assert np.mean([getattr(e, name) <= 0.05 for e in found]) <= 0.101, name


def test_a_layer_is_not_judged_on_the_scenarios_that_chose_it() -> None:
    data = world(scenarios=60).data
    mixed = replace(data, scenarios=np.char.add("s", (np.arange(len(data.labels)) % 7).astype(str)))
    with pytest.raises(UsageError, match="selected on"):
        evidence(mixed)


def test_p_values_reach_their_minimum_where_a_direction_was_planted() -> None:
    found = evidence(world(scenarios=100, strength=5.0, noise=0.5).data)
    smallest = 1 / (PERMUTATIONS + 1)
    assert (found.p_max_layer, found.p_shuffled, found.p_random) == (smallest, smallest, smallest)
    assert found.against_neutral.interval.low[found.row] > 0.8
    assert found.own_vs_rest is not None and found.own_vs_rest.interval.low[found.row] > 0.7
    assert found.n_test == 30 and found.n_exchangeable == 30
    assert found.p_layer == smallest


def test_shuffled_directions_reach_a_high_auroc_while_their_p_stays_small() -> None:
    """One strong axis: a shuffled direction keeps a sliver of it and separates, but weighs next to nothing."""
    data = world(scenarios=100, strength=30.0, noise=0.05, d=6).data
    found = evidence(data, permutations=999)
    assert found.shuffled_high > 0.97
    assert found.p_shuffled == 1 / 1000


def test_layer_with_the_signal_is_chosen_on_dev_and_reported_on_test() -> None:
    layers = tuple(range(8))
    planted = world(scenarios=150, layers=layers, strengths=(0.1, 0.1, 9, 9, 9, 0.1, 0.1, 0.1), strength=9.0, noise=0.5)
    found = evidence(planted.data, depth=8)
    assert found.layer == 3
    assert (found.against_neutral.interval.estimate[2:5] > 0.95).all()
    assert found.against_neutral.interval.estimate[5] < 0.8


def test_test_texts_do_not_choose_the_layer() -> None:
    planted = world(scenarios=100, layers=tuple(range(6)), strengths=(3, 3, 1, 1, 1, 1), strength=3.0)
    directions = extract_directions(planted.data.split("fit"))
    before = choose_layer(directions, planted.data.split("dev"), "anger", 6)
    planted.data.x[planted.data.splits == "test"] = 0
    after = choose_layer(directions, planted.data.split("dev"), "anger", 6)
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])


def test_the_same_seed_gives_the_same_evidence() -> None:
    data = world(scenarios=60).data
    first, again = evidence(data, seed=4), evidence(data, seed=4)
    assert (first.p_max_layer, first.p_shuffled, first.p_random) == (
        again.p_max_layer,
        again.p_shuffled,
        again.p_random,
    )
    np.testing.assert_array_equal(first.against_neutral.interval.low, again.against_neutral.interval.low)


def test_null_band_holds_chance_and_not_the_planted_curve() -> None:
    found = evidence(world(scenarios=100, strength=5.0, noise=0.5).data)
    curves = found.against_neutral
    assert (curves.null_low < 0.5).all() and (curves.null_high > 0.5).all()
    assert (curves.interval.estimate > curves.null_high).all()
    assert curves.threshold >= curves.null_high.max() - 0.05


def test_splits_without_texts_are_refused() -> None:
    data = world(scenarios=30).data
    directions = extract_directions(data.split("fit"))
    for missing in ("dev", "test"):
        with pytest.raises(UsageError, match=f"evidence on the {missing} split"):
            gather_evidence(directions, data.select(data.splits != missing), "anger", 6)


def test_other_texts_without_neutral_ones_give_own_vs_rest_only() -> None:
    data = world(scenarios=60, strength=4.0).data
    directions = extract_directions(data.split("fit"))
    test = data.split("test")
    found = layer_auroc(directions, test.select(test.labels != "neutral"), "anger", 1)
    assert found is not None
    assert (found["auroc"], found["ci"], found["n"], found["n_neutral"]) == (None, None, 18, 0)
    assert found["own_vs_rest"] > 0.8


def test_other_texts_of_one_emotion_give_no_own_vs_rest() -> None:
    data = world(scenarios=60, strength=4.0).data
    directions = extract_directions(data.split("fit"))
    test = data.split("test")
    found = layer_auroc(directions, test.select(np.isin(test.labels, ["anger", "neutral"])), "anger", 1)
    assert found is not None and found["own_vs_rest"] is None and found["auroc"] > 0.8
    assert found["ci"][0] < found["auroc"] <= found["ci"][1]
    assert layer_auroc(directions, test.select(test.labels != "anger"), "anger", 1) is None
    assert own_vs_rest(directions, test.select(test.labels != "anger"), "anger") is None


@pytest.mark.parametrize("scenarios", [1, 2, 4])
def test_few_clusters_give_a_figure_without_an_interval(scenarios: int) -> None:
    data = world(scenarios=60, strength=4.0).data
    directions = extract_directions(data.split("fit"))
    few = data.select(np.isin(data.scenarios, np.unique(data.scenarios)[:scenarios]))
    found = layer_auroc(directions, few, "anger", 0)
    assert found is not None and found["ci"] is None and 0 <= found["auroc"] <= 1


def test_thousands_of_single_texts_get_an_interval_that_agrees_with_the_bootstrap() -> None:
    big = world(scenarios=700, strength=1.5, paired=False, layers=(0,), d=8).data
    directions = extract_directions(big.split("fit"))
    used = big.select(np.isin(big.labels, ["anger", "neutral"]))
    quick = layer_auroc(directions, used, "anger", 0)
    half = used.select(np.arange(len(used.labels)) % 4 < 2)
    slow = layer_auroc(directions, half, "anger", 0, resamples=400)
    assert quick is not None and slow is not None
    width, other = (f["ci"][1] - f["ci"][0] for f in (quick, slow))
    assert other / width == pytest.approx(np.sqrt(2), rel=0.2)


def test_labels_without_direction_do_not_enter_own_vs_rest() -> None:
    data = world(scenarios=60, strength=4.0).data
    directions = extract_directions(data.split("fit"), ("anger", "joy"))
    found = own_vs_rest(directions, data.split("test"), "anger")
    assert found is not None and len(found[1]) == 36


def test_captures_of_other_layers_are_not_joined() -> None:
    data = world(scenarios=10).data
    joined = concatenate([data, data])
    assert len(joined.labels) == 2 * len(data.labels) and joined.emotions == EMOTIONS
    with pytest.raises(UsageError, match="different layers"):
        concatenate([data, replace(data, layers=(5, 6, 7))])

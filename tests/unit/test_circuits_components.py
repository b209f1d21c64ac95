"""Names of components: what is read, what is refused with the model's grid, and matched random sets."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.circuits.components import (
    Grid,
    Head,
    Neuron,
    matched_set_count,
    parse_heads,
    parse_neurons,
    random_matched_sets,
)
from emotion_circuits.errors import UsageError

GRID = Grid("m", layers=8, heads=12, neurons=40)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 11)), min_size=1, unique=True))
def test_heads_are_read_back_as_they_are_written(cells):
    heads = tuple(Head(*c) for c in cells)
    assert parse_heads(",".join(map(str, heads)), GRID) == heads


def test_ranges_and_neurons():
    assert parse_heads("0:0-11", GRID) == tuple(Head(0, h) for h in range(12))
    assert parse_heads(" 3:5, 7:2 ", GRID) == (Head(3, 5), Head(7, 2))
    assert parse_neurons("3:10,12;5:7-9", GRID) == (
        *(Neuron(3, n) for n in (10, 12)),
        *(Neuron(5, n) for n in (7, 8, 9)),
    )


@pytest.mark.parametrize(
    "spec",
    ["12:99", "a:b", "3:5,3:5", "0:0-3,0:2", "0:5-2", "3:12", "8:0", "", "3", "m3", "3:", "3:5-", "-1:2", "3:-2"],
)
def test_wrong_head_specs_show_the_grid(spec):
    with pytest.raises(UsageError, match="8 layers × 12 heads") as caught:
        parse_heads(spec, GRID)
    assert caught.value.fix


@pytest.mark.parametrize("spec", ["3:40", "9:1", "3;4", "x:1", "", "3:1,1", "3:1;3:1", "2:9-7", "2:,"])
def test_wrong_neuron_specs_show_the_grid(spec):
    with pytest.raises(UsageError, match="40 neurons per layer"):
        parse_neurons(spec, GRID)


def test_random_sets_match_size_and_layers_and_differ():
    heads = parse_heads("3:5,3:7,6:2", GRID)
    sets = random_matched_sets(heads, GRID, 100, seed=1)
    assert len({frozenset(s) for s in sets}) == 100
    assert frozenset(heads) not in {frozenset(s) for s in sets}
    assert {tuple(sorted(h.layer for h in s)) for s in sets} == {(3, 3, 6)}
    assert all(len(set(s)) == 3 for s in sets)
    assert sets == random_matched_sets(heads, GRID, 100, seed=1)
    assert sets != random_matched_sets(heads, GRID, 100, seed=2)


def test_every_matched_head_is_drawn_about_equally_often():
    counts = Counter(h.index for s in random_matched_sets((Head(1, 0), Head(2, 0)), GRID, 120) for h in s)
    assert set(counts) == set(range(12))
    assert max(counts.values()) < 3 * min(counts.values())


def test_too_few_matched_sets_are_said_and_a_slack_helps():
    assert matched_set_count((Head(3, 5),), GRID) == 12
    with pytest.raises(UsageError, match="only 11 others"):
        random_matched_sets((Head(3, 5),), GRID, 100)
    loose = random_matched_sets((Head(3, 5),), GRID, 30, layer_slack=1)
    assert {s[0].layer for s in loose} == {2, 3, 4}
    with pytest.raises(UsageError, match="were found"):
        random_matched_sets((Head(3, 5),), GRID, 100, layer_slack=1)


def test_neurons_have_matched_sets_too():
    sets = random_matched_sets(parse_neurons("3:10,12;5:7", GRID), GRID, 100)
    assert {tuple(sorted(n.layer for n in s)) for s in sets} == {(3, 3, 5)}
    assert all(isinstance(n, Neuron) for s in sets for n in s)

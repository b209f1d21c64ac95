"""The plateau rule on curves drawn by hand, and the standard error it rests on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.layer_choice import auroc_standard_error, plateau_middle
from emotion_circuits.stats.discrimination import auroc
from emotion_circuits.stats.selection import select_plateau_middle


def chosen(values: list[float], error: float = 0.05, depth: int | None = None, layers: tuple[int, ...] = ()) -> int:
    numbers = layers or tuple(range(len(values)))
    return plateau_middle(np.array(values), np.full(len(values), error), numbers, depth or len(values))


@pytest.mark.parametrize(
    ("values", "layer"),
    [
        ([0.5, 0.9, 0.91, 0.9, 0.6, 0.5, 0.5], 2),
        ([0.5, 0.9, 0.91, 0.9, 0.9, 0.5, 0.5], 2),  # an even plateau: the earlier middle
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 2),  # ties everywhere, the last two left out
        ([0.99, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5], 0),  # the best at the edge
        ([0.99, 0.5, 0.97, 0.98, 0.97, 0.5, 0.5], 0),  # the plateau holds the best, however long another is
        ([0.5, 1.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5], 4),  # of tied bests the one in the longest stretch
        ([0.96, 0.97, 0.5, 0.98, 0.99, 0.5, 0.5], 3),  # the run around the best
        ([0.5, 0.5, 0.5, 0.5, 0.7, 0.99, 1.0], 4),  # never the last two layers, however good
        ([0.5, 0.6, 0.94, 0.6, 0.5, 0.5, 0.5], 2),
    ],
)
def test_middle_of_the_plateau(values: list[float], layer: int) -> None:
    assert chosen(values) == layer


def test_the_rule_is_that_of_the_selection_guard() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores = rng.normal(size=(9, 1)) * 0.3 + rng.normal(size=(9, 25))
        guard = select_plateau_middle(scores, range(25))
        errors = scores.std(axis=1, ddof=1) / 5
        assert plateau_middle(scores.mean(axis=1), errors, tuple(range(9)), 9) == guard.index


def test_one_standard_error_is_the_border() -> None:
    assert chosen([0.85, 0.9, 0.5, 0.5, 0.5], error=0.0501) == 0
    assert chosen([0.85, 0.9, 0.5, 0.5, 0.5], error=0.0499) == 1


def test_gaps_between_captured_layers_do_not_cut_a_plateau() -> None:
    assert chosen([0.5, 0.9, 0.9, 0.9, 0.5], layers=(0, 6, 12, 18, 24), depth=30) == 12


def test_a_single_captured_layer_is_chosen_even_if_it_is_the_last() -> None:
    assert chosen([0.7], layers=(29,), depth=30) == 29
    assert chosen([0.7, 0.6], layers=(28, 29), depth=30) == 28


@pytest.mark.parametrize("values", [[], [0.5, float("nan"), 0.6]])
def test_scores_that_are_not_numbers_are_refused(values: list[float]) -> None:
    with pytest.raises(UsageError, match="no finite dev scores"):
        chosen(values, depth=5)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=40), st.floats(0, 0.2))
@settings(max_examples=200, deadline=None)
def test_choice_is_within_one_error_of_the_best_allowed_layer(values: list[float], error: float) -> None:
    layer = chosen(values, error)
    assert layer < len(values) - 2
    assert values[layer] >= max(values[:-2]) - error


def test_standard_error_agrees_with_a_simulation() -> None:
    rng = np.random.default_rng(0)
    for shift, n in ((0.0, 20), (1.0, 20), (1.5, 40)):
        values = auroc(rng.normal(shift, 1, (4000, n)), rng.normal(0, 1, (4000, n)))
        predicted = auroc_standard_error(np.array(values.mean()), n, n)
        # Hanley & McNeil's formula assumes exponential scores; on Gaussian ones it is right to a tenth.
        assert float(predicted) == pytest.approx(values.std(), rel=0.12)


def test_standard_error_of_a_perfect_separation_is_not_zero() -> None:
    errors = auroc_standard_error(np.array([0.0, 1.0, 0.5]), 14, 14)
    assert (errors > 0.005).all() and errors[0] == pytest.approx(errors[1]) and errors[1] < errors[2]

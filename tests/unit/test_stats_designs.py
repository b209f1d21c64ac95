"""Selection guard, dose-response, random controls, equivalence, intersection-union and the choice of k."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from emotion_circuits.errors import UsageError
from emotion_circuits.stats import (
    cluster_t,
    dose_response,
    equivalence_test,
    intersection_union,
    odd_even_slopes,
    page_trend,
    prompt_slopes,
    random_control_test,
    required_controls,
    select_best,
    select_k,
    select_plateau_middle,
)

DEV = [f"dev{i}" for i in range(20)]
TEST = [f"test{i}" for i in range(20)]
DOSES = np.array([-0.6, -0.3, 0.0, 0.3, 0.6])


def grid(seed: int, best: int = 4, cells: int = 9) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(cells, 20))
    values[best] += 1.5
    return values


def test_selected_cell_is_tested_on_the_other_split() -> None:
    chosen = select_best(grid(0), DEV, cells=[f"L{i}" for i in range(9)])
    test = grid(1)
    assert (chosen.cell, chosen.index, chosen.candidates) == ("L4", 4, 9)
    result = chosen.test(test, TEST)
    assert result.cell == "L4"
    assert result.test.p == pytest.approx(float(cluster_t(test[4], TEST).p))
    assert chosen.test(test[4], TEST).g_z.estimate == pytest.approx(float(result.g_z.estimate))


def test_testing_where_one_selected_is_refused() -> None:
    dev = grid(0)
    chosen = select_best(dev, DEV)
    with pytest.raises(UsageError, match="was selected on 20 of these clusters"):
        chosen.test(dev, DEV)
    with pytest.raises(UsageError, match="was selected on 1 of these clusters"):
        chosen.test(grid(1), [*TEST[:-1], "dev3"])
    with pytest.raises(UsageError, match="exactly these values"):
        chosen.test(dev, TEST)
    with pytest.raises(UsageError, match="exactly these values"):
        chosen.test(dev[:, ::-1], TEST)
    with pytest.raises(UsageError, match="searched"):
        chosen.test(grid(1)[:5], TEST)


def test_coarse_outcomes_that_agree_by_chance_are_not_refused() -> None:
    dev = np.tile([0.0, 1.0], (3, 10))
    chosen = select_best(dev, DEV)
    assert chosen.test(dev, TEST).test.mean.estimate == 0.5


def test_plateau_middle_avoids_the_lucky_peak_and_the_last_layers() -> None:
    noise = 0.02 * np.random.default_rng(2).normal(size=(12, 20))
    curve = np.array([0.5, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.7, 0.6, 0.99, 0.99])
    scenario = np.random.default_rng(3).normal(size=20)
    chosen = select_plateau_middle(curve[:, None] + noise + 0.3 * scenario, DEV)
    assert chosen.index == 5
    assert "plateau" in chosen.rule
    sharp = np.where(np.arange(12) == 2, 1.0, 0.0)[:, None] + noise
    assert select_plateau_middle(sharp, DEV).index == 2


def test_slopes_of_exact_lines() -> None:
    slope = np.array([2.0, -1.0, 0.5])
    outcome = 3 + slope[:, None] * DOSES
    np.testing.assert_allclose(prompt_slopes(outcome, DOSES), slope)
    odd, even = odd_even_slopes(outcome, DOSES)
    np.testing.assert_allclose(odd, slope)
    np.testing.assert_allclose(even, 0, atol=1e-12)


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5), st.permutations(range(5)))
def test_odd_and_even_parts_separate_in_any_order_of_doses(base: float, odd: float, even: float, order) -> None:
    doses = DOSES[list(order)]
    outcome = base + odd * doses + even * np.abs(doses)
    found = odd_even_slopes(np.stack([outcome, outcome]), doses)
    np.testing.assert_allclose(found[0], odd, atol=1e-9)
    np.testing.assert_allclose(found[1], even, atol=1e-9)


def test_dose_response_tells_direction_from_disruption() -> None:
    rng = np.random.default_rng(4)
    noise = 0.2 * rng.normal(size=(2, 25, 5)) + rng.normal(size=(2, 25, 1))
    outcome = noise + np.stack([np.tile(2 * DOSES, (25, 1)), np.tile(2 * np.abs(DOSES), (25, 1))])
    found = dose_response(outcome, DOSES, [f"s{i // 2}" for i in range(25)])
    assert found.odd.p[0] < 1e-6 < 0.01 < found.odd.p[1]
    assert found.even.p[1] < 1e-6 < 0.01 < found.even.p[0]
    assert found.trend[0] < 1e-6 < 0.05 < found.trend[1]
    assert found.wrong_way.estimate[0] == 0
    assert found.wrong_way.estimate[1] > 0.2


def test_page_trend_is_scipys_on_rows_averaged_by_cluster() -> None:
    outcome = np.random.default_rng(5).normal(size=(12, 4)) + 0.3 * np.arange(4)
    doses, clusters = np.array([0.3, 0.1, 0.2, 0.0]), np.arange(12) // 2
    rows = outcome.reshape(6, 2, 4).mean(axis=1)[:, np.argsort(doses)]
    expected = stats.page_trend_test(rows, method="asymptotic").pvalue
    assert page_trend(outcome, doses, clusters) == pytest.approx(expected)


def test_random_controls_rank_and_refuse() -> None:
    controls = np.arange(19.0)
    assert random_control_test(100.0, controls).p == pytest.approx(1 / 20)
    assert random_control_test(17.5, controls).p == pytest.approx(2 / 20)
    assert required_controls(alpha=0.05, comparisons=12) == 239
    with pytest.raises(UsageError, match=r"cannot support a claim at 0.05 over 12"):
        random_control_test(100.0, controls, comparisons=12)
    corrected = random_control_test([100.0, 0.0], np.zeros((239, 2)), comparisons=12)
    np.testing.assert_allclose(corrected.p_corrected, [0.05, 1.0])
    with pytest.raises(UsageError, match="19 random vectors"):
        random_control_test(100.0, controls, alternative="two-sided")


def test_equivalence_agrees_with_its_interval() -> None:
    values = np.random.default_rng(6).normal(0.0, 1, size=(50, 60))
    found = equivalence_test(values, 0.3)
    inside = (found.interval.low > -0.3) & (found.interval.high < 0.3)
    np.testing.assert_array_equal(found.equivalent, inside)
    assert found.interval.confidence == pytest.approx(0.9)
    assert 0 < inside.mean() < 1


def test_intersection_union_is_as_weak_as_its_weakest_part() -> None:
    result = intersection_union({"isotropic": 0.001, "covariance-matched": 0.03, "label-shuffled": 0.004})
    assert (result.p, result.limiting) == (0.03, "covariance-matched")


def test_k_is_guarded_against_testing_on_the_choosing_scenarios() -> None:
    rng = np.random.default_rng(7)
    scores = np.array([0.5, 0.8, 0.8])[:, None] + 0.05 * rng.normal(size=(3, 20))
    chosen = select_k(scores, [1, 4, 8], DEV)
    assert chosen.k in (4, 8)
    assert chosen.p_behind[0] < 0.01
    with pytest.raises(UsageError, match="selected on"):
        chosen.selection.test(scores, DEV)


def test_a_smaller_k_wins_ties() -> None:
    scores = np.tile(np.random.default_rng(8).normal(size=20), (3, 1))
    scores[0] -= 1
    assert select_k(scores, [1, 4, 8], DEV).k == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_best(np.ones(5), DEV[:5]), "cell, n"),
        (lambda: select_best(np.ones((2, 5)), ["a"] * 5), "at least 2"),
        (lambda: select_plateau_middle(np.ones((2, 5)), DEV[:5]), "at least 1"),
        (lambda: odd_even_slopes(np.ones((3, 3)), [0.0, 0.3, 0.6]), "not symmetric"),
        (lambda: odd_even_slopes(np.ones((3, 2)), [-0.3, 0.3]), "not symmetric"),
        (lambda: prompt_slopes(np.ones((3, 2)), [0.3, 0.3]), "twice"),
        (lambda: prompt_slopes(np.ones((3, 2)), [0.1, 0.2, 0.3]), "do not match"),
        (lambda: page_trend(np.ones((3, 2)), [0.1, 0.2]), "at least 3"),
        (lambda: random_control_test(1.0, [0.0, np.nan] * 20), "NaN"),
        (lambda: equivalence_test(np.arange(5.0), 0.0), "says nothing"),
        (lambda: intersection_union({}), "no null"),
        (lambda: intersection_union({"a": float("nan")}), "NaN"),
        (lambda: select_k(np.ones((2, 8)), [8, 4], DEV[:8]), "ascending"),
        (lambda: select_k(np.ones((2, 4)), [4, 8], DEV[:4]), "at least 5"),
    ],
)
def test_misuse_raises_with_an_explanation(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()

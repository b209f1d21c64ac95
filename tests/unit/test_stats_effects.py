"""Effects and rates against hand-worked values, other implementations and their own invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from statsmodels.stats.proportion import confint_proportions_2indep

from emotion_circuits.errors import UsageError
from emotion_circuits.stats import (
    cluster_t,
    independent_effect,
    independent_rates,
    paired_effect,
    paired_rates,
    share_positive,
    standardised_mean,
)
from emotion_circuits.stats.effects import hedges_correction, noncentral_limits


def test_g_z_of_a_worked_example() -> None:
    effect = paired_effect([3.0, 5.0, 4.0, 8.0], [1.0, 2.0, 3.0, 4.0])
    differences = np.array([2.0, 3.0, 1.0, 4.0])
    correction = math.gamma(1.5) / (math.sqrt(1.5) * math.gamma(1.0))
    assert effect.test.mean.estimate == pytest.approx(2.5)
    assert effect.g_z.estimate == pytest.approx(correction * 2.5 / differences.std(ddof=1))
    reference = stats.ttest_1samp(differences, 0)
    assert effect.test.p == pytest.approx(reference.pvalue)
    limits = reference.confidence_interval()
    assert (effect.test.mean.low, effect.test.mean.high) == pytest.approx((limits.low, limits.high))


def test_exact_limits_put_the_observed_t_at_the_tails() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=(20, 15))
    interval = standardised_mean(values)
    t = values.mean(axis=1) / values.std(axis=1, ddof=1) * np.sqrt(15)
    # The observed t is the 97.5 % point at the lower limit and the 2.5 % point at the upper one (by integration).
    for i in range(3):
        assert stats.nct.cdf(t[i], 14, interval.low[i] * np.sqrt(15)) == pytest.approx(0.975, abs=1e-6)
        assert stats.nct.cdf(t[i], 14, interval.high[i] * np.sqrt(15)) == pytest.approx(0.025, abs=1e-6)


@given(
    st.floats(-200, 200).filter(lambda t: abs(t) > 1e-6), st.integers(1, 500), st.sampled_from([0.8, 0.9, 0.95, 0.99])
)
def test_limits_are_finite_ordered_and_mirror_with_the_sign(t: float, df: int, confidence: float) -> None:
    low, high = noncentral_limits(t, df, confidence)
    mirrored = noncentral_limits(-t, df, confidence)
    assert np.isfinite([low, high]).all()
    assert low < high
    np.testing.assert_allclose([low, high], [-mirrored[1], -mirrored[0]])


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_g_z_ignores_units_and_common_shifts(scale: float, shift: float) -> None:
    rng = np.random.default_rng(1)
    arm, baseline = rng.normal(0.5, 1, 12), rng.normal(size=12)
    one, two = paired_effect(arm, baseline), paired_effect(scale * arm + shift, scale * baseline + shift)
    assert two.g_z.estimate == pytest.approx(float(one.g_z.estimate), rel=1e-6)
    assert two.g_z.low == pytest.approx(float(one.g_z.low), rel=1e-5, abs=1e-6)
    assert two.d_av == pytest.approx(float(one.d_av), rel=1e-6)


def test_cells_are_computed_independently() -> None:
    rng = np.random.default_rng(2)
    arm, baseline = rng.normal(size=(4, 3, 20)), rng.normal(size=20)
    table = paired_effect(arm, baseline)
    alone = paired_effect(arm[2, 1], baseline)
    assert table.g_z.estimate.shape == (4, 3)
    assert table.g_z.low[2, 1] == pytest.approx(float(alone.g_z.low))
    assert table.test.p[2, 1] == pytest.approx(float(alone.test.p))


def test_clustered_units_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    difference = np.repeat(rng.normal(0.5, 1, 15), 4) + 0.3 * rng.normal(size=60)
    codes = np.repeat(np.arange(15), 4)
    alone, clustered = standardised_mean(difference), standardised_mean(difference, codes)
    assert clustered.clusters == 15
    assert clustered.high - clustered.low > 1.3 * (alone.high - alone.low)
    assert cluster_t(difference, codes).p > cluster_t(difference).p


def test_cluster_t_of_equal_clusters_is_the_t_test_of_their_means() -> None:
    values = np.random.default_rng(4).normal(0.3, 1, size=(3, 40))
    codes = np.tile(np.arange(10), 4)
    means = values.reshape(3, 4, 10).mean(axis=1)
    np.testing.assert_allclose(cluster_t(values, codes).p, stats.ttest_1samp(means, 0, axis=1).pvalue)
    np.testing.assert_allclose(
        cluster_t(values, codes, null=0.2, alternative="greater").p,
        stats.ttest_1samp(means, 0.2, axis=1, alternative="greater").pvalue,
    )


def test_cluster_names_may_be_texts_in_any_order() -> None:
    values = np.random.default_rng(5).normal(size=30)
    codes = np.arange(30) % 6
    names = np.array(["storm", "gift", "loss", "exam", "dog", "train"])[codes]
    order = np.random.default_rng(6).permutation(30)
    assert cluster_t(values[order], names[order]).p == pytest.approx(float(cluster_t(values, codes).p))


def test_d_av_and_share_positive() -> None:
    arm, baseline = np.array([2.0, 4.0, 6.0, 8.0]), np.array([1.0, 4.0, 7.0, 3.0])
    effect = paired_effect(arm, baseline)
    average = math.sqrt((arm.var(ddof=1) + baseline.var(ddof=1)) / 2)
    assert effect.d_av == pytest.approx(float(hedges_correction(3)) * 1.25 / average)
    assert effect.positive.estimate == pytest.approx((2 + 0.5) / 4)


def test_share_of_all_positive_units_is_not_certain() -> None:
    share = share_positive(np.arange(1.0, 21.0))
    assert share.estimate == 1
    assert 0.8 < share.low < 0.9
    assert share_positive(np.ones(20), np.arange(20) // 4).low < share.low


def test_hedges_g_of_independent_groups_and_welch() -> None:
    rng = np.random.default_rng(7)
    one, two = rng.normal(0.7, 1, 18), rng.normal(0, 2, 30)
    effect = independent_effect(one, two)
    pooled = math.sqrt((17 * one.var(ddof=1) + 29 * two.var(ddof=1)) / 46)
    welch = stats.ttest_ind(one, two, equal_var=False)
    assert effect.g.estimate == pytest.approx((1 - 3 / (4 * 46 - 1)) * (one.mean() - two.mean()) / pooled, rel=1e-4)
    assert effect.p == pytest.approx(welch.pvalue)
    limits = welch.confidence_interval()
    assert (effect.difference.low, effect.difference.high) == pytest.approx((limits.low, limits.high))


def test_independent_rates_equal_newcombe_and_fisher() -> None:
    rates = independent_rates([30, 2], [50, 40], [15, 9], [50, 45])
    for i, counts in enumerate([(30, 50, 15, 50), (2, 40, 9, 45)]):
        low, high = confint_proportions_2indep(*counts, method="newcomb")
        assert (rates.difference.low[i], rates.difference.high[i]) == pytest.approx((low, high))
    assert rates.p[0] == pytest.approx(stats.fisher_exact([[30, 20], [15, 35]]).pvalue)


def test_paired_rates_of_a_worked_example() -> None:
    arm = np.array([True] * 12 + [False] * 3 + [True] * 5 + [False] * 10)
    baseline = np.array([False] * 12 + [True] * 3 + [True] * 5 + [False] * 10)
    rates = paired_rates(arm, baseline)
    assert rates.difference.estimate == pytest.approx(9 / 30)
    assert rates.odds.estimate == pytest.approx(4)
    assert rates.p == pytest.approx(stats.binomtest(3, 15).pvalue)
    exact = stats.binomtest(12, 15).proportion_ci(method="exact")
    assert rates.odds.low == pytest.approx(exact.low / (1 - exact.low))
    assert rates.odds.high == pytest.approx(exact.high / (1 - exact.high))
    assert rates.difference.contains(9 / 30)


def test_rates_that_never_differ_say_nothing_about_the_odds() -> None:
    same = np.array([True, False] * 10)
    rates = paired_rates(same, same)
    assert rates.p == 1
    assert np.isnan(rates.odds.estimate)
    assert (rates.odds.low, rates.odds.high) == (0, math.inf)
    assert rates.difference.low < 0 < rates.difference.high


def test_correction_factor_is_the_exact_one() -> None:
    df = np.array([2.0, 9.0, 89.0])
    expected = special.gamma(df / 2) / (np.sqrt(df / 2) * special.gamma((df - 1) / 2))
    np.testing.assert_allclose(hedges_correction(df), expected)


TEN = np.arange(10.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_effect([1.0], [0.0]), "at least 2"),
        (lambda: paired_effect(TEN + 1, TEN), "zero variance"),
        (lambda: paired_effect(np.where(TEN == 3, np.nan, TEN), TEN), "NaN"),
        (lambda: paired_effect(TEN, TEN[:9]), "not paired"),
        (lambda: paired_effect(TEN, TEN**2, arm_units=range(10), baseline_units=range(1, 11)), "not paired"),
        (lambda: paired_effect(TEN, TEN**2, arm_units=range(10), baseline_units=range(9, -1, -1)), "another order"),
        (lambda: paired_effect(TEN, TEN**2, arm_units=[0] * 10, baseline_units=[0] * 10), "more than once"),
        (lambda: paired_effect(TEN, TEN**2, arm_units=range(10)), "only one arm"),
        (lambda: paired_effect(TEN, TEN**2, texts=["A text ", "a  text", *"bcdefghi"]), "independent samples"),
        (lambda: independent_effect(TEN, TEN**2, treated_texts="abcdefghij", control_texts="jklmnopqrs"), "more than"),
        (lambda: independent_effect(np.ones(4), np.zeros(5)), "zero variance"),
        (lambda: cluster_t(TEN, np.zeros(10)), "at least 2"),
        (lambda: cluster_t(TEN, confidence=95), "between 0 and 1"),
        (lambda: cluster_t(TEN, alternative="bigger"), "alternative"),
        (lambda: paired_rates(TEN, TEN), "booleans"),
        (lambda: independent_rates(0.5, 10, 1.2, 1.0), "counts"),
    ],
)
def test_misuse_raises_with_an_explanation(call, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert caught.value.fix


def test_copies_of_a_text_are_allowed_inside_one_cluster() -> None:
    texts = ["same", "same", *"bcdefghi"]
    assert paired_effect(TEN, TEN**2, texts=texts, clusters=[0, 0, *range(1, 9)]).test.df == 8


def test_differences_that_hardly_vary_get_limits_at_once() -> None:
    # scipy's search for the non-centrality does not end at such a t.
    low, high = noncentral_limits(np.array([2e3, 9e3, 1.1e4, 1e7, -1e7]), 7, 0.95)
    share_low, share_high = low / [2e3, 9e3, 1.1e4, 1e7, 1e7], high / [2e3, 9e3, 1.1e4, 1e7, 1e7]
    np.testing.assert_allclose(share_low[:4], share_low[0], rtol=1e-5)
    np.testing.assert_allclose(share_high[:4], share_high[0], rtol=1e-5)
    np.testing.assert_allclose([-share_high[4], -share_low[4]], [share_low[3], share_high[3]])

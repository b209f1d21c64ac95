"""Bootstrap intervals, sign flips and label permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from emotion_circuits.errors import UsageError
from emotion_circuits.stats import bootstrap as bootstrap_module
from emotion_circuits.stats import (
    bootstrap_interval,
    bootstrap_t_interval,
    crossed_interval,
    ratio_interval,
    sign_flip_test,
    two_group_test,
    two_way_interval,
)


def test_bca_equals_scipy_to_monte_carlo_error() -> None:
    values = np.random.default_rng(0).exponential(size=(5, 30))
    ours = bootstrap_interval(values, method="bca", resamples=20_000)
    for i, row in enumerate(values):
        theirs = stats.bootstrap((row,), np.mean, n_resamples=20_000, rng=np.random.default_rng(i)).confidence_interval
        width = theirs.high - theirs.low
        assert ours.low[i] == pytest.approx(theirs.low, abs=0.04 * width)
        assert ours.high[i] == pytest.approx(theirs.high, abs=0.04 * width)


def test_bca_limits_reach_further_into_the_long_tail() -> None:
    values = np.random.default_rng(1).lognormal(size=40)
    bca, plain = bootstrap_interval(values, method="bca"), bootstrap_interval(values, method="percentile")
    assert bca.high > plain.high
    assert bca.low > plain.low


def test_expanded_limits_are_a_little_wider() -> None:
    values = np.random.default_rng(2).normal(size=20)
    narrow, wide = bootstrap_interval(values, method="bca"), bootstrap_interval(values)
    assert 1.05 < (wide.high - wide.low) / (narrow.high - narrow.low) < 1.2


def test_clusters_of_copies_count_once() -> None:
    values = np.random.default_rng(3).normal(size=25)
    once = bootstrap_interval(values)
    copied = bootstrap_interval(np.repeat(values, 4), np.repeat(np.arange(25), 4))
    assert (copied.low, copied.high) == pytest.approx((float(once.low), float(once.high)))
    assert (copied.n, copied.clusters) == (100, 25)


def test_unequal_clusters_keep_the_mean_over_units() -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 12, size=70)
    values = rng.normal(size=(3, 70)) + codes
    interval = bootstrap_interval(values, codes)
    np.testing.assert_allclose(interval.estimate, values.mean(axis=1))
    assert (interval.low < interval.estimate).all()
    assert (interval.estimate < interval.high).all()


def test_results_do_not_depend_on_the_chunk_size(monkeypatch) -> None:
    values = np.random.default_rng(5).normal(size=(40, 25)) + 0.2
    whole = bootstrap_interval(values, resamples=500)
    flips = sign_flip_test(values, permutations=500)
    monkeypatch.setattr(bootstrap_module, "CHUNK", 3000)
    pieces = bootstrap_interval(values, resamples=500)
    np.testing.assert_allclose(whole.low, pieces.low)
    assert np.abs(sign_flip_test(values, permutations=500).p - flips.p).max() < 0.1


def test_ratio_of_means_is_not_a_mean_of_ratios() -> None:
    rng = np.random.default_rng(6)
    gap = rng.uniform(0.05, 2, size=60)
    recovered = 0.5 * gap + 0.02 * rng.normal(size=60)
    interval = ratio_interval(recovered, gap)
    assert interval.estimate == pytest.approx(recovered.sum() / gap.sum())
    assert interval.contains(0.5)


def test_ratio_with_a_denominator_around_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="not separated from 0"):
        ratio_interval(np.ones(20), np.random.default_rng(7).normal(0, 1, 20))


def test_bootstrap_t_is_close_to_student_for_normal_data_and_longer_for_skew() -> None:
    values = np.random.default_rng(8).normal(size=60)
    limits = stats.ttest_1samp(values, 0).confidence_interval()
    ours = bootstrap_t_interval(values)
    assert (ours.low, ours.high) == pytest.approx((limits.low, limits.high), abs=0.05)
    skewed = np.random.default_rng(9).lognormal(size=25)
    interval = bootstrap_t_interval(skewed)
    assert interval.high - skewed.mean() > 1.5 * (skewed.mean() - interval.low)


def test_bootstrap_t_shifts_and_scales_with_the_data() -> None:
    values = np.random.default_rng(10).exponential(size=30)
    base, moved = bootstrap_t_interval(values), bootstrap_t_interval(3 * values + 1e4)
    assert (moved.low, moved.high) == pytest.approx((3 * base.low + 1e4, 3 * base.high + 1e4))


def test_two_way_interval_sees_the_variation_over_vectors() -> None:
    rng = np.random.default_rng(11)
    table = rng.normal(size=(1, 8)) + 0.1 * rng.normal(size=(50, 8))
    over_both = two_way_interval(table)
    over_prompts = bootstrap_interval(table.mean(axis=1))
    assert over_both.high - over_both.low > 5 * (over_prompts.high - over_prompts.low)
    assert over_both.clusters == 8


def test_crossed_interval_is_the_two_way_interval_where_nothing_is_missing() -> None:
    table = np.random.default_rng(12).normal(size=(20, 8))
    plain = two_way_interval(table, resamples=500)
    padded = np.full((21, 9), np.nan)
    padded[:20, :8] = table
    for found in (crossed_interval(table, resamples=500), crossed_interval(padded, resamples=500)):
        assert (found.estimate, found.low, found.high) == (plain.estimate, plain.low, plain.high)


def test_crossed_interval_is_about_the_mean_over_prompts_of_what_is_known() -> None:
    """With scenarios of one to four prompts and a third of the table missing, at random."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scenario = np.repeat(np.arange(24), np.tile([1, 1, 2, 4], 6))
        table = 0.5 * rng.normal(size=24)[scenario, None] + 0.5 * rng.normal(size=10) + rng.normal(size=(48, 10))
        table[rng.random(table.shape) < 1 / 3] = np.nan
        found = crossed_interval(table, scenario, resamples=400, seed=seed)
        assert float(found.estimate) == pytest.approx(np.nanmean(table, axis=1).mean())
        covered += bool(found.contains(0.0))
    assert covered >= 52


def test_exact_sign_flips_equal_full_enumeration() -> None:
    values = np.array([1.2, -0.4, 2.0, 0.7, 0.3, -0.1, 1.5])
    test = sign_flip_test(values)
    means = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=7)]
    expected = np.mean(np.array(means) >= abs(values.sum()) - 1e-12)
    assert test.exact
    assert test.permutations == 127
    assert test.p == pytest.approx(expected)


def test_random_sign_flips_are_close_to_scipy() -> None:
    values = np.random.default_rng(12).normal(0.35, 1, size=30)
    reference = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert sign_flip_test(values, permutations=20_000).p == pytest.approx(reference.pvalue, abs=0.01)


def test_one_sided_sign_flips() -> None:
    values = np.random.default_rng(13).normal(0.5, 1, size=12)
    up, down = sign_flip_test(values, alternative="greater"), sign_flip_test(values, alternative="less")
    assert up.p + down.p == pytest.approx(1 + 1 / 2**12)


def test_max_t_is_between_the_single_p_and_bonferroni() -> None:
    rng = np.random.default_rng(14)
    shared = rng.normal(size=40)
    cells = 0.9 * shared + 0.3 * rng.normal(size=(30, 40)) + 0.35
    test = sign_flip_test(cells, permutations=4999)
    assert (test.p_max >= test.p).all()
    assert test.p_max.min() < 30 * test.p.min() / 3


def test_flips_move_whole_clusters() -> None:
    effect = np.repeat(np.random.default_rng(15).normal(0.4, 1, 8), 6)
    clustered = sign_flip_test(effect, np.repeat(np.arange(8), 6))
    assert clustered.permutations == 255
    assert clustered.p > sign_flip_test(effect).p


def test_no_difference_at_all_has_p_one() -> None:
    np.testing.assert_array_equal(sign_flip_test(np.zeros((2, 30))).p, [1, 1])


def test_two_group_test_agrees_with_welch_and_with_scipy() -> None:
    rng = np.random.default_rng(16)
    values, labels = rng.normal(size=(3, 40)), np.arange(40) < 15
    values[0, labels] += 1.0
    test = two_group_test(values, labels, permutations=9999)
    welch = stats.ttest_ind(values[:, labels], values[:, ~labels], axis=1, equal_var=False)
    np.testing.assert_allclose(test.statistic, welch.statistic)
    np.testing.assert_allclose(test.p, welch.pvalue, atol=0.02)


def test_two_group_clusters_are_dealt_whole() -> None:
    rng = np.random.default_rng(17)
    codes = np.repeat(np.arange(10), 5)
    values = rng.normal(size=10)[codes] + 0.05 * rng.normal(size=50)
    labels = codes < 5
    means = values.reshape(10, 5).mean(axis=1)
    clustered = two_group_test(values, labels, codes)
    assert clustered.p == pytest.approx(float(two_group_test(means, np.arange(10) < 5).p))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1.0]), "at least 2"),
        (lambda: bootstrap_interval([1.0, np.nan]), "NaN"),
        (lambda: bootstrap_interval([1.0, 2.0], [0, 0]), "at least 2"),
        (lambda: bootstrap_interval([1.0, 2.0], [0, 1, 2]), "clusters"),
        (lambda: bootstrap_interval([1.0, 2.0], resamples=10), "at least 200"),
        (lambda: bootstrap_interval([1.0, 2.0], method="basic"), "bootstrap method"),
        (lambda: bootstrap_interval([1.0, 2.0, 3.0], texts=["a", "b", "A"]), "independent samples"),
        (lambda: bootstrap_t_interval(np.ones(10)), "zero variance"),
        (lambda: two_way_interval(np.zeros((10, 3))), "at least 5"),
        (lambda: crossed_interval(np.where(np.arange(8) < 4, 1.0, np.nan) * np.ones((10, 1))), "at least 5"),
        (lambda: crossed_interval(np.zeros(10)), "prompt, vector"),
        (lambda: sign_flip_test([1.0, np.inf]), "infinite"),
        (lambda: sign_flip_test([1.0]), "at least 2"),
        (lambda: two_group_test(np.arange(6.0), np.arange(6) < 3, [0, 1, 2, 0, 1, 2]), "both labels"),
        (lambda: two_group_test(np.arange(6.0), np.arange(6) < 1), "at least 2"),
        (lambda: two_group_test(np.arange(6.0), np.arange(6)), "booleans"),
    ],
)
def test_misuse_raises_with_an_explanation(call, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call()
    assert caught.value.fix

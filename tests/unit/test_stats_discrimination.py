"""AUROC, its cluster bootstrap, DeLong and the max-T p over layers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.discrimination import auroc, auroc_interval, auroc_max_test, delong_interval
from emotion_circuits.stats.permutation import (
    exchangeable_clusters,
    fewest_texts,
    max_statistic_p,
    moves_wholes,
    permutation_p,
    permuted_labels,
    permuted_within,
    relabelled,
)


def matched_set(clusters: int, per_label: int, shift: float, rng: np.random.Generator, cells: int = 1):
    """Scores ``[cell, n]`` of scenarios with a shared part, labels and scenario codes."""
    scenario = rng.normal(size=(cells, clusters, 1)) * 0.6
    positive = (shift + scenario + rng.normal(size=(cells, clusters, per_label)) * 0.8).reshape(cells, -1)
    negative = (scenario + rng.normal(size=(cells, clusters, per_label)) * 0.8).reshape(cells, -1)
    codes = np.repeat(np.arange(clusters), per_label)
    labels = np.arange(2 * len(codes)) < len(codes)
    return np.concatenate([positive, negative], axis=1), labels, np.concatenate([codes, codes])


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
def test_auroc_counts_wins_and_half_ties(positive: list[int], negative: list[int]) -> None:
    wins = np.mean([[(p > n) + (p == n) / 2 for n in negative] for p in positive])
    assert auroc(positive, negative) == pytest.approx(wins)


def test_auroc_of_many_cells_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(4, 5, 40)).round(1), np.arange(40) % 3 == 0
    ours = auroc(scores[..., labels], scores[..., ~labels])
    assert ours.shape == (4, 5)
    assert ours[2, 3] == pytest.approx(roc_auc_score(labels, scores[2, 3]))


def test_interval_brackets_the_estimate_and_agrees_with_clustered_delong() -> None:
    scores, labels, codes = matched_set(60, 2, 1.0, np.random.default_rng(1), cells=3)
    bootstrap, delong = auroc_interval(scores, labels, codes), delong_interval(scores, labels, codes)
    assert bootstrap.clusters == 60
    assert bootstrap.n == 240
    np.testing.assert_allclose(bootstrap.estimate, auroc(scores[:, labels], scores[:, ~labels]))
    np.testing.assert_allclose(bootstrap.low, delong.low, atol=0.02)
    np.testing.assert_allclose(bootstrap.high, delong.high, atol=0.02)


def test_interval_does_not_depend_on_the_order_of_texts_or_on_other_cells() -> None:
    rng = np.random.default_rng(2)
    scores, labels, codes = matched_set(15, 2, 0.8, rng, cells=4)
    order = rng.permutation(len(labels))
    whole = auroc_interval(scores, labels, codes, seed=3)
    shuffled = auroc_interval(scores[:, order], labels[order], codes[order], seed=3)
    alone = auroc_interval(scores[2], labels, codes, seed=3)
    np.testing.assert_allclose(whole.low, shuffled.low)
    assert alone.high == pytest.approx(whole.high[2])
    assert whole[2].low == alone.low


def test_clustered_interval_is_wider_than_one_that_takes_texts_as_independent() -> None:
    rng = np.random.default_rng(4)
    scenario_effect = np.repeat(rng.normal(size=20), 5)
    scores = np.concatenate([scenario_effect + 1, scenario_effect[::-1]]) + 0.1 * rng.normal(size=200)
    labels, codes = np.arange(200) < 100, np.arange(200) // 5
    clustered = auroc_interval(scores, labels, codes)
    naive = auroc_interval(scores, labels, np.arange(200))
    assert (clustered.high - clustered.low) > 1.5 * (naive.high - naive.low)


def test_perfect_separation_is_not_reported_with_zero_width() -> None:
    labels = np.arange(40) < 20
    interval = auroc_interval(labels.astype(float), labels, np.arange(40) % 20)
    assert interval.estimate == 1
    assert interval.high == 1
    assert interval.low == pytest.approx(0.025 ** (1 / 20))


def test_rare_positives_keep_a_perfect_separation_uncertain() -> None:
    labels = np.arange(603) < 3
    interval = auroc_interval(labels + np.linspace(0, 0.1, 603), labels, np.arange(603))
    assert interval.low == pytest.approx(0.025 ** (1 / 3))
    with pytest.raises(UsageError, match="one label"):
        auroc_interval(np.arange(603.0), np.arange(603) < 1, np.arange(603))


@pytest.mark.parametrize("interval", [auroc_interval, delong_interval])
def test_a_single_error_does_not_make_the_limit_higher_than_none(interval) -> None:
    labels = np.arange(400) < 200
    perfect = labels + np.tile(np.linspace(0, 0.1, 200), 2)
    flawed = perfect.copy()
    flawed[0] = perfect[200] + 1e-4
    codes = np.arange(400) % 20
    none, one = interval(perfect, labels, codes), interval(flawed, labels, codes)
    assert none.low == pytest.approx(0.025 ** (1 / 20))
    assert one.estimate < 1 and one.low <= none.low


def test_delong_of_thousands_of_clusters_needs_little_memory() -> None:
    rng = np.random.default_rng(6)
    labels = np.arange(20_000) % 4 == 0
    scores = rng.normal(size=20_000) + labels
    codes = rng.integers(0, 15_000, size=20_000)
    tracemalloc.start()
    try:
        interval = delong_interval(scores, labels, codes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert interval.low < interval.estimate < interval.high


def test_labels_of_unpaired_clusters_move_as_wholes() -> None:
    codes = np.repeat(np.arange(6), [1, 2, 3, 4, 2, 2])
    labels = codes < 3
    drawn = permuted_labels(labels, codes, 50, np.random.default_rng(0))
    for c in range(6):
        assert (drawn[:, codes == c] == drawn[:, codes == c][:, :1]).all()
    assert {int(n) for n in drawn[:, np.unique(codes, return_index=True)[1]].sum(axis=1)} == {3}
    assert len(np.unique(drawn, axis=0)) > 10
    assert exchangeable_clusters(labels, codes) == 6


def test_one_paired_scenario_does_not_freeze_the_others() -> None:
    codes = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    labels = np.array([1, 0, 1, 1, 0, 0, 1, 1], dtype=bool)
    drawn = permuted_labels(labels, codes, 200, np.random.default_rng(0))
    assert (drawn[:, codes == 0].sum(axis=1) == 1).all()
    assert drawn[:, 0].any() and not drawn[:, 0].all()
    assert drawn[:, 4].any() and not drawn[:, 2].all()
    assert exchangeable_clusters(labels, codes) == 4
    assert exchangeable_clusters(labels[:4], codes[:4]) == 1


def test_max_test_over_layers_finds_the_planted_layer() -> None:
    rng = np.random.default_rng(5)
    scores, labels, codes = matched_set(20, 3, 0.0, rng, cells=12)
    scores[7, labels] += 1.5
    result = auroc_max_test(scores, labels, codes, permutations=999)
    assert result.best == 7
    assert result.overall == pytest.approx(1 / 1000)
    assert np.delete(result.p, 7).min() > 0.05


def test_permutation_p_counts_ties_and_never_reaches_zero() -> None:
    null = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    np.testing.assert_allclose(permutation_p([2.0, 5.0], null), [2 / 4, 1 / 4])
    np.testing.assert_allclose(permutation_p([2.0, 5.0], null, "two-sided"), [1.0, 0.5])
    np.testing.assert_allclose(permutation_p(-1.0, [0.0, 1.0], "less"), 1 / 3)


def test_max_statistic_compares_every_cell_with_the_largest_of_each_permutation() -> None:
    null = np.array([[0.0, 3.0], [4.0, 0.0], [1.0, -5.0]])
    result = max_statistic_p([3.0, 1.0], null)
    np.testing.assert_allclose(result.p, [3 / 4, 1.0])
    assert (result.overall, result.best, result.permutations) == (0.75, 0, 3)
    np.testing.assert_allclose(max_statistic_p([-4.5, 0.0], null, "two-sided").p, [2 / 4, 1.0])


@pytest.mark.parametrize(
    ("scores", "labels", "clusters", "message"),
    [
        (np.zeros(6), np.ones(6, bool), np.arange(6), "one label"),
        (np.array([np.nan, 0, 0, 0, 0, 0]), np.arange(6) < 3, np.arange(6), "NaN"),
        (np.zeros(6), np.arange(6) < 3, np.arange(6) // 3, "clusters"),
        (np.zeros(6), np.arange(6) < 3, np.arange(5), "cluster"),
        (np.zeros(6), (np.arange(6) < 3).astype(int), np.arange(6), "booleans"),
        (np.zeros(6), np.arange(6) < 3, [None, 1, 2, 3, 4, 5], "no cluster"),
    ],
)
def test_misuse_raises_with_an_explanation(scores, labels, clusters, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        auroc_interval(scores, labels, clusters)


def test_a_text_that_stands_in_two_clusters_is_not_two_samples() -> None:
    texts = ["thank you", "THANK  you", *map(str, range(10))]
    with pytest.raises(UsageError, match="independent samples"):
        auroc_interval(np.arange(12.0), np.arange(12) < 6, np.arange(12), texts=texts)
    together = auroc_interval(np.arange(12.0), np.arange(12) < 6, [0, 0, *range(1, 11)], texts=texts)
    assert together.clusters == 11


def test_null_of_another_shape_is_refused() -> None:
    with pytest.raises(UsageError, match="permutations, cells"):
        max_statistic_p([1.0, 2.0], np.zeros((10, 3)))


def test_labels_of_any_kind_move_inside_mixed_clusters_and_between_whole_ones() -> None:
    labels = np.array(list("abab" + "aab" + "bbcc"))
    codes = np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5])
    drawn = relabelled(labels, codes, 200, np.random.default_rng(0))
    assert (np.sort(drawn[:, :2], axis=1) == ["a", "b"]).all(), "a scenario of both keeps both"
    for whole in (codes == 2, codes == 4, codes == 5):
        assert (drawn[:, whole] == drawn[:, whole][:, :1]).all()
    assert {*drawn[:, 4]} == {*drawn[:, 6]} == {"a", "b", "c"}, "scenarios of one label do not keep it"
    assert moves_wholes(labels, codes)


@pytest.mark.parametrize("neutral_only", [0, 4])
def test_paired_and_single_sets_are_permuted_as_ever(neutral_only: int) -> None:
    """The draws that finished runs rest on: within scenarios, or over all single texts, in the same order."""
    paired = np.array(["x", "n"] * 10 + ["n"] * neutral_only)
    codes = np.concatenate([np.repeat(np.random.default_rng(1).permutation(10), 2), 10 + np.arange(neutral_only)])
    expected = paired[permuted_within(codes, 30, np.random.default_rng(5))]
    assert (relabelled(paired, codes, 30, np.random.default_rng(5)) == expected).all()
    single, own = np.array(["x"] * 7 + ["n"] * 9), np.random.default_rng(2).permutation(16)
    everywhere = permuted_within(np.zeros(16, dtype=np.intp), 30, np.random.default_rng(5))
    assert (relabelled(single, own, 30, np.random.default_rng(5)) == single[everywhere]).all()
    assert not moves_wholes(paired, codes) and not moves_wholes(single, own)


def test_both_ways_to_permute_two_labels_agree_where_all_scenarios_hold_both() -> None:
    codes = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 3)).astype(np.intp)
    labels = np.zeros(30, dtype=bool)
    labels[np.unique(codes, return_index=True)[1]] = True
    one, other = (f(labels, codes, 30, np.random.default_rng(5)) for f in (permuted_labels, relabelled))
    assert (one == other).all()


@pytest.mark.parametrize("labels", ["aab", "ab", "aaabbb"])
def test_two_ways_to_permute_labels_move_the_same_scenarios(labels: str) -> None:
    """Three scenarios of both labels, then scenarios of one label and of unequal size."""
    own = np.array([c == "a" for c in labels])
    codes = np.concatenate([np.repeat(np.arange(3), 2), 3 + np.repeat(np.arange(len(own)), 1 + np.arange(len(own)))])
    held = np.concatenate([np.tile([True, False], 3), own[codes[6:] - 3]])
    draws = [f(held, codes, 4000, np.random.default_rng(2)) for f in (permuted_labels, relabelled)]
    arrangements = [{row.tobytes() for row in drawn} for drawn in draws]
    assert arrangements[0] == arrangements[1]
    assert exchangeable_clusters(held, codes) == 3 + len(own)


def test_the_fewest_texts_that_a_label_can_be_left_with_are_those_of_the_smallest_scenarios() -> None:
    labels = np.array(list("abab" + "aaaa" + "ab" + "bbb"))
    codes = np.array([0, 0, 1, 1, 2, 2, 2, 2, 3, 4, 5, 5, 5])
    # Two texts of each label stay in scenarios of both; a has two of the scenarios with 4, 1, 1 and 3 texts, b too.
    assert fewest_texts(labels, codes) == 2 + 1 + 1
    drawn = relabelled(labels, codes, 500, np.random.default_rng(0))
    assert (drawn == "a").sum(axis=1).min() == (drawn == "b").sum(axis=1).min() == 4
    assert fewest_texts(labels[:4], codes[:4]) == 2 and fewest_texts(np.array(list("aaab")), np.arange(4)) == 1

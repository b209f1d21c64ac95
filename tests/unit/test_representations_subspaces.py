"""Subspaces, principal angles, overlap with its chance level, and clusterability."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.clusterability import clusterability
from emotion_circuits.representations.principal_angles import (
    chance_overlap,
    overlap,
    principal_angles,
    random_angles,
)
from emotion_circuits.representations.subspaces import (
    WithinLabelWarning,
    contrast_subspace,
    paired_subspace,
    span,
    within_label_subspace,
)
from emotion_circuits.representations.word_pairs import word_pairs


def texts(
    emotions: int = 3, scenarios: int = 60, d: int = 24, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Activations, labels, scenarios and the planted vectors."""
    rng = np.random.default_rng(seed)
    vectors = np.linalg.qr(rng.normal(size=(d, emotions)))[0].T * 3
    names = np.array(["neutral", *(f"e{i}" for i in range(emotions))])
    labels, groups = np.tile(names, scenarios), np.repeat(np.arange(scenarios), emotions + 1)
    x = rng.normal(size=(scenarios, d))[groups] + rng.normal(size=(len(labels), d))
    for i in range(emotions):
        x[labels == f"e{i}"] += vectors[i]
    return x, labels, groups, vectors


def test_contrast_subspace_holds_what_was_planted_and_has_at_most_one_dimension_per_emotion() -> None:
    x, labels, _, vectors = texts()
    space = contrast_subspace(x, labels, ["e0", "e1", "e2"], baseline="neutral")
    assert space.k == 3
    assert space.energy(vectors).min() > 0.8
    with pytest.raises(UsageError, match="at most 3 dimensions"):
        contrast_subspace(x, labels, ["e0", "e1", "e2"], baseline="neutral", k=4)


def test_uncentred_pairs_keep_the_direction_that_pca_within_the_label_loses() -> None:
    x, labels, _, vectors = texts()
    paired = paired_subspace(x[labels == "e0"], x[labels == "neutral"], 1)
    with pytest.warns(WithinLabelWarning):
        within = within_label_subspace(x[labels == "e0"], 1)
    assert paired.energy(vectors[:1])[0] > 0.8
    assert within.energy(vectors[:1])[0] < 0.3


def test_layers_are_independent_cells_of_a_batch() -> None:
    x, labels, _, _ = texts()
    layered = np.stack([x, 2 * x + 5, x[:, ::-1]], axis=1)
    batch = contrast_subspace(layered, labels, ["e0", "e1"], baseline="neutral")
    single = contrast_subspace(layered[:, 2], labels, ["e0", "e1"], baseline="neutral")
    assert batch.basis.shape == (3, 2, 24)
    assert overlap(batch.basis[2], single).value == pytest.approx(1)
    assert principal_angles(batch, batch).shape == (3, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(12, 40), st.integers(0, 10_000))
def test_angles_agree_with_scipy_and_overlap_is_their_mean_squared_cosine(k1: int, k2: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(k1, d)), rng.normal(size=(k2, d))
    angles = principal_angles(one, two)
    assert angles == pytest.approx(np.sort(linalg.subspace_angles(one.T, two.T)), abs=1e-9)
    assert overlap(one, two).value == pytest.approx((np.cos(angles) ** 2).mean(), abs=1e-12)


def test_tiny_angles_are_not_lost_to_rounding() -> None:
    first = np.eye(6)[:2]
    turned = np.array([[1.0, 0, 1e-8, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
    assert principal_angles(first, turned)[1] == pytest.approx(1e-8, rel=1e-6)


@pytest.mark.parametrize(("d", "k1", "k2"), [(20, 1, 1), (20, 3, 3), (12, 2, 7), (8, 8, 3)])
def test_chance_overlap_has_the_mean_and_sd_of_random_subspaces(d: int, k1: int, k2: int) -> None:
    rng = np.random.default_rng(0)
    one = span(rng.normal(size=(4000, k1, d)))
    value = overlap(one, span(rng.normal(size=(4000, k2, d)))).value
    mean, sd = chance_overlap(d, k1, k2)
    assert value.mean() == pytest.approx(mean, abs=4 * max(sd, 1e-12) / np.sqrt(4000))
    assert value.std() == pytest.approx(sd, rel=0.08, abs=1e-12)


@pytest.mark.parametrize(("d", "k1", "k2"), [(30, 4, 4), (20, 6, 2), (5, 3, 4)])
def test_random_angles_have_the_chance_overlap(d: int, k1: int, k2: int) -> None:
    angles = random_angles(d, k1, k2, draws=4000)
    assert angles.shape == (4000, min(k1, k2)) and (np.diff(angles, axis=1) >= 0).all()
    mean, sd = chance_overlap(d, k1, k2)
    overlaps = (np.cos(angles) ** 2).mean(axis=1)
    assert overlaps.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(4000)) and overlaps.std() == pytest.approx(
        sd, rel=0.1
    )
    with pytest.raises(UsageError, match="do not fit"):
        random_angles(3, 4)


def test_random_lines_in_a_plane_lie_at_any_angle() -> None:
    angles = np.degrees(random_angles(2, 1, draws=4000))
    assert np.histogram(angles, bins=9, range=(0, 90))[0] == pytest.approx(4000 / 9, rel=0.2)


def test_widths_that_differ_are_refused_and_say_what_to_do() -> None:
    rng = np.random.default_rng(0)
    for compare in (overlap, principal_angles):
        with pytest.raises(UsageError, match="different width") as caught:
            compare(rng.normal(size=(2, 10)), rng.normal(size=(2, 12)))
        assert "map" in caught.value.fix


def test_a_rank_that_is_not_there_and_nan_are_refused() -> None:
    rows = np.ones((3, 5))
    with pytest.raises(UsageError, match="rank 1"):
        span(rows, 2)
    with pytest.raises(UsageError, match="NaN"):
        span(np.full((2, 3), np.nan))


def test_clusterability_finds_planted_emotions_and_nothing_in_noise() -> None:
    x, labels, groups, _ = texts(scenarios=20)
    kept = labels != "neutral"
    found = clusterability(x[kept], labels[kept], groups[kept], permutations=199)
    noise = clusterability(np.random.default_rng(1).normal(size=(60, 24)), labels[kept], groups[kept], permutations=199)
    assert found.p == pytest.approx(1 / 200)
    assert found.silhouette > 0.04 > abs(found.null_mean)
    assert noise.p > 0.05
    assert found.linkage.shape == (2, 4)
    assert found.centroid_distances.shape == (3, 3)


def scenarios_of_one_emotion(seed: int, shift: float, mixed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sixteen scenarios of four texts that lie together; the first ``mixed`` hold both emotions."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(16), 4)
    labels = np.where(groups % 2, "e0", "e1")
    labels[: 4 * mixed : 2] = np.where(groups % 2, "e1", "e0")[: 4 * mixed : 2]
    x = 2 * rng.normal(size=(16, 6))[groups] + rng.normal(size=(64, 6))
    return x + shift * (labels == "e0")[:, None], labels, groups


def test_emotions_of_scenarios_that_hold_one_only_are_permuted_as_scenarios() -> None:
    """Texts shuffled singly would nearly always find that such texts cluster by emotion, which they do not."""
    found = [clusterability(*scenarios_of_one_emotion(i, 0.0), permutations=99, seed=i).p for i in range(30)]
    assert np.mean(np.array(found) <= 0.05) <= 0.2


def test_one_scenario_of_both_emotions_does_not_freeze_the_others() -> None:
    found = clusterability(*scenarios_of_one_emotion(0, 4.0, mixed=1), permutations=199)
    assert found.p <= 0.02


def test_silhouette_equals_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    x, labels, groups, _ = texts(scenarios=10)
    ours = clusterability(x, labels, groups, permutations=99)
    assert ours.silhouette == pytest.approx(silhouette_score(x, labels), abs=1e-10)


def test_no_warning_where_nothing_is_wrong() -> None:
    x, labels, _, _ = texts()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contrast_subspace(x, labels, ["e0"], baseline="neutral")


def test_words_are_paired_by_the_character_at_which_they_end() -> None:
    text = "I can't thank you, Ōno-san!"
    coarse = [(0, 0), (0, 1), (1, 7), (7, 13), (13, 17), (17, 18), (18, 26), (26, 27)]
    fine = [
        (0, 1),
        (1, 5),
        (5, 6),
        (6, 7),
        (8, 11),
        (11, 13),
        (13, 17),
        (17, 18),
        (18, 20),
        (20, 22),
        (22, 26),
        (26, 27),
    ]
    pairs = word_pairs(text, coarse, fine)
    assert [text[coarse[i][0] : coarse[i][1]] for i, _ in pairs] == ["I", " can't", " thank", " you", " Ōno-san"]
    assert [fine[j][1] for _, j in pairs] == [1, 7, 13, 17, 26]


def test_a_word_without_a_token_end_of_its_own_is_left_out() -> None:
    text = "so it goes"
    joined = [(0, 5), (5, 10)]  # "so it" is one token: it is a word pair, not a word
    assert word_pairs(text, joined, [(0, 2), (2, 5), (5, 10)]) == [(1, 2)]
    with pytest.raises(UsageError, match="offsets of this very text"):
        word_pairs("so", [(0, 9)], [(0, 2)])

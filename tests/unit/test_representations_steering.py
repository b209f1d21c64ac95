"""Units of strength, and the random vectors that a steering vector has to beat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.controls import (
    FAMILIES,
    covariance_matched,
    isotropic,
    label_shuffled,
    random_directions,
)
from emotion_circuits.representations.labelled import Labelled
from emotion_circuits.representations.steering import add_at, scale_of, steer, unit_vector
from emotion_circuits.types import Direction, Positions, Site

D = 12
DIRECTION = Direction(
    "anger", Site("resid_post", 3), Positions("last"), "mean", np.arange(1.0, 5.0), "m", 20.0, lambda: 1.5
)


def world(scenarios=30, seed=0, shift=4.0):
    """Paired texts, two layers; at layer row 1 anger differs from neutral by ``shift`` along the first axis."""
    rng = np.random.default_rng(seed)
    n = 2 * scenarios
    x = rng.standard_normal((n, 2, D))
    labels = np.array(["anger", "neutral"] * scenarios)
    x[labels == "anger", 1, 0] += shift
    names = np.repeat([f"s{i}" for i in range(scenarios)], 2)
    empty = np.array([""] * n)
    ids = np.array([str(i) for i in range(n)])
    return Labelled(x, ids, labels, names, np.array(["fit"] * n), empty, empty, (4, 9))


# ---- units ------------------------------------------------------------------------------------------------------
def test_units_of_strength():
    assert scale_of(DIRECTION, "fraction") == 20.0
    assert scale_of(DIRECTION, "fraction", residual_norm=30.0) == 30.0
    assert scale_of(DIRECTION, "sd", residual_norm=30.0) == 1.5
    assert scale_of(DIRECTION, "raw") == pytest.approx(np.sqrt(30))
    with pytest.raises(UsageError, match="unknown unit"):
        scale_of(DIRECTION, "percent")


@pytest.mark.parametrize(("unit", "length"), [("fraction", 6.0), ("sd", 0.45), ("raw", 0.3 * np.sqrt(30))])
@pytest.mark.parametrize("sign", [1, -1])
def test_steer_adds_a_vector_of_that_length_along_the_direction(unit, length, sign):
    edit = steer(DIRECTION, sign * 0.3, unit, schedule=(1.0, 0.5))
    added = edit.vector * edit.strength
    np.testing.assert_allclose(added, sign * length * unit_vector(DIRECTION.vector), rtol=1e-6)
    assert (edit.op, edit.site, str(edit.positions), edit.schedule) == ("add", DIRECTION.site, "onward", (1.0, 0.5))


@pytest.mark.parametrize("strength", [np.nan, np.inf])
def test_strengths_that_are_no_numbers_are_refused(strength):
    with pytest.raises(UsageError, match="strength"):
        steer(DIRECTION, strength)


@pytest.mark.parametrize("vector", [np.zeros(4), np.array([1.0, np.nan])])
def test_vectors_without_a_direction_are_refused(vector):
    with pytest.raises(UsageError, match="no direction"):
        add_at(Site("resid_post", 0), vector, 1.0)


# ---- random families --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_unit_vectors_that_depend_on_the_seed_alone(family):
    neutral = np.random.default_rng(1).standard_normal((40, D))

    def draw(seed):
        return random_directions(family, 7, neutral=neutral, fit=world(), emotion="anger", layer_row=1, seed=seed)

    np.testing.assert_allclose(np.linalg.norm(draw(3), axis=1), 1)
    assert draw(3).shape == (7, D)
    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.allclose(draw(3), draw(4))
    with pytest.raises(UsageError, match="cannot draw 0"):
        random_directions(family, 0, neutral=neutral, fit=world(), emotion="anger", layer_row=1, seed=0)


def test_isotropic_vectors_prefer_no_direction():
    drawn = isotropic(20_000, 5, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), np.eye(5) / 5, atol=0.01)


def test_covariance_matched_vectors_have_the_axes_of_neutral_text():
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    neutral = 100 + rng.standard_normal((400, 5)) @ (np.diag([8.0, 4, 2, 1, 0.1]) @ basis)
    sigma = np.cov(neutral.T)
    drawn = covariance_matched(20_000, neutral, rng)
    # Normalising changes eigenvalues but, for a Gaussian, not eigenvectors or their order: the axes of the unit
    # vectors are those of sigma. The mean of neutral text (100 in every dimension) must not show at all.
    values, axes = np.linalg.eigh(sigma)
    inside = axes.T @ (drawn.T @ drawn / len(drawn)) @ axes
    assert np.abs(inside - np.diag(np.diag(inside))).max() <= 0.01
    assert (np.diff(np.diag(inside)) > 0).all()
    assert np.abs(drawn.mean(axis=0)).max() <= 0.02
    # Undoing the normalisation by the text's own scale along each axis gives an isotropic cloud again.
    white = drawn @ axes / np.sqrt(values)
    white /= np.linalg.norm(white, axis=1, keepdims=True)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(5) / 5, atol=0.015)
    with pytest.raises(UsageError, match="at least 2"):
        covariance_matched(3, neutral[:1], rng)


def test_label_shuffled_vectors_keep_scenarios_and_lose_most_of_the_direction():
    fit = world()
    true = fit.x[fit.of("anger"), 1].mean(0) - fit.x[fit.of("neutral"), 1].mean(0)
    drawn = label_shuffled(200, fit, "anger", 1, np.random.default_rng(0))
    assert np.abs(np.mean(drawn @ unit_vector(true))) <= 0.15
    # Within pairs a shuffle swaps or keeps: every drawn vector is a signed sum of the pairs' differences.
    pairs = fit.x[fit.of("anger"), 1] - fit.x[fit.of("neutral"), 1]
    for vector in drawn[:20]:
        signs = np.linalg.lstsq(pairs.T, vector, rcond=None)[1]
        assert signs.size == 0 or signs[0] <= 1e-20


def draws(count, fit):
    """``[count, d]``: one vector each of many seeds, as few texts have few arrangements."""
    return np.concatenate([label_shuffled(1, fit, "anger", 1, np.random.default_rng(i)) for i in range(count)])


@pytest.mark.parametrize(("scenarios", "others"), [(2, 2), (3, 6)])
def test_the_true_labels_and_their_mirror_image_are_never_drawn(scenarios, others):
    fit = world(scenarios)
    true = unit_vector(fit.x[fit.of("anger"), 1].mean(0) - fit.x[fit.of("neutral"), 1].mean(0))
    drawn = draws(200, fit)
    assert np.abs(drawn @ true).max() < 1 - 1e-6
    assert len(np.unique(drawn.round(9), axis=0)) == others


def unpaired(angry, neutral):
    """Scenarios of two texts and one label."""
    fit = world(angry + neutral)
    scenario = np.arange(len(fit.labels)) // 2
    return replace(fit, labels=np.where(scenario < angry, "anger", "neutral"))


@pytest.mark.parametrize(("angry", "neutral", "others"), [(2, 10, 65), (1, 5, 5), (2, 2, 4), (3, 3, 18), (4, 2, 14)])
def test_scenarios_that_move_as_wholes_take_every_place_but_the_true_one_and_its_mirror(angry, neutral, others):
    """With unequal numbers, moving all of anger's scenarios is no mirror image: such draws belong to the null."""
    fit = unpaired(angry, neutral)
    assert len(np.unique(draws(1200, fit).round(9), axis=0)) == others
    assert label_shuffled(others, fit, "anger", 1, np.random.default_rng(0)).shape == (others, D)
    with pytest.raises(UsageError, match=f"{others} other arrangements") as caught:
        label_shuffled(others + 1, fit, "anger", 1, np.random.default_rng(0))
    assert f"{others} or fewer" in caught.value.fix


def test_few_shuffled_scenarios_of_unequal_numbers_do_not_keep_the_true_direction():
    fit = unpaired(2, 10)
    fit.x[fit.labels == "anger", 1, 0] += 8
    true = unit_vector(fit.x[fit.of("anger"), 1].mean(0) - fit.x[fit.of("neutral"), 1].mean(0))
    # Anger has 2 places of 12; refusing the draws that move both left a mean cosine of +.8.
    assert np.mean(draws(400, fit) @ true) <= 0.2


def test_labels_that_cannot_be_shuffled_are_refused():
    with pytest.raises(UsageError, match="cannot be shuffled") as caught:
        label_shuffled(1, world(1), "anger", 1, np.random.default_rng(0))
    assert "fewer" not in caught.value.fix
    alone = world(3).select(world(3).of("anger"))
    with pytest.raises(UsageError, match="cannot be shuffled"):
        label_shuffled(1, alone, "anger", 1, np.random.default_rng(0))


def test_scenarios_of_one_label_are_shuffled_too_where_others_hold_both():
    fit = world(40)
    # The first ten scenarios keep both texts, then ten have anger's alone and twenty the neutral one.
    scenario, kind = np.arange(len(fit.labels)) // 2, np.array([0] * 10 + [1] * 10 + [2] * 20)
    kept = fit.select((kind[scenario] == 0) | (fit.of("anger") == (kind[scenario] == 1)))
    drawn = label_shuffled(300, kept, "anger", 1, np.random.default_rng(0))
    true = kept.x[kept.of("anger"), 1].mean(0) - kept.x[kept.of("neutral"), 1].mean(0)
    # Kept labels would leave half of anger's texts in their place: a cosine of about .7 in every draw.
    assert np.abs(np.mean(drawn @ unit_vector(true))) <= 0.25


def plain_shuffles(count, fit, rng):
    """Labels dealt anew inside scenarios, or over all single texts: what finished runs rest on."""
    label, names = fit.of("anger"), fit.scenarios
    groups = [np.flatnonzero(names == s) for s in np.unique(names)]
    groups = [g for g in groups if 0 < label[g].sum() < len(g)] or [np.arange(len(label))]
    vectors = []
    for _ in range(count):
        drawn = label.copy()
        for g in groups:
            drawn[g] = rng.permutation(label[g])
        vectors.append(unit_vector(fit.x[drawn, 1].mean(0) - fit.x[~drawn, 1].mean(0)))
    return np.array(vectors)


@pytest.mark.parametrize("paired", [True, False])
def test_paired_and_single_sets_are_shuffled_as_ever(paired):
    fit = world(25)
    fit = fit if paired else replace(fit, scenarios=fit.ids)
    drawn = label_shuffled(40, fit, "anger", 1, np.random.default_rng(7))
    np.testing.assert_allclose(drawn, plain_shuffles(40, fit, np.random.default_rng(7)), atol=1e-12)


def test_an_unpaired_set_is_shuffled_over_all_its_texts():
    fit = world()
    lonely = Labelled(fit.x, fit.ids, fit.labels, fit.ids, fit.splits, fit.strata, fit.matched, fit.layers)
    drawn = label_shuffled(50, lonely, "anger", 1, np.random.default_rng(0))
    assert np.abs(np.mean(drawn[:, 0])) <= 0.25

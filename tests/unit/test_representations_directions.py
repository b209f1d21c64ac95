"""Planted directions: what is put into synthetic activations is what comes out, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.representations import direction_stability, extract_directions
from emotion_circuits.representations.directions import emotion_cosines, neutral_components, norms
from emotion_circuits.representations.evidence import own_vs_rest
from emotion_circuits.representations.steering import scale_of
from emotion_circuits.stats.discrimination import auroc
from emotion_circuits.types import Positions
from planted import EMOTIONS, orthonormal, world


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def separation(scores: np.ndarray, positive: np.ndarray) -> float:
    return float(auroc(scores[positive], scores[~positive]))


def test_planted_direction_comes_back_with_its_length() -> None:
    planted = world(scenarios=120, strength=3.0, noise=0.5, shared=0.0)
    directions = extract_directions(planted.data.split("fit"))
    for index, emotion in enumerate(EMOTIONS):
        for row in range(len(planted.data.layers)):
            vector = directions.vectors["neutral"][emotion][row]
            assert cosine(vector, planted.vectors[index]) > 0.97
            assert np.linalg.norm(vector) == pytest.approx(3.0, abs=0.3)


def test_centred_directions_tell_emotions_apart_that_share_most_of_their_length() -> None:
    planted = world(scenarios=120, strength=4.0, noise=0.5, shared=16.0)
    directions = extract_directions(planted.data.split("fit"))
    against_neutral = emotion_cosines(directions)[0]
    assert against_neutral[0, 1] > 0.85, "against neutral they all point the same way"
    test = planted.data.split("test")
    for emotion in EMOTIONS:
        found = own_vs_rest(directions, test, emotion)
        assert found is not None
        scores, positive, _ = found
        assert separation(scores[0], positive) > 0.95
        plain = directions.scores(test.x[np.isin(test.labels, EMOTIONS)], "neutral", emotion)
        assert separation(plain[0], positive) < separation(scores[0], positive)
        others = [e for e in EMOTIONS if e != emotion]
        centred = directions.vectors["centred"]
        assert all(cosine(centred[emotion][0], centred[o][0]) < 0 for o in others), "centred ones sum to nothing"


def test_scores_are_not_decided_by_massive_dimensions() -> None:
    planted = world(scenarios=120, strength=4.0, noise=0.5, massive=400.0)
    test, directions = planted.data.split("test"), extract_directions(planted.data.split("fit"))
    positive = test.of("anger")
    used = positive | test.neutral_for("anger")
    scores = directions.scores(test.x[used], "neutral", "anger")[0]
    raw = np.asarray(test.x[used][:, 0] @ directions.vectors["neutral"]["anger"][0])
    assert separation(scores, positive[used]) > 0.95
    assert separation(raw, positive[used]) < 0.75, "without weights the massive dimensions decide"


def test_a_dimension_that_never_varies_on_neutral_text_gets_no_infinite_weight() -> None:
    planted = world(scenarios=40)
    planted.data.x[planted.data.labels == "neutral", :, 5] = 1.0
    directions = extract_directions(planted.data.split("fit"))
    assert np.isfinite(directions.probe("neutral", "anger")).all()


def test_scores_are_zero_on_average_for_the_neutral_texts_they_were_centred_on() -> None:
    data = world(scenarios=60).data.split("fit")
    directions = extract_directions(data)
    scores = directions.scores(data.x[data.labels == "neutral"], "neutral", "joy")
    np.testing.assert_allclose(scores.mean(axis=1), 0, atol=1e-9)


def test_projection_removes_exactly_the_neutral_components() -> None:
    data = world(scenarios=60).data.split("fit")
    plain, projected = extract_directions(data), extract_directions(data, components=4)
    neutral = np.asarray(data.x[data.labels == "neutral"], dtype=float)
    for row in range(len(data.layers)):
        basis = neutral_components(neutral, 4)[row]
        np.testing.assert_allclose(basis @ basis.T, np.eye(4), atol=1e-10)
        centred = neutral[:, row] - neutral[:, row].mean(0)
        top = np.linalg.eigh(centred.T @ centred)[1][:, -4:]
        np.testing.assert_allclose(np.linalg.norm(basis @ top), 2.0, atol=1e-8)
        for method in ("neutral", "centred"):
            before, after = plain.vectors[method]["joy"][row], projected.vectors[method]["joy"][row]
            np.testing.assert_allclose(basis @ after, 0, atol=1e-9)
            removed = before - after
            np.testing.assert_allclose(removed - basis.T @ (basis @ removed), 0, atol=1e-9)
    assert projected.components == 4


@pytest.mark.parametrize("components", [-1, 30, 31])
def test_more_components_than_neutral_texts_carry_are_refused(components: int) -> None:
    data = world(scenarios=60).data.split("fit")
    with pytest.raises(UsageError, match="principal components of 30 neutral texts"):
        neutral_components(np.asarray(data.x[data.labels == "neutral"]), components)


def test_an_emotion_read_at_its_words_is_compared_with_its_own_twins() -> None:
    planted = world(scenarios=40, noise=0.1, twins=True)
    data = planted.data
    plain = data.select(data.matched == "")
    moved = plain.x.copy()
    moved[plain.labels == "neutral"] += 50
    contaminated = type(data)(
        np.concatenate([moved, data.x[data.matched != ""]]),
        *(np.concatenate([getattr(plain, n), getattr(data, n)[data.matched != ""]]) for n in
          ("ids", "labels", "scenarios", "splits", "strata", "matched")),
        data.layers,
    )  # fmt: skip
    vector = extract_directions(contaminated.split("fit"), EMOTIONS).vectors["neutral"]["anger"][0]
    assert cosine(vector, planted.vectors[EMOTIONS.index("anger")]) > 0.95


def test_unpaired_texts_give_the_same_directions_from_class_means() -> None:
    planted = world(scenarios=120, strength=3.0, noise=0.5, paired=False)
    directions = extract_directions(planted.data.split("fit"))
    centre = planted.vectors.mean(axis=0)
    for index, emotion in enumerate(EMOTIONS):
        assert cosine(directions.vectors["neutral"][emotion][0], planted.vectors[index]) > 0.9
        assert cosine(directions.vectors["centred"][emotion][0], planted.vectors[index] - centre) > 0.9


def test_one_emotion_has_nothing_to_be_centred_on() -> None:
    data = world(scenarios=40).data
    alone = data.select(np.isin(data.labels, ["anger", "neutral"])).split("fit")
    directions = extract_directions(alone)
    np.testing.assert_array_equal(directions.vectors["centred"]["anger"], directions.vectors["neutral"]["anger"])


def test_scenarios_that_lack_an_emotion_do_not_bend_the_centred_directions() -> None:
    planted = world(scenarios=80, strength=3.0, noise=0.3)
    data = planted.data
    missing = (data.labels == "joy") & np.isin(data.scenarios, np.unique(data.scenarios)[::3])
    directions = extract_directions(data.select(~missing).split("fit"))
    centre = planted.vectors.mean(axis=0)
    for index, emotion in enumerate(EMOTIONS):
        assert cosine(directions.vectors["centred"][emotion][0], planted.vectors[index] - centre) > 0.95


def test_too_few_texts_are_refused_by_name() -> None:
    data = world(scenarios=40).data.split("fit")
    with pytest.raises(UsageError, match="'pride'; there are 0") as caught:
        extract_directions(data, ("anger", "pride"))
    assert "--emotions" in caught.value.fix
    with pytest.raises(UsageError, match="'neutral'"):
        extract_directions(data.select(data.labels != "neutral"))


def test_units_of_a_direction() -> None:
    data = world(scenarios=60, strength=3.0).data.split("fit")
    directions = extract_directions(data)
    one = directions.direction("anger", 2, "tiny", "resid_post", Positions("mean-content"))
    neutral = np.asarray(data.x[data.labels == "neutral"][:, directions.row(2)], dtype=float)
    unit = one.vector / np.linalg.norm(one.vector)
    assert one.neutral_sd() == pytest.approx((neutral @ unit).std(ddof=1))
    assert one.residual_norm == pytest.approx(np.linalg.norm(data.x[:, directions.row(2)], axis=-1).mean())
    sizes = norms(directions)["anger"]
    assert sizes["l2"][directions.row(2)] == pytest.approx(np.linalg.norm(one.vector))
    assert (sizes["l1"] >= sizes["l2"]).all()
    np.testing.assert_allclose(sizes["relative"], sizes["l2"] / directions.residual_norm)
    with pytest.raises(UsageError, match="layer 9 was not captured"):
        directions.row(9)
    with pytest.raises(UsageError, match="unknown emotion"):
        directions.probe("neutral", "pride")


def test_one_sd_is_the_spread_of_neutral_texts_along_the_direction_though_dimensions_covary() -> None:
    planted = world(scenarios=60, strength=3.0).data.split("fit")
    # Every dimension moves with one common factor along the direction: variances alone say less than half of it.
    vector = extract_directions(planted).vectors["neutral"]["anger"][0]
    factor = np.random.default_rng(0).normal(size=(len(planted.labels), 1, 1))
    data = replace(planted, x=planted.x + 5 * factor * np.sign(vector))
    directions = extract_directions(data)
    neutral = np.asarray(data.x[data.labels == "neutral"][:, 0], dtype=float)
    one = directions.direction("anger", directions.layers[0], "tiny", "resid_post", Positions("mean-content"))
    projected = (neutral @ (one.vector / np.linalg.norm(one.vector))).std(ddof=1)
    independent = np.linalg.norm(neutral.std(0, ddof=1) * one.vector) / np.linalg.norm(one.vector)
    assert projected > 2 * independent, "the world cannot tell them apart"
    assert one.neutral_sd() == pytest.approx(projected)
    assert scale_of(one, "sd") == pytest.approx(projected)


def test_directions_without_their_texts_do_not_know_the_unit_sd() -> None:
    directions = replace(extract_directions(world(scenarios=40).data.split("fit")), neutral=None)
    one = directions.direction("anger", directions.layers[0], "tiny", "resid_post", Positions("mean-content"))
    assert scale_of(one, "raw") > 0
    with pytest.raises(UsageError, match="unit sd"):
        scale_of(one, "sd")


def test_stability_is_high_for_planted_directions_and_nothing_for_noise() -> None:
    strong = direction_stability(world(scenarios=60, strength=4.0, noise=0.5).data.split("fit"), EMOTIONS, resamples=30)
    nothing = direction_stability(world(scenarios=60, strength=0.0).data.split("fit"), EMOTIONS, resamples=30)
    for emotion in EMOTIONS:
        assert (strong[emotion].estimate > 0.9).all()
        assert (np.abs(nothing[emotion].estimate) < 0.2).all()
        assert (nothing[emotion].low < 0).all() and (nothing[emotion].high > 0).all()


@pytest.mark.parametrize(("scenarios", "paired"), [(4, True), (10, False)])
def test_stability_of_few_texts_is_no_failure(scenarios: int, paired: bool) -> None:
    """Halves that lack a label do not count; where every half does, there is no figure."""
    fit = world(scenarios=scenarios, paired=paired, strength=40.0, noise=0.1).data.split("fit")
    for found in direction_stability(fit, EMOTIONS, resamples=30).values():
        assert (found.estimate > 0.5).all()
    alone = fit.select(fit.labels != "neutral")
    assert np.isnan(direction_stability(alone, EMOTIONS, resamples=3)["joy"].estimate).all()


def test_planted_basis_is_orthonormal() -> None:
    basis = orthonormal(3, 32, np.random.default_rng(0))
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)

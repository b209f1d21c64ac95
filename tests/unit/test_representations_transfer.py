"""The sharing test from arrays to verdict: equal to refitting, right on planted worlds, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment import fit_alignment, reduce_pairs
from emotion_circuits.representations.calibration.earlier_claims import (
    independent_models,
    raw_overlap,
    training_set_overlap,
)
from emotion_circuits.representations.calibration.transfer import old_formula, problem_of
from emotion_circuits.representations.calibration.worlds import PlantedPair, layer_stack, layered_world, linear_world
from emotion_circuits.representations.layer_pairs import choose_layer_pair, compare_layer_pairs, transfer_grid
from emotion_circuits.representations.native_probe import native_probe
from emotion_circuits.representations.sharing import sharing_test
from emotion_circuits.representations.sharing_arrays import EmotionArrays, FloorArrays, Floors, check_texts
from emotion_circuits.representations.sharing_bootstrap import recentred_limits, relative_transfer
from emotion_circuits.representations.sharing_result import SharingResult
from emotion_circuits.representations.sharing_verdict import judge
from emotion_circuits.representations.spectral_cv import PENALTIES, fold_rows
from emotion_circuits.representations.transfer import (
    ResampledMap,
    direction_weights,
    push_matrix,
    transfer_matrix,
    transfer_scores,
    weighted_own_aurocs,
)
from emotion_circuits.representations.transfer_by_map import pulled_transfer, pushed_transfer
from emotion_circuits.representations.transfer_nulls import (
    relabelling_p,
    relabellings,
    shuffled_map_null,
    shuffled_rows,
)
from emotion_circuits.stats import auroc


@cache
def small(relation: str = "shared", emotions: int = 6, seed: int = 0, n: int = 100) -> PlantedPair:
    """A layered world that fits in a moment."""
    return layered_world(relation, n=n, emotions=emotions, scenarios=24, q=30, widths=(60, 90), seed=seed)  # type: ignore[arg-type]


def answer(world: PlantedPair, floors: Floors | None = None, **settings: int) -> SharingResult:
    chosen = {"permutations": 199, "resamples": 100, **settings}
    return sharing_test(world.source, world.target, world.map_source, world.map_target, floors, **chosen)


def test_shuffled_maps_equal_refitting_ridge_with_scikit_learn() -> None:
    problem = problem_of(small())
    world = small()
    texts = check_texts(world.source, world.target)
    reduction = problem.reduction
    moves = shuffled_rows(None, 100, 4, 7)
    ours = shuffled_map_null(problem, moves)
    f, z = reduction.features, reduction.z_target
    z_test = reduction.target.standardise(texts.target_test.x)
    for row, move in enumerate(moves):
        errors = np.zeros(len(PENALTIES))
        for held in fold_rows(100, 5, None, 0):
            train = np.setdiff1d(np.arange(100), held)
            for p, penalty in enumerate(PENALTIES):
                model = Ridge(alpha=penalty * len(train)).fit(f[train], reduction.criterion[move[train]])
                errors[p] += ((reduction.criterion[move[held]] - model.predict(f[held])) ** 2).sum()
        best = PENALTIES[int(np.argmin(errors))]
        fitted = Ridge(alpha=best * 100).fit(f, z[move])
        scores = problem.directions @ fitted.coef_.T @ z_test.T
        expected = np.diag(transfer_matrix(scores, texts.target_test.codes, 6))
        assert ours.penalties[row] == best
        assert ours.own[row] == pytest.approx(expected, abs=1e-6)


def test_transfer_matrix_is_auroc_of_each_emotion_against_the_rest() -> None:
    problem = problem_of(small())
    scores = transfer_scores(problem)
    matrix = transfer_matrix(scores, problem.test.codes, 6)
    for i, j in ((0, 0), (2, 5), (4, 1)):
        own = problem.test.codes == j
        assert matrix[i, j] == pytest.approx(float(auroc(scores[i, own], scores[i, ~own])))


def test_a_given_map_transfers_as_the_sharing_test_does_and_probes_come_back_the_other_way() -> None:
    world = small()
    forward = fit_alignment(world.map_source, world.map_target)
    pushed = pushed_transfer(forward, world.source, world.target)
    assert pushed == pytest.approx(transfer_matrix(transfer_scores(problem_of(world)), problem_of(world).test.codes, 6))
    pulled = pulled_transfer(fit_alignment(world.map_target, world.map_source), world.source, world.target)
    assert np.diag(pulled).mean() > 0.8
    assert relabelling_p(pulled) == pytest.approx(1 / 720)
    with pytest.raises(UsageError, match="reads vectors of width 60"):
        pulled_transfer(forward, world.source, world.target)


def test_weighted_auroc_is_auroc_of_repeated_texts() -> None:
    rng = np.random.default_rng(0)
    scores, codes = rng.normal(size=(3, 30)), np.arange(30) % 3
    weights = rng.integers(0, 4, size=30)
    repeated = np.repeat(np.arange(30), weights)
    expected = np.diag(transfer_matrix(scores[:, repeated], codes[repeated], 3))
    assert weighted_own_aurocs(scores, codes, weights.astype(float)) == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 5])  # rows of their own, and groups whose matrices are kept
def test_a_resampled_map_is_the_map_of_repeated_rows(size: int) -> None:
    problem = problem_of(small())
    groups = np.arange(100) // size
    drawn = np.random.default_rng(0).integers(0, 3, size=(3, 100 // size)).astype(float)
    directions = np.stack([problem.directions * sign for sign in (1, -1, 2)])
    found = ResampledMap(problem, groups).scores(directions, drawn)
    for own, weights, scores in zip(directions, drawn, found, strict=True):
        rows = np.repeat(np.arange(100), weights[groups].astype(int))
        f, k = problem.features[rows], problem.kernel[rows]
        # The penalty stays that of the observed number of rows.
        push = push_matrix(f - f.mean(axis=0), k - k.mean(axis=0), problem.penalty * 100 / len(rows))
        assert scores == pytest.approx(own @ push, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("matched", [True, False])
def test_directions_refitted_with_weights_are_those_of_repeated_texts(matched: bool) -> None:
    world = small()
    texts = check_texts(world.source, world.target).source_fit
    if not matched:
        texts = replace(texts, clusters=np.array([f"t{i}" for i in range(len(texts.codes))]))
    _, at = np.unique(texts.clusters, return_inverse=True)
    weights = np.random.default_rng(1).integers(0, 3, size=at.max() + 1)[at]
    repeated = np.repeat(np.arange(len(weights)), weights)
    copy = np.concatenate([np.arange(w) for w in weights])
    names = np.char.add(np.char.add(texts.clusters[repeated], "/"), copy.astype(str))
    again = replace(texts, x=texts.x[repeated], codes=texts.codes[repeated], clusters=names)
    ours = direction_weights(texts, 6, weights.astype(float)) @ texts.x
    assert ours == pytest.approx(direction_weights(again, 6) @ again.x, abs=1e-8)


def test_native_probe_is_shrinkage_lda_in_full_space() -> None:
    world = small()
    texts = check_texts(world.source, world.target)
    reduction = reduce_pairs(world.map_source, world.map_target)
    probe = native_probe(texts.target_fit, texts.target_test, 6, reduction.target)
    z, codes = reduction.target.standardise(texts.target_fit.x), texts.target_fit.codes
    means = np.stack([z[codes == i].mean(axis=0) for i in range(6)])
    scatter = np.cov((z - means[codes]).T, ddof=0, bias=True)
    g = probe.shrinkage
    sigma = (1 - g) * scatter + g * np.trace(scatter) / z.shape[1] * np.eye(z.shape[1])
    directions = np.linalg.solve(sigma, (means - means.mean(axis=0)).T).T
    expected = directions @ reduction.target.standardise(texts.target_test.x).T
    ours = probe.scores()
    gap = (ours - expected) - (ours - expected).mean(axis=1, keepdims=True)
    assert np.abs(gap).max() < 1e-6 * np.abs(expected).max()


def test_verdicts_on_planted_worlds() -> None:
    shared, content, nothing = (answer(small(r)) for r in ("shared", "content", "nothing"))
    assert shared.verdict in ("shared", "partly shared")
    assert shared.p["max"] is not None and shared.p["max"] <= 0.05
    assert content.verdict in ("not shared", "inconclusive")
    assert nothing.verdict == "not identified"
    assert "no linear relation" in nothing.reason
    assert shared.ci[0] <= shared.tau <= shared.ci[1]
    assert {e.emotion for e in shared.per_emotion} == set(shared.emotions)
    assert sum(e.verdict in ("shared", "partly shared") for e in shared.per_emotion) >= 3
    assert min(e.cosine for e in shared.per_emotion) > 0.4


def test_the_earlier_formula_says_shared_of_unrelated_models_and_this_test_does_not() -> None:
    assert old_formula(3, 0) >= 0.5
    for seed in range(3):
        assert answer(linear_world("nothing", n=60, scenarios=20, seed=seed)).verdict == "not identified"


def test_a_map_that_is_judged_on_its_own_texts_finds_any_two_models_alike_and_on_others_none() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 100)), rng.normal(size=(60, 90))
    assert training_set_overlap(x, y, (2, 10)) == pytest.approx([1, 1])
    assert raw_overlap(y, rng.normal(size=(60, 90)), 10) < 0.25
    weights = np.linalg.lstsq(x[:40] - x[:40].mean(axis=0), y[:40] - y[:40].mean(axis=0), rcond=None)[0]
    assert raw_overlap(x[40:] @ weights, y[40:], 2) < 0.25
    before, (ten, two) = independent_models(2, (10, 2), d=100, n=60)
    assert before < 0.25 and ten == pytest.approx(1) and two == pytest.approx(1)


def test_floors_that_carry_the_emotion_as_well_take_the_claim_away() -> None:
    world = small()
    other = small("content", seed=1)
    same = Floors(embedding_target=FloorArrays(np.asarray(world.target.x), world.map_target))
    untrained = Floors(untrained=FloorArrays(np.asarray(other.target.x), other.map_target))
    claimed, taken = answer(world, untrained), answer(world, same)
    assert claimed.verdict in ("shared", "partly shared")
    assert claimed.differences["untrained"]["low"] > 0
    assert claimed.floor["untrained"] is not None and claimed.floor["untrained"] < 0.7
    assert claimed.floor["embedding_source"] is None
    assert taken.verdict not in ("shared", "partly shared")
    assert taken.p["above_floor"] is not None and taken.p["above_floor"] > 0.05


def test_an_untrained_target_is_not_shared() -> None:
    world = small()
    rng = np.random.default_rng(0)
    source = np.asarray(world.source.x)
    turn = rng.normal(size=(60, 90)) * 0.05
    weak = replace(world.target, x=source @ turn * 0.1 + rng.normal(size=(len(source), 90)))
    map_weak = world.map_source @ turn * 0.1 + rng.normal(size=(100, 90))
    result = sharing_test(world.source, weak, world.map_source, map_weak, permutations=199, resamples=100)
    assert result.verdict != "shared"


def test_the_answer_is_plain_json_with_the_documented_keys() -> None:
    found = json.loads(json.dumps(answer(small()).to_dict(), allow_nan=False))
    keys = {"verdict", "tau", "ci", "transfer", "native", "floor", "kappa", "rank", "n_map", "d", "p", "per_emotion"}
    assert keys <= set(found)
    assert set(found["floor"]) == {"shuffled", "untrained", "embedding_target", "embedding_source"}
    assert set(found["p"]) == {"relabel", "shuffled_map", "covariance", "above_floor", "max"}
    assert {"emotion", "verdict", "tau", "auroc_transfer", "auroc_native", "cosine"} <= set(found["per_emotion"][0])
    assert (found["n_map"], found["d"]) == (100, [60, 90])


def test_the_same_seed_gives_the_same_answer() -> None:
    assert answer(small(), seed=3).to_dict() == answer(small(), seed=3).to_dict()


def test_units_of_a_model_do_not_matter() -> None:
    world = small()
    scaled = replace(world.target, x=np.asarray(world.target.x) * 1000)
    plain = answer(world)
    other = sharing_test(
        world.source, scaled, world.map_source, world.map_target * 1000, permutations=199, resamples=100
    )
    assert other.transfer == pytest.approx(plain.transfer, abs=1e-8)
    assert other.verdict == plain.verdict


def test_three_emotions_cannot_show_which_emotion_is_shared() -> None:
    found = answer(small(emotions=3))
    assert found.verdict == "inconclusive"
    assert found.p["relabel"] == pytest.approx(1 / 6)
    five = judge(identified=True, p_max=0.01, low=0.9, high=1.0, emotions=5)
    assert five.verdict == "inconclusive"
    assert "at least 6" in five.reason


def test_too_few_neutral_rows_are_not_identified_and_nothing_crashes() -> None:
    world = small()
    for n in (0, 3, 49):
        found = sharing_test(world.source, world.target, world.map_source[:n], world.map_target[:n])
        assert found.verdict == "not identified"
        assert f"{n} independent" in found.reason
        json.dumps(found.to_dict(), allow_nan=False)
    words = sharing_test(
        world.source, world.target, world.map_source, world.map_target, map_groups=np.arange(100) // 10
    )
    assert "10 independent" in words.reason


@pytest.mark.parametrize(("name", "words"), [
    ("source", "source model's emotional"), ("target", "target model's emotional"),
    ("map_source", "source's map set"), ("map_target", "target's map set"),
])  # fmt: skip
def test_values_that_are_not_finite_are_named(name: str, words: str) -> None:
    world = small()
    arrays = {n: np.array(getattr(world, n).x if n in ("source", "target") else getattr(world, n))
              for n in ("source", "target", "map_source", "map_target")}  # fmt: skip
    arrays[name][1, 1] = np.inf
    with pytest.raises(UsageError, match=words):
        sharing_test(
            replace(world.source, x=arrays["source"]), replace(world.target, x=arrays["target"]),
            arrays["map_source"], arrays["map_target"],
        )  # fmt: skip


def test_a_scenario_that_is_fitted_and_tested_is_refused() -> None:
    world = small()
    splits = np.asarray(world.source.splits)
    swapped = replace(world.source, splits=np.where(splits == "fit", "test", "fit"))
    with pytest.raises(UsageError, match="fitted on and tested"):
        sharing_test(swapped, world.target, world.map_source, world.map_target)


def test_an_emotion_that_one_model_lacks_is_named() -> None:
    world = small()
    labels = np.where(np.asarray(world.target.labels) == "emotion-2", "neutral", np.asarray(world.target.labels))
    with pytest.raises(UsageError, match="emotion-2"):
        sharing_test(world.source, replace(world.target, labels=labels), world.map_source, world.map_target)


def test_without_splits_clusters_are_halved_alike_in_both_models() -> None:
    world = small()
    source, target = (EmotionArrays(s.x, s.labels, s.clusters) for s in (world.source, world.target))
    texts = check_texts(source, target)
    assert set(texts.source_fit.clusters) == set(texts.target_fit.clusters)
    assert not set(texts.source_fit.clusters) & set(texts.target_test.clusters)
    unclustered = check_texts(*(EmotionArrays(side.x, side.labels) for side in (world.source, world.target)))
    assert np.bincount(unclustered.target_test.codes).tolist() == [12] * 6


def test_relabelling_is_exact_for_few_emotions_and_never_zero_for_many() -> None:
    assert len(relabellings(5)) == 120
    assert relabellings(9).shape == (10_000, 9)
    assert relabelling_p(np.eye(6)) == pytest.approx(1 / 720)
    assert relabelling_p(np.eye(9)) == pytest.approx(1 / 10_001)
    assert relabelling_p(np.full((6, 6), 0.5)) == 1


def test_words_of_a_text_stay_neighbours_when_pairs_are_shuffled() -> None:
    groups = np.repeat(np.arange(20), 5)
    moves = shuffled_rows(groups, 100, 20, 0)
    assert all(sorted(move) == list(range(100)) for move in moves)
    kept = np.mean([np.mean(groups[move][1:] == groups[move][:-1]) for move in moves])
    assert kept > 0.7


def test_layer_pairs_pay_for_the_search_and_dev_choice_prefers_equal_depth() -> None:
    source, target, map_a, map_b = layer_stack(3, seed=1)
    grid = transfer_grid(source, target, map_a, map_b)
    found = compare_layer_pairs(grid)
    assert grid.shape == (3, 3, 6, 6)
    assert (found.p >= found.p_naive - 1e-12).all()
    assert found.transfer[found.best] == found.transfer.max()
    strong = np.tile(np.full((6, 6), 0.5), (3, 3, 1, 1))
    strong[1, 1], strong[2, 0] = 0.5 + 0.4 * np.eye(6), 0.5 + 0.402 * np.eye(6)
    assert compare_layer_pairs(strong).p_best == pytest.approx(1 / 720)
    assert choose_layer_pair(strong, {"source": [0.2, 0.5, 0.8], "target": [0.2, 0.5, 0.8]}) == (1, 1)


def test_the_rule_is_the_declared_one() -> None:
    def verdict(low: float, high: float, p: float = 0.01, identified: bool = True) -> str:
        return judge(identified=identified, p_max=p, low=low, high=high, emotions=8).verdict

    assert verdict(0.51, 0.9) == "shared"
    assert verdict(0.5, 0.9) == "partly shared"
    assert verdict(0.2, 0.9) == "inconclusive"
    assert verdict(-0.3, 0.19) == "not shared"
    assert verdict(0.9, 1.0, p=0.051) == "inconclusive"
    assert verdict(0.9, 1.0, identified=False) == "not identified"
    assert verdict(float("nan"), float("nan")) == "inconclusive"


def test_tau_needs_room_above_the_floor_and_limits_are_recentred() -> None:
    assert np.isnan(relative_transfer(np.array(0.8), np.array(0.9), np.array(0.9)))
    assert relative_transfer(np.array(0.7), np.array(0.5), np.array(0.9)) == pytest.approx(0.5)
    draws = np.random.default_rng(0).normal(0.4, 0.1, size=5000)
    low, high = recentred_limits(0.6, draws, 1000)
    assert (low + high) / 2 == pytest.approx(0.6, abs=0.02)
    assert np.isnan(recentred_limits(0.6, np.where(draws > 0.5, np.nan, draws), 1000)[0])

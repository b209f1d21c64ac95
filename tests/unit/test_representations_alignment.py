"""Maps between models: recovery, invariance, honest held-out figures, refusals, saving; closed-form CV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.representations.alignment import (
    fit_alignment,
    leave_one_group_out_maps,
    nested_r2,
    orthogonal_map,
    reduce_pairs,
    shuffled_weights,
)
from emotion_circuits.representations.alignment_cca import canonical_correlations
from emotion_circuits.representations.alignment_map import LADDER, MAP_METHODS, AlignmentMap, MapMethod, simplest_map
from emotion_circuits.representations.calibration.worlds import layered_world
from emotion_circuits.representations.identifiability import identifiability
from emotion_circuits.representations.spectral_cv import (
    PENALTIES,
    fold_rows,
    folded_design,
    held_out_r2,
    rank_filters,
    ridge_filters,
)
from emotion_circuits.store import write_tensors


def pairs(n: int = 200, d_a: int = 20, d_b: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A linear relation of rank 8, with one massive dimension on each side."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(n, 8))
    a = content @ rng.normal(size=(8, d_a)) + 0.1 * rng.normal(size=(n, d_a))
    b = content @ rng.normal(size=(8, d_b)) + 0.1 * rng.normal(size=(n, d_b))
    a[:, 0] = a[:, 0] * 1000 + 5000
    b[:, 3] = b[:, 3] * 300 - 900
    return a, b


@pytest.mark.parametrize("method", MAP_METHODS)
def test_every_map_predicts_rows_it_never_saw(method: MapMethod) -> None:
    a, b = pairs(400)
    fitted = fit_alignment(a[:300], b[:300], method=method)
    guess, truth = fitted.predict(a[300:]), b[300:]
    r2 = 1 - ((truth - guess) ** 2).sum(axis=0) / ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    # A rotation with one scale cannot follow relations that stretch; the others can.
    assert np.median(r2) > (0.5 if method == "procrustes" else 0.95)


def test_pushing_a_difference_is_the_difference_of_predictions_and_pulling_is_its_adjoint() -> None:
    a, b = pairs()
    fitted = fit_alignment(a, b)
    assert fitted.push(a[0] - a[1]) == pytest.approx(fitted.predict(a[0]) - fitted.predict(a[1]), rel=1e-8)
    probe = np.random.default_rng(1).normal(size=30)
    assert fitted.pull(probe) @ (a[0] - a[1]) == pytest.approx(probe @ fitted.push(a[0] - a[1]), rel=1e-8)
    with pytest.raises(UsageError, match="width 20"):
        fitted.push(b[0])


@pytest.mark.parametrize("factor", [1e-3, 10.0, 1e3])
def test_the_unit_of_activations_does_not_matter(factor: float) -> None:
    a, b = pairs()
    plain, scaled = fit_alignment(a, b), fit_alignment(a * factor, b)
    assert scaled.predict(a * factor) == pytest.approx(plain.predict(a), rel=1e-8)
    assert scaled.rank == plain.rank


def test_orthogonal_map_recovers_a_rotation_and_refuses_other_widths() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    x = rng.normal(size=(60, 10))
    rotation, scale = orthogonal_map(x, 3 * x @ turn + 7)
    assert rotation == pytest.approx(turn, abs=1e-10)
    assert scale == pytest.approx(3)
    with pytest.raises(UsageError, match="equal widths"):
        orthogonal_map(x, x[:, :5])


def test_cross_validated_r2_equals_fitting_every_ridge() -> None:
    a, b = pairs(90)
    reduction = reduce_pairs(a, b, rank=12)
    folds = fold_rows(90, 5, None, 0)
    f, y = reduction.features, reduction.criterion
    moves = np.random.default_rng(3).permuted(np.tile(np.arange(90), (3, 1)), axis=1)
    ours = held_out_r2(folded_design(f, folds), y, ridge_filters(), moves)
    for m, move in enumerate(moves):
        for p, penalty in enumerate(PENALTIES):
            error = spread = 0.0
            for held in folds:
                train = np.setdiff1d(np.arange(90), held)
                model = Ridge(alpha=penalty * len(train)).fit(f[train], y[move[train]])
                error += ((y[move[held]] - model.predict(f[held])) ** 2).sum()
                spread += ((y[move[held]] - y[move[train]].mean(axis=0)) ** 2).sum()
            assert ours[m, p] == pytest.approx(1 - error / spread, abs=1e-9)


def test_many_shuffles_of_few_rows_take_another_way_to_the_same_figures() -> None:
    a, b = pairs(60)
    reduction = reduce_pairs(a, b, rank=10)
    moves = np.random.default_rng(3).permuted(np.tile(np.arange(60), (25, 1)), axis=1)
    moves[0] = np.arange(60)
    many = held_out_r2(reduction.design, reduction.criterion, ridge_filters(), moves)
    few = held_out_r2(reduction.design, reduction.criterion, ridge_filters(), moves[:5])
    one = held_out_r2(reduction.design, reduction.criterion, ridge_filters())
    assert many[:5] == pytest.approx(few, abs=1e-10)
    assert many[0] == pytest.approx(one, abs=1e-10)


def test_rank_filters_are_principal_component_regression() -> None:
    rng = np.random.default_rng(0)
    f, y = rng.normal(size=(60, 6)) * [9, 7, 5, 3, 2, 1], rng.normal(size=(60, 4))
    folds = fold_rows(60, 4, None, 0)
    ours = held_out_r2(folded_design(f, folds), y, rank_filters([2, 6]))
    for index, k in ((0, 2), (1, 6)):
        error = spread = 0.0
        for held in folds:
            train = np.setdiff1d(np.arange(60), held)
            centre, mean = f[train].mean(axis=0), y[train].mean(axis=0)
            basis = np.linalg.svd(f[train] - centre, full_matrices=False)[2][:k].T
            weights = np.linalg.lstsq((f[train] - centre) @ basis, y[train] - mean, rcond=None)[0]
            error += ((y[held] - mean - (f[held] - centre) @ basis @ weights) ** 2).sum()
            spread += ((y[held] - mean) ** 2).sum()
        assert ours[index] == pytest.approx(1 - error / spread, abs=1e-9)


def test_words_of_one_text_stay_in_one_fold() -> None:
    groups = np.repeat(np.arange(30), 4)
    for held in fold_rows(120, 5, groups, 0):
        assert not set(groups[held]) & set(np.delete(groups, held))


def test_nested_r2_is_high_for_a_relation_and_none_for_noise() -> None:
    a, b = pairs(150)
    found = nested_r2(a, b, components=8)
    noise = nested_r2(a, np.random.default_rng(9).normal(size=b.shape))
    assert found.total > 0.9
    assert found.components[:5].min() > 0.8
    assert -0.15 < noise.total < 0.03


def test_the_simplest_map_that_suffices_is_named() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12))
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]

    def rungs(a: np.ndarray, b: np.ndarray) -> dict[MapMethod, float]:
        return {method: fit_alignment(a, b, method=method).r2 for method in LADDER}

    assert simplest_map(rungs(x, x @ turn + 0.1 * rng.normal(size=(200, 12)))) == "procrustes"
    assert simplest_map(rungs(*pairs())) == "ridge"
    assert simplest_map({"procrustes": -0.1, "ridge": 0.0}) is None
    noise = [rungs(rng.normal(size=(200, 12)), rng.normal(size=(200, 12))) for _ in range(10)]
    assert [simplest_map(found) for found in noise] == [None] * 10
    assert simplest_map({"procrustes": 0.76, "ridge": 0.8}) == "procrustes"


def test_copied_words_do_not_inflate_grouped_r2() -> None:
    rng = np.random.default_rng(0)
    a, b = np.repeat(rng.normal(size=(40, 15)), 5, axis=0), np.repeat(rng.normal(size=(40, 15)), 5, axis=0)
    a, b = a + 0.1 * rng.normal(size=a.shape), b + 0.1 * rng.normal(size=b.shape)
    groups = np.repeat(np.arange(40), 5)
    assert nested_r2(a, b).total > 0.15  # copies of a row in another fold
    assert nested_r2(a, b, groups).total < 0.05


def test_a_map_without_an_emotion_has_not_seen_its_rows() -> None:
    a, b = pairs(120)
    names = np.array(["", "anger", "joy"])[np.arange(120) % 3]
    maps = leave_one_group_out_maps(a, b, names)
    changed = b.copy()
    changed[names == "joy"] += 50
    again = leave_one_group_out_maps(a, changed, names)
    assert set(maps) == {"anger", "joy"}
    assert again["joy"].weights == pytest.approx(maps["joy"].weights)
    assert not np.allclose(again["anger"].target.mean, maps["anger"].target.mean)


def test_a_saved_map_comes_back_and_other_files_are_refused(tmp_path: Path) -> None:
    a, b = pairs()
    fitted = fit_alignment(a, b, spec={"source": "one", "layer": "5"})
    loaded = AlignmentMap.load(fitted.save(tmp_path / "map.safetensors"))
    assert np.array_equal(loaded.predict(a), fitted.predict(a))
    assert (loaded.method, loaded.penalty, loaded.r2, loaded.n, loaded.spec) == (
        fitted.method, fitted.penalty, fitted.r2, fitted.n, {"source": "one", "layer": "5"},
    )  # fmt: skip
    with pytest.raises(StoreError, match="no alignment map"):
        AlignmentMap.load(write_tensors(tmp_path / "other.safetensors", {"x": a}))


def test_bad_pairs_are_named() -> None:
    a, b = pairs(40)
    broken = b.copy()
    broken[3, 2] = np.inf
    for source, target, words in (
        (a, broken, "target's map set"),
        (a, b[:-1], r"\(40, 20\) and \(39, 30\)"),
        (a[:10], b[:10], "needs at least 20"),
    ):
        with pytest.raises(EmotionCircuitsError, match=words):
            fit_alignment(source, target)
    with pytest.raises(UsageError, match="unknown map"):
        fit_alignment(a, b, method="magic")  # type: ignore[arg-type]


def test_cca_finds_the_relation_and_refuses_too_few_rows() -> None:
    a, b = pairs(400)
    found = canonical_correlations(a, b, 8)
    assert found.correlations[:8].min() > 0.9
    with pytest.raises(UsageError, match="at most 7 components"):
        canonical_correlations(a[:70], b[:70], 8)
    with pytest.raises(UsageError, match="20 components from 100 rows"):
        canonical_correlations(a[:100], b[:100])


def test_identifiability_is_zero_for_random_directions_and_where_nothing_is_retained() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(200, 40)))[0]
    each, whole = identifiability(rng.normal(size=(500, 200)), basis)
    assert each.mean() == pytest.approx(0, abs=0.01)
    assert whole == pytest.approx(0, abs=0.01)
    inside, _ = identifiability(rng.normal(size=(3, 40)) @ basis.T, basis)
    assert inside == pytest.approx(1 - 40 / 200)
    assert identifiability(basis.T, basis, retained=False)[1] == 0


def test_rank_follows_the_relation_not_the_number_of_rows() -> None:
    a, b = pairs(300)
    assert reduce_pairs(a, b).rank in range(6, 13)
    world = layered_world("nothing", n=100, seed=3)
    assert reduce_pairs(world.map_source, world.map_target).rank <= 2


@pytest.mark.parametrize("method", MAP_METHODS)
def test_maps_of_shuffled_pairs_equal_fitting_them(method: MapMethod) -> None:
    a, b = pairs(150)
    move = np.random.default_rng(3).permutation(150)
    reduction = reduce_pairs(a, b, rank=8)
    weights = shuffled_weights(reduction, method, move)
    fitted = fit_alignment(a, b[move], method=method, rank=8)
    np.testing.assert_allclose(reduction.basis, fitted.basis, atol=1e-9)
    np.testing.assert_allclose(weights, fitted.weights, atol=1e-7)
    true = shuffled_weights(reduction, method, np.arange(150))
    np.testing.assert_allclose(true, fit_alignment(a, b, method=method, rank=8).weights, atol=1e-7)

"""CKA, mutual neighbours and RSA: calibrated, invariant, and honest about what they cannot show."""

from __future__ import annotations

import numpy as np
import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.similarity import biased_cka, centroid_similarity, debiased_cka
from emotion_circuits.representations.similarity_neighbours import mutual_neighbours


def related(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two views of one content, and an unrelated third."""
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(n, 10))
    first, second = (content @ rng.normal(size=(10, d)) for d in (40, 50))
    return first, second + 0.3 * rng.normal(size=second.shape), rng.normal(size=(n, 50))


def test_debiased_cka_tells_related_from_unrelated_where_biased_cka_does_not() -> None:
    first, second, _ = related()
    rng = np.random.default_rng(5)
    wide = rng.normal(size=(2, 60, 2000))
    assert debiased_cka(first, second).value > 0.6
    assert debiased_cka(first, second).p == pytest.approx(0.001)
    assert abs(debiased_cka(*wide).value) < 0.05
    assert biased_cka(*wide) > 0.9


def test_debiased_cka_is_the_unbiased_hsic_written_out() -> None:
    first, second, _ = related(12)
    n = 12
    k, h = (x - x.mean(axis=0) for x in (first, second))
    k, h = k @ k.T, h @ h.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(h, 0)

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        one = np.ones(n)
        terms = np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return float((terms - 2 / (n - 2) * one @ a @ b @ one) / (n * (n - 3)))

    expected = hsic(k, h) / np.sqrt(hsic(k, k) * hsic(h, h))
    assert debiased_cka(first, second, permutations=0).value == pytest.approx(expected, rel=1e-10)


def test_rotation_and_scale_of_a_model_change_nothing() -> None:
    first, second, _ = related()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    for measure in (debiased_cka, mutual_neighbours):
        assert measure(5 * first @ turn, second).value == pytest.approx(measure(first, second).value, abs=1e-9)


def test_mutual_neighbours_stand_beside_their_chance() -> None:
    first, second, other = related(100)
    found, none = mutual_neighbours(first, second, 10), mutual_neighbours(first, other, 10)
    assert found.value > 0.4
    assert found.p == pytest.approx(0.001)
    assert none.null_mean == pytest.approx(10 / 99, abs=0.01)
    assert none.p > 0.01
    with pytest.raises(UsageError, match="10 nearest neighbours"):
        mutual_neighbours(first[:11], second[:11], 10)


def test_centroid_geometry_is_tested_by_relabelling() -> None:
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(7, 20))
    turn = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    same = centroid_similarity(centroids, 2 * centroids @ turn)
    other = centroid_similarity(centroids, rng.normal(size=(7, 30)))
    assert same.value == pytest.approx(1)
    assert same.p == pytest.approx(1 / 5040)
    assert other.p > 0.05
    with pytest.raises(UsageError, match="at least 4"):
        centroid_similarity(centroids[:3], centroids[:3])


def test_texts_that_are_not_paired_or_not_finite_are_refused() -> None:
    first, second, _ = related()
    for measure in (debiased_cka, mutual_neighbours, biased_cka):
        with pytest.raises(UsageError, match="paired rows"):
            measure(first, second[:-1])
        with pytest.raises(UsageError, match="NaN"):
            measure(first * np.nan, second)

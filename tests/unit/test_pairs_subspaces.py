"""Subspaces of emotions inside a model, and through maps, on planted rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emotion_circuits.experiments._pairs.overlap_numbers import inside_model
from emotion_circuits.experiments._pairs.spaces import differences, placed_in
from emotion_circuits.representations.sharing_arrays import Texts
from emotion_circuits.representations.subspaces import span

EMOTIONS = ("anger", "fear", "joy", "pride")


def planted(
    matched: bool = True, *, twins: bool = False, strength: float = 3.0, scenarios: int = 30, seed: int = 0
) -> Texts:
    """Every emotion varies in two dimensions of its own (``twins``: anger and fear in the same), plus the scenario."""
    rng = np.random.default_rng(seed)
    d = 40
    axes = np.linalg.qr(rng.normal(size=(d, 8)))[0].T.reshape(4, 2, d)
    if twins:
        axes[1] = axes[0]
    codes, groups = np.tile(np.arange(4), scenarios), np.repeat(np.arange(scenarios), 4)
    x = 2 * rng.normal(size=(scenarios, d))[groups] + 0.3 * rng.normal(size=(len(codes), d))
    inside = rng.normal(size=(len(codes), 2)) + 1.5
    x += strength * np.einsum("nk,nkd->nd", inside, axes[codes])
    names = np.array([f"s{g}" for g in groups]) if matched else np.arange(len(codes)).astype(np.str_)
    return Texts(x, codes.astype(np.intp), names, np.arange(len(codes)))


def inside(texts: Texts, k: int = 2) -> tuple[dict, dict]:
    neutral = np.random.default_rng(9).normal(size=(200, 40))
    return inside_model("m", 3, texts, neutral, EMOTIONS, k=k, permutations=99, seed=0)


def test_emotions_of_their_own_dimensions_overlap_less_than_relabelled_texts() -> None:
    spaces = inside(planted())[0]["subspaces"]
    assert spaces["k"] == 2 and len(spaces["pairs"]) == 6
    assert spaces["mean"] < spaces["relabelled"][0]
    for pair in spaces["pairs"]:
        assert pair["overlap"] == pytest.approx(np.mean(np.cos(np.radians(pair["angles"])) ** 2))


def test_two_emotions_in_the_same_dimensions_are_the_nearest_pair_and_join_first() -> None:
    found, clustered = inside(planted(twins=True))
    near = max(found["subspaces"]["pairs"], key=lambda p: p["overlap"])
    assert (near["first"], near["second"]) == ("anger", "fear") and near["overlap"] > 0.6 and near["angles"][0] < 40
    first = clustered["joins"][0]
    assert {first["first"], first["second"]} == {"anger", "fear"}
    heights = [join["value"] for join in clustered["joins"]]
    assert heights == sorted(heights) and len(heights) == 3


def test_nothing_planted_lies_within_the_band_and_does_not_cluster() -> None:
    inside_band, p = 0, []
    for seed in range(10):
        found, clustered = inside(planted(strength=0.0, seed=seed))
        low, high = found["subspaces"]["relabelled"]
        inside_band += low <= found["subspaces"]["mean"] <= high
        p.append(clustered["p"])
    assert inside_band >= 7 and np.mean(np.array(p) <= 0.05) <= 0.3


def test_more_dimensions_than_texts_allow_are_cut_and_texts_without_scenarios_count() -> None:
    assert inside(planted(scenarios=6), k=20)[0]["subspaces"]["k"] == 6
    loose = inside(planted(matched=False))[0]["subspaces"]
    assert len(loose["pairs"]) == 6 and loose["relabelled"][0] < loose["relabelled"][1]


def test_k_does_not_depend_on_the_seed_where_scenarios_of_unequal_size_change_places() -> None:
    whole = planted(matched=False)
    # Thirty texts of each emotion in eight scenarios of its own, which hold 1 to 7 texts.
    rank = np.arange(120) // 4
    sizes = np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 7, 2])
    texts = replace(whole, clusters=np.array([f"{c}:{sizes[r]}" for c, r in zip(whole.codes, rank, strict=True)]))
    neutral = np.random.default_rng(9).normal(size=(200, 40))
    found = {
        inside_model("m", 3, texts, neutral, EMOTIONS, k=30, permutations=19, seed=seed)[0]["subspaces"]["k"]
        for seed in range(6)
    }
    assert found == {4 * 1 + 4 * 2}, "the eight smallest scenarios"


def test_differences_remove_what_a_scenario_has_in_common() -> None:
    texts = planted()
    apart = differences(texts, 4, texts.x)
    sums = np.stack([apart.x[apart.clusters == c].sum(axis=0) for c in np.unique(apart.clusters)])
    np.testing.assert_allclose(sums, 0, atol=1e-9)
    shifted = differences(texts, 4, texts.x + np.random.default_rng(1).normal(size=(30, 40))[np.arange(120) // 4])
    np.testing.assert_allclose(shifted.x, apart.x, atol=1e-9)
    lacking = Texts(texts.x[1:], texts.codes[1:], texts.clusters[1:], texts.rows[1:])
    assert len(differences(lacking, 4, lacking.x).codes) == 116, "an incomplete scenario is left out"
    loose = planted(matched=False)
    np.testing.assert_allclose(
        sum(differences(loose, 4, loose.x).x[loose.codes == i].mean(axis=0) for i in range(4)), 0, atol=1e-9
    )


def test_vectors_that_a_map_flattened_are_placed_by_what_is_left() -> None:
    native = span(np.eye(5)[:3])
    flat = np.array([[1.0, 0, 0, 1, 0], [2.0, 0, 0, 2, 0], [0, 0, 0, 0, 0]])
    value, angles = placed_in(flat, native)
    assert value == pytest.approx(0.5) and angles == [pytest.approx(45)]
    assert placed_in(np.zeros((3, 5)), native) == (0.0, [])

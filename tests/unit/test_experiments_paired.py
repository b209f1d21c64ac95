"""Paired rows over prompts: what was not measured, few prompts, and claims about other vectors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from emotion_circuits.experiments._cell import ASKED, BASE, PLUS
from emotion_circuits.experiments._paired import mean_known, paired_row
from emotion_circuits.experiments.controls import _sentence, over_vectors
from emotion_circuits.report.translation import Catalogue, entries
from emotion_circuits.stats import bootstrap_interval, cluster_t, standardised_mean
from emotion_circuits.types import Prompt


def test_means_leave_out_what_was_not_measured_and_say_nothing_of_empty_rows() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mean_known(values, axis=1)
    assert found[0] == 2.0 and np.isnan(found[1])


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", f"text {i}") for i in range(count)]


@pytest.mark.parametrize("count", [4, 49, 50])
def test_few_prompts_have_a_t_interval_and_many_a_bootstrap(count: int) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    row = paired_row(values, prompts(count), resamples=500, permutations=99, seed=3)
    clusters = [p.id for p in prompts(count)]
    few, many = cluster_t(values).mean, bootstrap_interval(values, clusters, resamples=500, seed=3)
    expected = few if count < 50 else many
    assert row["ci"] == pytest.approx([float(expected.low), float(expected.high)])


def test_the_seed_reaches_the_interval_of_the_standardised_effect() -> None:
    values = np.random.default_rng(0).normal(1, 1, size=24)
    two_each = [Prompt(f"p{i}", f"text {i}", scenario=f"s{i // 2}") for i in range(24)]
    for seed in (0, 5):
        row = paired_row(values, two_each, resamples=500, permutations=99, seed=seed)
        expected = standardised_mean(values, [p.scenario for p in two_each], seed=seed)
        assert row["g_z_ci"] == pytest.approx([float(expected.low), float(expected.high)])


def test_a_claim_about_random_vectors_varies_with_the_vectors() -> None:
    """Seven vectors do as much as the tested one and one far less: clear for these eight, not for others."""
    rng = np.random.default_rng(1)
    gaps = 0.1 * rng.normal(size=(30, 8))
    gaps[:, 0] += 8
    these = paired_row(gaps.mean(axis=1), prompts(30), resamples=500, permutations=99, seed=0)
    others = over_vectors(gaps, prompts(30), 500, 0)
    assert these["ci"][0] > 0.9 and others["ci"][0] < 0 and others["over"] == "prompts and vectors"


def test_a_text_that_was_not_measured_costs_its_own_number_only() -> None:
    """Six texts of one vector are missing: those prompts still count, in the interval as in the rest of the row."""
    rng = np.random.default_rng(2)
    gaps = rng.normal(size=(20, 1)) + 0.2 * rng.normal(size=(20, 10))
    gaps[:6] -= 1.5
    whole = over_vectors(gaps, prompts(20), 1000, 0)["ci"]
    gaps[:6, 3] = np.nan
    row = paired_row(mean_known(gaps, axis=1), prompts(20), resamples=1000, permutations=99, seed=0)
    found = over_vectors(gaps, prompts(20), 1000, 0)
    assert row["n"] == 20 and "mean_diff" not in found, "the row's own estimate stands"
    assert found["vectors"] == 10 and found["ci"] == pytest.approx(whole, abs=0.1)
    assert found["ci"][0] < row["mean_diff"] < found["ci"][1]
    gaps[:, 3] = np.nan
    assert over_vectors(gaps, prompts(20), 1000, 0)["vectors"] == 9


def test_the_interval_over_vectors_weighs_prompts_as_the_row_does() -> None:
    """Fourteen of twenty prompts are of one scenario: a mean over scenarios would be another number."""
    shared = [Prompt(f"p{i}", f"text {i}", scenario=f"s{max(0, i - 13)}") for i in range(20)]
    gaps = np.where(np.arange(20) < 14, 1.0, 0.0)[:, None] + 0.01 * np.random.default_rng(3).normal(size=(20, 8))
    low, high = over_vectors(gaps, shared, 2000, 0)["ci"]
    assert low < 0.7 < high and high > 0.9, "the large scenario may be drawn several times"


@pytest.mark.parametrize(("count", "vectors"), [(30, 4), (4, 8)])
def test_too_few_prompts_or_vectors_say_nothing_of_others(count: int, vectors: int) -> None:
    assert over_vectors(np.random.default_rng(0).normal(size=(count, vectors)), prompts(count), 500, 0) == {}


@pytest.mark.parametrize(
    ("over", "low", "said"),
    [
        ("prompts", 0.1, "does more than the mean of these 2 random vectors"),
        ("prompts", -0.1, "does not clearly do more than the mean of these 2 random vectors"),
        ("prompts and vectors", 0.1, "beats random vectors"),
        ("prompts and vectors", -0.1, "does not clearly beat random vectors"),
    ],
)  # fmt: skip
def test_controls_say_what_their_vectors_can_show_also_in_japanese(over: str, low: float, said: str) -> None:
    row = {"emotion": "anger", "scorer": "embedded", "mean_diff": 0.2, "ci": [low, 0.5], "over": over, "vectors": 2}
    rows = [
        {**row, "arm": PLUS, "against": "random: isotropic"},
        *({**row, "arm": arm, "against": BASE} for arm in (ASKED, PLUS)),
    ]
    found = _sentence(rows, "anger") + "."
    assert said in found
    catalogue = Catalogue(entries("ja"))
    catalogue.sentence(found)
    assert not catalogue.unknown

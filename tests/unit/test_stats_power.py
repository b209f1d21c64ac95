"""Sample sizes, detectable effects and simulated power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import TTestIndPower, TTestPower

from emotion_circuits.errors import UsageError
from emotion_circuits.stats import (
    cluster_t,
    clustered_power,
    detectable_difference,
    intraclass_correlation,
    minimal_detectable_effect,
    prospective_power,
    required_n,
)


@pytest.mark.parametrize(("effect", "paired", "independent"), [(0.2, 199, 394), (0.3, 90, 176), (0.5, 34, 64)])
def test_textbook_sample_sizes(effect: float, paired: int, independent: int) -> None:
    assert required_n(effect) == paired
    assert required_n(-effect) == paired
    assert required_n(effect, design="independent") == independent


@given(st.floats(0.05, 0.8), st.integers(3, 100))
def test_power_equals_statsmodels(effect: float, n: int) -> None:
    # Beyond this range the power is 1 and statsmodels gives NaN.
    assert prospective_power(effect, n) == pytest.approx(float(TTestPower().power(effect, n, 0.05)), abs=1e-6)
    independent = float(TTestIndPower().power(effect, n, 0.05))
    assert prospective_power(effect, n, design="independent") == pytest.approx(independent, abs=1e-6)


@given(st.floats(0.1, 3), st.sampled_from([0.5, 0.8, 0.95]), st.sampled_from(["paired", "independent"]))
def test_required_n_is_the_smallest_that_reaches_the_power(effect: float, power: float, design) -> None:
    n = required_n(effect, power=power, design=design)
    assert prospective_power(effect, n, design=design) >= power - 1e-9
    if n > 2:
        assert prospective_power(effect, n - 1, design=design) < power


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_minimal_detectable_effect_has_the_stated_power(design) -> None:
    n = np.array([5, 20, 90, 400])
    effect = minimal_detectable_effect(n, design=design)
    np.testing.assert_allclose(prospective_power(effect, n, design=design), 0.8, atol=1e-3)


def test_detectable_difference_in_raw_units_does_not_use_the_effect() -> None:
    values = np.random.default_rng(0).normal(0, 2, size=50)
    none, huge = cluster_t(values), cluster_t(values + 100)
    assert detectable_difference(none.error, 50) == pytest.approx(float(detectable_difference(huge.error, 50)))
    per_sd = detectable_difference(none.error, 50) / values.std(ddof=1)
    assert per_sd == pytest.approx(float(minimal_detectable_effect(50)))


def test_tiny_effects_and_overwhelming_ones_have_an_n() -> None:
    assert required_n(10) == 3
    assert required_n(1e6) == 2
    assert required_n(0.01) == pytest.approx(78_490, abs=10)


def test_clusters_cost_sample_size() -> None:
    assert required_n(0.3, per_cluster=5, icc=0.3) == pytest.approx(90 * 2.2, abs=3)
    alone = clustered_power(0.4, clusters=20, per_cluster=5, icc=0.0)
    shared = clustered_power(0.4, clusters=20, per_cluster=5, icc=0.6)
    assert alone.power > shared.power + 5 * shared.error
    assert clustered_power(0.0, clusters=20, per_cluster=5, icc=0.3).power < 0.07


def test_intraclass_correlation_finds_what_was_planted() -> None:
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(400), 5)
    values = rng.normal(size=400)[codes] * np.sqrt(0.3) + rng.normal(size=2000) * np.sqrt(0.7)
    assert intraclass_correlation(values, codes) == pytest.approx(0.3, abs=0.05)
    assert intraclass_correlation(rng.normal(size=2000), codes) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: required_n(0), "no sample size"),
        (lambda: required_n(1e-9), "declare a larger effect"),
        (lambda: required_n(0.3, power=80), "between 0 and 1"),
        (lambda: required_n(0.3, icc=2), "impossible"),
        (lambda: required_n(0.3, design="crossed"), "design"),
        (lambda: prospective_power(0.3, 1), "at least 2"),
        (lambda: prospective_power(np.nan, 10), "NaN"),
        (lambda: clustered_power(0.3, clusters=1, per_cluster=5, icc=0.1), "at least 2"),
        (lambda: intraclass_correlation(np.arange(4.0), np.arange(4)), "within-cluster"),
        (lambda: intraclass_correlation(np.ones(4), [0, 0, 1, 1]), "zero variance"),
    ],
)
def test_misuse_raises_with_an_explanation(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_there_is_no_power_of_an_observed_effect() -> None:
    import emotion_circuits.stats as package

    assert not [name for name in package.__all__ if "post" in name or "observed_power" in name]

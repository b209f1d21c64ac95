"""Corrections within declared families."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from statsmodels.stats.multitest import multipletests

from emotion_circuits.errors import UsageError
from emotion_circuits.stats import adjust, adjust_families

PAIRS = {"bonferroni": "bonferroni", "holm": "holm", "bh": "fdr_bh", "by": "fdr_by"}


@given(npst.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)), st.sampled_from(sorted(PAIRS)))
def test_equals_statsmodels(p: np.ndarray, method: str) -> None:
    np.testing.assert_allclose(
        adjust(p, family="f", method=method).p, multipletests(p, method=PAIRS[method])[1], atol=1e-12
    )


def test_worked_holm_example() -> None:
    result = adjust([0.01, 0.04, 0.03, 0.005], family="four layers")
    np.testing.assert_allclose(result.p, [0.03, 0.06, 0.06, 0.02])
    assert result.rejected.tolist() == [True, False, False, True]
    assert (result.family, result.size) == ("four layers", 4)


def test_many_families_at_once_along_leading_axes() -> None:
    p = np.random.default_rng(0).random((5, 8))
    for method in PAIRS:
        whole = adjust(p, family="f", method=method).p
        np.testing.assert_allclose(whole[3], adjust(p[3], family="f", method=method).p)


def test_a_family_does_not_pay_for_another() -> None:
    p = [0.01, 0.5, 0.02, 0.6, 0.7]
    adjusted = adjust_families(p, ["a", "b", "a", "b", "b"], method="bonferroni")
    np.testing.assert_allclose(adjusted, [0.02, 1.0, 0.04, 1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adjust([0.01, 0.2]), "family of tests is not named"),
        (lambda: adjust([0.01, 0.2], family="  "), "family of tests is not named"),
        (lambda: adjust([0.01, np.nan], family="f"), "NaN"),
        (lambda: adjust([0.01, 3.0], family="f"), "outside"),
        (lambda: adjust([], family="f"), "at least one"),
        (lambda: adjust([0.1], family="f", method="sidak"), "correction"),
        (lambda: adjust_families([0.1, 0.2], ["a"]), "one family per"),
        (lambda: adjust_families([0.1, 0.2], ["a", None]), "not named"),
    ],
)
def test_misuse_raises_with_an_explanation(call, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert message in str(caught.value)

"""Means over prompts where some were not measured."""

from __future__ import annotations

import warnings

import numpy as np

from emotion_circuits.experiments._paired import mean_known


def test_means_leave_out_what_was_not_measured_and_say_nothing_of_empty_rows() -> None:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = mean_known(values, axis=1)
    assert found[0] == 2.0 and np.isnan(found[1])

"""Statistics that every claim goes through: effects, resampling, multiplicity, power and designs.

Numpy and scipy only: nothing here knows what a model is. One idea a file; the functions that a study needs
are re-exported here. Misuse (too few units, NaN, unpaired ids, an undeclared family, testing on the data that
selected a cell) raises :class:`~emotion_circuits.errors.UsageError` with what to do instead.
"""

from __future__ import annotations

from emotion_circuits.stats.bootstrap import (
    UnclearDenominatorError,
    bootstrap_interval,
    bootstrap_t_interval,
    ratio_interval,
    two_way_interval,
)
from emotion_circuits.stats.cluster_t import cluster_t
from emotion_circuits.stats.crossed import crossed_interval
from emotion_circuits.stats.discrimination import auroc, auroc_interval, auroc_max_test, delong_interval
from emotion_circuits.stats.dose_response import dose_response, odd_even_slopes, page_trend, prompt_slopes
from emotion_circuits.stats.effects import independent_effect, paired_effect, share_positive, standardised_mean
from emotion_circuits.stats.equivalence import equivalence_test, intersection_union
from emotion_circuits.stats.interval import Interval
from emotion_circuits.stats.k_selection import select_k
from emotion_circuits.stats.multiplicity import adjust, adjust_families
from emotion_circuits.stats.permutation import max_statistic_p, permutation_p
from emotion_circuits.stats.power import (
    clustered_power,
    detectable_difference,
    intraclass_correlation,
    minimal_detectable_effect,
    prospective_power,
    required_n,
)
from emotion_circuits.stats.random_controls import random_control_test, required_controls
from emotion_circuits.stats.rates import independent_rates, paired_rates
from emotion_circuits.stats.selection import select_best, select_plateau_middle
from emotion_circuits.stats.sign_flip import sign_flip_test, two_group_test

__all__ = [
    "UnclearDenominatorError",
    "Interval",
    "adjust",
    "adjust_families",
    "auroc",
    "auroc_interval",
    "auroc_max_test",
    "bootstrap_interval",
    "bootstrap_t_interval",
    "cluster_t",
    "clustered_power",
    "crossed_interval",
    "delong_interval",
    "detectable_difference",
    "dose_response",
    "equivalence_test",
    "independent_effect",
    "independent_rates",
    "intersection_union",
    "intraclass_correlation",
    "max_statistic_p",
    "minimal_detectable_effect",
    "odd_even_slopes",
    "page_trend",
    "paired_effect",
    "paired_rates",
    "permutation_p",
    "prompt_slopes",
    "prospective_power",
    "random_control_test",
    "ratio_interval",
    "required_controls",
    "required_n",
    "select_best",
    "select_k",
    "select_plateau_middle",
    "share_positive",
    "sign_flip_test",
    "standardised_mean",
    "two_group_test",
    "two_way_interval",
]

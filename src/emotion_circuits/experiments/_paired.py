"""Means and paired differences over prompts, as rows of a table: what several experiments report per arm and scorer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emotion_circuits.types import Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.stats import Interval

FEWEST = 3
"""Prompts below which no interval is computed."""
MANY = 50
"""Clusters from which on the mean's interval is a bootstrap; below it is a cluster t interval."""


class MeanInterval(Protocol):
    """The interval of a mean over units in clusters; ``resamples`` and ``seed`` are a bootstrap's."""

    def __call__(
        self, values: NDArray[np.float64], clusters: NDArray[Any], /, *, resamples: int, seed: int
    ) -> Interval: ...


def mean_interval(values: NDArray[np.float64], clusters: NDArray[Any], /, *, resamples: int, seed: int) -> Interval:
    """Cluster t below ``MANY`` clusters, where a bootstrap covers too little; a cluster bootstrap from there on."""
    import numpy as np

    from emotion_circuits.stats import bootstrap_interval, cluster_t

    if len(np.unique(clusters)) < MANY:
        return cluster_t(values, clusters).mean
    return bootstrap_interval(values, clusters, resamples=resamples, seed=seed)


def paired_row(
    difference: NDArray[np.float64],
    prompts: Sequence[Prompt],
    *,
    resamples: int,
    permutations: int,
    seed: int,
    interval: MeanInterval = mean_interval,
) -> dict[str, Any]:
    """``n, mean_diff, ci, g_z, g_z_ci, t, p, p_permutation`` of ``[prompt]`` differences; NaN entries are left out.

    Interval of the mean: ``interval``; t and p: cluster-robust t test; g_z: :func:`standardised_mean`. None where too
    few prompts are left or nothing varies.
    """
    import numpy as np

    from emotion_circuits.stats import cluster_t, sign_flip_test, standardised_mean

    known = np.isfinite(difference)
    values = difference[known]
    clusters = np.array([p.scenario or p.id for p in prompts])[known]
    row: dict[str, Any] = {
        "n": len(values), "mean_diff": float(values.mean()) if len(values) else None, "ci": None, "g_z": None,
        "g_z_ci": None, "t": None, "p": None, "p_permutation": None,
    }  # fmt: skip
    if len(np.unique(clusters)) < FEWEST or np.ptp(values) == 0:
        return row
    mean = interval(values, clusters, resamples=resamples, seed=seed)
    size = standardised_mean(values, clusters, seed=seed)
    test = cluster_t(values, clusters)
    flips = sign_flip_test(values, clusters, permutations=permutations, seed=seed)
    return row | {
        "ci": [float(mean.low), float(mean.high)], "g_z": float(size.estimate),
        "g_z_ci": [float(size.low), float(size.high)], "t": float(test.t), "p": float(test.p),
        "p_permutation": float(flips.p),
    }  # fmt: skip


def mean_over_prompts(values: NDArray[np.float64] | None, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """``effect``, ``ci`` and ``p`` of the mean over prompts; all None where nothing was measured or nothing varies."""
    import numpy as np

    from emotion_circuits.stats import cluster_t

    if values is None or len(values) < 2:
        return {"effect": None, "ci": None, "p": None}
    if np.ptp(values) == 0:
        return {"effect": float(values[0]), "ci": None, "p": None}
    test = cluster_t(values, [p.scenario or p.id for p in prompts])
    return {
        "effect": float(test.mean.estimate), "ci": [float(test.mean.low), float(test.mean.high)], "p": float(test.p),
    }  # fmt: skip


def mean_known(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean over ``axis`` of what was measured; NaN where nothing was."""
    import numpy as np

    known = np.isfinite(values)
    count, total = known.sum(axis=axis), np.where(known, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def t_of_mean(values: NDArray[np.float64], prompts: Sequence[Prompt]) -> float:
    """Cluster-robust t of the mean of ``[prompt]`` values; 0 where nothing varies."""
    import numpy as np

    from emotion_circuits.stats import cluster_t

    return 0.0 if np.ptp(values) == 0 else float(cluster_t(values, [p.scenario or p.id for p in prompts]).t)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV text; an interval becomes two columns."""
    import pandas as pd

    table = pd.DataFrame(rows)
    for name in [c for c in table.columns if c.endswith("ci")]:
        limits = [v if isinstance(v, list) else (None, None) for v in table.pop(name)]
        table[f"{name}_low"], table[f"{name}_high"] = [v[0] for v in limits], [v[1] for v in limits]
    return str(table.to_csv(index=False, lineterminator="\n"))

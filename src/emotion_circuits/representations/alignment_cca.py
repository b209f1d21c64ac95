"""Canonical correlation analysis, refused where it can only overfit.

With fewer rows than about ten times the dimensions that enter, canonical correlations are near 1 for independent data;
with n ≤ d they are exactly 1 (Raghu et al. 2017 reduce by PCA for that reason). So n ≥ 10 × components is required.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment_scaling import fit_scaling, principal_components
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.stats.checks import finite

ROWS_PER_COMPONENT = 10


@dataclass(frozen=True)
class CanonicalCorrelations:
    """``correlations`` ``[c]``, descending, of the reduced sides; ``components`` entered per side."""

    correlations: FloatArray
    components: int
    n: int


def canonical_correlations(
    source: ArrayLike, target: ArrayLike, components: int | None = None, *, penalty: float = 1e-3
) -> CanonicalCorrelations:
    """Regularised CCA (Vinod 1976) of paired rows, each side reduced to ``components`` principal components.

    Without ``components`` the raw dimensions enter (the smaller width counts). ``penalty`` is added to the unit
    variances of the component scores.

    Raises:
        UsageError: n < 10 × components, hence always for raw dimensions with n ≤ d.
    """
    a, b = finite(source, "the source rows"), finite(target, "the target rows")
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise UsageError(f"rows have shapes {a.shape} and {b.shape}", "give paired rows [n, d_a] and [n, d_b]")
    entering = min(a.shape[1], b.shape[1]) if components is None else components
    require_rows(len(a), entering)
    scores = []
    for rows in (a, b):
        z = fit_scaling(rows).standardise(rows)
        basis, singular = principal_components(z, entering)
        scores.append(z @ basis / singular)
    values = np.linalg.svd(scores[0].T @ scores[1], compute_uv=False) / (1 + penalty)
    return CanonicalCorrelations(np.asarray(values, dtype=np.float64), entering, len(a))


def fit_cca_weights(features: FloatArray, z_target: FloatArray, *, penalty: float = 1e-3) -> FloatArray:
    """Weights ``[r, d_b]`` that predict each canonical variate of the target by its partner's correlation."""
    r = features.shape[1]
    require_rows(len(features), r)
    columns, singular = principal_components(z_target, r)
    left = features / np.linalg.norm(features, axis=0)
    right = z_target @ columns / singular
    u, values, v = linalg.svd(left.T @ right, full_matrices=False)
    inner = (u * (values / (1 + penalty))) @ v
    return np.asarray((inner * singular) @ columns.T / np.linalg.norm(features, axis=0)[:, None])


def require_rows(n: int, components: int) -> None:
    """Raise unless there are ten rows per component."""
    if n < ROWS_PER_COMPONENT * components:
        raise UsageError(
            f"CCA of {components} components from {n} rows: it would find correlations in independent noise",
            f"give at least {ROWS_PER_COMPONENT * components} rows, or at most {n // ROWS_PER_COMPONENT} components",
        )

"""Choosing a layer on dev without chasing noise: the middle of the plateau."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.selection import plateau

EXCLUDED_LAST = 2
"""The last layers turn representations into next-token predictions; they are never chosen."""


def auroc_standard_error(auroc: NDArray[np.float64], n_positive: int, n_negative: int) -> NDArray[np.float64]:
    """Hanley & McNeil's (1982) standard error of an AUROC, with a perfect one moved half a pair away from 1.

    A bootstrap gives 0 for a perfect separation, which would make a plateau out of ties only.
    """
    edge = 0.5 / (n_positive * n_negative)
    a = np.clip(auroc, edge, 1 - edge)
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    variance = a * (1 - a) + (n_positive - 1) * (q1 - a**2) + (n_negative - 1) * (q2 - a**2)
    return np.asarray(np.sqrt(variance / (n_positive * n_negative)))


def plateau_middle(
    values: NDArray[np.float64], errors: NDArray[np.float64], layers: tuple[int, ...], depth: int
) -> int:
    """The middle layer of the unbroken run around the best layer that lies within one standard error of it.

    The run must hold the best layer: a longer one elsewhere is no evidence against it. The same rule as
    :func:`~emotion_circuits.stats.selection.select_plateau_middle`, for scores that are not means over clusters.

    Args:
        values, errors: ``[layer]`` dev score and its standard error. layers: their numbers. depth: layers in the model;
            its last two are left out (unless nothing else was captured).

    Returns:
        A layer number; the earlier of two middles.
    """
    if len(values) == 0 or not np.isfinite(values).all():
        raise UsageError("no finite dev scores to choose a layer from", "capture more layers or more dev texts")
    allowed = [i for i, layer in enumerate(layers) if layer < depth - EXCLUDED_LAST] or list(range(len(layers)))
    first, _, last = plateau(values[allowed], errors[allowed])
    return layers[allowed[(first + last) // 2]]

"""Earlier formulas for shared emotion subspaces, as an oracle of what goes wrong: they find the same in random numbers.

``scripts/earlier_claims.py`` writes the page that puts them beside what is reported here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.principal_angles import overlap
from emotion_circuits.representations.subspaces import span

SEED = 20260


def training_set_overlap(x: FloatArray, y: FloatArray, ks: Sequence[int]) -> list[float]:
    """Overlap of the k leading components of ``x`` after least squares ``x`` → ``y`` with those of ``y``, for every k.

    ``x`` ``[text, d_a]``, ``y`` ``[text, d_b]``. The map is fitted on the very rows that it is judged on: with fewer
    texts than ``d_a`` it reproduces ``y`` exactly, whatever ``x`` is.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    mapped = x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return [float(overlap(span(mapped, k), span(y, k)).value) for k in ks]


def raw_overlap(x: FloatArray, y: FloatArray, k: int) -> float:
    """Overlap of the k leading components of both, in coordinates that have nothing to do with each other."""
    return float(overlap(span(x - x.mean(axis=0), k), span(y - y.mean(axis=0), k)).value)


def independent_models(simulations: int, ks: Sequence[int], d: int = 768, n: int = 70) -> tuple[float, list[float]]:
    """Mean overlap of independent Gaussian rows: raw (for the first k), and after least squares for every k."""
    before, after = [], []
    for run in range(simulations):
        rng = np.random.default_rng(SEED + run)
        x, y = rng.normal(size=(n, d)), rng.normal(size=(n, d))
        before.append(raw_overlap(x, y, ks[0]))
        after.append(training_set_overlap(x, y, ks))
    return float(np.mean(before)), np.mean(after, axis=0).tolist()


def massive_dimensions(simulations: int, d: int = 768, k: int = 10, massive: int = 3) -> float:
    """Raw overlap of independent models that have a few massive dimensions in the same places."""
    values = []
    for run in range(simulations):
        rng = np.random.default_rng(SEED + 1000 + run)
        scale = np.ones(d)
        scale[:massive] = 60.0
        values.append(raw_overlap(rng.normal(size=(70, d)) * scale, rng.normal(size=(70, d)) * scale, k))
    return float(np.mean(values))


def overlap_by_width(simulations: int, widths: Sequence[int], k: int, d: int = 768, n: int = 70) -> list[float]:
    """Mean overlap after least squares of one source with independent targets of several widths."""
    found = []
    for run in range(simulations):
        rng = np.random.default_rng(SEED + 2000 + run)
        x = rng.normal(size=(n, d))
        found.append([training_set_overlap(x, rng.normal(size=(n, width)), [k])[0] for width in widths])
    return [float(value) for value in np.mean(found, axis=0)]

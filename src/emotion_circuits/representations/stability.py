"""How much a direction depends on which scenarios happened to be written: cosine across scenario resamples."""

from __future__ import annotations

import numpy as np

from emotion_circuits.representations.directions import extract_directions
from emotion_circuits.representations.labelled import FloatArray, Labelled
from emotion_circuits.stats.interval import Interval


def direction_stability(
    data: Labelled, emotions: tuple[str, ...], *, resamples: int = 100, seed: int = 0
) -> dict[str, Interval]:
    """Cosine between the directions of two random halves of the scenarios, per emotion and layer.

    Halves, not bootstrap copies: two bootstrap samples share most of their texts, which inflates the cosine.

    Returns:
        ``{emotion: Interval}`` with ``[layer]`` arrays: mean cosine over the random halves, and the 2.5-97.5 % range.
    """
    scenarios = np.unique(data.scenarios)
    rng = np.random.default_rng(seed)
    cosines: dict[str, list[FloatArray]] = {e: [] for e in emotions}
    for _ in range(resamples):
        chosen = rng.permutation(scenarios)[: len(scenarios) // 2]
        inside = np.isin(data.scenarios, chosen)
        halves = [extract_directions(data.select(part), emotions).vectors["neutral"] for part in (inside, ~inside)]
        for e in emotions:
            a, b = halves[0][e], halves[1][e]
            size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            cosines[e].append(np.einsum("ld,ld->l", a, b) / np.maximum(size, 1e-30))
    out = {}
    for e, values in cosines.items():
        stacked = np.stack(values)
        low, high = np.quantile(stacked, (0.025, 0.975), axis=0)
        out[e] = Interval(stacked.mean(0), low, high, 0.95, "split halves", len(data.labels), len(scenarios))
    return out

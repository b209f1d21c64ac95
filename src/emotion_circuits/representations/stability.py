"""How much a direction depends on which scenarios happened to be written: cosine across scenario resamples."""

from __future__ import annotations

import numpy as np

from emotion_circuits.representations.directions import mean_difference
from emotion_circuits.representations.labelled import FloatArray, Labelled
from emotion_circuits.stats.interval import Interval


def direction_stability(
    data: Labelled, emotions: tuple[str, ...], *, resamples: int = 100, seed: int = 0
) -> dict[str, Interval]:
    """Cosine between the directions of two random halves of the scenarios, per emotion and layer.

    Halves, not bootstrap copies: two bootstrap samples share most of their texts, which inflates the cosine.

    Where scenarios hold one label only, a half may lack an emotion or its neutral texts: it says nothing about that
    emotion and does not count.

    Returns:
        ``{emotion: Interval}`` with ``[layer]`` arrays: mean cosine over the random halves, and the 2.5-97.5 % range;
        NaN for an emotion of which no pair of halves held texts.
    """
    scenarios = np.unique(data.scenarios)
    rng = np.random.default_rng(seed)
    cosines: dict[str, list[FloatArray]] = {e: [] for e in emotions}
    for _ in range(resamples):
        chosen = rng.permutation(scenarios)[: len(scenarios) // 2]
        inside = np.isin(data.scenarios, chosen)
        halves = [data.select(part) for part in (inside, ~inside)]
        for e in emotions:
            if not all(half.of(e).any() and half.neutral_for(e).any() for half in halves):
                continue
            a, b = (mean_difference(half, e) for half in halves)
            size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            cosines[e].append(np.einsum("ld,ld->l", a, b) / np.maximum(size, 1e-30))
    out = {}
    for e, values in cosines.items():
        stacked = np.stack(values) if values else np.full((1, len(data.layers)), np.nan)
        low, high = np.quantile(stacked, (0.025, 0.975), axis=0)
        out[e] = Interval(stacked.mean(0), low, high, 0.95, "split halves", len(data.labels), len(scenarios))
    return out

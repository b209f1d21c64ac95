"""Synthetic activations with known emotion directions, as the analyses take them: no model behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.representations import Labelled

EMOTIONS = ("gratitude", "anger", "joy")
SPLITS = np.array(["fit"] * 5 + ["dev"] * 2 + ["test"] * 3)


@dataclass(frozen=True)
class World:
    """``vectors[e]`` was added to the texts of emotion e (``shared`` not included)."""

    data: Labelled
    vectors: NDArray[np.float64]


def orthonormal(k: int, d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``[k, d]`` random orthonormal rows."""
    return np.asarray(np.linalg.qr(rng.normal(size=(d, k)))[0].T)


def world(
    scenarios: int = 70,
    *,
    strength: float = 2.0,
    shared: float = 0.0,
    noise: float = 1.0,
    massive: float = 0.0,
    layers: tuple[int, ...] = (0, 1, 2),
    strengths: tuple[float, ...] | None = None,
    d: int = 32,
    paired: bool = True,
    twins: bool = False,
    seed: int = 0,
) -> World:
    """Every scenario once per emotion and once neutrally: scenario content + emotion + noise.

    ``shared`` is added along one direction to all emotional texts; ``massive`` is the SD of two dimensions that know
    nothing of emotion; ``strengths`` replaces ``strength`` layer by layer; ``twins`` adds neutral texts read at each
    emotion's place.
    """
    rng = np.random.default_rng(seed)
    basis = orthonormal(len(EMOTIONS) + 1, d - 2, rng)
    vectors = np.pad(basis[:-1], ((0, 0), (0, 2))) * strength
    common = np.pad(basis[-1], (0, 2)) * shared
    factors = np.array([s / strength for s in strengths] if strengths else [1.0] * len(layers))
    labels, groups, matched = [], [], []
    rows = []
    content = rng.normal(size=(scenarios, len(layers), d))
    for s in range(scenarios):
        cells = [("neutral", "")] + [(e, "") for e in EMOTIONS]
        cells += [("neutral", e) for e in EMOTIONS] if twins else []
        for label, twin in cells:
            x = content[s] + noise * rng.normal(size=(len(layers), d))
            x[:, -2:] += massive * rng.normal(size=(len(layers), 2))
            if label != "neutral":
                x += factors[:, None] * (vectors[EMOTIONS.index(label)] + common)
            rows.append(x)
            labels.append(label)
            matched.append(twin)
            groups.append(s)
    n = len(rows)
    splits = SPLITS[np.array(groups) % 10]
    names = [f"s{g:03d}" if paired else f"text:{i}" for i, g in enumerate(groups)]
    data = Labelled(
        x=np.stack(rows), ids=np.array([f"t{i}" for i in range(n)]), labels=np.array(labels),
        scenarios=np.array(names), splits=splits, strata=np.array(["none"] * n), matched=np.array(matched),
        layers=layers,
    )  # fmt: skip
    return World(data, vectors)

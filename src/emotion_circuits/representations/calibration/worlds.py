"""Two "models" whose truth is known, as arrays: what is common to them is planted, not learnt.

:func:`linear_world`: a model is random orthonormal rows Q ``[q, d]`` of content directions with scales 10/√j, a mean
with three massive dimensions and noise; a prompt is Gaussian content c and its activation mean + (c · s) Q + noise.
Emotion i adds 6 × a unit vector w_i to the content.

:func:`layered_world` is another generator, with what the first one lacks: heavy-tailed content, a spectrum that falls
exponentially, unequal widths, noise that differs by dimension, scenario effects, and a mild non-linearity.

``relation``: ``shared`` (the same w_i in both models), ``content`` (content is common, the emotions are drawn anew in
the target), ``nothing`` (content is drawn anew as well).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_arrays import EmotionArrays

Relation = Literal["shared", "content", "nothing"]


@dataclass(frozen=True)
class PlantedPair:
    """Emotional texts and neutral map rows of both models; ``vectors`` ``[emotion, q]`` were planted in the source."""

    source: EmotionArrays
    target: EmotionArrays
    map_source: FloatArray
    map_target: FloatArray
    vectors: FloatArray


@dataclass(frozen=True)
class _Model:
    mean: FloatArray
    rows: FloatArray
    noise: FloatArray
    bend: float

    def activations(self, content: FloatArray, rng: np.random.Generator) -> FloatArray:
        x = content @ self.rows
        x = x + self.bend * np.tanh(x)
        return np.asarray(self.mean + x + self.noise * rng.normal(size=(len(content), len(self.mean))))


def linear_world(
    relation: Relation,
    *,
    n: int,
    emotions: int = 6,
    scenarios: int = 40,
    q: int = 200,
    widths: tuple[int, int] = (768, 768),
    strength: float = 6.0,
    noise: float = 0.3,
    seed: int = 0,
) -> PlantedPair:
    """Matched scenarios (each written once per emotion) and ``n`` neutral texts in two linear models."""
    rng = np.random.default_rng(seed)
    scales = 10 / np.sqrt(np.arange(1, q + 1))
    models = []
    for d in widths:
        mean = np.zeros(d)
        mean[rng.choice(d, 3, replace=False)] = 60.0
        rows = np.linalg.qr(rng.normal(size=(d, q)))[0].T * scales[:, None]
        models.append(_Model(mean, rows, np.full(d, noise), 0.0))

    def content(count: int) -> FloatArray:
        return rng.normal(size=(count, q))

    return _pair(relation, models, content, n, emotions, scenarios, q, strength, 0.0, rng)


def layered_world(
    relation: Relation,
    *,
    n: int,
    emotions: int = 6,
    scenarios: int = 40,
    q: int = 80,
    widths: tuple[int, int] = (160, 224),
    strength: float = 4.0,
    seed: int = 0,
) -> PlantedPair:
    """As :func:`linear_world`, with heavy tails, other spectra, unequal widths, scenario effects and a bend."""
    rng = np.random.default_rng(seed)
    models = []
    for d, decay in zip(widths, (25.0, 40.0), strict=True):
        mean = rng.normal(size=d) * np.where(rng.random(d) < 0.02, 200.0, 1.0)
        rows = rng.normal(size=(q, d)) / np.sqrt(d) * (8 * np.exp(-np.arange(q) / decay) + 0.5)[:, None]
        models.append(_Model(mean, rows, rng.gamma(2.0, 0.05, size=d), 0.3))

    def content(count: int) -> FloatArray:
        return np.asarray(rng.standard_t(5, size=(count, q)) * np.sqrt(3 / 5))

    return _pair(relation, models, content, n, emotions, scenarios, q, strength, 0.5, rng)


def _pair(
    relation: Relation,
    models: list[_Model],
    content: Callable[[int], FloatArray],
    n: int,
    emotions: int,
    scenarios: int,
    q: int,
    strength: float,
    scenario_share: float,
    rng: np.random.Generator,
) -> PlantedPair:
    codes = np.tile(np.arange(emotions), scenarios)
    groups = np.repeat(np.arange(scenarios), emotions)
    vectors = _units(emotions, q, rng)
    theirs = vectors if relation == "shared" else _units(emotions, q, rng)
    neutral, texts = content(n), content(len(codes))
    texts = np.sqrt(1 - scenario_share) * texts + np.sqrt(scenario_share) * content(scenarios)[groups]
    other_neutral, other_texts = neutral, texts
    if relation == "nothing":
        other_neutral, other_texts = content(n), content(len(codes))
    labels = np.array([f"emotion-{i}" for i in range(emotions)])[codes]
    clusters = np.array([f"s{g:03d}" for g in groups])
    splits = np.where(groups % 2 == 0, "fit", "test")
    sides = []
    for model, own_texts, own_neutral, own in (
        (models[0], texts, neutral, vectors),
        (models[1], other_texts, other_neutral, theirs),
    ):
        x = model.activations(own_texts + strength * own[codes], rng)
        sides.append((EmotionArrays(x, labels, clusters, splits), model.activations(own_neutral, rng)))
    return PlantedPair(sides[0][0], sides[1][0], sides[0][1], sides[1][1], vectors)


def _units(count: int, q: int, rng: np.random.Generator) -> NDArray[np.float64]:
    rows = rng.normal(size=(count, q))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def layer_stack(
    layers: int, *, n: int = 60, emotions: int = 6, scenarios: int = 16, q: int = 24, d: int = 32, seed: int = 0
) -> tuple[list[EmotionArrays], list[EmotionArrays], list[FloatArray], list[FloatArray]]:
    """Two models of several layers that share content but no emotion, for searches over layer pairs.

    Every layer weights the content anew and plants its own emotion vectors, so that the pairs are many tests.
    """
    rng = np.random.default_rng(seed)
    codes = np.tile(np.arange(emotions), scenarios)
    groups = np.repeat(np.arange(scenarios), emotions)
    neutral, texts = rng.normal(size=(n, q)), rng.normal(size=(len(codes), q))
    labels = np.array([f"emotion-{i}" for i in range(emotions)])[codes]
    splits = np.where(groups % 2 == 0, "fit", "test")
    clusters = np.array([f"s{g:03d}" for g in groups])
    sides: list[list[EmotionArrays]] = [[], []]
    maps: list[list[FloatArray]] = [[], []]
    for side in range(2):
        for _ in range(layers):
            scales = np.exp(0.5 * rng.normal(size=q))
            rows = np.linalg.qr(rng.normal(size=(d, q)))[0].T * scales[:, None]
            model = _Model(np.zeros(d), rows, np.full(d, 0.3), 0.0)
            x = model.activations(texts + 4.0 * _units(emotions, q, rng)[codes], rng)
            sides[side].append(EmotionArrays(x, labels, clusters, splits))
            maps[side].append(model.activations(neutral, rng))
    return sides[0], sides[1], maps[0], maps[1]

"""Random directions that a steering vector has to beat.

Three families, each drawn as unit vectors and given the tested vector's length by the caller:

- ``isotropic``: uniform on the sphere. A straw man alone: the residual stream hardly varies along most directions.
- ``covariance``: Gaussian with the covariance of neutral activations, so that it points where text does vary.
- ``shuffled``: the mean difference itself, refitted on labels that were permuted within scenarios.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.representations.labelled import Labelled
from emotion_circuits.stats.permutation import exchangeable_units

Family = Literal["isotropic", "covariance", "shuffled"]
FAMILIES: tuple[Family, ...] = get_args(Family)

Vectors = Float[np.ndarray[Any, Any], "vector d"]


def random_directions(
    family: Family, count: int, *, neutral: NDArray[Any], fit: Labelled, emotion: str, layer_row: int, seed: int
) -> Vectors:
    """``count`` unit vectors of one family at one layer.

    Args:
        neutral: ``[text, d]`` neutral activations at the layer, whose covariance is matched.
        fit: labelled texts that the tested direction was fitted on. layer_row: the layer's index in ``fit``.
    """
    if count < 1:
        raise UsageError(f"cannot draw {count} random vectors", "ask for at least 1")
    rng = np.random.default_rng([seed, FAMILIES.index(family) if family in FAMILIES else 0, layer_row])
    if family == "isotropic":
        return isotropic(count, neutral.shape[-1], rng)
    if family == "covariance":
        return covariance_matched(count, neutral, rng)
    if family == "shuffled":
        return label_shuffled(count, fit, emotion, layer_row, rng)
    raise unknown_name("random family", family, list(FAMILIES))


def isotropic(count: int, d: int, rng: np.random.Generator) -> Vectors:
    """Uniform on the unit sphere in ``d`` dimensions."""
    return _unit(rng.normal(size=(count, d)))


def covariance_matched(count: int, neutral: NDArray[Any], rng: np.random.Generator) -> Vectors:
    """Directions of draws from N(0, Σ), Σ the covariance of ``neutral`` ``[text, d]``.

    Mixing the centred rows with Gaussian weights has exactly that covariance and needs no factorisation.
    """
    rows = np.asarray(neutral, dtype=np.float64)
    if len(rows) < 2:
        raise UsageError("a covariance needs at least 2 neutral texts", "add neutral texts")
    return _unit(rng.normal(size=(count, len(rows))) @ (rows - rows.mean(axis=0)))


def label_shuffled(count: int, fit: Labelled, emotion: str, layer_row: int, rng: np.random.Generator) -> Vectors:
    """mean(emotion) − mean(neutral) at one layer after permuting the two labels within scenarios.

    Scenarios of one label change places as wholes (``stats.permutation.exchangeable_units``). A permutation that gives
    the true labels or their mirror image in every scenario is drawn anew.
    """
    used = fit.of(emotion) | fit.neutral_for(emotion)
    x = np.asarray(fit.x[used][:, layer_row], dtype=np.float64)
    label = fit.of(emotion)[used]
    unit, group = exchangeable_units(label, np.unique(fit.scenarios[used], return_inverse=True)[1])
    own = label[np.unique(unit, return_index=True)[1]]
    groups = [np.flatnonzero(group == g) for g in np.unique(group)]
    groups = [g for g in groups if 0 < own[g].sum() < len(g)]
    drawn = [_permuted(own, groups, rng)[unit] for _ in range(count)]
    weights = np.stack([d / d.sum() - ~d / (~d).sum() for d in drawn])
    return _unit(weights @ x)


def _permuted(label: NDArray[np.bool_], groups: list[NDArray[np.intp]], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Labels ``[unit]`` that changed places inside the groups."""
    for _ in range(100):
        drawn = label.copy()
        for g in groups:
            drawn[g] = rng.permutation(label[g])
        moved = (drawn != label).sum()
        if 0 < moved < 2 * min(label.sum(), (~label).sum()):
            return drawn
    raise UsageError("the labels of so few texts cannot be shuffled", "fit directions on more scenarios")


def _unit(vectors: NDArray[Any]) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30))

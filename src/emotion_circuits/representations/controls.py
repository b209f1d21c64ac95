"""Random directions that a steering vector has to beat.

Three families, each drawn as unit vectors and given the tested vector's length by the caller:

- ``isotropic``: uniform on the sphere. A straw man alone: the residual stream hardly varies along most directions.
- ``covariance``: Gaussian with the covariance of neutral activations, so that it points where text does vary.
- ``shuffled``: the mean difference itself, refitted on labels that were permuted within scenarios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, prod
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

    Raises:
        UsageError: the labels have fewer than ``count`` other arrangements. A rank among copies of a few vectors would
            claim a smaller p than those few can give.
    """
    used = fit.of(emotion) | fit.neutral_for(emotion)
    x = np.asarray(fit.x[used][:, layer_row], dtype=np.float64)
    shuffling = Shuffling.of(fit.of(emotion)[used], np.unique(fit.scenarios[used], return_inverse=True)[1])
    if shuffling.others < count:
        raise UsageError(
            f"the labels of so few texts cannot be shuffled into {count} vectors: those of {emotion!r} have "
            f"{shuffling.others} other arrangements",
            f"fit directions on more scenarios{f', or ask for {shuffling.others} or fewer' * (shuffling.others > 0)}",
        )
    drawn = [shuffling.draw(rng) for _ in range(count)]
    weights = np.stack([d / d.sum() - ~d / (~d).sum() for d in drawn])
    return _unit(weights @ x)


@dataclass(frozen=True)
class Shuffling:
    """How two labels may change places.

    Args:
        own: ``[unit]`` labels. unit: ``[text]`` the unit of each text. groups: the units that change places with each
            other; units in none of them keep their label.
    """

    own: NDArray[np.bool_]
    unit: NDArray[np.intp]
    groups: Sequence[NDArray[np.intp]]

    @classmethod
    def of(cls, label: NDArray[np.bool_], codes: NDArray[np.intp]) -> Shuffling:
        """Of texts with these labels ``[text]`` in these clusters ``[text]`` (0 … G - 1, every one in use)."""
        unit, group = exchangeable_units(label, codes)
        own = label[np.unique(unit, return_index=True)[1]]
        groups = [np.flatnonzero(group == g) for g in np.unique(group)]
        return cls(own, unit, [g for g in groups if 0 < own[g].sum() < len(g)])

    @property
    def mirrored(self) -> bool:
        """Whether an arrangement is the mirror image of the true one: every group holds as many of either label."""
        return all(2 * self.own[g].sum() == len(g) for g in self.groups)

    @property
    def others(self) -> int:
        """Number of arrangements that are neither the true one nor its mirror image."""
        every = prod(comb(len(g), int(self.own[g].sum())) for g in self.groups)
        return every - (2 if self.groups and self.mirrored else 1)

    def draw(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """``[text]``: one of the :attr:`others` (there must be one), each as likely."""
        free = sum(map(len, self.groups))
        while True:
            drawn = self.own.copy()
            for g in self.groups:
                drawn[g] = rng.permutation(self.own[g])
            # All that can move has moved in the mirror image alone: elsewhere a group has too few of one label.
            if 0 < (drawn != self.own).sum() < free:
                return drawn[self.unit]


def _unit(vectors: NDArray[Any]) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30))

"""Emotion directions: differences of class means, in the model's own coordinates, and the probes that read them.

Two methods, both from the ``fit`` split only:

- ``neutral``: mean(emotion) − mean(neutral); what steering adds (Turner et al. 2023; Rimsky et al. 2024).
- ``centred``: mean over texts of (activation − mean of the emotions of its scenario); removes what all emotional text
  shares, so that it tells *which* emotion.

A direction v is scored on a text x as ``(x − mean) · v / sd²`` with mean and SD of neutral text per dimension: residual
streams have a few dimensions with a norm of 10² to 10⁴ that would otherwise decide every score (a linear discriminant
with a diagonal covariance; Fisher 1936).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.representations.labelled import FloatArray, Labelled
from emotion_circuits.representations.steering import unit_vector
from emotion_circuits.types import NEUTRAL, Direction, Positions, Site, SiteKind

Method = Literal["neutral", "centred"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class DirectionSet:
    """The directions of one model at one site kind and position, for every layer.

    ``vectors[method][emotion]`` is ``[layer, d]``; ``neutral_mean`` and ``neutral_sd`` are ``[layer, d]``;
    ``residual_norm`` ``[layer]`` is the mean norm of the activations the directions were fitted on. ``components``
    principal components of neutral text were projected out of the vectors (0: none). ``neutral()`` gives the neutral
    texts that the directions were fitted on, ``[text, layer, d]``; it may read them from disk.
    """

    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    vectors: Mapping[Method, Mapping[str, FloatArray]]
    neutral_mean: FloatArray
    neutral_sd: FloatArray
    residual_norm: FloatArray
    components: int = 0
    neutral: Callable[[], NDArray[Any]] | None = None

    def probe(self, method: Method, emotion: str) -> Float[np.ndarray[Any, Any], "layer d"]:
        """The linear functional that scores a direction: v / sd²."""
        if emotion not in self.emotions:
            raise unknown_name("emotion", emotion, list(self.emotions))
        return self.vectors[method][emotion] / self.neutral_sd**2

    def scores(self, x: NDArray[Any], method: Method, emotion: str) -> Float[np.ndarray[Any, Any], "layer text"]:
        """Scores of texts ``[text, layer, d]``: ``(x − mean) · v / sd²`` per layer."""
        probe = self.probe(method, emotion)
        offset = np.einsum("ld,ld->l", self.neutral_mean, probe)
        return np.asarray(np.einsum("tld,ld->lt", x, probe, optimize=True) - offset[:, None], dtype=np.float64)

    def row(self, layer: int) -> int:
        """The index of a layer number in the arrays; raises when it was not captured."""
        if layer not in self.layers:
            raise UsageError(f"layer {layer} was not captured", f"choose one of {', '.join(map(str, self.layers))}")
        return self.layers.index(layer)

    def direction(
        self, emotion: str, layer: int, model: str, kind: SiteKind, position: Positions, method: Method = "neutral"
    ) -> Direction:
        """One direction with the units that interventions are expressed in."""
        row = self.row(layer)
        vector = self.vectors[method][emotion][row]
        return Direction(
            emotion=emotion, site=Site(kind, layer), position=position, method=method, vector=vector, model=model,
            residual_norm=float(self.residual_norm[row]),
            neutral_sd=lambda: self.neutral_spread(layer, unit_vector(vector)),
        )  # fmt: skip

    def neutral_spread(self, layer: int, functional: FloatArray) -> float:
        """Standard deviation (n − 1) of ``x · functional`` over the neutral texts of the fit; ``functional`` ``[d]``.

        Dimensions covary, so it does not follow from ``neutral_sd``, their own deviations.

        Raises:
            UsageError: the neutral texts are not at hand.
        """
        if self.neutral is None:
            raise UsageError(
                "these directions come without the neutral texts that the unit sd is measured on",
                "use fractions of the residual norm or raw multiples, or directions of a `directions` run",
            )
        texts = np.asarray(self.neutral()[:, self.row(layer)], dtype=np.float64)
        return float((texts @ functional).std(ddof=1))


def extract_directions(data: Labelled, emotions: Sequence[str] | None = None, *, components: int = 0) -> DirectionSet:
    """Fit directions on the texts of ``data`` (pass its ``fit`` split).

    Args:
        emotions: default all that occur. components: how many top principal components of neutral text to project out
            of every direction (0 by default; report with and without).

    Raises:
        UsageError: an emotion without texts, no neutral text.
    """
    wanted = tuple(emotions or data.emotions)
    for emotion in wanted:
        data.require(emotion, "a direction")
    read = data.x[data.labels == NEUTRAL]
    neutral = np.asarray(read, dtype=np.float64)
    sd = neutral.std(axis=0, ddof=1)
    vectors: dict[Method, dict[str, FloatArray]] = {
        "neutral": {e: mean_difference(data, e) for e in wanted},
        "centred": _centred(data, wanted),
    }
    if components:
        basis = neutral_components(neutral, components)
        vectors = {m: {e: _without(v, basis) for e, v in by.items()} for m, by in vectors.items()}
    used = np.isin(data.labels, [*wanted, NEUTRAL])
    return DirectionSet(
        emotions=wanted,
        layers=data.layers,
        vectors=vectors,
        neutral_mean=neutral.mean(axis=0),
        # A dimension that never varies on neutral text would get an infinite weight.
        neutral_sd=np.maximum(sd, 1e-3 * np.median(sd, axis=-1, keepdims=True) + 1e-12),
        residual_norm=np.linalg.norm(np.asarray(data.x[used], dtype=np.float64), axis=-1).mean(axis=0),
        components=components,
        neutral=lambda: read,
    )


def neutral_components(neutral: FloatArray, components: int) -> Float[np.ndarray[Any, Any], "layer k d"]:
    """Orthonormal top principal components of neutral text at every layer."""
    if not 0 < components < len(neutral):
        raise UsageError(
            f"cannot take {components} principal components of {len(neutral)} neutral texts",
            f"choose between 1 and {len(neutral) - 1}",
        )
    centred = (neutral - neutral.mean(axis=0)).transpose(1, 0, 2)
    return np.asarray(np.linalg.svd(centred, full_matrices=False)[2][:, :components])


def emotion_cosines(
    directions: DirectionSet, method: Method = "neutral"
) -> Float[np.ndarray[Any, Any], "layer emotion emotion"]:
    """Cosine between every two emotions' directions at every layer."""
    stacked = np.stack([directions.vectors[method][e] for e in directions.emotions], axis=1)
    unit = stacked / np.maximum(np.linalg.norm(stacked, axis=-1, keepdims=True), 1e-30)
    return np.asarray(unit @ unit.transpose(0, 2, 1))


def norms(directions: DirectionSet, method: Method = "neutral") -> dict[str, dict[str, FloatArray]]:
    """``{emotion: {"l1": [layer], "l2": [layer], "relative": [layer]}}``; relative = L2 / mean residual norm."""
    return {
        e: {
            "l1": np.abs(v).sum(-1),
            "l2": np.linalg.norm(v, axis=-1),
            "relative": np.linalg.norm(v, axis=-1) / directions.residual_norm,
        }
        for e, v in directions.vectors[method].items()
    }


def mean_difference(data: Labelled, emotion: str) -> FloatArray:
    """mean(emotion) − mean(its neutral texts), ``[layer, d]``; one text of each is enough."""
    up = data.x[data.of(emotion)].mean(axis=0, dtype=np.float64)
    down = data.x[data.neutral_for(emotion)].mean(axis=0, dtype=np.float64)
    return np.asarray(up - down)


def _centred(data: Labelled, emotions: tuple[str, ...]) -> dict[str, FloatArray]:
    """Class means after removing each scenario's mean over the emotions; class means' mean without full scenarios.

    With one emotion there is nothing to centre on, and the direction against neutral is returned.
    """
    if len(emotions) == 1:
        return {emotions[0]: mean_difference(data, emotions[0])}
    means = {e: [] for e in emotions}  # type: dict[str, list[FloatArray]]
    for scenario in np.unique(data.scenarios[np.isin(data.labels, emotions)]):
        here = data.scenarios == scenario
        rows = {e: here & data.of(e) for e in emotions}
        if all(mask.any() for mask in rows.values()):
            by = {e: data.x[mask].mean(axis=0, dtype=np.float64) for e, mask in rows.items()}
            centre = np.mean(list(by.values()), axis=0)
            for e in emotions:
                means[e].append(by[e] - centre)
    if min(len(m) for m in means.values()) >= 2:
        return {e: np.mean(m, axis=0) for e, m in means.items()}
    by = {e: data.x[data.of(e)].mean(axis=0, dtype=np.float64) for e in emotions}
    centre = np.mean(list(by.values()), axis=0)
    return {e: by[e] - centre for e in emotions}


def _without(vector: FloatArray, basis: FloatArray) -> FloatArray:
    inside = np.einsum("ld,lkd->lk", vector, basis)
    return np.asarray(vector - np.einsum("lk,lkd->ld", inside, basis))

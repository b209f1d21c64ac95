"""The linear map between two models' activation spaces, as a noun that can be applied, saved and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from safetensors import safe_open

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.representations.alignment_scaling import Scaling
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.store.tensors import open_tensors, write_tensors

MapMethod = Literal["procrustes", "ridge", "reduced-rank", "cca"]
MAP_METHODS: tuple[MapMethod, ...] = get_args(MapMethod)
LADDER: tuple[MapMethod, ...] = ("procrustes", "ridge")
"""From the most constrained map on: a rotation with one scale, any linear map."""
SUFFICIENT = 0.95
"""A map suffices when its cross-validated R² is at least this share of the best one's."""
LEAST_R2 = 0.1
"""Below this best R² no map is said to suffice: of two sides with nothing in common the R² that rank and penalty were
chosen by still comes out a little above 0 half of the time."""
_TENSORS = ("source_mean", "source_sd", "target_mean", "target_sd", "basis", "weights")


@dataclass(frozen=True)
class AlignmentMap:
    """z_target ≈ z_source · basis · weights, z being standardised by each model's map-set mean and SD.

    ``basis`` ``[d_source, rank]`` holds orthonormal columns (principal components of the source's map set), ``weights``
    ``[rank, d_target]``. ``penalty`` is the ridge penalty per row of the map set (0 where the method has none), ``r2``
    the cross-validated share of variance explained on the principal components of the target that selection looked at.
    """

    method: MapMethod
    source: Scaling
    target: Scaling
    basis: FloatArray
    weights: FloatArray
    penalty: float
    r2: float
    n: int
    spec: dict[str, str] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Number of source components that the map reads."""
        return int(self.basis.shape[1])

    def predict(self, x: ArrayLike) -> FloatArray:
        """Points of the source ``[..., d_source]`` as points of the target ``[..., d_target]``."""
        z = self.source.standardise(self._width(x, self.source))
        return np.asarray(z @ self.basis @ self.weights * self.target.sd + self.target.mean)

    def push(self, vectors: ArrayLike) -> FloatArray:
        """Directions (differences) of the source as those of the target, ``[..., d_source]`` → ``[..., d_target]``."""
        v = self._width(vectors, self.source) / self.source.sd
        return np.asarray(v @ self.basis @ self.weights * self.target.sd)

    def pull(self, probes: ArrayLike) -> FloatArray:
        """Linear functionals on the target as functionals on the source: ``[..., d_target]`` → ``[..., d_source]``.

        ``pull(p) · (x − mean) = p · (predict(x) − mean)``. To read model A's probe in model B, pull it through the
        separately fitted map from B to A.
        """
        p = self._width(probes, self.target) * self.target.sd
        return np.asarray(p @ self.weights.T @ self.basis.T / self.source.sd)

    def save(self, path: Path) -> Path:
        """Write as safetensors, with the method, its settings and ``spec`` in the file's metadata."""
        arrays = dict(zip(_TENSORS, self._arrays(), strict=True))
        about = {"method": self.method, "penalty": repr(self.penalty), "r2": repr(self.r2), "n": str(self.n)}
        return write_tensors(path, arrays, {**about, "spec": json.dumps(self.spec, sort_keys=True)})

    @classmethod
    def load(cls, path: Path) -> AlignmentMap:
        """Read what :meth:`save` wrote; raises :class:`StoreError` for another kind of file."""
        tensors = open_tensors(path)
        with safe_open(path, framework="np") as file:
            about: dict[str, str] = file.metadata() or {}
        again = "remove it and run the alignment again"
        if missing := [name for name in _TENSORS if name not in tensors]:
            raise StoreError(f"{path} is no alignment map: it has no tensor {missing[0]!r}", again)
        if about.get("method") not in MAP_METHODS:
            raise StoreError(f"{path} is no alignment map: its metadata name no known method", again)
        mean_a, sd_a, mean_b, sd_b, basis, weights = (np.array(tensors[name]) for name in _TENSORS)
        method = next(m for m in MAP_METHODS if m == about["method"])
        return cls(method, Scaling(mean_a, sd_a), Scaling(mean_b, sd_b), basis, weights, float(about["penalty"]),
                   float(about["r2"]), int(about["n"]), dict(json.loads(about["spec"])))  # fmt: skip

    def _arrays(self) -> tuple[FloatArray, ...]:
        return self.source.mean, self.source.sd, self.target.mean, self.target.sd, self.basis, self.weights

    def _width(self, values: ArrayLike, scaling: Scaling) -> FloatArray:
        array = np.asarray(values, dtype=np.float64)
        if array.shape[-1:] != scaling.mean.shape:
            raise UsageError(
                f"the map expects vectors of width {len(scaling.mean)}, not {array.shape[-1:]}",
                "check which model and which side of the map they belong to",
            )
        return array


def simplest_map(r2: Mapping[MapMethod, float]) -> MapMethod | None:
    """The first rung of :data:`LADDER` that suffices, from each one's R²; None where none reaches :data:`LEAST_R2`."""
    best = max(r2[rung] for rung in LADDER)
    return next((rung for rung in LADDER if best >= LEAST_R2 and r2[rung] >= SUFFICIENT * best), None)

"""What a sharing test found, as a noun that turns into plain JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_verdict import SharingVerdict


@dataclass(frozen=True)
class EmotionSharing:
    """One emotion: the set's rule applied to its own figures.

    ``p`` holds ``relabel`` (the set's), ``shuffled_map``, ``covariance``, ``above_floor`` and ``max``; ``cosine`` is
    that of the mapped with the native direction in the target's standard coordinates; ``picks`` names the emotion
    whose texts the mapped direction picks best.
    """

    emotion: str
    verdict: SharingVerdict
    reason: str
    tau: float
    ci: tuple[float, float]
    auroc_transfer: float
    auroc_native: float
    floor: float
    cosine: float
    kappa: float
    picks: str
    p: Mapping[str, float | None]


@dataclass(frozen=True)
class SharingResult:
    """The answer for one pair of layers.

    ``floor``: mean AUROC of the transfers that need no learnt sharing (``None``: not handed in). ``differences``:
    transfer − floor with 95 % limits. ``matrix``: T[i, j]. ``map``: cross-validated R² and p of the map on neutral
    text (``r2``, ``p``), ``method`` and ``penalty``.
    """

    verdict: SharingVerdict
    reason: str
    tau: float
    ci: tuple[float, float]
    transfer: float
    transfer_ci: tuple[float, float]
    native: float
    native_ci: tuple[float, float]
    floor: Mapping[str, float | None]
    differences: Mapping[str, Mapping[str, float]]
    kappa: float
    rank: int
    n_map: int
    d: tuple[int, int]
    p: Mapping[str, float | None]
    per_emotion: Sequence[EmotionSharing]
    emotions: tuple[str, ...]
    matrix: FloatArray | None
    map: Mapping[str, Any]
    permutations: int
    resamples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a number that is not defined becomes ``None``."""
        out = {name: getattr(self, name) for name in self.__dataclass_fields__}
        out["per_emotion"] = [
            {name: getattr(item, name) for name in item.__dataclass_fields__} for item in self.per_emotion
        ]
        out["matrix"] = None if self.matrix is None else self.matrix.tolist()
        return {name: _plain(value) for name, value in out.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value

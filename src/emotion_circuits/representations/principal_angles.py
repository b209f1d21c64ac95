"""How two subspaces of one space lie to each other: principal angles, overlap, and the overlap of random subspaces.

Raw overlaps between two *models'* bases mean nothing, because their coordinates are unrelated; they are reported with
the chance level only. With different widths and no map between the models the question cannot be asked, and raises.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.subspaces import Subspace, span


@dataclass(frozen=True)
class Overlap:
    """‖Q₁ᵀQ₂‖²_F / min(k₁, k₂) in [0, 1] with the mean and SD of random subspaces; ``z`` counts SDs above chance."""

    value: FloatArray
    chance: float
    chance_sd: float

    @property
    def z(self) -> FloatArray:
        """(value − chance) / SD; 0 where the SD is 0 (a subspace that is the whole space)."""
        return np.asarray((self.value - self.chance) / self.chance_sd if self.chance_sd > 0 else self.value * 0.0)


def principal_angles(first: Subspace | ArrayLike, second: Subspace | ArrayLike) -> FloatArray:
    """Principal angles in radians, ascending, ``[..., min(k₁, k₂)]``.

    Cosines are the singular values of Q₁Q₂ᵀ, which lose half the digits near 0; angles below 45° are therefore taken
    from the sines, the singular values of what is left of one basis outside the other (Björck & Golub 1973;
    Knyazev & Argentati 2002). Accurate to about 1e-15.

    Args:
        first, second: subspaces, or any rows ``[..., k, d]`` that span them.

    Raises:
        UsageError: different widths.
    """
    one, two = _bases(first, second)
    if one.shape[-2] < two.shape[-2]:
        one, two = two, one
    inner = one @ np.swapaxes(two, -1, -2)
    cosines = np.linalg.svd(inner, compute_uv=False)
    outside = two - np.swapaxes(inner, -1, -2) @ one
    sines = np.linalg.svd(outside, compute_uv=False)[..., ::-1]
    large = np.arccos(np.clip(cosines, 0.0, 1.0))
    return np.asarray(np.where(cosines**2 > 0.5, np.arcsin(np.clip(sines, 0.0, 1.0)), large))


def overlap(first: Subspace | ArrayLike, second: Subspace | ArrayLike) -> Overlap:
    """Mean squared cosine of the principal angles beside its chance level; batched over leading axes (layers)."""
    one, two = _bases(first, second)
    k = min(one.shape[-2], two.shape[-2])
    inner = one @ np.swapaxes(two, -1, -2)
    chance, sd = chance_overlap(one.shape[-1], one.shape[-2], two.shape[-2])
    return Overlap(np.asarray((inner**2).sum(axis=(-2, -1)) / k), chance, sd)


def random_angles(d: int, k1: int, k2: int | None = None, *, draws: int = 199, seed: int = 0) -> FloatArray:
    """``[draws, min(k₁, k₂)]`` principal angles in radians of independent uniformly random subspaces of ``d``.

    One of them may stay where it is (the first k₂ axes), because only their relative position counts.
    """
    k2 = k1 if k2 is None else k2
    chance_overlap(d, k1, k2)  # refuses dimensions that do not fit
    rng = np.random.default_rng(seed)
    bases = np.linalg.qr(rng.normal(size=(draws, d, k1)))[0]
    cosines = np.linalg.svd(bases[:, :k2], compute_uv=False)
    return np.asarray(np.arccos(np.clip(cosines, 0.0, 1.0)))


def chance_overlap(d: int, k1: int, k2: int | None = None) -> tuple[float, float]:
    """Mean and SD of the overlap of two independent uniformly random subspaces of dimensions k₁ and k₂ in d.

    tr(P₁P₂) has mean k₁k₂/d and variance 2 k₁k₂(d−k₁)(d−k₂) / (d²(d−1)(d+2)), the first moments of the matrix beta
    distribution (Chikuse 2003, ch. 2; for k₁ = k₂ = 1 it is Beta(½, (d−1)/2)). Both are divided by min(k₁, k₂), so
    that equal k gives k/d.
    """
    k2 = k1 if k2 is None else k2
    if not (0 < k1 <= d and 0 < k2 <= d):
        raise UsageError(f"subspaces of {k1} and {k2} dimensions do not fit into {d}", "choose 1 ≤ k ≤ d")
    smaller = min(k1, k2)
    if d == 1:
        return 1.0, 0.0
    variance = 2 * k1 * k2 * (d - k1) * (d - k2) / (d**2 * (d - 1) * (d + 2))
    return k1 * k2 / d / smaller, float(np.sqrt(variance)) / smaller


def _bases(first: Subspace | ArrayLike, second: Subspace | ArrayLike) -> tuple[FloatArray, FloatArray]:
    one, two = (s.basis if isinstance(s, Subspace) else span(s).basis for s in (first, second))
    if one.shape[-1] != two.shape[-1]:
        raise UsageError(
            f"the subspaces lie in spaces of different width ({one.shape[-1]} and {two.shape[-1]})",
            "push one through a fitted map first (AlignmentMap.push): without a map nothing can be compared",
        )
    return one, two

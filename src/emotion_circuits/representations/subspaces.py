"""Emotion subspaces of one model: which k-dimensional space holds the differences between emotions.

- :func:`contrast_subspace`: SVD of the stacked class-mean contrasts; its rank is at most the number of emotions.
- :func:`paired_subspace`: SVD of the *uncentred* differences of matched pairs.
- :func:`within_label_subspace`: PCA centred within one label, for comparison only. Centring within a label removes the
  emotion itself and leaves what else varies, so it warns.

A subspace is stored as orthonormal rows; it is unchanged by any invertible mixing of the rows it was made from.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.stats.checks import at_least, finite


class WithinLabelWarning(UserWarning):
    """PCA centred within one label was asked for: it mostly removes the direction that is looked for."""


@dataclass(frozen=True)
class Subspace:
    """An orthonormal basis ``[..., k, d]`` with the singular values ``[..., k]`` of the rows behind it."""

    basis: FloatArray
    singular_values: FloatArray
    method: str

    @property
    def k(self) -> int:
        """Number of dimensions."""
        return int(self.basis.shape[-2])

    @property
    def d(self) -> int:
        """Width of the space it lies in."""
        return int(self.basis.shape[-1])

    def energy(self, vectors: ArrayLike) -> FloatArray:
        """Share of each vector's squared length that lies inside, in [0, 1]: ``[..., n, d]`` → ``[..., n]``."""
        rows = finite(vectors, "the vectors")
        inside = np.einsum("...nd,...kd->...nk", rows, self.basis)
        return np.asarray((inside**2).sum(-1) / np.maximum((rows**2).sum(-1), np.finfo(np.float64).tiny))


def span(rows: ArrayLike, k: int | None = None, *, method: str = "span") -> Subspace:
    """The k leading right singular vectors of ``[..., n, d]`` rows, for all leading axes (layers) at once.

    Args:
        k: dimensions to keep; default the numerical rank (the smallest over the leading axes).

    Raises:
        UsageError: k is larger than the rank, or a value is not finite.
    """
    matrix = finite(rows, "the rows of a subspace")
    if matrix.ndim < 2:
        raise UsageError(f"rows have shape {matrix.shape}", "give [n, d] or [layer, n, d]")
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    tolerance = values[..., :1] * max(matrix.shape[-2:]) * np.finfo(np.float64).eps
    rank = int((values > tolerance).sum(-1).min())
    wanted = rank if k is None else k
    if not 1 <= wanted <= rank:
        raise UsageError(
            f"a subspace of {wanted} dimensions was asked for, but the rows have rank {rank}",
            f"choose k between 1 and {rank}, or add emotions" if rank else "the rows are all zero",
        )
    return Subspace(vectors[..., :wanted, :], values[..., :wanted], method)


def contrast_subspace(
    x: ArrayLike, labels: Sequence[str] | NDArray[Any], emotions: Sequence[str], *, baseline: str, k: int | None = None
) -> Subspace:
    """Span of mean(emotion) − mean(baseline), the subspace in which class means differ.

    Args:
        x: ``[text, d]`` or ``[text, layer, d]`` activations (fit split). labels: ``[text]``.
        emotions: the rows of the contrast. baseline: the label they are compared with (``"neutral"``).
        k: at most the number of emotions (default: their rank).
    """
    values, names = _rows(x, labels)
    down = _mean(values, names, baseline)
    contrasts = np.stack([_mean(values, names, e) - down for e in emotions])
    if k is not None and k > len(contrasts):
        raise UsageError(
            f"{len(contrasts)} emotions span at most {len(contrasts)} dimensions, not {k}",
            "choose a smaller k, or take the paired differences, whose rank is not bounded by the emotions",
        )
    return span(np.moveaxis(contrasts, 0, -2), k, method="contrast")


def paired_subspace(positive: ArrayLike, negative: ArrayLike, k: int) -> Subspace:
    """Leading k directions of the uncentred differences of matched pairs ``[pair, d]`` or ``[pair, layer, d]``."""
    up, down = finite(positive, "the emotional texts"), finite(negative, "their neutral pairs")
    if up.shape != down.shape:
        raise UsageError(f"pairs have shapes {up.shape} and {down.shape}", "give row i of both for pair i")
    return span(np.moveaxis(up - down, 0, -2), k, method="paired")


def within_label_subspace(x: ArrayLike, k: int) -> Subspace:
    """PCA of the texts of one label, ``[text, d]`` or ``[text, layer, d]``: for comparison, with a warning."""
    warnings.warn(
        "PCA centred within one label removes the mean that makes the emotion; it finds what else varies. "
        "Use contrast_subspace or paired_subspace for claims.",
        WithinLabelWarning,
        stacklevel=2,
    )
    values = finite(x, "the texts")
    at_least(len(values), k + 1, "texts", f"{k} principal components")
    return span(np.moveaxis(values - values.mean(axis=0), 0, -2), k, method="within-label PCA")


def _rows(x: ArrayLike, labels: Sequence[str] | NDArray[Any]) -> tuple[FloatArray, NDArray[Any]]:
    values, names = finite(x, "the activations"), np.asarray(labels)
    if values.ndim < 2 or names.shape != values.shape[:1]:
        raise UsageError(f"activations {values.shape} do not match labels {names.shape}", "give one label per text")
    return values, names


def _mean(values: FloatArray, names: NDArray[Any], label: str) -> FloatArray:
    mask = names == label
    at_least(int(mask.sum()), 1, f"texts of {label!r}", "a class mean")
    return np.asarray(values[mask].mean(axis=0))

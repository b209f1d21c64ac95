"""Own-vs-rest transfer: do model A's emotion directions, pushed through the map, pick the same emotions in model B?

T[i, j] = AUROC on B's held-out texts of emotion j against the rest, scored by A's direction of emotion i (class mean
centred over the emotions) pushed through a map that was fitted on neutral text.

In standard coordinates a pushed direction is v P (FᵀF + λnI)⁻¹ Fᵀ Z, with P the retained components, F = Z_A P the map
set in them and Z the target's map set. Its scores on B's texts need Z only through K = Z Z_testᵀ ``[n, test]``. So a
map with other pairs is K with its rows rearranged, and neither d_A nor d_B enters any null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from emotion_circuits.representations.alignment import Reduction
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_arrays import Texts
from emotion_circuits.representations.spectral_cv import PENALTIES, held_out_r2, ridge_filters

MOST_GROUPED = 60_000_000
"""Numbers that the matrices of all groups may hold (480 MB)."""


@dataclass(frozen=True)
class TransferProblem:
    """Everything the transfer of one pair of layers needs, reduced.

    ``reduction``: the map set. ``fit_features`` ``[fit text, rank]``: A's fit texts in the retained components.
    ``kernel`` ``[n, test text]``: inner products of the target's map set with its test texts, standardised.
    ``penalty``: ridge penalty per row chosen for the true pairs; ``r2`` its cross-validated R².
    """

    reduction: Reduction
    fit: Texts
    fit_features: FloatArray
    test: Texts
    kernel: FloatArray
    emotions: int
    penalty: float
    r2: float

    @property
    def features(self) -> FloatArray:
        """``[n, rank]`` the source's map set in the retained components."""
        return self.reduction.features

    @property
    def directions(self) -> FloatArray:
        """``[emotion, rank]`` A's class-mean-centred directions in the retained components."""
        return direction_weights(self.fit, self.emotions) @ self.fit_features


def transfer_problem(reduction: Reduction, fit: Texts, test: Texts, emotions: int) -> TransferProblem:
    """Reduce the emotional texts with the map set and choose the penalty for the true pairs."""
    by_penalty = held_out_r2(reduction.design, reduction.criterion, ridge_filters())
    best = int(np.argmax(by_penalty))
    return TransferProblem(
        reduction=reduction,
        fit=fit,
        fit_features=reduction.source.standardise(fit.x) @ reduction.basis,
        test=test,
        kernel=reduction.z_target @ reduction.target.standardise(test.x).T,
        emotions=emotions,
        penalty=float(PENALTIES[best]),
        r2=float(by_penalty[best]),
    )


def direction_weights(fit: Texts, emotions: int, weights: FloatArray | None = None) -> FloatArray:
    """``[emotion, text]`` coefficients with which the texts' activations sum to centred class means.

    Where complete scenarios (every emotion) hold at least half of the texts, each emotion's mean is taken within
    scenarios, after removing the scenario's mean over the emotions, and averaged over them. Otherwise class means,
    after removing their mean. ``weights`` ``[text]`` are multiplicities of a resample, constant within a cluster.
    """
    w = np.ones(len(fit.codes)) if weights is None else weights
    return np.asarray(DirectionWeights(fit, emotions)(w[None])[0])


class DirectionWeights:
    """:func:`direction_weights` of many resamples of one set of texts."""

    def __init__(self, fit: Texts, emotions: int) -> None:
        self._member = (np.arange(emotions)[:, None] == fit.codes).astype(np.float64)
        self._scenarios = np.unique(fit.clusters, return_inverse=True)[1]
        counts = np.zeros((emotions, int(self._scenarios.max()) + 1))
        np.add.at(counts, (fit.codes, self._scenarios), 1)
        self._complete = np.asarray((counts > 0).all(axis=0))
        self._matched = self._complete[self._scenarios]
        self._share = self._member / np.maximum(counts[:, self._scenarios], 1) * self._matched

    def __call__(self, weights: FloatArray) -> FloatArray:
        """``[draw, emotion, text]`` of ``weights`` ``[draw, text]``."""
        return np.stack([self._of(w) for w in weights])

    def _of(self, w: FloatArray) -> FloatArray:
        if self._complete.sum() >= 2 and self._matched.mean() >= 0.5 and (w * self._matched).any():
            per_scenario = np.zeros(len(self._complete))
            per_scenario[self._scenarios] = w
            means = self._share * w / per_scenario[self._complete].sum()
        else:
            means = self._member * w
            means = means / np.maximum(means.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return np.asarray(means - means.mean(axis=0))


def push_matrix(features: FloatArray, kernel: FloatArray, penalty: float) -> FloatArray:
    """``[rank, test text]`` scores of each retained component on the target's test texts, through the ridge map."""
    gram = features.T @ features
    gram[np.diag_indices_from(gram)] += penalty * len(features)
    return np.asarray(linalg.solve(gram, features.T @ kernel, assume_a="pos"))


class ResampledMap:
    """The map fitted again on a resample of its rows, as scores of directions.

    Scores are D (F̃ᵀ W F̃ + λnI)⁻¹ F̃ᵀ W K with F̃ the features centred by the weights W. The few directions go through
    the inverse first, and Σ W F̃ = 0 makes centring K unnecessary; so no product of the size rank × test texts arises.
    The penalty stays that of the observed number of rows.
    """

    def __init__(self, problem: TransferProblem, groups: NDArray[np.intp]) -> None:
        """``groups`` ``[n]`` codes of the map's rows; whole groups are drawn."""
        self._problem, self._groups = problem, groups
        f, count = problem.features, int(groups.max()) + 1
        self._grams: FloatArray | None = None
        # One matrix per group saves a pass over the rows in every resample, where groups are few.
        if len(groups) >= 3 * count and count * f.shape[1] ** 2 <= MOST_GROUPED:
            members = (f[groups == g] for g in range(count))
            self._grams = np.stack([(m.T @ m).ravel() for m in members])

    def scores(self, directions: FloatArray, drawn: FloatArray) -> FloatArray:
        """``[draw, emotion, test text]`` of ``directions`` ``[draw, emotion, rank]``.

        Group g counts ``drawn[b, g]`` times in draw b. Draws are worked on together, because reading the features and
        the kernel once for each of them costs more than its arithmetic.
        """
        f, (draws, emotions, r) = self._problem.features, directions.shape
        weights = drawn[:, self._groups]
        total = weights.sum(axis=1)
        mean = weights @ f / total[:, None]
        grams = None if self._grams is None else (drawn @ self._grams).reshape(draws, r, r)
        through = np.empty((r, draws, emotions))
        for b, w in enumerate(weights):
            gram = (f * w[:, None]).T @ f if grams is None else grams[b]
            gram -= total[b] * np.outer(mean[b], mean[b])
            gram[np.diag_indices_from(gram)] += self._problem.penalty * len(f)
            through[:, b] = linalg.cho_solve(linalg.cho_factor(gram, overwrite_a=True), directions[b].T)
        along = (f @ through.reshape(r, -1)).reshape(len(f), draws, emotions)
        along -= np.einsum("br,rbe->be", mean, through)
        along *= weights.T[:, :, None]
        found = along.reshape(len(f), -1).T @ self._problem.kernel
        return np.asarray(found.reshape(draws, emotions, -1))


def transfer_scores(problem: TransferProblem) -> FloatArray:
    """``[emotion, test text]`` scores of A's pushed directions on B's test texts."""
    return problem.directions @ push_matrix(problem.features, problem.kernel, problem.penalty)


def transfer_matrix(scores: FloatArray, codes: NDArray[np.intp], emotions: int) -> FloatArray:
    """``[..., i, j]`` AUROC of emotion j against the rest under scores ``[..., i, text]``; ties count one half."""
    member = np.eye(emotions)[codes]
    n = member.sum(axis=0)
    ranks = stats.rankdata(scores, axis=-1)
    return np.asarray((ranks @ member - n * (n + 1) / 2) / (n * (len(codes) - n)))


def own_aurocs(scores: FloatArray, codes: NDArray[np.intp], emotions: int) -> FloatArray:
    """``[..., emotion]``: the diagonal of :func:`transfer_matrix`, without the rest."""
    n = np.bincount(codes, minlength=emotions)
    ranks = stats.rankdata(scores, axis=-1)
    sums = np.stack([ranks[..., i, codes == i].sum(axis=-1) for i in range(emotions)], axis=-1)
    return np.asarray((sums - n * (n + 1) / 2) / (n * (len(codes) - n)))


def weighted_own_aurocs(scores: FloatArray, codes: NDArray[np.intp], weights: FloatArray) -> FloatArray:
    """``[emotion]`` own-vs-rest AUROC of scores ``[emotion, text]`` when text t occurs ``weights[t]`` times."""
    emotions = len(scores)
    order = np.argsort(scores, axis=1)
    sorted_weights = weights[order]
    below = np.empty_like(scores)
    np.put_along_axis(below, order, np.cumsum(sorted_weights, axis=1) - sorted_weights / 2, axis=1)
    own = (np.arange(emotions)[:, None] == codes) * weights
    up = own.sum(axis=1)
    pairs = up * (weights.sum() - up)
    wins = (own * below).sum(axis=1) - up**2 / 2
    return np.asarray(np.where(np.ptp(scores, axis=1) > 0, wins / np.maximum(pairs, 1e-300), 0.5))

"""Emotion subspaces of two models at layers of like depth, before and after a map, with null bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._pairs.data import PairData
from emotion_circuits.representations.alignment import Reduction, ridge_weights
from emotion_circuits.representations.principal_angles import (
    chance_overlap,
    overlap,
    principal_angles,
    random_angles,
)
from emotion_circuits.representations.sharing_arrays import Texts, check_texts
from emotion_circuits.representations.spectral_cv import PENALTIES, held_out_r2, ridge_filters
from emotion_circuits.representations.subspaces import Subspace, span
from emotion_circuits.representations.transfer import direction_weights
from emotion_circuits.representations.transfer_nulls import shuffled_rows
from emotion_circuits.stats import permutation_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Directions:
    """Fit texts of both models at one layer pair; ``emotions`` in the order of every row."""

    emotions: tuple[str, ...]
    source: Texts
    target: Texts
    test: Texts


def like_depth(data: PairData) -> list[tuple[int, int]]:
    """Every layer of the source with the target's layer nearest in relative depth."""
    depths = data.depths()
    nearest = [int(np.argmin(np.abs(np.asarray(depths["target"]) - d))) for d in depths["source"]]
    return [(a, data.target.layers[j]) for a, j in zip(data.source.layers, nearest, strict=True)]


def directions_at(data: PairData, pair: tuple[int, int], tested: str = "test") -> Directions:
    """The checked texts of one layer pair."""
    keep = np.ones(len(data.source.texts.labels), dtype=bool)
    splits = data.splits(tested)
    texts = check_texts(data.source.at(pair[0], keep, splits), data.target.at(pair[1], keep, splits))
    return Directions(texts.emotions, texts.source_fit, texts.target_fit, texts.target_test)


def centred(texts: Texts, emotions: int, z: Floats) -> Floats:
    """``[emotion, d]`` class means centred over the emotions, of fit texts in some coordinates ``z``."""
    return np.asarray(direction_weights(texts, emotions) @ z)


def differences(texts: Texts, emotions: int, z: Floats) -> Texts:
    """Fit texts minus what their scenario's emotions have in common, in some coordinates ``z`` ``[text, d]``.

    Where complete scenarios hold at least half of the texts, each text is taken from the mean of its scenario and the
    others are left out; otherwise from the mean of the class means (as directions are, ``transfer.direction_weights``).
    """
    scenario = np.unique(texts.clusters, return_inverse=True)[1]
    member = np.eye(emotions)[texts.codes]
    counts = np.eye(int(scenario.max()) + 1)[scenario].T @ member
    complete = np.asarray((counts > 0).all(axis=1))
    matched = complete[scenario]
    if complete.sum() >= 2 and matched.mean() >= 0.5:
        share = member / counts[scenario, texts.codes][:, None]
        middle = np.stack([(share[scenario == s].T @ z[scenario == s]).mean(axis=0) for s in np.flatnonzero(complete)])
        place = np.cumsum(complete) - 1
        apart = z[matched] - middle[place[scenario[matched]]]
    else:
        matched = np.ones(len(z), dtype=bool)
        apart = z - np.stack([z[texts.codes == i].mean(axis=0) for i in range(emotions)]).mean(axis=0)
    return Texts(apart, texts.codes[matched], texts.clusters[matched], texts.rows[matched])


def mapped_overlap(found: Directions, reduction: Reduction, groups: Any, shuffles: int, seed: int) -> dict[str, Any]:
    """Overlap of the pushed with the native joint subspace, through the true map and through maps of shuffled pairs.

    ``angles`` are the principal angles in degrees, ``null_angles`` their means over the shuffled maps.
    """
    count = len(found.emotions)
    own = centred(found.source, count, reduction.source.standardise(found.source.x)) @ reduction.basis
    native = span(centred(found.target, count, reduction.target.standardise(found.target.x)), count - 1)
    moves = np.vstack(
        [np.arange(len(reduction.features)), shuffled_rows(groups, len(reduction.features), shuffles, seed)]
    )
    best = np.argmax(held_out_r2(reduction.design, reduction.criterion, ridge_filters(), moves), axis=1)
    placed = [
        placed_in(own @ ridge_weights(reduction.features, reduction.z_target[move], float(PENALTIES[which])), native)
        for move, which in zip(moves, best, strict=True)
    ]
    values = [value for value, _ in placed]
    chance, sd = chance_overlap(native.d, count - 1)
    null = np.array(values[1:])
    return {
        "after": values[0], "null_low": float(np.quantile(null, 0.025)), "null_high": float(np.quantile(null, 0.975)),
        "null_mean": float(null.mean()), "p": float(permutation_p(np.array(values[0]), null)),
        "chance": chance, "chance_sd": sd, "angles": placed[0][1],
        "null_angles": _mean_angles([angles for _, angles in placed[1:]]),
    }  # fmt: skip


def placed_in(pushed: Floats, native: Subspace) -> tuple[float, list[float]]:
    """Overlap of the span of some vectors with a subspace, and their principal angles in degrees.

    A map of few components can flatten emotions into fewer dimensions than they have, or into none.
    """
    k = min(native.k, int(np.linalg.matrix_rank(pushed)))
    if not k:
        return 0.0, []
    space = span(pushed, k)
    return float(overlap(space, native).value), np.degrees(principal_angles(space, native)).tolist()


def _mean_angles(angles: Sequence[Sequence[float]]) -> list[float]:
    """Means of the first, second, … angle; as many as every draw has."""
    fewest = min(map(len, angles))
    return [float(a) for a in np.array([a[:fewest] for a in angles]).mean(axis=0)]


def raw_overlap(found: Directions) -> dict[str, Any] | None:
    """Overlap of the two models' own bases, which means nothing; None where the widths differ.

    ``cosines`` are those of each emotion's two directions; between random directions they have mean 0 and the standard
    deviation ``chance_cosine`` = 1 / √d.
    """
    if found.source.x.shape[1] != found.target.x.shape[1]:
        return None
    count = len(found.emotions)
    vectors = [centred(t, count, t.x) for t in (found.source, found.target)]
    one, two = (span(v, count - 1) for v in vectors)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    raw = overlap(one, two)
    chance = np.degrees(random_angles(one.d, one.k, two.k))
    return {
        "before": float(raw.value), "chance": raw.chance, "chance_sd": raw.chance_sd,
        "angles": np.degrees(principal_angles(one, two)).tolist(), "chance_angles": chance.mean(axis=0).tolist(),
        "cosines": dict(zip(found.emotions, (a * b).sum(axis=1).tolist(), strict=True)),
        "chance_cosine": float(one.d**-0.5),
    }  # fmt: skip

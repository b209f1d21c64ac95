"""Emotion subspaces of two models at layers of like depth, before and after a map, with null bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._pairs.data import PairData
from emotion_circuits.representations.alignment import Reduction, ridge_weights
from emotion_circuits.representations.principal_angles import chance_overlap, overlap
from emotion_circuits.representations.sharing_arrays import Texts, check_texts
from emotion_circuits.representations.spectral_cv import PENALTIES, held_out_r2, ridge_filters
from emotion_circuits.representations.subspaces import span
from emotion_circuits.representations.transfer import direction_weights
from emotion_circuits.representations.transfer_nulls import shuffled_rows

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


def mapped_overlap(found: Directions, reduction: Reduction, groups: Any, shuffles: int, seed: int) -> dict[str, Any]:
    """Overlap of the pushed with the native joint subspace, through the true map and through maps of shuffled pairs."""
    count = len(found.emotions)
    own = centred(found.source, count, reduction.source.standardise(found.source.x)) @ reduction.basis
    native = span(centred(found.target, count, reduction.target.standardise(found.target.x)), count - 1)
    moves = np.vstack(
        [np.arange(len(reduction.features)), shuffled_rows(groups, len(reduction.features), shuffles, seed)]
    )
    best = np.argmax(held_out_r2(reduction.design, reduction.criterion, ridge_filters(), moves), axis=1)
    values = []
    for move, which in zip(moves, best, strict=True):
        pushed = own @ ridge_weights(reduction.features, reduction.z_target[move], float(PENALTIES[which]))
        k = min(count - 1, int(np.linalg.matrix_rank(pushed)))
        values.append(float(overlap(span(pushed, k), native).value) if k else 0.0)
    width = native.d
    chance, sd = chance_overlap(width, count - 1)
    null = np.array(values[1:])
    return {
        "after": values[0], "null_low": float(np.quantile(null, 0.025)), "null_high": float(np.quantile(null, 0.975)),
        "null_mean": float(null.mean()), "p": float((1 + (null >= values[0]).sum()) / (1 + len(null))),
        "chance": chance, "chance_sd": sd,
    }  # fmt: skip


def raw_overlap(found: Directions) -> dict[str, Any] | None:
    """Overlap of the two models' own bases, which means nothing; None where the widths differ."""
    if found.source.x.shape[1] != found.target.x.shape[1]:
        return None
    count = len(found.emotions)
    one, two = (span(centred(t, count, t.x), count - 1) for t in (found.source, found.target))
    raw = overlap(one, two)
    return {"before": float(raw.value), "chance": raw.chance, "chance_sd": raw.chance_sd}

"""A second estimate of transfer: is an emotion carried over by a map that has seen every emotion but this one?

A map fitted on neutral text alone may hardly reach the directions in which emotional text varies. So the map is fitted
again on neutral texts *and* on the emotional fit texts of all other emotions, and the emotion that was left out is
pushed through it.

Such a map knows where the others go, and "none of the others" would pick the left-out emotion without anything of its
own being shared. Therefore only that part of the emotion's direction is pushed which the others do not span: its class
mean, taken from the neutral mean, minus its projection on theirs.

Descriptive: it stands beside the verdict and is no part of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.alignment import check_pairs, leave_one_group_out_maps
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_arrays import CheckedTexts, EmotionArrays, Texts, check_texts
from emotion_circuits.representations.transfer import own_aurocs

NEUTRAL_ROW = ""


def leave_one_emotion_out(
    source: EmotionArrays,
    target: EmotionArrays,
    map_source: ArrayLike,
    map_target: ArrayLike,
    *,
    map_groups: Sequence[Hashable] | NDArray[Any] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Own-vs-rest AUROC of every emotion on the target's test texts, through the map that did not see it.

    Args: as for :func:`emotion_circuits.representations.sharing.sharing_test`; the fit texts have to be the same in
        both models. Rows of one group (the words of a text) are averaged, because emotional texts are means as well.

    Raises:
        UsageError: as ``sharing_test``; fit texts that differ between the models.
    """
    texts = check_texts(source, target)
    a, b, groups = check_pairs(map_source, map_target, map_groups)
    neutral_a, neutral_b = _by_group(a, groups), _by_group(b, groups)
    of_source, of_target = _same_texts(texts)
    fit = texts.source_fit
    rows_a = np.concatenate([neutral_a, fit.x[of_source]])
    rows_b = np.concatenate([neutral_b, texts.target_fit.x[of_target]])
    names = [NEUTRAL_ROW] * len(neutral_a) + [texts.emotions[code] for code in fit.codes[of_source]]
    folds = [f"neutral {i}" for i in range(len(neutral_a))] + [f"text {c}" for c in fit.clusters[of_source]]
    maps = leave_one_group_out_maps(rows_a, rows_b, names, folds, seed=seed)
    found = {}
    for i, emotion in enumerate(texts.emotions):
        fitted = maps[emotion]
        own = unspanned(class_means(fit, len(texts.emotions), neutral_a.mean(axis=0)) / fitted.source.sd, i)
        pushed = fitted.push(own * fitted.source.sd)
        # A probe in the target's standard coordinates, where no dimension outweighs the others by its scale alone.
        scores = fitted.target.standardise(texts.target_test.x) @ (pushed / fitted.target.sd)
        every = np.broadcast_to(scores, (len(texts.emotions), len(scores)))
        found[emotion] = float(own_aurocs(every, texts.target_test.codes, len(texts.emotions))[i])
    return found


def class_means(fit: Texts, emotions: int, origin: FloatArray) -> FloatArray:
    """``[emotion, d]`` mean activation of every emotion, from ``origin`` ``[d]``."""
    return np.stack([fit.x[fit.codes == i].mean(axis=0) for i in range(emotions)]) - origin


def unspanned(means: FloatArray, index: int) -> FloatArray:
    """``[d]``: one row of ``means`` ``[emotion, d]`` minus its projection on the span of the other rows."""
    others = np.delete(means, index, axis=0)
    basis = np.linalg.svd(others, full_matrices=False)[2]
    return np.asarray(means[index] - means[index] @ basis.T @ basis)


def _by_group(rows: FloatArray, groups: NDArray[np.intp] | None) -> FloatArray:
    """Means of the rows of every group; the rows themselves where there are no groups."""
    if groups is None:
        return rows
    member = np.eye(int(groups.max()) + 1)[groups]
    return np.asarray(member.T @ rows / member.sum(axis=0)[:, None])


def _same_texts(texts: CheckedTexts) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers that put both models' fit texts into one order."""
    a, b = texts.source_fit, texts.target_fit
    order_a, order_b = (np.lexsort((t.rows, t.codes, t.clusters)) for t in (a, b))
    same = len(a.codes) == len(b.codes) and bool(
        (a.codes[order_a] == b.codes[order_b]).all() and (a.clusters[order_a] == b.clusters[order_b]).all()
    )
    if not same:
        raise UsageError(
            "the two models' fit texts are not the same", "capture the same texts, with the same cluster names, in both"
        )
    return order_a, order_b

"""The numbers of ``overlap``: subspaces between two models and inside each, angle by angle, and do emotions cluster."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._pairs.spaces import Directions, centred, differences, raw_overlap
from emotion_circuits.representations.alignment_scaling import fit_scaling
from emotion_circuits.representations.clusterability import clusterability
from emotion_circuits.representations.principal_angles import chance_overlap, overlap, principal_angles
from emotion_circuits.representations.sharing_arrays import Texts
from emotion_circuits.representations.subspaces import Subspace
from emotion_circuits.stats.permutation import fewest_texts, relabelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RELABELLED = 19
"""Sets of relabelled texts whose mean overlaps, lowest to highest, are the band inside a model."""


def between_models(found: Directions, pair: tuple[int, int]) -> dict[str, Any]:
    """Directions and joint subspaces of both models in their own coordinates; None where the widths differ."""
    raw = raw_overlap(found) or {}
    told = {key: raw.get(key) for key in ("chance", "angles", "chance_angles", "cosines", "chance_cosine")}
    return {
        "source_layer": pair[0], "target_layer": pair[1],
        "widths": [found.source.x.shape[1], found.target.x.shape[1]],
        "joint": raw.get("before"), **told,
    }  # fmt: skip


def inside_model(
    name: str, layer: int, texts: Texts, neutral: Floats, emotions: Sequence[str], *, k: int, permutations: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """One layer of one model in standard coordinates: cosines and subspaces of emotions; whether they cluster."""
    z, count = fit_scaling(neutral).standardise(texts.x), len(emotions)
    v = centred(texts, count, z)
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    where = {"model": name, "layer": layer}
    inside = {
        **where, "cosines": (unit @ unit.T).tolist(),
        # Centred directions sum to zero, so the mean cosine between them is -1/(E - 1), not 0.
        "chance": -1 / (count - 1), "chance_sd": float(z.shape[1] ** -0.5),
        "subspaces": _emotion_subspaces(differences(texts, count, z), emotions, k, seed),
    }  # fmt: skip
    labels = np.array(emotions)[texts.codes]
    c = clusterability(z, labels, texts.clusters, permutations=permutations, seed=seed)
    clustered = {
        **where, "silhouette": c.silhouette, "null": c.null_mean, "p": c.p,
        "per_emotion": dict(zip(c.emotions, c.per_emotion.tolist(), strict=True)),
        "distances": {"emotions": list(c.emotions), "matrix": c.centroid_distances.tolist()},
        "joins": _joins(c.emotions, c.linkage),
    }  # fmt: skip
    return inside, clustered


def _emotion_subspaces(apart: Texts, emotions: Sequence[str], k: int, seed: int) -> dict[str, Any]:
    """Every emotion's ``k`` leading differences (as many as every emotion has), and how each pair lies to the other.

    ``relabelled`` is the band of the mean overlap when labels change places: what texts have in common whatever their
    emotion. Random subspaces (``chance``) overlap far less than any two sets of texts do.
    """
    count = len(emotions)
    # Rows in the coordinates of their own span: every decomposition below is smaller, and no angle changes.
    left, values, _ = np.linalg.svd(apart.x, full_matrices=False)
    rows = left * values
    scenarios = np.unique(apart.clusters, return_inverse=True)[1].astype(np.intp)
    drawn = relabelled(apart.codes, scenarios, RELABELLED, np.random.default_rng(seed))
    # Scenarios of unequal size that change places may leave an emotion fewer texts than it has. Not the fewest of
    # these draws: k would depend on the seed.
    ranks = (int(np.linalg.matrix_rank(rows[apart.codes == i])) for i in range(count))
    k = min(k, fewest_texts(apart.codes, scenarios), *ranks)
    if k < 1:
        return {"k": 0, "pairs": [], "mean": None, "relabelled": None, "chance": None}
    spaces = _spaces(rows, apart.codes, count, k)
    pairs = [
        {"first": emotions[i], "second": emotions[j], "overlap": float(overlap(spaces[i], spaces[j]).value),
         "angles": np.degrees(principal_angles(spaces[i], spaces[j])).tolist()}
        for i, j in combinations(range(count), 2)
    ]  # fmt: skip
    null = [_mean_overlap(_spaces(rows, codes, count, k)) for codes in drawn]
    return {
        "k": k, "pairs": pairs, "mean": _mean_overlap(spaces), "relabelled": [float(min(null)), float(max(null))],
        "chance": chance_overlap(apart.x.shape[1], k)[0],
    }  # fmt: skip


def _spaces(rows: Floats, codes: NDArray[np.intp], count: int, k: int) -> list[Subspace]:
    found = []
    for i in range(count):
        # Not span(): relabelled texts may have a lower rank (copies of one text), and a band needs no refusal.
        _, values, vectors = np.linalg.svd(rows[codes == i], full_matrices=False)
        found.append(Subspace(vectors[:k], values[:k], "differences"))
    return found


def _mean_overlap(spaces: Sequence[Subspace]) -> float:
    return float(np.mean([overlap(one, other).value for one, other in combinations(spaces, 2)]))


def _joins(emotions: Sequence[str], linkage: Floats) -> list[dict[str, Any]]:
    """The rows of scipy's linkage table with clusters named by the emotions they hold."""
    names, joins = list(emotions), []
    for first, second, height, _ in linkage:
        one, other = names[int(first)], names[int(second)]
        joins.append({"first": one, "second": other, "value": float(height)})
        names.append(f"{one} + {other}")
    return joins

"""The numbers of ``transfer``: layer pair chosen on dev, the sharing test per stratum, and what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._pairs.data import PairData
from emotion_circuits.representations.alignment import fit_alignment, reduce_pairs
from emotion_circuits.representations.alignment_map import AlignmentMap
from emotion_circuits.representations.alignment_scaling import fit_scaling
from emotion_circuits.representations.layer_pairs import LayerPairs, choose_layer_pair, compare_layer_pairs
from emotion_circuits.representations.left_out import leave_one_emotion_out
from emotion_circuits.representations.sharing import MINIMUM_PAIRS, sharing_test
from emotion_circuits.representations.sharing_arrays import EmotionArrays, FloorArrays, Floors, check_texts
from emotion_circuits.representations.sharing_result import SharingResult
from emotion_circuits.representations.similarity import Similarity, centroid_similarity, debiased_cka
from emotion_circuits.representations.similarity_neighbours import mutual_neighbours
from emotion_circuits.representations.transfer import transfer_matrix, transfer_problem, transfer_scores
from emotion_circuits.representations.transfer_by_map import pulled_transfer, pushed_transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

CONTRAST_PAIRS = (("past", "present"), ("formal", "casual"))


@dataclass(frozen=True)
class Grid:
    """Transfer of every layer pair on dev and on test texts, and the pair that dev chooses."""

    layers: tuple[tuple[int, ...], tuple[int, ...]]
    dev: Floats | None
    test: LayerPairs | None
    chosen: tuple[int, int]
    """Layer numbers of source and target."""


def search_layers(data: PairData, seed: int, advance: Callable[[int, str], None]) -> Grid:
    """Transfer over the grid (one map a pair); chosen on dev, compared on test by max-T."""
    layers = (data.source.layers, data.target.layers)
    if data.n_texts < MINIMUM_PAIRS:
        return Grid(layers, None, None, (layers[0][len(layers[0]) // 2], layers[1][len(layers[1]) // 2]))
    keep = np.ones(len(data.source.texts.labels), dtype=bool)
    found: dict[str, list[Any]] = {"dev": [], "test": []}
    for a in layers[0]:
        for b in layers[1]:
            reduction = reduce_pairs(data.map_source(a), data.map_target(b), data.groups, seed=seed)
            for split, into in found.items():
                splits = data.splits(split)
                texts = check_texts(data.source.at(a, keep, splits), data.target.at(b, keep, splits))
                problem = transfer_problem(reduction, texts.source_fit, texts.target_test, len(texts.emotions))
                into.append(transfer_matrix(transfer_scores(problem), texts.target_test.codes, len(texts.emotions)))
            advance(1, f"layers {a} → {b}")
    shape = (len(layers[0]), len(layers[1]), *found["dev"][0].shape)
    dev, test = (np.array(found[s]).reshape(shape) for s in ("dev", "test"))
    i, j = choose_layer_pair(dev, data.depths())
    return Grid(layers, dev, compare_layer_pairs(test, seed=seed), (layers[0][i], layers[1][j]))


def sharing_at(
    data: PairData, pair: tuple[int, int], keep: Mask, *, permutations: int, resamples: int, seed: int
) -> SharingResult:
    """The sharing test at one layer pair on some of the texts, with every floor that was captured."""
    a, b = pair
    splits = data.splits("test")
    untrained = None
    if data.untrained is not None:
        x = data.untrained.texts.x[:, data.untrained.texts.layers.index(b)]
        untrained = FloorArrays(x[keep], data.map_target(b, side=data.untrained))
    floors = Floors(
        untrained,
        FloorArrays(data.target.embedded[keep], data.map_target(b, embedding=True)),
        FloorArrays(data.source.embedded[keep], data.map_source(a, embedding=True)),
    )
    return sharing_test(
        data.source.at(a, keep, splits), data.target.at(b, keep, splits), data.map_source(a), data.map_target(b),
        floors, map_groups=data.groups, permutations=permutations, resamples=resamples, seed=seed,
    )  # fmt: skip


def other_routes(data: PairData, pair: tuple[int, int], seed: int) -> tuple[AlignmentMap, dict[str, Any]]:
    """The fitted map, and the same transfer by other routes: probes pulled back, and a rotation instead of a ridge."""
    a, b = pair
    map_a, map_b = data.map_source(a), data.map_target(b)
    keep = np.ones(len(data.source.texts.labels), dtype=bool)
    splits = data.splits("test")
    source, target = data.source.at(a, keep, splits), data.target.at(b, keep, splits)
    ridge = fit_alignment(map_a, map_b, data.groups, seed=seed)
    rotation = fit_alignment(map_a, map_b, data.groups, method="procrustes", seed=seed)
    back = fit_alignment(map_b, map_a, data.groups, seed=seed)
    return ridge, {
        "pulled_probes": _diagonal(pulled_transfer(back, source, target)),
        "procrustes": _diagonal(pushed_transfer(rotation, source, target)),
        "procrustes_r2": rotation.r2,
        "ridge_r2": ridge.r2,
    }


def left_out(data: PairData, pair: tuple[int, int], seed: int) -> dict[str, float]:
    """Own-vs-rest AUROC of every emotion through a map that saw all other emotions, but not this one."""
    a, b = pair
    keep = np.ones(len(data.source.texts.labels), dtype=bool)
    splits = data.splits("test")
    return leave_one_emotion_out(
        data.source.at(a, keep, splits), data.target.at(b, keep, splits), data.map_source(a), data.map_target(b),
        map_groups=data.groups, seed=seed,
    )  # fmt: skip


def contrasts(data: PairData, fitted: AlignmentMap, pair: tuple[int, int]) -> dict[str, float]:
    """Transfer of unrelated contrasts through the same map: descriptive, part of no verdict."""
    found = {}
    for names in CONTRAST_PAIRS:
        sides = []
        for side, layer in ((data.source, pair[0]), (data.target, pair[1])):
            texts = side.contrasts.select(np.isin(side.contrasts.labels, names))
            x = np.asarray(texts.x[:, texts.layers.index(layer)], dtype=np.float64)
            sides.append(EmotionArrays(x, texts.labels, texts.scenarios, texts.splits))
        found["/".join(names)] = _diagonal(pushed_transfer(fitted, *sides))
    return found


def similarities(data: PairData, fitted: AlignmentMap, pair: tuple[int, int], seed: int) -> dict[str, Any]:
    """CKA, mutual neighbours and RSA on the test texts, in standard coordinates; CKA of the untrained target too."""
    test = data.source.texts.splits == "test"
    a = fitted.source.standardise(data.source.texts.x[test][:, data.source.layers.index(pair[0])])
    b = fitted.target.standardise(data.target.texts.x[test][:, data.target.layers.index(pair[1])])
    labels = data.source.texts.labels[test]
    names = sorted(set(labels.tolist()))
    found = {"cka": _shown(debiased_cka(a, b, seed=seed))}
    if len(a) > 12:
        found["mutual_neighbours"] = _shown(mutual_neighbours(a, b, seed=seed))
    if len(names) >= 4:
        centres = [np.stack([x[labels == n].mean(axis=0) for n in names]) for x in (a, b)]
        found["rsa"] = _shown(centroid_similarity(*centres, seed=seed))
    if data.untrained is not None:
        # In standard coordinates of its own, as the others are: a few massive dimensions would decide CKA.
        scaling = fit_scaling(data.map_target(pair[1], side=data.untrained))
        twin = scaling.standardise(data.untrained.texts.x[test][:, data.untrained.layers.index(pair[1])])
        found["cka_untrained"] = _shown(debiased_cka(a, twin, seed=seed))
    return found


def _shown(found: Similarity) -> dict[str, Any]:
    return {"value": found.value, "null": found.null_mean, "p": found.p}


def _diagonal(matrix: Floats) -> float:
    return float(np.trace(matrix) / len(matrix))

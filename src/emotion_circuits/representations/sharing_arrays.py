"""What the sharing test takes: arrays with labels, clusters and splits, checked, with no model behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.stats.checks import finite
from emotion_circuits.types import NEUTRAL


@dataclass(frozen=True)
class EmotionArrays:
    """Activations of emotional texts in one model.

    Args:
        x: ``[text, d]``. labels: ``[text]`` emotion of each text; texts labelled ``neutral`` are left out.
        clusters: ``[text]`` scenario of each text, named alike in both models; default every row a cluster of its own
            (row i is then taken to be the same text in both models).
        splits: ``[text]`` of ``fit`` (directions, native probes) and ``test`` (everything reported); other names are
            left out. Default: half of the clusters each, alternating by name within emotions.
    """

    x: ArrayLike
    labels: Sequence[str] | NDArray[Any]
    clusters: Sequence[Any] | NDArray[Any] | None = None
    splits: Sequence[str] | NDArray[Any] | None = None


@dataclass(frozen=True)
class FloorArrays:
    """Another model's, or another layer's, activations of the same texts: ``x`` ``[text, d]`` and ``map_x`` ``[n, d]``.

    Rows are those of the source (for a source floor) or of the target (for a target floor).
    """

    x: ArrayLike
    map_x: ArrayLike


@dataclass(frozen=True)
class Floors:
    """What carries emotion without being learnt representation of it; each one optional.

    ``untrained``: the target's architecture with random weights. ``embedding_target``: the target's embedding layer.
    ``embedding_source``: the source's embedding layer, mapped into the target's own layer.
    """

    untrained: FloorArrays | None = None
    embedding_target: FloorArrays | None = None
    embedding_source: FloorArrays | None = None


@dataclass(frozen=True)
class Texts:
    """One split of one model, checked: ``x`` ``[text, d]``, emotion ``codes`` and ``clusters`` by name."""

    x: FloatArray
    codes: NDArray[np.intp]
    clusters: NDArray[np.str_]
    rows: NDArray[np.intp] = field(repr=False)
    """Row numbers in the arrays that were handed in."""


@dataclass(frozen=True)
class CheckedTexts:
    """The fit split of both models and the test split of the target, with the emotions' names."""

    emotions: tuple[str, ...]
    source_fit: Texts
    target_fit: Texts
    target_test: Texts


def check_texts(source: EmotionArrays, target: EmotionArrays) -> CheckedTexts:
    """Resolve splits and clusters and refuse what would make the test wrong.

    Raises:
        UsageError: NaN (naming the model), shapes that do not match, an emotion missing in a split of one model, or a
            cluster that directions are fitted on and that is tested.
    """
    parts = {}
    for name, arrays in (("source", source), ("target", target)):
        x = finite(arrays.x, f"the {name} model's emotional activations")
        labels = np.asarray(arrays.labels).astype(np.str_)
        if x.ndim != 2 or labels.shape != x.shape[:1]:
            raise UsageError(f"{name}: activations {x.shape} do not match labels {labels.shape}", "give [text, d]")
        clusters = np.arange(len(x)) if arrays.clusters is None else np.asarray(arrays.clusters)
        if clusters.shape != labels.shape:
            raise UsageError(f"{name}: {clusters.shape} clusters for {len(x)} texts", "give one cluster per text")
        parts[name] = (x, labels, clusters.astype(np.str_), arrays.splits)
    emotions = tuple(sorted({str(label) for _, labels, _, _ in parts.values() for label in labels} - {NEUTRAL}))
    chosen = {}
    for name, (x, labels, clusters, given) in parts.items():
        splits = halves(labels, clusters) if given is None else np.asarray(given).astype(np.str_)
        if splits.shape != labels.shape:
            raise UsageError(f"{name}: {splits.shape} splits for {len(x)} texts", "give one split per text")
        for split in ("fit", "test"):
            rows = np.flatnonzero((splits == split) & (labels != NEUTRAL))
            codes = np.array([emotions.index(label) for label in labels[rows]], dtype=np.intp)
            counts = np.bincount(codes, minlength=len(emotions))
            few = [e for e, count in zip(emotions, counts, strict=True) if count < 2]
            if few and (name, split) != ("source", "test"):
                raise UsageError(
                    f"{name}: fewer than 2 texts of {', '.join(few)} in the {split} split",
                    "give more texts, or leave those emotions out of both models",
                )
            chosen[name, split] = Texts(x[rows], codes, clusters[rows], rows)
    test = chosen["target", "test"]
    both = set(test.clusters) & (set(chosen["source", "fit"].clusters) | set(chosen["target", "fit"].clusters))
    if both:
        raise UsageError(
            f"{len(both)} cluster(s) are fitted on and tested ({', '.join(sorted(both)[:3])})",
            "give splits that are disjoint by cluster",
        )
    if len(emotions) < 2:
        raise UsageError("fewer than two emotions", "own-vs-rest transfer compares emotions with each other")
    return CheckedTexts(emotions, chosen["source", "fit"], chosen["target", "fit"], test)


def halves(labels: NDArray[np.str_], clusters: NDArray[np.str_]) -> NDArray[np.str_]:
    """``fit`` and ``test`` alternating over clusters sorted by (first label, name), so that emotions stay balanced."""
    first: dict[str, str] = {}
    for cluster, label in sorted(zip(clusters.tolist(), labels.tolist(), strict=True)):
        if label != NEUTRAL:
            first.setdefault(cluster, label)
    order = sorted(first, key=lambda name: (first[name], len(name), name))
    place = {name: ("fit", "test")[i % 2] for i, name in enumerate(order)}
    return np.array([place.get(cluster, "") for cluster in clusters.tolist()])

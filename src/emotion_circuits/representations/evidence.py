"""Does a direction separate texts it never saw, more than its controls do?

Everything is computed on the ``test`` split with directions from ``fit`` and the layer chosen on ``dev``:

- AUROC emotion vs neutral and emotion vs the other emotions (own-vs-rest), with a cluster bootstrap over scenarios.
- ``p_max_layer``: labels of the test texts are permuted, the same way for every layer, and the best layer's AUROC is
  compared with the permutations' best (max-T; Westfall & Young 1993). Labels change places within scenarios that hold
  both, and between whole scenarios that hold one. ``p_layer`` is the same for the chosen layer.
- ``p_shuffled``: the direction is fitted again on labels permuted in the same way. AUROC is blind to the length of a
  direction, and a shuffled direction keeps a random sliver of the true one, which already separates strong classes; so
  the statistic is the held-out separation ``d · (mean emotion − mean neutral)`` (cross-validated distance; Walther et
  al. 2016), to which such a sliver contributes as little as it weighs.
- ``p_random``: rank of its AUROC among isotropic random directions in the same standardised coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.representations.directions import DirectionSet, Method
from emotion_circuits.representations.labelled import FloatArray, Labelled
from emotion_circuits.representations.layer_choice import auroc_standard_error, plateau_middle
from emotion_circuits.stats.discrimination import auroc, auroc_interval, auroc_null, delong_interval
from emotion_circuits.stats.interval import Interval
from emotion_circuits.stats.permutation import (
    MaxTest,
    exchangeable_clusters,
    max_statistic_p,
    permutation_p,
    permuted_labels,
)
from emotion_circuits.stats.selection import Selection, fingerprint

MINIMUM_CLUSTERS = 5
MAXIMUM_CLUSTERS = 1000
"""Above this many clusters DeLong's interval is as good as a bootstrap and takes no time."""


@dataclass(frozen=True)
class Curves:
    """Per-layer test AUROC with intervals ``[layer]``, and the band in which permuted labels fall."""

    interval: Interval
    null_low: FloatArray
    null_high: FloatArray
    threshold: float


@dataclass(frozen=True)
class Evidence:
    """What is known about one emotion's direction; ``row`` indexes the chosen ``layer``. ``None`` = cannot be computed.

    ``p_layer`` is the max-T p of the chosen layer, ``p_max_layer`` that of the best of all layers (the smaller one).
    ``n_exchangeable`` is the number of test scenarios whose labels take part in the permutations behind both.
    ``shuffled_high`` and ``random_high`` are the .95 quantiles of AUROC of label-shuffled and random directions there.
    """

    emotion: str
    layer: int
    row: int
    dev_auroc: FloatArray
    against_neutral: Curves
    own_vs_rest: Curves | None
    p_max_layer: float
    p_layer: float
    p_shuffled: float
    p_random: float
    shuffled_high: float
    random_high: float
    n_test: int
    n_exchangeable: int


def choose_layer(directions: DirectionSet, dev: Labelled, emotion: str, depth: int) -> tuple[int, FloatArray]:
    """The layer chosen on dev for one emotion, and the dev AUROC of every layer."""
    selection, values = select_layer(directions, dev, emotion, depth)
    return dev.layers[selection.index], values


def select_layer(directions: DirectionSet, dev: Labelled, emotion: str, depth: int) -> tuple[Selection, FloatArray]:
    """As :func:`choose_layer`, with the guard that refuses to judge the layer on the scenarios that chose it."""
    scores, positive = _against_neutral(directions, dev, emotion)
    values = auroc(scores[:, positive], scores[:, ~positive])
    errors = auroc_standard_error(values, int(positive.sum()), int((~positive).sum()))
    layer = plateau_middle(values, errors, dev.layers, depth)
    row = dev.layers.index(layer)
    used = dev.scenarios[dev.of(emotion) | dev.neutral_for(emotion)]
    names = frozenset(str(scenario) for scenario in used)
    rule = "middle of the plateau within one standard error of the best dev AUROC"
    return Selection(layer, row, rule, len(values), names, fingerprint(scores[row])), values


def gather_evidence(
    directions: DirectionSet,
    data: Labelled,
    emotion: str,
    depth: int,
    *,
    permutations: int = 999,
    resamples: int = 2000,
    seed: int = 0,
) -> Evidence:
    """All evidence for one emotion from data with splits ``fit``, ``dev`` and ``test``.

    Args:
        directions: fitted on ``data.split("fit")``. depth: number of layers of the model.

    Raises:
        UsageError: too few dev or test texts, or a scenario in both splits.
    """
    fit, dev, test = (data.split(name) for name in ("fit", "dev", "test"))
    for name, part in (("dev", dev), ("test", test)):
        part.require(emotion, f"evidence on the {name} split")
    selection, dev_auroc = select_layer(directions, dev, emotion, depth)
    layer = dev.layers[selection.index]
    row = directions.row(layer)
    scores, positive = _against_neutral(directions, test, emotion)
    clusters = test.scenarios[test.of(emotion) | test.neutral_for(emotion)]
    selection.check(scores[row], clusters)
    neutral, tested = _curves(scores, positive, clusters, permutations, resamples, seed)
    own = own_vs_rest(directions, test, emotion)
    rest = None
    if own is not None:
        rest, _ = _curves(*own, permutations, resamples, seed)
    shuffled, p_shuffled = _shuffled(fit, test, directions, emotion, row, permutations, seed)
    random = _random(test, directions, emotion, row, permutations, seed)
    observed = float(neutral.interval.estimate[row])
    return Evidence(
        emotion, layer, row, dev_auroc, neutral, rest, tested.overall, float(tested.p[row]), p_shuffled,
        p_random=float(permutation_p(observed, random, alternative="greater")),
        shuffled_high=float(np.quantile(shuffled, 0.95)), random_high=float(np.quantile(random, 0.95)),
        n_test=int(positive.sum()),
        n_exchangeable=exchangeable_clusters(positive, np.unique(clusters, return_inverse=True)[1]),
    )  # fmt: skip


def own_vs_rest(
    directions: DirectionSet, data: Labelled, emotion: str
) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.str_]] | None:
    """Scores ``[layer, text]`` of all emotional texts on the centred direction, which are the emotion's own, scenarios.

    ``None`` when no other emotion has texts.
    """
    used = np.isin(data.labels, directions.emotions)
    positive = data.labels[used] == emotion
    if positive.all() or not positive.any():
        return None
    return directions.scores(data.x[used], "centred", emotion), positive, data.scenarios[used]


def _against_neutral(
    directions: DirectionSet, data: Labelled, emotion: str, method: Method = "neutral"
) -> tuple[FloatArray, NDArray[np.bool_]]:
    used = data.of(emotion) | data.neutral_for(emotion)
    return directions.scores(data.x[used], method, emotion), data.of(emotion)[used]


def _curves(
    scores: FloatArray,
    positive: NDArray[np.bool_],
    clusters: NDArray[Any],
    permutations: int,
    resamples: int,
    seed: int,
) -> tuple[Curves, MaxTest]:
    interval = auroc_interval(scores, positive, clusters, resamples=resamples, seed=seed)
    null = auroc_null(scores, positive, clusters, permutations=permutations, seed=seed)
    low, high = np.quantile(null, (0.025, 0.975), axis=0)
    threshold = float(np.quantile(null.max(axis=1), 0.95))
    return Curves(interval, low, high, threshold), max_statistic_p(interval.estimate, null)


def _shuffled(
    fit: Labelled, test: Labelled, directions: DirectionSet, emotion: str, row: int, permutations: int, seed: int
) -> tuple[FloatArray, float]:
    """AUROC of directions fitted on shuffled labels, and the p of the true one's held-out separation among theirs."""
    used = fit.of(emotion) | fit.neutral_for(emotion)
    labels = fit.of(emotion)[used]
    codes = np.unique(fit.scenarios[used], return_inverse=True)[1]
    weights = _contrast(permuted_labels(labels, codes, permutations, np.random.default_rng(seed)))
    true = _contrast(labels[None])
    held = test.of(emotion) | test.neutral_for(emotion)
    positive = test.of(emotion)[held]
    scale = directions.neutral_sd[row]
    a = np.asarray(fit.x[used][:, row], dtype=np.float64) / scale
    b = np.asarray(test.x[held][:, row], dtype=np.float64) / scale
    scores = weights @ (a @ b.T)
    separation = scores[:, positive].mean(1) - scores[:, ~positive].mean(1)
    own = true @ (a @ b.T)
    observed = float((own[:, positive].mean(1) - own[:, ~positive].mean(1))[0])
    p = float(permutation_p(observed, separation, alternative="greater"))
    return auroc(scores[:, positive], scores[:, ~positive]), p


def _random(test: Labelled, directions: DirectionSet, emotion: str, row: int, draws: int, seed: int) -> FloatArray:
    """AUROC of isotropic random directions in standardised coordinates (either sign: the higher of A and 1 − A)."""
    held = test.of(emotion) | test.neutral_for(emotion)
    positive = test.of(emotion)[held]
    b = np.asarray(test.x[held][:, row], dtype=np.float64) / directions.neutral_sd[row]
    scores = np.random.default_rng(seed).standard_normal((draws, b.shape[1])) @ b.T
    values = auroc(scores[:, positive], scores[:, ~positive])
    return np.maximum(values, 1 - values)


def _contrast(labels: NDArray[np.bool_]) -> FloatArray:
    """Weights ``[permutation, text]`` whose product with activations is mean(positive) − mean(negative)."""
    up = labels / labels.sum(1, keepdims=True)
    down = ~labels / (~labels).sum(1, keepdims=True)
    return np.asarray(up - down, dtype=np.float64)


def layer_auroc(
    directions: DirectionSet, data: Labelled, emotion: str, row: int, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any] | None:
    """How well directions tell apart any labelled texts at one layer.

    Returns:
        ``{"auroc", "ci", "own_vs_rest", "n", "n_neutral"}``; ``None`` in place of what the texts do not allow (no
        neutral text, no other emotion), and ``None`` altogether where the emotion has no text. The interval is a
        cluster bootstrap over scenarios, DeLong's (clustered) above :data:`MAXIMUM_CLUSTERS`; ``None`` when fewer than
        :data:`MINIMUM_CLUSTERS` scenarios hold the rarer label.
    """
    n, n_neutral = int(data.of(emotion).sum()), int(data.neutral_for(emotion).sum())
    if n == 0:
        return None
    out: dict[str, Any] = {"auroc": None, "ci": None, "own_vs_rest": None, "n": n, "n_neutral": n_neutral}
    if n_neutral:
        scores, positive = _against_neutral(directions, data, emotion)
        clusters = data.scenarios[data.of(emotion) | data.neutral_for(emotion)]
        at = scores[row]
        out["auroc"] = float(auroc(at[positive], at[~positive]))
        out["ci"] = _interval(at, positive, clusters, resamples, seed)
    own = own_vs_rest(directions, data, emotion)
    if own is not None:
        scores, positive, _ = own
        out["own_vs_rest"] = float(auroc(scores[row, positive], scores[row, ~positive]))
    return out


def _interval(
    scores: FloatArray, positive: NDArray[np.bool_], clusters: NDArray[Any], resamples: int, seed: int
) -> list[float] | None:
    if min(len(np.unique(clusters[positive])), len(np.unique(clusters[~positive]))) < MINIMUM_CLUSTERS:
        return None
    if len(np.unique(clusters)) > MAXIMUM_CLUSTERS:
        interval = delong_interval(scores, positive, clusters)
    else:
        interval = auroc_interval(scores, positive, clusters, resamples=resamples, seed=seed)
    limits = [float(interval.low), float(interval.high)]
    return limits if np.isfinite(limits).all() else None

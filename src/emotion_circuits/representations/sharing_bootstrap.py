"""Intervals of transfer, native accuracy and floors: clusters are resampled and everything is fitted again.

One resample draws the scenarios of the fit texts (alike in both models), those of the target's test texts, and the
rows (or texts) of the map set; directions, maps and native probes are then refitted with these multiplicities. What
selection chose on the observed data (scaling, components, penalty, shrinkage) is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.native_probe import NativeProbe
from emotion_circuits.representations.sharing_arrays import CheckedTexts, Texts
from emotion_circuits.representations.transfer import (
    DirectionWeights,
    ResampledMap,
    TransferProblem,
    weighted_own_aurocs,
)
from emotion_circuits.stats.bootstrap import chunks, cluster_draws, expanded_quantile


@dataclass(frozen=True)
class Replicates:
    """``[resample, emotion]`` own-vs-rest AUROCs of every arm; ``clusters`` is the smallest number resampled."""

    transfer: FloatArray
    native: FloatArray
    floors: Mapping[str, FloatArray]
    clusters: int


@dataclass(frozen=True)
class _Draws:
    """Multiplicities ``[resample, ...]``: of the fit texts in both models, the test texts, and the map set's groups."""

    source_fit: FloatArray
    target_fit: FloatArray
    test: FloatArray
    groups: FloatArray
    smallest: int


def resampled(
    texts: CheckedTexts,
    problem: TransferProblem,
    native: NativeProbe,
    floors: Mapping[str, TransferProblem],
    groups: NDArray[np.intp] | None,
    *,
    resamples: int,
    seed: int,
) -> Replicates:
    """Refit every arm in ``resamples`` draws of clusters; a draw that lacks an emotion is drawn again."""
    n = len(problem.features)
    rows = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.intp)
    draws = _draw(texts, problem.emotions, int(rows.max()) + 1, resamples, np.random.default_rng(seed))
    probe = np.stack(
        [
            weighted_own_aurocs(native.scores(fit), texts.target_test.codes, test)
            for fit, test in zip(draws.target_fit, draws.test, strict=True)
        ]
    )
    # Every arm has its own activations of these texts, and the same coefficients.
    coefficients = DirectionWeights(texts.source_fit, problem.emotions)
    own = {name: _arm(arm, coefficients, draws, rows) for name, arm in {"": problem, **floors}.items()}
    return Replicates(own[""], probe, {name: own[name] for name in floors}, draws.smallest)


def _draw(texts: CheckedTexts, emotions: int, groups: int, resamples: int, rng: np.random.Generator) -> _Draws:
    fitted = np.unique(np.concatenate([texts.source_fit.clusters, texts.target_fit.clusters]))
    tested = np.unique(texts.target_test.clusters)
    source_at, target_at = (np.searchsorted(fitted, t.clusters) for t in (texts.source_fit, texts.target_fit))
    test_at = np.searchsorted(tested, texts.target_test.clusters)
    parts: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for _ in range(20 * resamples):
        fit = cluster_draws(len(fitted), 1, rng)[0]
        test = cluster_draws(len(tested), 1, rng)[0][test_at]
        if (
            _all_present(texts.source_fit, fit[source_at], emotions)
            and _all_present(texts.target_fit, fit[target_at], emotions)
            and _all_present(texts.target_test, test, emotions)
        ):
            parts.append((fit[source_at], fit[target_at], test))
            if len(parts) == resamples:
                break
    else:
        raise UsageError("almost every resample lacks an emotion", "give more scenarios per emotion")
    source, target, tests = (np.stack(part) for part in zip(*parts, strict=True))
    smallest = min(len(fitted), len(tested), groups)
    return _Draws(source, target, tests, cluster_draws(groups, resamples, rng), smallest)


def _arm(arm: TransferProblem, coefficients: DirectionWeights, draws: _Draws, rows: NDArray[np.intp]) -> FloatArray:
    """``[resample, emotion]`` AUROCs of one arm, its directions and its map refitted in every resample."""
    refitted, own = ResampledMap(arm, rows), []
    (n, rank), emotions = arm.features.shape, arm.emotions
    widest = max(rank**2, emotions * max(n, len(arm.fit_features), arm.kernel.shape[1]))
    for some in chunks(len(draws.groups), widest):
        scores = refitted.scores(coefficients(draws.source_fit[some]) @ arm.fit_features, draws.groups[some])
        own += [weighted_own_aurocs(s, arm.test.codes, test) for s, test in zip(scores, draws.test[some], strict=True)]
    return np.stack(own)


def recentred_limits(
    estimate: float, replicates: FloatArray, clusters: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile limits at the expanded quantile (Hesterberg 2015), moved so that the median lies on the estimate.

    A resample holds about 63 % of the distinct texts, so refitted directions are a little worse in every resample;
    without moving them the limits would sit too low. (NaN, NaN) where more than 5 % of the replicates are undefined.
    """
    kept = replicates[np.isfinite(replicates)]
    if not np.isfinite(estimate) or len(kept) < 0.95 * len(replicates):
        return float("nan"), float("nan")
    tail = float(special.ndtr(-expanded_quantile(confidence, max(clusters, 2))))
    low, middle, high = np.quantile(kept, [tail, 0.5, 1 - tail])
    return float(estimate + low - middle), float(estimate + high - middle)


def difference_p(estimate: float, replicates: FloatArray, clusters: int) -> float:
    """One-sided p that a difference is not above 0, from its bootstrap SD and Student's t with clusters − 1 df."""
    sd = float(np.std(replicates, ddof=1)) * np.sqrt(clusters / max(clusters - 1, 1))
    if sd == 0:
        return 0.0 if estimate > 0 else 1.0
    return float(special.stdtr(max(clusters - 1, 1), -estimate / sd))


def relative_transfer(transfer: FloatArray, floor: FloatArray, native: FloatArray) -> FloatArray:
    """τ = (transfer − floor) / (native − floor); NaN where the native probe is not above the floor by .01."""
    room = native - floor
    return np.asarray(np.where(room > 0.01, (transfer - floor) / np.where(room > 0.01, room, 1.0), np.nan))


def _all_present(texts: Texts, weights: FloatArray, emotions: int) -> bool:
    return bool(np.all(np.bincount(texts.codes, weights=weights, minlength=emotions) > 0))

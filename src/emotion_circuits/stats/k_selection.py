"""How many dimensions does the subspace need? Chosen by held-out scores on dev, with intervals over scenarios.

The scores are per text or scenario (transfer or decoding of texts that did not fit the subspace). Layers are not a
sample: neighbours share almost everything, so resampling layers would invent certainty.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.stats.bootstrap import bootstrap_interval, cluster_totals
from emotion_circuits.stats.checks import at_least, finite, units_and_clusters
from emotion_circuits.stats.interval import FloatArray, Interval
from emotion_circuits.stats.selection import Selection, fingerprint
from emotion_circuits.stats.sign_flip import sign_flip_test


@dataclass(frozen=True)
class KSelection:
    """The chosen k and the evidence for each candidate.

    ``score`` is the held-out mean per k, ``behind`` the paired difference best - k, ``p_behind`` its max-T corrected
    sign-flip p (1 for the best itself). ``selection`` guards the choice: it refuses to be tested on these scenarios.
    """

    ks: tuple[int, ...]
    k: int
    best: int
    score: Interval
    behind: Interval
    error: FloatArray
    p_behind: FloatArray
    selection: Selection


def select_k(
    scores: ArrayLike,
    ks: Sequence[int],
    clusters: Sequence[Hashable] | NDArray[Any],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> KSelection:
    """Smallest k whose held-out score lies within one standard error of the best k's, paired over scenarios.

    The standard error is that of the paired difference best - k over scenarios, so that what all k share (easy and hard
    scenarios) cancels; the rule prefers the simplest model that is not visibly worse (Breiman et al. 1984).

    Args:
        scores: ``[k, n]`` held-out score of each text under each k; larger is better. For AUROC pass each text's
            placement (share of opposite-label texts it beats), whose mean is the AUROC.
        ks: candidate dimensions, ascending.
        clusters: ``[n]`` scenario of each text, all from the dev split.
    """
    table = finite(scores, "held-out scores")
    candidates = tuple(int(k) for k in ks)
    if table.ndim != 2 or len(candidates) != len(table):
        raise UsageError(f"scores have shape {table.shape} for {len(candidates)} values of k", "give [k, n]")
    if len(candidates) < 2 or list(candidates) != sorted(set(candidates)) or candidates[0] < 1:
        raise UsageError(f"k candidates {list(candidates)} are not ascending", "give at least two, each once, from 1")
    codes, count = units_and_clusters(table.shape[1], clusters, None)
    at_least(count, 5, "scenarios", "choosing k")
    means = cluster_totals(table, codes, count) / np.bincount(codes, minlength=count)
    best = int(np.argmax(means.mean(axis=1)))
    gaps = means[best] - means
    error = gaps.std(axis=1, ddof=1) / np.sqrt(count)
    within = gaps.mean(axis=1) <= error + 1e-12
    chosen = int(np.flatnonzero(within)[0])
    names = frozenset(str(c) for c in np.asarray(clusters).tolist())
    selection = Selection(
        candidates[chosen],
        chosen,
        f"smallest k within one standard error of k={candidates[best]}",
        len(candidates),
        names,
        fingerprint(table[chosen]),
    )
    return KSelection(
        ks=candidates,
        k=candidates[chosen],
        best=candidates[best],
        score=bootstrap_interval(means, resamples=resamples, confidence=confidence, seed=seed),
        behind=bootstrap_interval(gaps, resamples=resamples, confidence=confidence, seed=seed),
        error=error,
        p_behind=sign_flip_test(gaps, alternative="greater", seed=seed).p_max,
        selection=selection,
    )

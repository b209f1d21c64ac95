"""What a map does to a joint emotion subspace, by method, with bands of maps and of subspaces that know nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._pairs.data import PairData
from emotion_circuits.experiments._pairs.spaces import centred, directions_at, placed_in, raw_overlap
from emotion_circuits.representations.alignment import fit_alignment, reduce_pairs, shuffled_weights
from emotion_circuits.representations.principal_angles import chance_overlap
from emotion_circuits.representations.subspaces import Subspace, span
from emotion_circuits.representations.transfer import own_aurocs
from emotion_circuits.representations.transfer_nulls import shuffled_rows
from emotion_circuits.stats import permutation_p

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from emotion_circuits.representations.alignment_map import MapMethod

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Judge:
    """What a map's weights ``[rank, d_b]`` are judged on: the source's directions ``[emotion, rank]``, the target's
    joint subspace, and its test texts ``[text, d_b]`` with their emotion codes."""

    own: Floats
    native: Subspace
    test: Floats
    codes: NDArray[np.intp]

    def __call__(self, weights: Floats) -> tuple[float, float, list[float]]:
        """Overlap, own-vs-rest transfer, principal angles in degrees."""
        pushed = self.own @ weights
        value, angles = placed_in(pushed, self.native)
        transfer = own_aurocs(pushed @ self.test.T, self.codes, len(self.own)).mean()
        return value, float(transfer), angles


def subspace_maps(
    data: PairData, pair: tuple[int, int], methods: Sequence[MapMethod], *, components: int, permutations: int,
    seed: int, advance: Callable[[int, str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per method at one layer pair.

    ``shuffled_*``: maps fitted on shuffled pairs. ``random_*``: random subspaces of the source, with the covariance of
    its neutral text, through the true map: how much of the overlap any subspace would have. Bands hold 95 %.
    """
    found = directions_at(data, pair)
    raw = raw_overlap(found)
    count = len(found.emotions)
    x, y = data.map_source(pair[0]), data.map_target(pair[1])
    reduction = reduce_pairs(x, y, data.groups, rank=components, seed=seed)
    moves = shuffled_rows(data.groups, len(x), permutations, seed + 1)
    judge = _Judge(
        centred(found.source, count, reduction.source.standardise(found.source.x)) @ reduction.basis,
        span(centred(found.target, count, reduction.target.standardise(found.target.x)), count - 1),
        reduction.target.standardise(found.test.x), found.test.codes,
    )  # fmt: skip
    rng = np.random.default_rng(seed + 2)
    random = rng.normal(size=(permutations, count - 1, len(x))) @ reduction.features
    chance, _ = chance_overlap(judge.native.d, judge.native.k)
    rows = []
    for method in methods:
        fitted = fit_alignment(x, y, data.groups, method=method, rank=components, seed=seed)
        after, transfer, angles = judge(fitted.weights)
        shuffled = np.array([judge(shuffled_weights(reduction, method, move))[:2] for move in moves])
        anything = np.array([placed_in(vectors @ fitted.weights, judge.native)[0] for vectors in random])
        rows.append({
            "method": method, "source_layer": pair[0], "target_layer": pair[1],
            "before": None if raw is None else raw["before"], "chance": chance, "after": after, "angles": angles,
            **_band("shuffled", shuffled[:, 0]), "p_shuffled": float(permutation_p(np.array(after), shuffled[:, 0])),
            **_band("random", anything), "p_random": float(permutation_p(np.array(after), anything)),
            "transfer": transfer, **_band("transfer_shuffled", shuffled[:, 1]),
            "p_transfer": float(permutation_p(np.array(transfer), shuffled[:, 1])),
        })  # fmt: skip
        advance(1, f"{method}, layers {pair[0]} → {pair[1]}")
    return rows


def _band(name: str, values: Floats) -> dict[str, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return {f"{name}_mean": float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}

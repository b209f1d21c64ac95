"""From the arms of a sharing test to its result: p values, τ with limits, verdicts for the set and every emotion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from emotion_circuits.representations.alignment import ridge_weights
from emotion_circuits.representations.identifiability import MINIMUM_KAPPA, identifiability
from emotion_circuits.representations.labelled import FloatArray
from emotion_circuits.representations.sharing_arrays import CheckedTexts
from emotion_circuits.representations.sharing_bootstrap import (
    Replicates,
    difference_p,
    recentred_limits,
    relative_transfer,
)
from emotion_circuits.representations.sharing_result import EmotionSharing, SharingResult
from emotion_circuits.representations.sharing_verdict import judge
from emotion_circuits.representations.transfer import (
    TransferProblem,
    direction_weights,
    own_aurocs,
    transfer_matrix,
    transfer_scores,
)
from emotion_circuits.representations.transfer_nulls import MapNull, relabelling_p
from emotion_circuits.stats.permutation import permutation_p

LINEAR_ALPHA = 0.05
"""A map whose cross-validated R² does not beat those of shuffled pairs at this level retains nothing (κ = 0)."""

FLOOR_NAMES = ("shuffled", "untrained", "embedding_target", "embedding_source")

Pick = Callable[[FloatArray], FloatArray]
"""From ``[..., emotion]`` to one figure: the mean over emotions, or one emotion's value."""


@dataclass(frozen=True)
class Arms:
    """Everything that was measured. ``native`` ``[emotion]``, ``random`` ``[m, emotion]``; ``rivals`` by floor."""

    texts: CheckedTexts
    problem: TransferProblem
    shuffled: MapNull
    random: FloatArray
    rivals: Mapping[str, TransferProblem]
    native: FloatArray
    draws: Replicates

    @cached_property
    def matrix(self) -> FloatArray:
        """``[i, j]`` transfer of direction i to the texts of emotion j."""
        codes = self.texts.target_test.codes
        return transfer_matrix(transfer_scores(self.problem), codes, self.problem.emotions)

    @cached_property
    def own(self) -> FloatArray:
        """``[emotion]`` the diagonal of the matrix."""
        return np.asarray(np.diagonal(self.matrix))

    @cached_property
    def rival_own(self) -> dict[str, FloatArray]:
        """``[emotion]`` transfer of each floor that was handed in."""
        return {n: own_aurocs(transfer_scores(r), r.test.codes, r.emotions) for n, r in self.rivals.items()}

    @cached_property
    def floors(self) -> dict[str, FloatArray]:
        """``[emotion]`` of every floor, the shuffled maps' mean included."""
        return {"shuffled": self.shuffled.own.mean(axis=0), **self.rival_own}

    @cached_property
    def p_linear(self) -> float:
        """p of the map's cross-validated R² among maps of shuffled pairs."""
        return float(permutation_p(self.problem.r2, self.shuffled.r2))

    @property
    def linear(self) -> bool:
        """Whether the map predicts anything on neutral text that it was not fitted on."""
        return self.p_linear <= LINEAR_ALPHA and self.problem.r2 > 0


@dataclass(frozen=True)
class Figures:
    """What the rule looks at: τ and its limits, the floor it is measured from, and the p of every null."""

    tau: float
    ci: tuple[float, float]
    floor: float
    p: Mapping[str, float | None]
    p_max: float


def figures(arms: Arms, relabel: float, pick: Pick) -> Figures:
    """The rule's figures over all emotions, or for one, as ``pick`` says."""
    draws = arms.draws
    floor = float(max(pick(values) for values in arms.floors.values()))
    levels = [pick(values) for values in draws.floors.values()]
    constant = np.full(len(draws.transfer), float(pick(arms.floors["shuffled"])))
    tau = float(relative_transfer(pick(arms.own), np.asarray(floor), pick(arms.native)))
    highest = np.max([constant, *levels], axis=0)
    taus = relative_transfer(pick(draws.transfer), highest, pick(draws.native))
    above = [
        difference_p(float(pick(arms.own) - pick(own)), pick(draws.transfer) - pick(draws.floors[n]), draws.clusters)
        for n, own in arms.rival_own.items()
    ]
    p = {
        "relabel": relabel,
        "shuffled_map": float(permutation_p(pick(arms.own), pick(arms.shuffled.own))),
        "covariance": float(permutation_p(pick(arms.own), pick(arms.random))),
    }
    p_max = max([*p.values(), *above])
    every: dict[str, float | None] = {**p, "above_floor": max(above) if above else None, "max": p_max}
    return Figures(tau, recentred_limits(tau, taus, draws.clusters), floor, every, p_max)


def summarise(arms: Arms, permutations: int, resamples: int, seed: int) -> SharingResult:
    """Judge the set and every emotion."""
    texts, reduction, draws = arms.texts, arms.problem.reduction, arms.draws
    directions = direction_weights(texts.source_fit, len(texts.emotions)) @ reduction.source.standardise(
        texts.source_fit.x
    )
    kappas, kappa = identifiability(directions, reduction.basis, retained=arms.linear)
    relabel = relabelling_p(arms.matrix, seed=seed)
    total = figures(arms, relabel, _mean)
    identified = kappa >= MINIMUM_KAPPA
    judged = judge(
        identified=identified, p_max=total.p_max, low=total.ci[0], high=total.ci[1], emotions=len(texts.emotions)
    )
    reason = judged.reason
    if not arms.linear:
        reason = f"no linear relation between the models was found on neutral text (p = {arms.p_linear:.3g})"

    def limits(estimate: float, replicates: FloatArray) -> tuple[float, float]:
        return recentred_limits(estimate, replicates, draws.clusters)

    transfer, native = float(arms.own.mean()), float(arms.native.mean())
    differences = {}
    for name, values in arms.rival_own.items():
        gap = transfer - float(values.mean())
        low, high = limits(gap, (draws.transfer - draws.floors[name]).mean(axis=1))
        differences[name] = {"estimate": gap, "low": low, "high": high}
    return SharingResult(
        verdict=judged.verdict,
        reason=reason,
        tau=total.tau,
        ci=total.ci,
        transfer=transfer,
        transfer_ci=limits(transfer, draws.transfer.mean(axis=1)),
        native=native,
        native_ci=limits(native, draws.native.mean(axis=1)),
        floor={n: float(arms.floors[n].mean()) if n in arms.floors else None for n in FLOOR_NAMES},
        differences=differences,
        kappa=kappa,
        rank=reduction.rank,
        n_map=len(arms.problem.features),
        d=(len(reduction.source.mean), len(reduction.target.mean)),
        p=total.p,
        per_emotion=_per_emotion(arms, kappas, relabel),
        emotions=texts.emotions,
        matrix=arms.matrix,
        map={"method": "ridge", "penalty": arms.problem.penalty, "r2": arms.problem.r2, "p": arms.p_linear},
        permutations=permutations,
        resamples=resamples,
    )


def _per_emotion(arms: Arms, kappas: FloatArray, relabel: float) -> tuple[EmotionSharing, ...]:
    names = arms.texts.emotions
    cosines = _cosines(arms)
    judged = []
    for i, emotion in enumerate(names):
        one = figures(arms, relabel, _only(i))
        picks = int(np.argmax(arms.matrix[i]))
        verdict = judge(
            identified=bool(kappas[i] >= MINIMUM_KAPPA),
            p_max=one.p_max,
            low=one.ci[0],
            high=one.ci[1],
            emotions=len(names),
            own_is_largest=picks == i,
        )
        judged.append(
            EmotionSharing(
                emotion=emotion,
                verdict=verdict.verdict,
                reason=verdict.reason,
                tau=one.tau,
                ci=one.ci,
                auroc_transfer=float(arms.own[i]),
                auroc_native=float(arms.native[i]),
                floor=one.floor,
                cosine=float(cosines[i]),
                kappa=float(kappas[i]),
                picks=names[picks],
                p=one.p,
            )
        )
    return tuple(judged)


def _mean(values: FloatArray) -> FloatArray:
    return np.asarray(values.mean(axis=-1))


def _only(index: int) -> Pick:
    def pick(values: FloatArray) -> FloatArray:
        return np.asarray(values[..., index])

    return pick


def _cosines(arms: Arms) -> FloatArray:
    """``[emotion]`` cosine of the pushed with the target's own centred direction, in its standard coordinates."""
    problem, reduction, fit = arms.problem, arms.problem.reduction, arms.texts.target_fit
    pushed = problem.directions @ ridge_weights(problem.features, reduction.z_target, problem.penalty)
    own = direction_weights(fit, problem.emotions) @ reduction.target.standardise(fit.x)
    size = np.linalg.norm(pushed, axis=1) * np.linalg.norm(own, axis=1)
    return np.asarray((pushed * own).sum(axis=1) / np.maximum(size, np.finfo(np.float64).tiny))

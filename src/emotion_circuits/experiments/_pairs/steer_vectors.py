"""The vectors of every arm of ``transfer-steer``, as arrays in the target's coordinates; nothing is steered here.

native       the target's own emotion vectors
mapped       the source's, through the map fitted on neutral text
shuffled     the source's, through maps of shuffled pairs (a family)
covariance   random vectors with the covariance of the target's neutral activations (a family)
untrained    the source's, through a map into the target's untrained twin: a map that fits, into coordinates that mean
             nothing to the trained target
words        the source's *embedding-layer* vectors, through a map into the target's layer: static word meaning

All emotion vectors are class means of fit texts centred over the emotions (within scenarios where texts are matched).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._captured import load_capture
from emotion_circuits.experiments._pairs.data import PairData, Side
from emotion_circuits.experiments.shared_texts import EMOTIONAL
from emotion_circuits.representations.alignment import Reduction, reduce_pairs
from emotion_circuits.representations.controls import covariance_matched
from emotion_circuits.representations.identifiability import identifiability
from emotion_circuits.representations.mapped_vectors import MappedVectors, cosines, mapped_vectors
from emotion_circuits.representations.sharing_arrays import Texts, check_texts
from emotion_circuits.representations.sharing_summary import LINEAR_ALPHA
from emotion_circuits.representations.transfer import direction_weights
from emotion_circuits.representations.transfer_nulls import shuffled_rows
from emotion_circuits.stats import permutation_p

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NATIVE, MAPPED, SHUFFLED, COVARIANCE = "native", "mapped", "shuffled maps", "covariance-matched random vectors"
UNTRAINED, WORDS = "map into the untrained twin", "word embeddings"


@dataclass(frozen=True)
class ArmVectors:
    """``single[arm]`` is ``[emotion, d]`` in the target's coordinates; ``shuffled`` ``[map, emotion, d]`` and
    ``covariance`` ``[vector, d]`` are families.

    ``kappa`` and ``cosine`` ``[emotion]``: could the map carry the vector, and how near is it to the native one.
    ``fitted_on`` are the fit texts of every emotion, ``about`` facts of the map.
    """

    emotions: tuple[str, ...]
    single: Mapping[str, Floats]
    shuffled: Floats
    covariance: Floats
    kappa: Floats
    cosine: Floats
    fitted_on: Mapping[str, tuple[str, ...]]
    about: Mapping[str, Any]

    @property
    def twin(self) -> Floats | None:
        """The same vectors as arm ``untrained``, at home in the twin."""
        return self.single.get(UNTRAINED)

    def of(self, emotion: str) -> int:
        return self.emotions.index(emotion)


def arm_vectors(data: PairData, pair: tuple[int, int], *, shuffles: int, random: int, seed: int) -> ArmVectors:
    """Every arm's vectors at one layer pair."""
    a, b = pair
    keep = np.ones(len(data.source.texts.labels), dtype=bool)
    splits = data.splits("test")
    texts = check_texts(data.source.at(a, keep, splits), data.target.at(b, keep, splits))
    count = len(texts.emotions)
    rows_a, rows_b = data.map_source(a), data.map_target(b)
    reduction = reduce_pairs(rows_a, rows_b, data.groups, seed=seed)
    own = _directions(texts.source_fit, count, texts.source_fit.x)
    found = _through(reduction, own, data.groups, shuffles, seed)
    native = _directions(texts.target_fit, count, texts.target_fit.x)
    single = {NATIVE: native, MAPPED: found.vectors[0]}
    if data.untrained is not None:
        into = reduce_pairs(rows_a, data.map_target(b, side=data.untrained), data.groups, seed=seed)
        single[UNTRAINED] = _through(into, own).vectors[0]
    static = reduce_pairs(data.map_source(a, embedding=True), rows_b, data.groups, seed=seed)
    embedded = data.source.embedded[texts.source_fit.rows]
    single[WORDS] = _through(static, _directions(texts.source_fit, count, embedded)).vectors[0]
    p_linear = float(permutation_p(found.r2[0], found.r2[1:]))
    linear = p_linear <= LINEAR_ALPHA and bool(found.r2[0] > 0)
    kappa, _ = identifiability(own / reduction.source.sd, reduction.basis, retained=linear)
    drawn = covariance_matched(random, rows_b, np.random.default_rng([seed, b]))
    return ArmVectors(
        texts.emotions, single, found.vectors[1:], drawn, kappa, cosines(found.vectors[0], native, reduction.target.sd),
        _texts_by_emotion(data.source, texts.source_fit, texts.emotions),
        {
            "n": len(rows_a), "n_texts": data.n_texts, "rank": reduction.rank, "d": [rows_a.shape[1], rows_b.shape[1]],
            "penalty": float(found.penalties[0]), "r2": float(found.r2[0]),
            "r2_shuffled": float(found.r2[1:].mean()), "p": p_linear,
        },
    )  # fmt: skip


def _directions(fit: Texts, emotions: int, x: Floats) -> Floats:
    """``[emotion, d]`` class means of ``x`` ``[fit text, d]``, centred over the emotions."""
    return np.asarray(direction_weights(fit, emotions) @ x)


def _through(
    reduction: Reduction, directions: Floats, groups: Any = None, shuffles: int = 0, seed: int = 0
) -> MappedVectors:
    """Through the map of the true pairs first, then through those of shuffled pairs."""
    n = len(reduction.features)
    moves = np.arange(n)[None]
    if shuffles:
        moves = np.vstack([moves, shuffled_rows(groups, n, shuffles, seed)])
    return mapped_vectors(reduction, directions, moves)


def _texts_by_emotion(side: Side, fit: Texts, emotions: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    prompts = load_capture(side.run, EMOTIONAL).prompts
    return {
        emotion: tuple(prompts[row].text for row, code in zip(fit.rows, fit.codes, strict=True) if code == i)
        for i, emotion in enumerate(emotions)
    }

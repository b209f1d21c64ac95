"""``transfer-steer`` on the target: a dose per emotion on dev prompts, then every arm on test prompts.

1. Dev prompts: the native vector at every strength (teacher-forced), and sampled texts of the native and the mapped
   vector.
2. Per emotion, the dose at which the *native* vector works best among those that leave both texts sound: what the
   mapped vector does to the endpoint has no say in how strongly it is tested.
3. Test prompts at that dose: every arm both ways, two control families, sampled texts of the target's arms.
4. The same vectors in the untrained twin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._cell import BASE
from emotion_circuits.experiments._endpoint import EndpointTokens
from emotion_circuits.experiments._grid import LEAST_PASS_RATE
from emotion_circuits.experiments._paired import t_of_mean
from emotion_circuits.experiments._pairs.steer_vectors import (
    COVARIANCE,
    MAPPED,
    NATIVE,
    SHUFFLED,
    UNTRAINED,
    ArmVectors,
)
from emotion_circuits.experiments._steering import SITE
from emotion_circuits.experiments._texts import ScoredTexts, damage_of, pass_rate_of, write_texts
from emotion_circuits.types import Condition, Positions, Prompt, Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emotion_circuits.engine.score import Metric
    from emotion_circuits.experiments._measure import Measure
    from emotion_circuits.experiments.transfer_steer import TransferSteerParams

    Floats = NDArray[np.float64]

TESTED = (NATIVE, MAPPED)
CONTROLS = (SHUFFLED, UNTRAINED, COVARIANCE)
"""Arms whose texts are written on test prompts; of the shuffled maps and of the random vectors the first drawn.
Controls have fewer samples: their texts show the damage, their effects are those on the endpoint."""


@dataclass(frozen=True)
class Place:
    """Where vectors are added, and the mean residual norm there: a vector at strength s has the length s × ``norm``."""

    layer: int
    at: Positions
    norm: float

    def add(self, name: str, vector: Floats, strength: float) -> Condition:
        from emotion_circuits.representations.steering import add_at

        return Condition(
            name, (add_at(Site(SITE, self.layer), vector, strength * self.norm, positions=self.at),)
        )  # fmt: skip

    def both_ways(self, name: str, vector: Floats, strength: float) -> list[Condition]:
        return [self.add(f"+{name}", vector, strength), self.add(f"-{name}", vector, -strength)]


@dataclass(frozen=True)
class Dose:
    """The strength an emotion is tested at, and what dev said about it.

    ``gated``: at this strength native and mapped texts pass the damage gate (on the share ``pass_rate`` of the draws of
    dev prompts) and the native vector moves the endpoint and the classifier the right way. Where no strength does,
    the one whose texts pass most often is tested.
    """

    strength: float
    dev_effect: float
    pass_rate: float
    gated: bool
    rank: float


@dataclass(frozen=True)
class SteerResults:
    """What was measured at every emotion's dose on the test prompts.

    ``scores[endpoint][condition]`` is ``[prompt]``; conditions are ``baseline``, ``+{arm}: {emotion}`` and ``-…``,
    endpoints emotions, ``{emotion}/seen_words``, ``{emotion}/unseen_words`` and ``kl``. ``families[family][emotion]``
    are mean odd effects ``[vector]``. ``texts`` are those of the tested arms, ``control_texts`` those of the controls,
    each with the baseline's. ``twin[emotion]`` is ``[prompt]``, the odd effect in the untrained twin.
    """

    emotions: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    doses: Mapping[str, Dose]
    place: Place
    scores: Mapping[str, Mapping[str, Floats]]
    families: Mapping[str, Mapping[str, Floats]]
    texts: ScoredTexts
    control_texts: ScoredTexts
    twin: Mapping[str, Floats]

    @property
    def written(self) -> tuple[str, ...]:
        """The arms whose texts were written."""
        there = {condition.rpartition(": ")[0] for condition in self.control_texts.conditions}
        return TESTED + tuple(arm for arm in CONTROLS if arm in there)

    def texts_of(self, arm: str) -> ScoredTexts:
        """The texts of an arm, with the baseline's of as many samples."""
        return self.control_texts if arm in CONTROLS else self.texts

    def written_as(self, arm: str, emotion: str) -> str:
        """The condition under which the texts of an arm of ``emotion`` were written."""
        return text_condition(arm, emotion, self.doses[emotion].strength)

    def odd(self, arm: str, emotion: str, endpoint: str | None = None) -> Floats:
        """``[prompt]`` (s(+v) − s(−v)) / 2 of an arm's vector of ``emotion``, on that emotion's endpoint or another."""
        scores, name = self.scores[endpoint or emotion], condition_name(arm, emotion)
        return (scores[f"+{name}"] - scores[f"-{name}"]) / 2

    def even(self, arm: str, emotion: str) -> Floats:
        """``[prompt]`` (s(+v) + s(−v)) / 2 − s(0)."""
        scores, name = self.scores[emotion], condition_name(arm, emotion)
        return (scores[f"+{name}"] + scores[f"-{name}"]) / 2 - scores[BASE]


def condition_name(arm: str, emotion: str) -> str:
    return f"{arm}: {emotion}"


def text_condition(arm: str, emotion: str, strength: float) -> str:
    """A random vector knows no emotion: its texts serve every emotion that is tested at that strength."""
    return f"{arm}: α {strength:g}" if arm == COVARIANCE else condition_name(arm, emotion)


def steer_target(
    measure: Measure, arms: ArmVectors, layer: int, emotions: Sequence[str], params: TransferSteerParams, seed: int
) -> tuple[SteerResults, Mapping[str, Metric]]:
    """Everything that is measured in the target, and the metrics of its endpoints (the twin counts the same tokens)."""
    prompts = params.steered()
    endpoint = EndpointTokens(measure, emotions)
    place = place_of(measure, layer, prompts, Positions.parse(params.at))
    split = {name: tuple(p for p in prompts if p.split == name) for name in ("dev", "test")}
    doses = _doses(measure, place, arms, endpoint, split["dev"], params, seed)
    metrics = _metrics(endpoint, arms)
    scores = _arms(measure, place, arms, doses, split["test"], metrics)
    families = {
        SHUFFLED: _shuffled(measure, place, arms, doses, split["test"], endpoint),
        COVARIANCE: _covariance(measure, place, arms, doses, split["test"], endpoint),
    }
    texts, control_texts = (
        write_texts(
            measure, step, split["test"], [Condition(BASE), *_written(names, place, arms, doses)],
            params.sampling(samples, seed), tuple(doses),
        )
        for step, names, samples in (
            ("test-texts", TESTED, params.samples), ("test-control-texts", CONTROLS, params.control_samples),
        )
    )  # fmt: skip
    found = SteerResults(tuple(emotions), split["test"], doses, place, scores, families, texts, control_texts, {})
    return found, {e: endpoint.metric(e) for e in emotions}


def measurable(
    measure: Measure, emotions: Sequence[str], *, asked: bool
) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The emotions that have words of their own in the target's tokenizer, and why the others are left out.

    Raises:
        UsageError: one that was asked for by name has none, or none is left.
    """
    from emotion_circuits.scorers.emotion_tokens import check_emotion_tokens

    kept: list[str] = []
    left_out: list[dict[str, str]] = []
    for emotion in emotions:
        try:
            check_emotion_tokens(measure.lm, (emotion,))
            kept.append(emotion)
        except UsageError as error:
            if asked or len(left_out) == len(emotions) - 1:
                raise
            left_out.append({"emotion": emotion, "reason": error.what})
    return tuple(kept), left_out


def steer_twin(
    measure: Measure, arms: ArmVectors, found: SteerResults, metrics: Mapping[str, Metric], prompts: Sequence[Prompt]
) -> dict[str, Floats]:
    """``{emotion: [prompt]}`` odd effects of the vectors in the untrained twin, at the same fraction of its own norm.

    A network with random weights whose output reads its input embeddings already turns a vector made of words into
    those words. That is the floor: what the whole chain (neutral text, map, steering, endpoint) gives without learning.
    """
    if arms.twin is None:
        return {}
    place = place_of(measure, found.place.layer, prompts, found.place.at)
    conditions = [
        c
        for e in found.emotions
        for c in place.both_ways(e, arms.twin[arms.of(e)], found.doses[e].strength)
    ]  # fmt: skip
    scores = measure.score("untrained-twin", found.prompts, conditions, metrics)
    names = [c.name for c in conditions]
    columns = {e: (names.index(f"+{e}"), names.index(f"-{e}")) for e in found.emotions}
    return {e: _float(scores[e][:, up] - scores[e][:, down]) / 2 for e, (up, down) in columns.items()}


def place_of(measure: Measure, layer: int, prompts: Sequence[Prompt], at: Positions) -> Place:
    """The place with the mean norm of the residual stream at the prompts' last tokens."""
    from emotion_circuits.engine import capture

    last = Positions("last")
    found = capture(measure.lm, prompts, [SITE], [last], layers=[layer])
    rows = np.asarray(found.get(SITE, last)[:, 0], dtype=np.float64)
    return Place(layer, at, float(np.linalg.norm(rows, axis=-1).mean()))


def _doses(
    measure: Measure, place: Place, arms: ArmVectors, endpoint: EndpointTokens, dev: Sequence[Prompt],
    params: TransferSteerParams, seed: int,
) -> dict[str, Dose]:  # fmt: skip
    cells = [(e, s) for e in endpoint.emotions for s in params.strengths]
    native, mapped = arms.single[NATIVE], arms.single[MAPPED]
    conditions = [c for e, s in cells for c in place.both_ways(f"{e} {s:g}", native[arms.of(e)], s)]
    scores = measure.score("dev", dev, conditions, {e: endpoint.metric(e) for e in endpoint.emotions})
    names = [c.name for c in conditions]
    steered = [
        place.add(f"{arm}: {e} {s:g}", vectors[arms.of(e)], s)
        for e, s in cells
        for arm, vectors in ((NATIVE, native), (MAPPED, mapped))
    ]
    sampling = params.sampling(params.dev_samples, seed)
    texts = write_texts(measure, "dev-texts", dev, [Condition(BASE), *steered], sampling, endpoint.emotions)
    found: dict[str, list[Dose]] = {}
    for e, s in cells:
        up, down = (scores[e][:, names.index(f"{sign}{e} {s:g}")] for sign in "+-")
        found.setdefault(e, []).append(_dose(e, s, _float(up - down) / 2, texts, seed))
    return {e: max(d, key=lambda c: (c.gated, c.rank if c.gated else c.pass_rate, c.rank)) for e, d in found.items()}


def _dose(emotion: str, strength: float, effect: Floats, texts: ScoredTexts, seed: int) -> Dose:
    """What dev says about one strength; ranked by the weaker t of the native vector's endpoint and classifier."""
    written = [f"{arm}: {emotion} {strength:g}" for arm in (NATIVE, MAPPED)]
    ranks = [t_of_mean(effect, texts.prompts)]
    if f"embedded:{emotion}" in texts.values:
        ranks.append(t_of_mean(text_shift(texts, f"embedded:{emotion}", written[0], BASE), texts.prompts))
    rate = min(pass_rate_of(texts, BASE, arm, seed) for arm in written)
    sound = rate >= LEAST_PASS_RATE and all(damage_of(texts, BASE, arm).ok for arm in written)
    return Dose(strength, float(effect.mean()), rate, sound and min(ranks) > 0, min(ranks))


def text_shift(texts: ScoredTexts, scorer: str, arm: str, against: str) -> Floats:
    """``[prompt]`` difference of an evaluator's score between two conditions, samples averaged first."""
    return _float(texts.of(scorer, arm).mean(axis=1) - texts.of(scorer, against).mean(axis=1))


def _metrics(endpoint: EndpointTokens, arms: ArmVectors) -> dict[str, Metric]:
    """Every emotion's endpoint, its halves (words that its fit texts contain, and others), and KL."""
    found: dict[str, Metric] = {}
    for emotion in endpoint.emotions:
        for name, metric in endpoint.of_cell(emotion, arms.fitted_on[emotion]).items():
            shown = name if name == "kl" else emotion if name == "endpoint" else f"{emotion}/{name}"
            found[shown] = metric
    return found


def _arms(
    measure: Measure, place: Place, arms: ArmVectors, doses: Mapping[str, Dose], test: Sequence[Prompt],
    metrics: Mapping[str, Metric],
) -> dict[str, dict[str, Floats]]:  # fmt: skip
    conditions = [Condition(BASE)] + [
        c
        for emotion, dose in doses.items()
        for arm, vectors in arms.single.items()
        for c in place.both_ways(condition_name(arm, emotion), vectors[arms.of(emotion)], dose.strength)
    ]
    scores = measure.score("test-arms", test, conditions, metrics)
    return {
        metric: {c.name: _float(values[:, i]) for i, c in enumerate(conditions)} for metric, values in scores.items()
    }


def _shuffled(
    measure: Measure, place: Place, arms: ArmVectors, doses: Mapping[str, Dose], test: Sequence[Prompt],
    endpoint: EndpointTokens,
) -> dict[str, Floats]:  # fmt: skip
    found = {}
    for e, dose in doses.items():
        vectors = arms.shuffled[:, arms.of(e)]
        step = f"test-shuffled-{e}"
        found[e] = _family(measure, place, step, vectors, dose.strength, test, {e: endpoint.metric(e)})[e]
    return found


def _covariance(
    measure: Measure, place: Place, arms: ArmVectors, doses: Mapping[str, Dose], test: Sequence[Prompt],
    endpoint: EndpointTokens,
) -> dict[str, Floats]:  # fmt: skip
    """Random vectors know no emotion: those of one strength are scored once, on every endpoint that is tested there."""
    found: dict[str, Floats] = {}
    for strength in sorted({d.strength for d in doses.values()}):
        metrics = {e: endpoint.metric(e) for e, d in doses.items() if d.strength == strength}
        step = f"test-covariance-{strength:g}"
        found |= _family(measure, place, step, arms.covariance, strength, test, metrics)
    return {e: found[e] for e in doses}


def _family(
    measure: Measure, place: Place, step: str, vectors: Floats, strength: float, test: Sequence[Prompt],
    metrics: Mapping[str, Metric],
) -> dict[str, Floats]:  # fmt: skip
    """``{metric: [vector]}`` mean odd effects over the prompts of every vector of a family."""
    conditions = [c for i, v in enumerate(vectors) for c in place.both_ways(str(i), v, strength)]
    scores = measure.score(step, test, conditions, metrics)
    signed = {m: _float(v).reshape(len(test), len(vectors), 2) for m, v in scores.items()}
    return {m: ((v[..., 0] - v[..., 1]) / 2).mean(axis=0) for m, v in signed.items()}


def _written(written: Sequence[str], place: Place, arms: ArmVectors, doses: Mapping[str, Dose]) -> Iterator[Condition]:
    """One condition per arm and emotion, random vectors once per strength."""
    families = {SHUFFLED: arms.shuffled[0], COVARIANCE: np.broadcast_to(arms.covariance[0], arms.shuffled[0].shape)}
    vectors = {**arms.single, **families}
    made: set[str] = set()
    for emotion, dose in doses.items():
        for arm in written:
            name = text_condition(arm, emotion, dose.strength)
            if arm in vectors and name not in made:
                made.add(name)
                yield place.add(name, vectors[arm][arms.of(emotion)], dose.strength)


def _float(values: NDArray[Any]) -> Floats:
    return np.asarray(values, dtype=np.float64)

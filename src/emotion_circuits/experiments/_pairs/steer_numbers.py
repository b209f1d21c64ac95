"""The numbers of ``transfer-steer``: one row per emotion with its verdict, and every measured value as observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.experiments._cell import BASE
from emotion_circuits.experiments._paired import mean_over_prompts
from emotion_circuits.experiments._pairs.steer_measure import SteerResults, condition_name, text_shift
from emotion_circuits.experiments._pairs.steer_vectors import (
    COVARIANCE,
    MAPPED,
    NATIVE,
    SHUFFLED,
    UNTRAINED,
    WORDS,
    ArmVectors,
)
from emotion_circuits.experiments._pairs.steer_verdict import Evidence, Interval, judge_steering
from emotion_circuits.experiments._texts import FLUENCY, ScoredTexts, damage_of
from emotion_circuits.stats import UnclearDenominatorError, adjust, permutation_p, ratio_interval
from emotion_circuits.types import Observation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TWIN = "untrained twin"
"""The floor: the whole chain in the target's architecture with random weights."""
ARM_KEYS = {NATIVE: "native", MAPPED: "mapped", UNTRAINED: "untrained_map", WORDS: "word_embeddings", TWIN: "twin"}
FAMILY_KEYS = {SHUFFLED: "shuffled_maps", COVARIANCE: "covariance"}
TEXT_KEYS = {**ARM_KEYS, **FAMILY_KEYS}


def emotion_rows(found: SteerResults, arms: ArmVectors, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """One row per emotion; ``p_bh`` corrects the larger of its two ranks over the emotions (reported, not judged)."""
    rows = [_row(found, arms, e, resamples, seed) for e in found.emotions]
    corrected = adjust([r["p"]["max"] for r in rows], family="emotions of one pair", method="bh").p
    return [{**row, "p_bh": float(p)} for row, p in zip(rows, corrected, strict=True)]


def _row(found: SteerResults, arms: ArmVectors, emotion: str, resamples: int, seed: int) -> dict[str, Any]:
    dose, i = found.doses[emotion], arms.of(emotion)
    odd = {arm: found.odd(arm, emotion) for arm in arms.single}
    if emotion in found.twin:
        odd[TWIN] = found.twin[emotion]
    effects = {arm: mean_over_prompts(values, found.prompts) for arm, values in odd.items()}
    mapped = float(odd[MAPPED].mean())
    families = {name: by_emotion[emotion] for name, by_emotion in found.families.items()}
    p = {name: float(permutation_p(np.array(mapped), effects_of)) for name, effects_of in families.items()}
    differences = {
        arm: mean_over_prompts(odd[MAPPED] - odd[arm], found.prompts) for arm in (UNTRAINED, TWIN, WORDS) if arm in odd
    }
    native = _pair(effects[NATIVE]["ci"])
    share = None
    if native is not None and native[0] > 0:
        share = _share(odd[MAPPED], odd[NATIVE], found, resamples, seed)
    texts = _texts(found, emotion)
    evidence = Evidence(
        effect=_pair(effects[MAPPED]["ci"]), p=p,
        above={_named(arm, texts): _pair(differences[arm]["ci"]) for arm in (UNTRAINED, TWIN) if arm in differences},
        share=None if share is None else (share["ci"][0], share["ci"][1]), sound=texts[MAPPED]["damage"]["ok"],
        text_shift=texts[MAPPED]["shift"], kappa=float(arms.kappa[i]),
    )  # fmt: skip
    judged = judge_steering(evidence)
    return {
        "emotion": emotion, "verdict": judged.verdict, "reason": judged.reason, "alpha": dose.strength,
        "length": dose.strength * found.place.norm,
        "share": None if share is None else share["estimate"], "share_ci": None if share is None else share["ci"],
        "arms": {ARM_KEYS[arm]: {"effect": effects[arm]["effect"], "ci": effects[arm]["ci"]} for arm in odd},
        "families": {FAMILY_KEYS[name]: _spread(values) for name, values in families.items()},
        "p": {**{FAMILY_KEYS[name]: value for name, value in p.items()}, "max": max(p.values())},
        "above": {ARM_KEYS[arm]: {"difference": d["effect"], "ci": d["ci"]} for arm, d in differences.items()},
        "raises_most": max(found.emotions, key=lambda other: float(found.odd(MAPPED, emotion, other).mean())),
        "words": {half: _mean_on(found, emotion, half) for half in ("seen_words", "unseen_words")},
        "even": float(found.even(MAPPED, emotion).mean()),
        "wrong_way": float(np.mean(odd[MAPPED] < 0)),
        "kl": {ARM_KEYS[arm]: _kl(found, arm, emotion) for arm in (NATIVE, MAPPED)},
        "cosine": float(arms.cosine[i]), "kappa": float(arms.kappa[i]),
        "texts": {TEXT_KEYS.get(arm, arm): values for arm, values in texts.items()},
        "dev_effect": dose.dev_effect, "pass_rate_on_dev": dose.pass_rate, "passed_on_dev": dose.gated,
    }  # fmt: skip


def _named(arm: str, texts: Mapping[str, Any]) -> str:
    """A control by name; its effect on the next token reads differently where it breaks the text."""
    broken = arm in texts and not texts[arm]["damage"]["ok"]
    return f"the {arm}{', which breaks the text at this length' if broken else ''}"


def _share(mapped: Floats, native: Floats, found: SteerResults, resamples: int, seed: int) -> dict[str, Any] | None:
    """mapped / native as a ratio of means with its cluster bootstrap; None where a resampled native effect is ≤ 0."""
    clusters = [p.scenario or p.id for p in found.prompts]
    try:
        ratio = ratio_interval(mapped, native, clusters, resamples=resamples, seed=seed)
    except UnclearDenominatorError:
        return None
    return {"estimate": float(ratio.estimate), "ci": [float(ratio.low), float(ratio.high)]}


def _pair(ci: Sequence[float] | None) -> Interval | None:
    return None if ci is None else (ci[0], ci[1])


def _spread(values: Floats) -> dict[str, Any]:
    """Mean and the range of 95 % of a family's members."""
    low, high = np.quantile(values, (0.025, 0.975))
    return {"mean": float(values.mean()), "range": [float(low), float(high)], "members": len(values)}


def _mean_on(found: SteerResults, emotion: str, half: str) -> float | None:
    """The mapped vector's odd effect on words that the emotion's fit texts contain, or on the others."""
    name = f"{emotion}/{half}"
    return float(found.odd(MAPPED, emotion, name).mean()) if name in found.scores else None


def _kl(found: SteerResults, arm: str, emotion: str) -> float:
    return float(found.scores["kl"][f"+{condition_name(arm, emotion)}"].mean())


def _texts(found: SteerResults, emotion: str) -> dict[str, dict[str, Any]]:
    """By arm: the classifier's and the lexicon's mean, the classifier's shift from the baseline, and the damage."""
    scorers = (f"embedded:{emotion}", f"lexicon:{emotion}")

    def means(texts: ScoredTexts, condition: str) -> dict[str, float | None]:
        return {s.split(":")[0]: float(texts.of(s, condition).mean()) if s in texts.values else None for s in scorers}

    rows: dict[str, dict[str, Any]] = {BASE: means(found.texts, BASE)}
    for arm in found.written:
        texts, name = found.texts_of(arm), found.written_as(arm, emotion)
        shift = text_shift(texts, scorers[0], name, BASE) if scorers[0] in texts.values else None
        moved = mean_over_prompts(shift, found.prompts)
        damage = damage_of(texts, BASE, name)
        rows[arm] = {
            **means(texts, name), "shift": moved["effect"], "shift_ci": moved["ci"], "damage": damage.to_dict(),
        }  # fmt: skip
    return rows


def steering_matrix(found: SteerResults) -> list[list[float]]:
    """``[vector of emotion i][endpoint of emotion j]`` mean odd effects of the mapped vectors."""
    return [[float(found.odd(MAPPED, i, j).mean()) for j in found.emotions] for i in found.emotions]


def steer_observations(
    found: SteerResults, arms: ArmVectors, model: str, experiment: str, position: str
) -> Iterator[Observation]:
    """The endpoint of every arm and prompt, and every evaluator's value of every sampled text.

    ``position`` is where the vectors were read.
    """
    for emotion in found.emotions:
        scored = {BASE: BASE} | {f"{s}{arm}": f"{s}{condition_name(arm, emotion)}" for arm in arms.single for s in "+-"}
        for arm, condition in scored.items():
            values = found.scores[emotion][condition][:, None]
            yield from _observed(found, emotion, arm, "logit", values, model, experiment, position)
        written = {BASE: BASE} | {arm: found.written_as(arm, emotion) for arm in found.written}
        for arm, condition in written.items():
            texts = found.texts_of(arm)
            for scorer in (f"embedded:{emotion}", f"lexicon:{emotion}", "vader", *FLUENCY):
                if scorer in texts.values:
                    values, name = texts.of(scorer, condition), scorer.split(":")[0]
                    yield from _observed(found, emotion, arm, name, values, model, f"{experiment}-texts", position)


def _observed(
    found: SteerResults, emotion: str, arm: str, scorer: str, values: Floats, model: str, experiment: str, position: str
) -> Iterator[Observation]:
    for prompt, row in zip(found.prompts, values, strict=True):
        for sample, value in enumerate(row):
            if value == value:  # a text too short to be scored has no value
                yield Observation(
                    experiment=experiment, model=model, emotion=emotion, layer=found.place.layer,
                    position=position, strength=found.doses[emotion].strength, arm=arm, unit=prompt.id,
                    cluster=prompt.scenario or prompt.id, split="test", sample=sample, scorer=scorer,
                    value=float(value),
                )  # fmt: skip

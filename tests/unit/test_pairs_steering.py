"""Mapped vectors and what is claimed of them: the same as refitting, right on planted truth, one rule for verdicts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from emotion_circuits.engine import Generation
from emotion_circuits.experiments._pairs.steer_measure import (
    CONTROLS,
    MAPPED,
    NATIVE,
    SHUFFLED,
    TESTED,
    Dose,
    Place,
    SteerResults,
    condition_name,
    text_condition,
)
from emotion_circuits.experiments._pairs.steer_numbers import emotion_rows, steer_observations, steering_matrix
from emotion_circuits.experiments._pairs.steer_vectors import COVARIANCE, UNTRAINED, WORDS, ArmVectors
from emotion_circuits.experiments._pairs.steer_verdict import Evidence, judge_steering
from emotion_circuits.experiments._texts import FLUENCY, ScoredTexts
from emotion_circuits.representations.alignment import fit_alignment, reduce_pairs
from emotion_circuits.representations.calibration.worlds import PlantedPair, Relation, layered_world
from emotion_circuits.representations.controls import covariance_matched
from emotion_circuits.representations.mapped_vectors import MappedVectors, cosines, mapped_vectors
from emotion_circuits.representations.sharing_arrays import check_texts
from emotion_circuits.representations.transfer import direction_weights
from emotion_circuits.representations.transfer_nulls import shuffled_rows
from emotion_circuits.types import Positions, Prompt

SAMPLES, SHUFFLES, PROMPTS, STRENGTH = 2, 39, 24, 0.2
TRANSFERS = ("transfers", "transfers in part")


@cache
def world(relation: Relation = "shared", seed: int = 0) -> PlantedPair:
    return layered_world(relation, n=150, scenarios=24, q=30, widths=(60, 90), seed=seed)


@cache
def pushed(relation: Relation = "shared", seed: int = 0) -> tuple[MappedVectors, Any, Any]:
    """Mapped vectors (true pairs first), native vectors, the reduction."""
    own = world(relation, seed)
    texts = check_texts(own.source, own.target)
    count = len(texts.emotions)
    reduction = reduce_pairs(own.map_source, own.map_target)
    moves = np.vstack([np.arange(150), shuffled_rows(None, 150, SHUFFLES, 1)])
    source = direction_weights(texts.source_fit, count) @ texts.source_fit.x
    native = direction_weights(texts.target_fit, count) @ texts.target_fit.x
    return mapped_vectors(reduction, source, moves), native, reduction


# ---- vectors through maps -----------------------------------------------------------------------------------------
def test_a_vector_through_a_map_is_what_a_fitted_map_pushes() -> None:
    found, _, _ = pushed()
    own = world()
    texts = check_texts(own.source, own.target)
    directions = direction_weights(texts.source_fit, 6) @ texts.source_fit.x
    fitted = fit_alignment(own.map_source, own.map_target)
    np.testing.assert_allclose(found.vectors[0], fitted.push(directions), rtol=1e-8, atol=1e-10)
    assert found.penalties[0] == fitted.penalty and found.r2[0] == pytest.approx(fitted.r2)


def test_vectors_through_shuffled_maps_equal_a_refitted_map() -> None:
    """Same retained components as for the true pairs: the source's side does not change with the pairing."""
    found, _, reduction = pushed()
    own = world()
    texts = check_texts(own.source, own.target)
    directions = direction_weights(texts.source_fit, 6) @ texts.source_fit.x
    (move,) = shuffled_rows(None, 150, 1, 1)
    assert (move == shuffled_rows(None, 150, SHUFFLES, 1)[0]).all()
    fitted = fit_alignment(own.map_source, own.map_target[move], rank=reduction.rank)
    np.testing.assert_allclose(found.vectors[1], fitted.push(directions), rtol=1e-6, atol=1e-9)


def test_planted_shared_vectors_arrive_and_others_do_not() -> None:
    for relation, low, high in (("shared", 0.7, 1.0), ("content", -0.35, 0.35), ("nothing", -0.35, 0.35)):
        found, native, reduction = pushed(relation)  # type: ignore[arg-type]
        mean = cosines(found.vectors[0], native, reduction.target.sd).mean()
        assert low < mean < high, relation
    found, native, reduction = pushed("shared")
    shuffled = [cosines(v, native, reduction.target.sd).mean() for v in found.vectors[1:]]
    assert abs(np.mean(shuffled)) < 0.1
    assert found.r2[0] > found.r2[1:].max()


# ---- from measured effects to verdicts ------------------------------------------------------------------------------
def arms_of(relation: Relation, seed: int = 0, **changes: Any) -> ArmVectors:
    found, native, _ = pushed(relation, seed)
    rng = np.random.default_rng(seed + 9)
    single = {
        NATIVE: native, MAPPED: found.vectors[0],
        UNTRAINED: rng.normal(size=native.shape), WORDS: rng.normal(size=native.shape),
    }  # fmt: skip
    emotions = tuple(f"emotion-{i}" for i in range(6))
    random = covariance_matched(SHUFFLES, world(relation, seed).map_target, rng)
    arms = ArmVectors(
        emotions, single, found.vectors[1:], random, np.full(6, 0.5), np.zeros(6), dict.fromkeys(emotions, ()), {}
    )
    return replace(arms, **changes)


def steered(relation: Relation, arms: ArmVectors, *, broken: str = "", seed: int = 0) -> SteerResults:
    """A target that reads its own emotion directions linearly: adding v moves endpoint e by gain × (readout · v̂)."""
    _, native, reduction = pushed(relation, seed)
    readout = native / reduction.target.sd**2
    readout /= np.linalg.norm(readout, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    prompts = tuple(Prompt(id=f"p{i}", text=f"Prompt {i}", split="test") for i in range(PROMPTS))
    gains, base = rng.uniform(3, 5, PROMPTS), rng.normal(size=PROMPTS)

    def unit(v: Any) -> Any:
        return v / np.linalg.norm(v)

    def moved(v: Any, e: int, sign: int) -> Any:
        return base + sign * gains * (readout[e] @ unit(v)) + rng.normal(scale=0.05, size=PROMPTS)

    names = {"baseline": None} | {
        f"{sign}{condition_name(arm, e)}": (vectors[i], 1 if sign == "+" else -1)
        for i, e in enumerate(arms.emotions)
        for arm, vectors in arms.single.items()
        for sign in "+-"
    }
    scores = {
        e: {n: base if how is None else moved(how[0], i, how[1]) for n, how in names.items()}
        for i, e in enumerate(arms.emotions)
    }
    scores["kl"] = {n: np.full(PROMPTS, 0.1) for n in names}
    mean_gain = gains.mean()
    families = {
        SHUFFLED: {e: np.array([mean_gain * readout[i] @ unit(v) for v in arms.shuffled[:, i]])
                   for i, e in enumerate(arms.emotions)},
        COVARIANCE: {e: np.array([mean_gain * readout[i] @ unit(v) for v in arms.covariance])
                     for i, e in enumerate(arms.emotions)},
    }  # fmt: skip
    doses = {e: Dose(STRENGTH, 1.0, 1.0, True, 3.0) for e in arms.emotions}
    texts, control_texts = written(TESTED, prompts, arms, broken), written(CONTROLS, prompts, arms, "")
    place = Place(3, Positions("onward"), 10.0)
    twin = {e: rng.normal(scale=0.05, size=PROMPTS) for e in arms.emotions}
    return SteerResults(arms.emotions, prompts, doses, place, scores, families, texts, control_texts, twin)


def written(names: tuple[str, ...], prompts: tuple[Prompt, ...], arms: ArmVectors, broken: str) -> ScoredTexts:
    """Sound texts for every arm; those of the mapped vector of emotion ``broken`` repeat themselves."""
    conditions = tuple(
        dict.fromkeys(["baseline", *(text_condition(arm, e, STRENGTH) for e in arms.emotions for arm in names)])
    )
    shape = (len(prompts), len(conditions), SAMPLES)
    values = {name: np.full(shape, level) for name, level in zip(FLUENCY, (2.0, 0.0, 0.9, 20.0, 0.0), strict=True)}
    rng = np.random.default_rng(5)
    for e in arms.emotions:
        shift = np.array([0.0 if c == "baseline" else 0.3 for c in conditions])
        values[f"embedded:{e}"] = shift[None, :, None] + rng.normal(scale=0.02, size=shape)
    if broken:
        values["rep4"][:, conditions.index(condition_name(MAPPED, broken))] = 0.9
    generations = tuple(
        Generation(p.id, c, (1, 2, 3), f"{c} {s}", False, s)
        for p in prompts
        for c in conditions
        for s in range(SAMPLES)
    )
    return ScoredTexts(prompts, conditions, generations, values)


def rows_of(relation: Relation, *, broken: str = "", seed: int = 0, **changes: Any) -> dict[str, dict[str, Any]]:
    arms = arms_of(relation, seed, **changes)
    found = steered(relation, arms, broken=broken, seed=seed)
    return {r["emotion"]: r for r in emotion_rows(found, arms, resamples=200, seed=0)}


def test_planted_shared_emotions_steer_and_say_how_much_of_native() -> None:
    rows = rows_of("shared")
    assert [r["verdict"] in TRANSFERS for r in rows.values()].count(True) >= 5, rows
    best = max(rows.values(), key=lambda r: r["share"])
    assert best["share_ci"][0] <= best["share"] <= best["share_ci"][1]
    assert best["p"]["max"] == pytest.approx(1 / (SHUFFLES + 1)) and best["p_bh"] >= best["p"]["max"]
    assert best["length"] == pytest.approx(STRENGTH * 10.0) and best["raises_most"] == best["emotion"]


@pytest.mark.parametrize("relation", ["content", "nothing"])
def test_planted_emotions_that_are_not_shared_do_not_transfer(relation: Relation) -> None:
    verdicts = [r["verdict"] for seed in range(12) for r in rows_of(relation, seed=seed).values()]
    assert np.mean([v in TRANSFERS for v in verdicts]) <= 0.12, verdicts


def test_controls_that_do_as_well_take_the_claim_away() -> None:
    """Maps of shuffled pairs that do so half of the time: whatever works here, it is not that texts belong together."""
    arms = arms_of("shared")
    found = steered("shared", arms)
    spread = np.linspace(-1, 1, SHUFFLES)
    families = {**found.families, SHUFFLED: {e: found.odd(MAPPED, e).mean() + spread for e in arms.emotions}}
    rows = {r["emotion"]: r for r in emotion_rows(replace(found, families=families), arms, resamples=200, seed=0)}
    assert {r["verdict"] for r in rows.values()} == {"not distinguishable from controls"}
    assert all("shuffled maps" in r["reason"] for r in rows.values())


def test_broken_texts_end_the_claim_of_their_emotion_only() -> None:
    rows = rows_of("shared", broken="emotion-0")
    assert rows["emotion-0"]["verdict"] == "text broken"
    assert (
        not rows["emotion-0"]["texts"]["mapped"]["damage"]["ok"]
        and rows["emotion-0"]["texts"]["native"]["damage"]["ok"]
    )
    assert sum(r["verdict"] == "text broken" for r in rows.values()) == 1


def test_a_control_that_breaks_the_text_is_named_so() -> None:
    arms = arms_of("shared")
    arms = replace(arms, single={**arms.single, UNTRAINED: arms.single[NATIVE]})
    found = steered("shared", arms)
    condition = found.control_texts.conditions.index(condition_name(UNTRAINED, "emotion-0"))
    found.control_texts.values["rep4"][:, condition] = 0.9
    first, second, *_ = emotion_rows(found, arms, resamples=200, seed=0)
    assert first["verdict"] == second["verdict"] == "not distinguishable from controls"
    assert "breaks the text" in first["reason"] and "breaks the text" not in second["reason"]


def test_every_arm_has_its_damage_and_every_value_is_an_observation() -> None:
    arms = arms_of("shared")
    found = steered("shared", arms)
    (row, *_) = emotion_rows(found, arms, resamples=200, seed=0)
    assert set(row["texts"]) == {"baseline", "native", "mapped", "shuffled_maps", "untrained_map", "covariance"}
    assert set(row["arms"]) == {"native", "mapped", "untrained_map", "word_embeddings", "twin"}
    observed = list(steer_observations(found, arms, "target", "transfer-steer", "last"))
    assert {o.position for o in observed} == {"last"}
    scored = [o for o in observed if o.emotion == "emotion-0" and o.scorer == "logit"]
    assert len(scored) == PROMPTS * (1 + 2 * 4)
    assert {o.arm for o in observed if o.scorer == "embedded"} == {"baseline", *TESTED, *CONTROLS}
    matrix = np.array(steering_matrix(found))
    assert (matrix.argmax(axis=1) == np.arange(6)).mean() >= 5 / 6


# ---- the rule ---------------------------------------------------------------------------------------------------
CLEAR = Evidence(
    effect=(1.0, 2.0), p={"shuffled maps": 0.005, "random": 0.01}, above={"the twin": (0.5, 1.0)}, share=(0.6, 0.9),
    text_shift=0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "transfers"),
        ({"share": (0.5, 0.9)}, "transfers in part"),
        ({"share": (0.2, 0.9)}, "inconclusive"),
        ({"share": None}, "inconclusive"),
        ({"text_shift": -0.01}, "inconclusive"),
        ({"text_shift": None}, "transfers"),
        ({"p": {"shuffled maps": 0.005, "random": 0.06}}, "not distinguishable from controls"),
        ({"p": {"shuffled maps": float("nan")}}, "not distinguishable from controls"),
        ({"above": {"the twin": (-0.1, 1.0)}}, "not distinguishable from controls"),
        ({"above": {"the twin": None}}, "not distinguishable from controls"),
        ({"effect": (0.0, 2.0)}, "no effect shown"),
        ({"effect": (-2.0, -1.0)}, "moves the other way"),
        ({"effect": (-1.0, 2.0), "kappa": 0.1}, "not identified"),
        ({"effect": (-2.0, -1.0), "kappa": 0.1}, "not identified"),
        ({"kappa": 0.1}, "transfers"),
        ({"effect": None}, "inconclusive"),
        ({"sound": False}, "text broken"),
        ({"sound": False, "effect": None}, "text broken"),
    ],
)
def test_the_rule(changes: dict[str, Any], verdict: str) -> None:
    judged = judge_steering(replace(CLEAR, **changes))
    assert judged.verdict == verdict and judged.reason


def test_a_verdict_without_an_evaluator_of_texts_says_so() -> None:
    assert "no evaluator" in judge_steering(replace(CLEAR, text_shift=None)).reason
    assert "no evaluator" not in judge_steering(CLEAR).reason

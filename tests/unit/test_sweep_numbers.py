"""What the tested cell of a sweep says, on planted numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def planted(
    odd: float, even: float = 0.0, *, loops: bool = False, random_odd: float = 0.0, words: float = 1.0
) -> dict[str, Any]:
    """The tested row of a cell whose endpoint moves by ``±odd + even`` on 25 prompts, among 199 random vectors."""
    from emotion_circuits.experiments._cell import Cell, CellScores, RandomArm
    from emotion_circuits.experiments._grid import Choice, Tested
    from emotion_circuits.experiments._sweep_numbers import tested_row
    from emotion_circuits.experiments._texts import ScoredTexts, damage_of
    from emotion_circuits.stats import permutation_p
    from emotion_circuits.types import Prompt

    rng = np.random.default_rng(0)
    prompts = tuple(Prompt(str(i), "x", split="test") for i in range(25))
    noise = {arm: rng.normal(0, 0.1, 25) for arm in ("baseline", "+v", "-v", "prompting")}
    scores = {arm: noise[arm] + {"+v": even + odd, "-v": even - odd}.get(arm, 0.0) for arm in noise}
    effects = rng.normal(random_odd, 0.3, 199)
    truth = np.array(((scores["+v"] - scores["-v"]) / 2).mean())
    p = float(permutation_p(truth, effects, "greater"))
    arms = [RandomArm(f, "norm", 1.0, effects, p, 0.1) for f in ("isotropic", "covariance", "shuffled")]
    cell = Cell("anger", 1, 0.3, 3.0)
    conditions = ("baseline", "+v", "-v")

    def texts(steered: float) -> ScoredTexts:
        shape = (25, 3, 2)
        moved = rng.normal(0, 0.05, shape) + np.array([0, odd, -odd])[None, :, None]
        repeated = np.broadcast_to(np.array([0.0, steered, 0.0])[None, :, None], shape)
        # A loop has an unremarkable perplexity; that it repeats itself is what gives it away.
        values = {"embedded:anger": moved, "lexicon:anger": words * moved, "log_perplexity": np.full(shape, 2.0),
                  "rep4": repeated, "distinct2": 1 - repeated, "empty": np.zeros(shape)}  # fmt: skip
        return ScoredTexts(prompts, conditions, (), values)

    written = texts(0.8 if loops else 0.0)
    damage = damage_of(written, "baseline", "+v")
    choice = Choice(cell, odd, odd, damage, float(damage.ok), damage.ok, 1.0)
    scored = CellScores(cell, prompts, scores, {"+v": 0.1}, tuple(arms))
    return tested_row(Tested(choice, scored, written, written, {}, damage))


def test_a_planted_direction_is_established() -> None:
    row = planted(2.0)
    assert row["established"] and row["damage_ok"]
    assert row["effect"] == pytest.approx(2.0, abs=0.1) and row["ci"][0] > 0
    assert row["wrong_way"] == 0 and row["rank_p_covariance"] == 1 / 200


def test_a_vector_no_better_than_random_ones_is_not_established() -> None:
    row = planted(0.3, random_odd=0.3)
    assert row["ci"][0] > 0 and row["rank_p_isotropic"] > 0.05
    assert not row["established"]


def test_a_pure_even_effect_is_disruption_and_not_established() -> None:
    row = planted(0.0, even=5.0)
    assert row["even"] == pytest.approx(5.0, abs=0.2)
    assert abs(row["effect"]) <= 0.1 and not row["established"]


def test_an_effect_against_the_emotion_is_not_established() -> None:
    row = planted(-2.0)
    assert row["wrong_way"] == 1 and not row["established"]


def test_evaluators_that_disagree_establish_nothing() -> None:
    assert planted(2.0)["evaluators_agree"] is True
    against = planted(2.0, words=-1.0)
    assert against["effect_lexicon"] < 0 < against["effect_embedded"]
    assert against["evaluators_agree"] is False and not against["established"]
    silent = planted(2.0, words=0.0)  # no listed word in any text: nothing to agree with
    assert silent["evaluators_agree"] is None and silent["established"]


def test_loops_are_refused_however_large_the_effect() -> None:
    row = planted(2.0, loops=True)
    assert row["ppl_ratio"] == 1 and not row["damage_ok"] and not row["established"]

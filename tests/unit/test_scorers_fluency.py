"""Perplexity of continuations, repetition, diversity, and the joint damage gate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from emotion_circuits.errors import UsageError
from emotion_circuits.models import LM
from emotion_circuits.scorers import Continuation
from emotion_circuits.scorers.fluency import (
    FEWEST_TOKENS,
    FluencyScorer,
    damage_gate,
    damage_pass_rate,
    distinct,
    fluency,
    repetition,
)
from emotion_circuits.types import Prompt

TinyModels = Callable[..., LM]
PROMPTS = [Prompt("a", "The parcel arrived on Tuesday"), Prompt("b", "He"), Prompt("c", "It was raining in the street")]


def written(lm: LM, text: str) -> tuple[int, ...]:
    return tuple(lm.tokenizer(text, add_special_tokens=False).input_ids)


def log_perplexity(lm: LM, prompt: Prompt, tokens: tuple[int, ...]) -> float:
    """The textbook way: one sequence, no padding."""
    ids = [*lm.encode([prompt])[0].ids, *tokens]
    with torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(tokens)
    return -float(np.mean([logits[i - 1, ids[i]].item() for i in range(start, len(ids))]))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_text"])
def test_perplexity_is_the_models_own_of_the_continuation_alone(tiny: TinyModels, architecture: str) -> None:
    lm = tiny(architecture)
    rows = [
        (prompt, written(lm, text))
        for prompt, text in zip(
            PROMPTS, (" and the bus left.", " broke the window again today", " at noon."), strict=True
        )
    ]
    found = fluency(lm, rows)
    for value, (prompt, tokens) in zip(found["log_perplexity"], rows, strict=True):
        assert value == pytest.approx(log_perplexity(lm, prompt, tokens), abs=2e-4)
    alone = fluency(lm, rows[1:2])
    one_by_one = fluency(lm, rows, max_rows=1)
    assert alone["log_perplexity"][0] == pytest.approx(found["log_perplexity"][1], abs=1e-4)
    assert np.allclose(one_by_one["log_perplexity"], found["log_perplexity"], atol=1e-4)


def test_a_second_model_reads_the_text_in_its_own_tokens(tiny: TinyModels) -> None:
    lm, other = tiny("gpt2"), tiny("llama", "metaspace")
    text = " and the bus left the station"
    found = fluency(lm, [(PROMPTS[0], written(lm, text))], [text], other=other)
    prompt_ids = other.encode(PROMPTS[:1])[0].ids
    whole = other.encode([Prompt("x", PROMPTS[0].text + text)])[0].ids
    assert whole[: len(prompt_ids)] == prompt_ids
    expected = log_perplexity(other, PROMPTS[0], whole[len(prompt_ids) :])
    assert found["other_log_perplexity"][0] == pytest.approx(expected, abs=2e-4)


def test_any_model_reads_any_text_as_an_evaluator(tiny: TinyModels) -> None:
    lm = tiny("gpt2")
    texts = [" and the bus left the station", " at noon today it rained and rained and rained", "", " He"]
    given = [Continuation(t, p.text) for t, p in zip(texts[:1], PROMPTS, strict=False)]
    given += [Continuation(t) for t in texts[1:]]
    found = FluencyScorer(lm).score(given)
    inside = fluency(lm, [(PROMPTS[0], written(lm, texts[0]))])
    for column in FluencyScorer.columns:  # behind its prompt: what an experiment measures of a text of its own
        assert found[column][0] == pytest.approx(inside[column][0], abs=1e-4)
    ids = lm.encode([Prompt("x", texts[1])])[0].ids
    n = len(ids) - max(1, len(lm.prefix_ids))
    with torch.inference_mode():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -float(np.mean([logits[i - 1, ids[i]].item() for i in range(len(ids) - n, len(ids))]))
    assert found["log_perplexity"][1] == pytest.approx(expected, abs=2e-4) and found["rep4"][1] > 0
    assert np.isnan(found["log_perplexity"][2:]).all() and np.isnan(found["rep4"][2:]).all()
    assert found["tokens"][2] == 0 and found["words"].tolist() == [6, 9, 0, 1]


def test_short_and_empty_texts_are_not_judged_but_counted(tiny: TinyModels) -> None:
    lm = tiny("gpt2")
    token = written(lm, "a")[0]
    found = fluency(lm, [(PROMPTS[0], ()), (PROMPTS[0], (token,)), (PROMPTS[1], (token,) * FEWEST_TOKENS)])
    for measure in ("log_perplexity", "rep4", "distinct1", "distinct2"):
        assert np.isnan(found[measure]).tolist() == [True, True, False], measure
    assert found["empty"].tolist() == [1, 0, 0]
    assert found["tokens"].tolist() == [0, 1, FEWEST_TOKENS]
    assert found["words"].tolist() == [0, 1, 1]


def test_nothing_to_score_gives_empty_columns(tiny: TinyModels) -> None:
    assert all(len(values) == 0 for values in fluency(tiny("gpt2"), []).values())


def test_texts_and_continuations_have_to_match_and_fit(tiny: TinyModels) -> None:
    lm = tiny("gpt2")
    with pytest.raises(UsageError, match="2 texts for 1"):
        fluency(lm, [(PROMPTS[0], (5, 6, 7, 8))], ["x", "y"])
    with pytest.raises(UsageError, match="positions for 256"):
        fluency(lm, [(PROMPTS[0], (5,) * 300)])


def test_repetition_and_diversity_by_hand() -> None:
    assert repetition((1, 2, 3, 4, 5)) == 0
    assert repetition((1, 1, 1, 1, 1, 1)) == pytest.approx(2 / 3)
    assert distinct((1, 2, 1, 2, 1), 2) == pytest.approx(0.5)
    assert math.isnan(repetition((1, 2, 3)))


def columns(**values: list[float]) -> dict[str, np.ndarray]:
    n = max(map(len, values.values()), default=8)
    sound = {"log_perplexity": [3.0] * n, "rep4": [0.02] * n, "distinct2": [0.95] * n, "empty": [0.0] * n}
    return {name: np.array(v, dtype=float) for name, v in (sound | values).items()}


SOUND = columns(log_perplexity=[2.8, 2.9, 3.0, 3.1, 3.2, 3.0, 3.0, 3.0])


def test_the_same_texts_pass() -> None:
    damage = damage_gate(SOUND, SOUND)
    assert damage.ok and damage.median_ppl_ratio == 1 and damage.distinct2_ratio == 1 and damage.judged == 1


@pytest.mark.parametrize(
    "arm",
    [
        columns(log_perplexity=[3.0 + math.log(2.6)] * 8),
        columns(log_perplexity=[3.0 + math.log(0.45)] * 8),
        columns(rep4=[0.13] * 8),
        columns(distinct2=[0.6] * 8),
        columns(empty=[1.0] + [0.0] * 7),
    ],
    ids=["perplexity high", "perplexity low", "rep-4", "distinct-2", "empty"],
)
def test_each_measure_alone_closes_the_gate(arm: dict[str, np.ndarray]) -> None:
    assert not damage_gate(SOUND, arm).ok


def test_limits_are_inside_the_gate() -> None:
    edge = columns(log_perplexity=[3.0 + math.log(2.5) - 1e-9] * 8, rep4=[0.1199999] * 8, distinct2=[0.6651] * 8)
    assert damage_gate(SOUND, edge).ok


def test_one_short_text_does_not_poison_the_medians() -> None:
    nan = math.nan
    arm = columns(log_perplexity=[nan] + [3.0] * 7, rep4=[nan] + [0.02] * 7, distinct2=[nan] + [0.95] * 7)
    damage = damage_gate(SOUND, arm)
    assert damage.ok and damage.judged == 7 / 8 and damage.median_ppl_ratio == 1


def test_an_arm_that_can_hardly_be_judged_does_not_pass() -> None:
    nan = math.nan
    few = columns(log_perplexity=[nan] * 5 + [3.0] * 3, rep4=[nan] * 5 + [0.0] * 3, distinct2=[nan] * 5 + [1.0] * 3)
    assert not damage_gate(SOUND, few).ok
    none = columns(log_perplexity=[nan] * 8, rep4=[nan] * 8, distinct2=[nan] * 8)
    damage = damage_gate(SOUND, none)
    assert not damage.ok and math.isnan(damage.rep4) and damage.judged == 0


def test_a_loop_fails_by_repetition_and_diversity_not_by_perplexity(tiny: TinyModels) -> None:
    lm = tiny("gpt2")
    plain = [" and the bus left the station at noon", " he had to leave the car three streets away", " we are so kind."]
    loop = " Thank you!" * 8
    base = fluency(lm, [(PROMPTS[0], written(lm, text)) for text in plain])
    arm = fluency(lm, [(PROMPTS[0], written(lm, loop))] * 3)
    arm["log_perplexity"] = base["log_perplexity"]  # what a real model gives a loop: nothing to see
    damage = damage_gate(base, arm)
    assert damage.median_ppl_ratio == 1 and not damage.ok
    assert damage.rep4 > damage.rep4_baseline + 0.1 and damage.distinct2_ratio < 0.7


def test_the_gate_needs_texts_and_columns() -> None:
    with pytest.raises(UsageError, match="arm has no texts"):
        damage_gate(SOUND, {name: np.array([]) for name in SOUND})
    with pytest.raises(UsageError, match="baseline has no rep4"):
        damage_gate({k: v for k, v in SOUND.items() if k != "rep4"}, SOUND)


def noisy(rng: np.random.Generator, count: int, shift: float) -> dict[str, np.ndarray]:
    return {
        "log_perplexity": 3.0 + shift + rng.normal(0, 0.5, count),
        "rep4": np.zeros(count),
        "distinct2": np.full(count, 0.95),
        "empty": np.zeros(count),
    }


def test_a_gate_passed_by_a_hair_is_not_passed_reliably() -> None:
    rng = np.random.default_rng(0)
    base = noisy(rng, 40, 0.0)
    units = np.arange(40) // 2
    rates = [damage_pass_rate(base, noisy(rng, 40, shift), units) for shift in (0.0, np.log(2.5) - 0.02, np.log(5.0))]
    assert rates[0] == 1.0
    assert 0.1 < rates[1] < 0.9
    assert rates[2] == 0.0


def test_prompts_are_drawn_whole() -> None:
    """Half of the prompts broken: with the two texts of each drawn together the rate is that of a coin."""
    rng = np.random.default_rng(1)
    base, arm = noisy(rng, 400, 0.0), noisy(rng, 400, 0.0)
    arm["rep4"] = np.repeat([0.0, 0.2 - 1e-9], 200)
    whole = damage_pass_rate(base, arm, np.arange(400) // 200, resamples=400)
    assert 0.65 < whole < 0.85  # only two draws of the broken prompt fail: 1 in 4
    assert damage_pass_rate(base, arm, np.arange(400), resamples=400) < 0.65


def test_arms_and_units_of_different_length_are_refused() -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(UsageError, match="different lengths"):
        damage_pass_rate(noisy(rng, 4, 0.0), noisy(rng, 6, 0.0), np.arange(4))

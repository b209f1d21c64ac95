"""Streaming: the texts of ``generate``, every token with its activations, and clean cancellation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from emotion_circuits.engine import BASELINE, Row, Sampling, add, generate
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.engine.replay import replay
from emotion_circuits.engine.stream import Step, stream
from emotion_circuits.errors import UsageError
from emotion_circuits.models import LM
from emotion_circuits.types import Condition, Prompt, Site

FAMILIES = ("gpt2", "llama", "gemma3", "gpt_neox", "gpt_neo", "qwen3")
TEXTS = (
    "the cat",
    "the cat sat on the mat and looked at the rain while a train left at noon for the coast and the sea",
)


def steered(lm: LM) -> Condition:
    vector = np.random.default_rng(3).standard_normal(lm.d_model)
    return Condition("up", (add(Site("resid_post", 1), vector, 3.0),))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_texts_are_those_of_generate(
    tiny: Callable[..., LM], family: str, temperature: float, text: str
) -> None:
    lm = tiny(family)
    sampling = Sampling(6, temperature, 0.9, 1, 5)
    conditions, prompt = (BASELINE, steered(lm)), Prompt("p", text)
    expected = generate(lm, [prompt], conditions, sampling)
    steps: list[Step] = []
    (encoded,) = lm.encode([prompt])
    found = stream(lm, [Row(encoded, c) for c in conditions], sampling, (0, 2), steps.append)
    assert found == expected
    for row, generation in enumerate(found):
        written = [s.token for s in steps if s.row == row and s.token is not None]
        assert tuple(written) == generation.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_every_token_comes_with_its_own_activations_after_the_edit(tiny: Callable[..., LM], family: str) -> None:
    lm = tiny(family)
    prompt, sampling = Prompt("p", TEXTS[0]), Sampling(5)
    (encoded,) = lm.encode([prompt])
    steps: list[Step] = []
    (found,) = stream(lm, [Row(encoded, steered(lm))], sampling, (0, 1, 2), steps.append)
    residuals = np.stack([s.residual for s in steps])
    # Step t reads the token written at step t - 1; one pass more reads the last one.
    assert len(residuals) == len(found.tokens) + 1
    expected = replay(lm, prompt, found.tokens, steered(lm), (0, 1, 2))
    np.testing.assert_allclose(residuals[:-1], expected, atol=2e-4)


def test_raising_in_a_step_stops_the_work_and_leaves_no_hook(tiny: Callable[..., LM]) -> None:
    lm = tiny("llama")
    before = count_hooks(lm.model)
    (encoded,) = lm.encode([Prompt("p", TEXTS[0])])
    seen: list[Step] = []

    class StoppedError(Exception):
        pass

    def each(step: Step) -> None:
        seen.append(step)
        if step.step == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        stream(lm, [Row(encoded, steered(lm))], Sampling(50), (0,), each)
    assert len(seen) == 3 and count_hooks(lm.model) == before


def test_the_last_position_of_a_model_can_be_written(tiny: Callable[..., LM]) -> None:
    lm = tiny("llama")
    (encoded,) = lm.encode([Prompt("p", TEXTS[0])])
    room = lm.max_length - len(encoded)
    (found,) = stream(lm, [Row(encoded, BASELINE)], Sampling(room), (0,), lambda step: None)
    assert len(found.tokens) == room or found.stopped
    with pytest.raises(UsageError, match="no room"):
        stream(lm, [Row(encoded, BASELINE)], Sampling(room + 1), (0,), lambda step: None)
    with pytest.raises(UsageError, match="nothing to continue"):
        stream(lm, [], Sampling(2), (0,), lambda step: None)

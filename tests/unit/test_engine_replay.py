"""A text that is read again has the activations that its generation had, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.engine import generate
from emotion_circuits.engine import interventions as make
from emotion_circuits.engine.decode import BASELINE
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.engine.replay import replay
from emotion_circuits.engine.sampling import Sampling
from emotion_circuits.engine.schedules import exponential_decay
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Condition, Positions, Prompt, Site
from tiny_models import ARCHITECTURES

PROMPT = Prompt("p", "Sorry, I broke it. 😀")
STEPS = 6
DECAY = exponential_decay(0.5, STEPS)


def tokenizer_of(architecture):
    return "metaspace" if architecture.startswith("gemma") else "byte-level"


def steer(lm, layer=1, positions="onward", schedule=DECAY, strength=3.0):
    v = np.random.default_rng(layer).standard_normal(lm.d_model)
    edit = make.add(Site("resid_post", layer), v, strength, Positions.parse(positions), schedule=schedule)
    return Condition("steer", (edit,))


def heard(lm, condition):
    """What the decode loop computed at the token of every step, ``[step, layer, d]``, and what it wrote.

    A block's output is heard at the next block's input, behind all edits; the last block is not edited here.
    """
    seen = [[] for _ in lm.blocks]

    def at_input(layer):
        def hook(module, args, kwargs):
            seen[layer].append((args[0] if args else kwargs["hidden_states"])[0, -1].float().clone())

        return hook

    def at_output(module, args, output):
        seen[-1].append((output[0] if isinstance(output, tuple) else output)[0, -1].float().clone())

    handles = [b.register_forward_pre_hook(at_input(i), with_kwargs=True) for i, b in enumerate(lm.blocks[1:])]
    handles.append(lm.blocks[-1].register_forward_hook(at_output))
    try:
        (written,) = generate(lm, [PROMPT], [condition], Sampling(STEPS), max_rows=1)
    finally:
        for handle in handles:
            handle.remove()
    # A shared prompt is read before the steps; the step that found a stop token wrote nothing.
    calls, kept = len(written.tokens) + written.stopped, len(written.tokens)
    return torch.stack([torch.stack(x[-calls:][:kept]) for x in seen], dim=1).numpy(), written


@pytest.mark.parametrize("positions", ["onward", "generated"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_replay_equals_what_the_decode_loop_saw(tiny, architecture, positions):
    lm = tiny(architecture, tokenizer_of(architecture))
    before = count_hooks(lm.model)
    condition = steer(lm, positions=positions)
    saw, written = heard(lm, condition)
    found = replay(lm, PROMPT, written.tokens, condition)
    assert found.shape == (len(written.tokens), lm.n_layers, lm.d_model)
    assert np.abs(found - saw).max() <= 1e-3 * np.abs(saw).std()
    assert count_hooks(lm.model) <= before, "Transformers itself may have left hooks on a shared model, we none"


def test_the_edit_fades_as_its_schedule_says(tiny):
    lm = tiny("llama")
    condition = steer(lm)
    (written,) = generate(lm, [PROMPT], [condition], Sampling(STEPS))
    steps = len(written.tokens)
    moved = replay(lm, PROMPT, written.tokens, condition, [1]) - replay(lm, PROMPT, written.tokens, BASELINE, [1])
    # Layer 1 is the edited one: apart from what earlier edits did through attention (there is none yet at layer 1's
    # own output, because the layers below are untouched), the difference is the vector times the schedule.
    vector = condition.interventions[0].vector * condition.interventions[0].strength
    expected = np.outer(DECAY[:steps], vector)
    np.testing.assert_allclose(moved[:, 0], expected, atol=1e-4)


def test_layers_are_those_asked_for(tiny):
    lm = tiny("gpt2")
    whole = replay(lm, PROMPT, [5, 6, 7])
    np.testing.assert_array_equal(replay(lm, PROMPT, [5, 6, 7], layers=[2, 0]), whole[:, list(lm.layers([2, 0]))])


def test_generated_leaves_the_prompt_alone_and_one_token_has_no_step_to_edit(tiny):
    lm = tiny("gpt2")
    np.testing.assert_array_equal(
        replay(lm, PROMPT, [5], steer(lm, positions="generated")), replay(lm, PROMPT, [5], BASELINE)
    )


def test_what_cannot_be_replayed_is_refused(tiny):
    lm = tiny("gpt2")
    before = count_hooks(lm.model)
    with pytest.raises(UsageError, match="nothing was written"):
        replay(lm, PROMPT, [])
    for condition in (
        steer(lm, positions="all"),
        Condition("zero", (make.zero(Site("resid_post", 1)),)),
        Condition("rows", (make.add(Site("resid_post", 1), np.ones((1, lm.d_model)), 1.0, Positions("onward")),)),
    ):
        with pytest.raises(UsageError, match="cannot be replayed"):
            replay(lm, PROMPT, [5, 6], condition)
    assert count_hooks(lm.model) <= before, "Transformers itself may have left hooks on a shared model, we none"

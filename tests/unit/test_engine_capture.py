"""Capture: what it returns, resumes, refuses, and what it never leaves behind."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from emotion_circuits.engine import capture
from emotion_circuits.engine.capture import MemorySink, activations, plan_capture, run_capture, split_shapes
from emotion_circuits.engine.generation import generate
from emotion_circuits.engine.hooks import Hooks, count_hooks
from emotion_circuits.engine.patterns import PatternHooks
from emotion_circuits.engine.sampling import Sampling
from emotion_circuits.errors import ContractError, ModelError, UsageError
from emotion_circuits.types import Positions, Prompt
from tiny_models import tiny_lm

PROMPTS = [
    Prompt("a", "Thank you for the parcel.", spans=((0, 9),)),
    Prompt("b", "Sorry, I broke it.", spans=((0, 5),)),
    Prompt("c", "He parked in my space again, and I had to leave the car three streets away.", spans=((3, 9),)),
]
ALL, LAST, MEAN = Positions("all"), Positions("last"), Positions("mean-content")


@pytest.fixture
def own(tokenizers):
    return tiny_lm("llama", tokenizers["byte-level"])


def test_all_keeps_one_row_per_content_token(tiny):
    lm = tiny("llama")
    found = capture(lm, PROMPTS, ["resid_post", "z"], [ALL, LAST, MEAN], max_rows=2)
    lengths = [len(e.content) for e in lm.encode(PROMPTS)]
    assert found.token_starts == (0, *np.cumsum(lengths))
    assert found.get("z", ALL).shape == (sum(lengths), 3, 4, 8)
    for p, (start, end) in enumerate(zip(found.token_starts, found.token_starts[1:], strict=False)):
        rows = found.get("resid_post", ALL)[start:end]
        np.testing.assert_array_equal(rows[-1], found.get("resid_post", LAST)[p])
        np.testing.assert_allclose(rows.mean(0), found.get("resid_post", MEAN)[p], atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt_neo", "mistral", "gemma3_text"])
def test_patterns_are_probabilities_over_the_own_text(tiny, architecture):
    lm = tiny(architecture)
    found = capture(lm, PROMPTS, ["pattern"], [LAST, MEAN])
    longest = max(len(e) for e in lm.encode(PROMPTS))
    for position in (LAST, MEAN):
        pattern = found.get("pattern", position)
        assert pattern.shape == (3, lm.n_layers, 4, longest)
        np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
        for row, e in enumerate(lm.encode(PROMPTS)):
            assert not pattern[row, ..., len(e) :].any()
    assert lm.config._attn_implementation == ("eager" if architecture == "gpt_neo" else "sdpa")


def test_layers_are_checked_and_kept_in_the_order_of_the_model(tiny):
    lm = tiny("llama")
    every = capture(lm, PROMPTS, ["resid_post"], [LAST]).get("resid_post", LAST)
    some = capture(lm, PROMPTS, ["resid_post"], [LAST], layers=[-1, 0])
    assert some.layers == (0, 2)
    np.testing.assert_array_equal(some.get("resid_post", LAST), every[:, [0, 2]])
    with pytest.raises(UsageError, match="layer 3 does not exist"):
        capture(lm, PROMPTS, ["resid_post"], [LAST], layers=[3])


def test_impossible_requests_fail_before_any_forward_pass(tiny):
    lm = tiny("gpt_neox")
    with pytest.raises(UsageError, match="parallel"):
        plan_capture(lm, PROMPTS, ["resid_mid"], [LAST])
    with pytest.raises(UsageError, match="site kind"):
        plan_capture(lm, PROMPTS, ["residual"], [LAST])
    with pytest.raises(UsageError, match="generated"):
        plan_capture(lm, PROMPTS, ["resid_post"], [Positions("generated")])
    with pytest.raises(UsageError, match="nothing to capture"):
        plan_capture(lm, [], ["resid_post"], [LAST])


class _Resuming(MemorySink):
    """A sink of which some rows were written by an earlier run."""

    def __init__(self, shapes, done):
        super().__init__(shapes)
        self.done = set(done)

    def missing_rows(self):
        return np.array([r for r in super().missing_rows() if r not in self.done])

    def finish_rows(self, rows):
        self.done |= {int(r) for r in rows}


def test_an_interrupted_capture_writes_only_the_missing_rows(tiny):
    lm = tiny("llama")
    plan = plan_capture(lm, PROMPTS, ["resid_post"], [LAST, ALL])
    by_prompt, by_token = split_shapes(plan)
    whole = capture(lm, PROMPTS, ["resid_post"], [LAST, ALL], max_rows=1)
    sink = _Resuming(by_prompt, done=[0, 1])
    tokens = _Resuming(by_token, done=range(plan.token_starts[1]))  # prompt b is still missing its tokens
    assert sum(run_capture(lm, plan, sink, tokens, max_rows=1)) == 2
    assert sorted(sink.done) == [0, 1, 2]
    assert len(tokens.done) == plan.token_starts[-1]
    found = activations(lm.name, plan, sink.arrays | tokens.arrays)
    np.testing.assert_array_equal(found.get("resid_post", LAST)[2], whole.get("resid_post", LAST)[2])
    assert not found.get("resid_post", LAST)[0].any()
    start = plan.token_starts[1]
    np.testing.assert_array_equal(found.get("resid_post", ALL)[start:], whole.get("resid_post", ALL)[start:])
    assert list(run_capture(lm, plan, sink, tokens)) == []


def test_nothing_stays_open_between_two_batches(tiny):
    lm = tiny("llama")
    plan = plan_capture(lm, PROMPTS, ["pattern"], [LAST])
    # The library itself leaves hooks behind where attentions were asked for: only ours are counted.
    before = count_hooks(lm.model)
    steps = run_capture(lm, plan, MemorySink(plan.shapes), None, max_rows=1)
    next(steps)
    assert not torch.is_inference_mode_enabled()
    assert lm.config._attn_implementation == "sdpa"
    assert count_hooks(lm.model) == before


@pytest.mark.parametrize("position", [LAST, ALL])
def test_not_a_number_names_layer_and_prompt(own, position):
    word = own.encode([PROMPTS[1]])[0].ids[-2]
    with torch.no_grad():
        own.model.get_input_embeddings().weight[word] = float("nan")
    assert word not in {*own.encode([PROMPTS[0]])[0].ids, *own.encode([PROMPTS[2]])[0].ids}
    with pytest.raises(ModelError, match="resid_post of layer 0 on prompt 'b'"):
        capture(own, PROMPTS, ["resid_post"], [position])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["self_attn", "mlp"])
def test_an_exception_leaves_no_hook_and_no_softmax_tap(own, error, where):
    def fail(module, args, kwargs):
        raise error("on purpose")

    handle = own.blocks[1].get_submodule(where).register_forward_pre_hook(fail, with_kwargs=True)
    inner = own.blocks[1].self_attn.v_proj.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(error):
        capture(own, PROMPTS, ["resid_post", "pattern"], [LAST])
    with pytest.raises(error):
        generate(own, PROMPTS, sampling=Sampling(2))
    handle.remove()
    inner.remove()
    assert count_hooks(own.model) == 0
    assert own.config._attn_implementation == "sdpa"
    assert torch.overrides._get_current_function_mode_stack() == []
    capture(own, PROMPTS, ["pattern"], [LAST])


def test_a_tapped_module_that_is_never_called_is_an_error(own):
    hooks = Hooks()
    hooks.visit(torch.nn.Linear(2, 2), "output", "L0.spare", lambda x: None)
    with pytest.raises(ContractError, match=r"L0\.spare never fired"), hooks:
        pass
    with (
        pytest.raises(ContractError, match="layer 0 never ran"),
        own.eager_attention(),
        PatternHooks(own, {0: lambda p: None}),
    ):
        pass


def test_patterns_need_eager_attention(own):
    with pytest.raises(ContractError, match="eager"), PatternHooks(own, {0: lambda p: None}):
        pass


def test_eager_attention_leaves_the_vision_tower_alone(tokenizers):
    lm = tiny_lm("gemma3", tokenizers["metaspace"])
    vision = lm.model.config.vision_config
    lm.model.set_attn_implementation({"vision_config": "eager"})
    before = vision._attn_implementation
    with lm.eager_attention():
        assert lm.config._attn_implementation == "eager"
        assert vision._attn_implementation == before
    assert lm.config._attn_implementation == "sdpa"
    assert vision._attn_implementation == before


def test_head_results_add_up_to_what_enters_the_residual(tiny):
    lm = tiny("gemma3_text", "metaspace")
    found = capture(lm, PROMPTS, ["result", "attn_out"], [LAST, MEAN])
    for position in (LAST, MEAN):
        total, wanted = found.get("result", position).sum(2), found.get("attn_out", position)
        np.testing.assert_allclose(total, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_family_without_its_module_is_a_contract_error(tiny):
    lm = tiny("llama")
    wrong = dataclasses.replace(lm, family=dataclasses.replace(lm.family, mlp="feed_forward"))
    with pytest.raises(ContractError, match="feed_forward"):
        capture(wrong, PROMPTS, ["mlp_out"], [LAST])


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "gpt_neox", "llama", "gemma3_text", "qwen3"])
def test_layers_behind_the_last_one_read_do_not_run_and_change_nothing(tiny, architecture):
    lm = tiny(architecture)
    kinds = ["resid_pre", "resid_post", "z", "result", "pattern"]
    whole, first = (capture(lm, PROMPTS, kinds, [LAST, MEAN], layers=layers) for layers in (None, [0, 1]))
    for kind in kinds:
        for position in (LAST, MEAN):
            np.testing.assert_array_equal(first.get(kind, position), whole.get(kind, position)[:, :2])
    ran = []
    handles = [
        lm.module(layer, "block").register_forward_hook(lambda *_, layer=layer: ran.append(layer))
        for layer in range(lm.n_layers)
    ]
    before = count_hooks(lm.model)  # a shared model can carry Transformers' own
    embedded = capture(lm, PROMPTS, ["resid_pre"], [MEAN], layers=[0])
    assert ran == [0] and count_hooks(lm.model) == before
    for handle in handles:
        handle.remove()
    np.testing.assert_array_equal(embedded.get("resid_pre", MEAN)[:, 0], whole.get("resid_pre", MEAN)[:, 0])

"""Scores equal plain forward passes, whatever is shared between rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.engine import interventions as make
from emotion_circuits.engine import (
    kl_from_baseline,
    log_sum_exp_difference,
    plan_chunks,
    score,
    score_rows,
    scored_at_once,
)
from emotion_circuits.engine.batching import pad
from emotion_circuits.engine.decode import BASELINE, Row, next_token_logits
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.engine.prefix import first_layer, output_below, skip_below
from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from tiny_models import ARCHITECTURES

TEXTS = ["Thank you 😀 for the parcel.", "Sorry, I broke it.", "He parked in my space again, and I left.", "No."]
PROMPTS = [Prompt(str(i), text, spans=((0, 2),)) for i, text in enumerate(TEXTS)]
POSITIONS = ["last", "onward", "all", "window:3", "emotion-word-first", "at:1"]


def tokenizer_of(architecture):
    return "metaspace" if architecture.startswith("gemma") else "byte-level"


def token(n):
    return lambda logits, baseline: logits[:, n]


def condition(lm, name, kind, layer, positions, seed=0):
    v = np.random.default_rng(seed).standard_normal(lm.width(kind))
    return Condition(name, (make.add(Site(kind, layer), v, 1.5, Positions.parse(positions)),))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_scores_equal_plain_forward_passes(tiny, architecture, data):
    lm = tiny(architecture, tokenizer_of(architecture))
    kinds = st.sampled_from(["resid_pre", "resid_post", "attn_out", "z", "v", "neuron"])
    layers = st.integers(data.draw(st.integers(0, lm.n_layers - 1)), lm.n_layers - 1)
    conditions = [
        condition(lm, f"c{n}", data.draw(kinds), data.draw(layers), data.draw(st.sampled_from(POSITIONS)), n)
        for n in range(data.draw(st.integers(1, 4)))
    ]
    conditions += [BASELINE] * data.draw(st.integers(0, 1))
    ids = [3, 50, 99]
    most = data.draw(st.sampled_from([None, 1, 3]))
    found = score(lm, PROMPTS, conditions, [*map(token, ids), kl_from_baseline()], max_rows=most)
    assert found.shape == (len(PROMPTS), len(conditions), 4)
    for p, e in enumerate(lm.encode(PROMPTS)):
        plain = next_token_logits(lm, [(e, BASELINE)])[0]
        for c, made in enumerate(conditions):
            alone = next_token_logits(lm, [(e, made)])[0]
            np.testing.assert_allclose(found[p, c, :3], alone[ids], atol=1e-4 * float(alone.std()) + 1e-5)
            old, new = plain.double().log_softmax(-1), alone.double().log_softmax(-1)
            wanted = float((old.exp() * (old - new)).sum())
            assert found[p, c, 3] == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_what_rows_share_runs_once(tiny):
    lm = tiny("llama")
    vectors = [condition(lm, f"v{n}", "resid_post", 1, "onward", n) for n in range(20)]
    ran = [[] for _ in lm.blocks]
    handles = [
        block.mlp.register_forward_pre_hook(lambda module, args, n=n: ran[n].append(tuple(args[0].shape[:2])))
        for n, block in enumerate(lm.blocks)
    ]
    score(lm, PROMPTS[:1], vectors, [token(5)], max_rows=11)
    for handle in handles:
        handle.remove()
    (encoded,) = lm.encode(PROMPTS[:1])
    before = (1, len(encoded) - 1)
    # Once: the tokens in front, then the last token through the blocks below. A row each: what is above the edit.
    assert ran == [[before, (1, 1)], [before, (1, 1)], [before, (11, 1), (11, 1)]]


@pytest.mark.parametrize("op", ["add", "set", "project_out", "zero"])
def test_strength_zero_scores_bit_equal_to_no_edit(tiny, op):
    lm = tiny("qwen3")
    v = np.random.default_rng(0).standard_normal(lm.d_model) if op != "zero" else None
    none = [Condition(f"n{n}") for n in range(3)]
    zero = [Condition(f"z{n}", (Intervention(Site("resid_post", 1), op, vector=v, strength=0.0),)) for n in range(3)]
    metrics = [token(7), kl_from_baseline()]
    found = score(lm, PROMPTS, zero, metrics)
    assert np.array_equal(found, score(lm, PROMPTS, none, metrics))
    assert (found[..., 1] < 1e-6).all()


def test_metrics_are_those_of_their_formulas():
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    base = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    wanted = np.log(np.exp(1) + np.exp(2)) - 3
    assert float(log_sum_exp_difference([1, 2], [3])(logits, base)) == pytest.approx(wanted)
    p, q = np.full(4, 0.25), np.exp([0, 1, 2, 3]) / np.exp([0, 1, 2, 3]).sum()
    assert float(kl_from_baseline()(logits, base)) == pytest.approx((p * np.log(p / q)).sum())
    for ids, neutral in ([], [1]), ([1], []), ([1, 2], [2]):
        with pytest.raises(UsageError, match="empty or overlap"):
            log_sum_exp_difference(ids, neutral)


def test_impossible_scores_are_refused(tiny):
    lm = tiny("llama")
    with pytest.raises(UsageError, match="no metric"):
        score(lm, PROMPTS, [BASELINE], [])
    with pytest.raises(UsageError, match="same name"):
        score(lm, PROMPTS, [BASELINE, BASELINE], [token(1)])
    with pytest.raises(UsageError, match="generated tokens only"):
        score(lm, PROMPTS, [condition(lm, "c", "resid_post", 1, "generated")], [token(1)])


def test_out_of_memory_in_a_metric_halves_the_rows(tiny, caplog):
    lm = tiny("llama")
    conditions = [condition(lm, f"v{n}", "resid_post", 1, "onward", n) for n in range(8)]
    wanted = score(lm, PROMPTS, conditions, [token(5)])

    def tight(logits, baseline):
        if len(logits) > 5:
            raise MemoryError
        return logits[:, 5]

    found = score(lm, PROMPTS, conditions, [tight], max_rows=16)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert "going on with 4" in caplog.text


# ---- blocks that do not run -------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_handing_over_a_lower_output_is_exact_and_undone(tiny, architecture):
    lm = tiny(architecture, tokenizer_of(architecture))
    batch = pad(lm, lm.encode(PROMPTS), range(4), "left")
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.positions, "use_cache": False}
    before = count_hooks(lm.model)
    with torch.inference_mode():
        whole = lm.model(**inputs, logits_to_keep=1).logits
        for layer in range(1, lm.n_layers + 1):
            below = output_below(lm, layer, inputs)
            with skip_below(lm, layer, below):
                assert torch.equal(lm.model(**inputs, logits_to_keep=1).logits, whole)
            two = {k: v[[2, 2]] if torch.is_tensor(v) else v for k, v in inputs.items()}
            with pytest.raises(RuntimeError, match="on purpose"), skip_below(lm, layer, below.rows([2, 2])):
                assert (lm.model(**two, logits_to_keep=1).logits - whole[2]).abs().max() <= 1e-4 * whole.std()
                raise RuntimeError("on purpose")
        assert torch.equal(lm.model(**inputs, logits_to_keep=1).logits, whole)
    assert count_hooks(lm.model) == before
    assert not any("forward" in vars(block) for block in lm.blocks)


def test_a_forward_that_was_replaced_before_comes_back(tokenizers):
    from tiny_models import tiny_lm

    lm = tiny_lm("llama", tokenizers["byte-level"])
    original = lm.blocks[0].forward
    lm.blocks[0].forward = lambda *args, **kwargs: original(*args, **kwargs)
    mine = lm.blocks[0].forward
    score(lm, PROMPTS[:1], [condition(lm, "c", "resid_post", 1, "onward")], [token(5)])
    assert lm.blocks[0].forward is mine


def test_the_lowest_block_that_rows_need(tiny):
    lm = tiny("llama")
    assert first_layer(lm, BASELINE) == 3
    assert first_layer(lm, condition(lm, "c", "resid_post", 1, "last")) == 2
    assert first_layer(lm, condition(lm, "c", "z", 1, "last")) == 1
    both = Condition("b", (*condition(lm, "", "z", 2, "last").interventions, make.zero(Site("mlp_out", 0))))
    assert first_layer(lm, both) == 0
    assert first_layer(lm, Condition("none", (make.scale(Site("z", 0), 1.0),))) == 3


def test_rows_arrive_in_batches_with_their_numbers(tiny):
    lm = tiny("gpt2")
    rows = [Row(e, c) for e in lm.encode(PROMPTS) for c in (BASELINE, condition(lm, "c", "z", 1, "last"))]
    parts = list(score_rows(lm, rows, [token(3)], max_rows=4))
    assert sorted(n for numbers, _ in parts for n in numbers) == list(range(8))
    assert all(values.shape == (len(numbers), 1) for numbers, values in parts)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("conditions", [1, 2, 5])
@pytest.mark.parametrize("most", [2, 3, 4, 7, 20])
def test_unedited_rows_that_ride_along_are_rows_of_a_batch(tiny, most, conditions, baseline):
    lm = tiny("llama")
    made = [condition(lm, f"c{n}", "resid_post", 1, "last", n) for n in range(conditions)] + [BASELINE] * baseline
    sizes = []
    handle = lm.blocks[-1].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    try:
        found = score(lm, PROMPTS, made, [token(3)], max_rows=most)
    finally:
        handle.remove()
    assert max(sizes) <= most
    wanted = score(lm, PROMPTS, made, [token(3)], max_rows=100)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    rows = [Row(e, c) for e in lm.encode(PROMPTS) for c in made]
    room = scored_at_once(lm, rows, most)
    assert 1 <= room <= most and (room == most) == (baseline and conditions < most)


def test_prompts_of_unlike_numbers_of_rows_have_room_too(tiny):
    """Any rows will do: the prompt with the fewest has the most unedited rows for its share of a batch."""
    lm = tiny("llama")
    first, second, third, _ = lm.encode(PROMPTS)
    edits = [condition(lm, f"c{n}", "resid_post", 1, "last", n) for n in range(9)]
    rows = [*(Row(first, c) for c in edits), Row(second, edits[0]), *(Row(third, c) for c in (BASELINE, *edits[:2]))]
    for most in range(2, 20):
        room = scored_at_once(lm, rows, most)
        for chunk in plan_chunks(lm, rows, room):
            texts = {rows[n].encoded.ids for n in chunk}
            own = {rows[n].encoded.ids for n in chunk if rows[n].condition is BASELINE}
            assert len(chunk) + len(texts - own) <= most
    assert scored_at_once(lm, rows, 1) == 1 and scored_at_once(lm, [], 5) == 5
    with pytest.raises(UsageError, match="0 rows"):
        score(lm, PROMPTS, edits, [token(3)], max_rows=0)


@pytest.mark.parametrize("layer", [0, 2])
def test_scores_that_are_no_numbers_name_the_first_layer(tiny, layer):
    lm = tiny("llama")
    edit = Intervention(Site("resid_post", layer), "scale", Positions("last"), None, 1e38)
    before = count_hooks(lm.model)
    with pytest.raises(ModelError, match=rf"under condition 'huge' at step 0 .* in layer {layer}\n"):
        score(lm, PROMPTS, [Condition("baseline"), Condition("huge", (edit, edit))], [kl_from_baseline()])
    assert count_hooks(lm.model) == before

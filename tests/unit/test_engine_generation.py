"""Packed generation: what is shared changes nothing, draws depend on their row alone, memory is bounded."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.engine import decode as decoding
from emotion_circuits.engine import generate, generate_rows, generation, memory, plan_chunks
from emotion_circuits.engine import interventions as make
from emotion_circuits.engine.decode import BASELINE, Row, decode
from emotion_circuits.engine.edits import Edits
from emotion_circuits.engine.hooks import count_hooks
from emotion_circuits.engine.memory import automatic_rows, row_bytes, run_chunks
from emotion_circuits.engine.sampling import Sampling, chooser, draw, greedy, uniforms
from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.models.memory import is_out_of_memory
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from tiny_models import ARCHITECTURES, tiny_lm

TEXTS = ["Thank you 😀 for the parcel.", "Sorry, I broke it.", "He parked in my space again, and I left.", "No."]
PROMPTS = [Prompt(str(i), text, spans=((0, 2),)) for i, text in enumerate(TEXTS)]
STEPS = 6
NO_EDIT_BEFORE_THE_END = ["onward", "last", "generated", "window:2"]


def tokenizer_of(architecture):
    return "metaspace" if architecture.startswith("gemma") else "byte-level"


def steer(lm, name="steer", layer=1, positions="onward", strength=3.0, seed=0):
    v = np.random.default_rng(seed).standard_normal(lm.d_model)
    return Condition(name, (make.add(Site("resid_post", layer), v, strength, Positions.parse(positions)),))


def logits_by_row(lm, rows, forced):
    """Logits that the decode loop saw, ``[row, step, vocabulary]``, while it was made to write ``forced``."""
    seen = {n: [] for n in range(len(rows))}

    def choose(logits, numbers, step):
        for row, number in zip(logits, numbers, strict=True):
            seen[number].append(row.clone())
        return torch.tensor([int(forced[n, step]) for n in numbers])

    list(decode(lm, rows, range(len(rows)), forced.shape[1], choose))
    return torch.stack([torch.stack(seen[n]) for n in range(len(rows))])


# ---- sharing the prompt -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_shared_prefill_equals_whole_prompts(tiny, architecture, data):
    lm = tiny(architecture, tokenizer_of(architecture))
    conditions = [BASELINE]
    for n in range(data.draw(st.integers(1, 3))):
        kind = data.draw(st.sampled_from(["resid_pre", "resid_post", "z", "k", "mlp_out"]))
        positions = data.draw(st.sampled_from([*NO_EDIT_BEFORE_THE_END, "emotion-word-last"]))
        v = np.random.default_rng(n).standard_normal(lm.width(kind))
        layer = data.draw(st.integers(0, lm.n_layers - 1))
        schedule = data.draw(st.sampled_from([(1.0,), (0.0, 1.0), (1.0, 0.5, 0.0)]))
        conditions.append(
            Condition(f"c{n}", (make.add(Site(kind, layer), v, 1.5, Positions.parse(positions), schedule=schedule),))
        )
    encoded = lm.encode(PROMPTS[: data.draw(st.integers(1, len(PROMPTS)))])
    rows = [Row(e, c) for e in encoded for c in conditions]
    forced = np.random.default_rng(5).integers(3, 90, (len(rows), 4))
    packed = logits_by_row(lm, rows, forced)
    for n, row in enumerate(rows):  # a row alone shares nothing
        alone = logits_by_row(lm, [row], forced[n : n + 1])[0]
        assert (packed[n] - alone).abs().max() <= 1e-4 * alone.std() + 1e-5, row.condition


@pytest.mark.parametrize(("positions", "widths"), [("onward", [1]), ("window:3", [3]), ("generated", [1]), ("all", [])])
def test_tokens_before_the_first_edit_run_once_a_prompt(tiny, positions, widths):
    lm = tiny("llama")
    rows = [Row(e, c) for e in lm.encode(PROMPTS) for c in (BASELINE, steer(lm, positions=positions))]
    longest = max(len(r.encoded) for r in rows)
    shapes = []
    handle = lm.blocks[0].register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[:2])))
    list(decode(lm, rows, range(len(rows)), 2))
    handle.remove()
    prefix = [(len(PROMPTS), longest - widths[0])] if widths else []
    first = (len(rows), widths[0] if widths else longest)
    assert shapes == [*prefix, first, (len(rows), 1)]


def test_every_edit_fires_at_every_step_that_it_covers(tiny):
    lm = tiny("gpt2")
    fired = {}
    original = Edits.hooks

    def counted(self):
        hooks = original(self)
        fired.update(hooks=hooks)
        return hooks

    rows = [Row(e, c) for e in lm.encode(PROMPTS[:2]) for c in (BASELINE, steer(lm, layer=0), steer(lm, "b", layer=2))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Edits, "hooks", counted)
        list(decode(lm, rows, range(len(rows)), 5, lambda logits, n, step: torch.full((len(n),), 7)))
    assert fired["hooks"].fired == {"L0.resid_post": 5, "L2.resid_post": 5}


@pytest.mark.parametrize("where", ["block", "choice"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exception_inside_generation_leaves_nothing_behind(tiny, architecture, where, monkeypatch):
    lm = tiny(architecture, tokenizer_of(architecture))
    before = count_hooks(lm.model)
    plain = generate(lm, PROMPTS, [BASELINE], Sampling(3))
    block, calls = lm.blocks[-1].mlp, []
    forward = block.forward

    def broken(*args, **kwargs):
        calls.append(count_hooks(lm.model))
        if where == "block" and len(calls) == 3:  # the shared prefix, the prompts' ends, the first written token
            raise RuntimeError("on purpose")
        return forward(*args, **kwargs)

    def fail(logits, numbers, step):
        if where == "choice" and step:
            raise RuntimeError("on purpose")
        return greedy(logits, numbers, step)

    rows = [Row(e, c) for e in lm.encode(PROMPTS) for c in (BASELINE, steer(lm))]
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="on purpose"):
        patch.setattr(block, "forward", broken)
        list(decode(lm, rows, range(len(rows)), 3, fail))
    assert calls[-1] > before == count_hooks(lm.model)
    assert generate(lm, PROMPTS, [BASELINE], Sampling(3)) == plain


@pytest.mark.parametrize(("positions", "step"), [("all", 0), ("last", 0), ("generated", 1)])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("sampling", [Sampling(3), Sampling(3, temperature=1.0, seed=4)])
def test_logits_that_are_no_numbers_name_their_row_and_the_first_layer(tiny, positions, step, layer, sampling):
    lm = tiny("llama")
    edit = Intervention(Site("resid_post", layer), "scale", Positions(positions), None, 1e38)
    huge, before = Condition("huge", (edit, edit)), count_hooks(lm.model)
    told = rf"prompt '\d' under condition 'huge' at step {step} \(\d of \d rows\): .* torch.float32 in layer {layer}$"
    with pytest.raises(ModelError) as caught:
        generate(lm, PROMPTS, [BASELINE, huge], sampling)
    assert re.search(told, caught.value.what), caught.value.what
    assert count_hooks(lm.model) == before


def test_logits_that_leave_the_range_behind_every_block_name_no_layer(tokenizers):
    lm = tiny_lm("llama", tokenizers["byte-level"])
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(float("inf"))
    with pytest.raises(ModelError) as caught:
        generate(lm, PROMPTS, [BASELINE], Sampling(3))
    assert caught.value.what.endswith("left the range of torch.float32")


def test_what_gives_numbers_is_not_run_twice(tiny, monkeypatch):
    lm, passes = tiny("llama"), []
    handle = lm.module(0, "block").register_forward_hook(lambda *_: passes.append(1))
    generate(lm, PROMPTS[:1], [BASELINE], Sampling(3))
    handle.remove()
    assert len(passes) <= 3


# ---- sampling ---------------------------------------------------------------------------------------------------
SAMPLED = Sampling(STEPS, temperature=1.0, top_p=0.9, samples=3, seed=4)


def test_draws_depend_on_their_row_alone(tiny):
    lm = tiny("qwen3")
    conditions = [BASELINE, steer(lm), steer(lm, "later", 2, "generated")]
    packed = generate(lm, PROMPTS, conditions, SAMPLED)
    assert generate(lm, PROMPTS, conditions, SAMPLED, max_rows=1) == packed
    assert generate(lm, PROMPTS, conditions, SAMPLED, max_rows=7) == packed
    by_key = {(g.prompt, g.condition, g.sample): g for g in packed}
    turned = generate(lm, PROMPTS[::-1], conditions[::-1], SAMPLED)
    assert {(g.prompt, g.condition, g.sample): g for g in turned} == by_key
    fewer = Sampling(3, temperature=1.0, top_p=0.9, samples=2, seed=4)
    for g in generate(lm, PROMPTS[1:2], conditions[1:2], fewer):
        assert g.tokens == by_key[g.prompt, g.condition, g.sample].tokens[:3]
    assert len({g.tokens for g in packed if g.prompt == "0" and g.condition == "baseline"}) == 3
    other = generate(lm, PROMPTS, conditions, Sampling(STEPS, temperature=1.0, top_p=0.9, samples=3, seed=5))
    assert [g.tokens for g in other] != [g.tokens for g in packed]


def test_results_come_prompts_outermost_then_conditions_then_samples(tiny):
    lm = tiny("gpt2")
    conditions = [BASELINE, steer(lm)]
    found = generate(lm, PROMPTS, conditions, SAMPLED, max_rows=5)
    wanted = [(p.id, c.name, s) for p in PROMPTS for c in conditions for s in range(3)]
    assert [(g.prompt, g.condition, g.sample) for g in found] == wanted


def test_draws_follow_the_probabilities():
    logits = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.2]])).expand(4000, 4)
    numbers = torch.from_numpy(np.stack([uniforms(0, "p", "c", s, 1) for s in range(4000)])[:, 0])
    share = torch.bincount(draw(logits, numbers), minlength=4) / 4000
    assert share[1] == 0
    assert (share - torch.tensor([0.5, 0.0, 0.3, 0.2])).abs().max() < 0.03
    choose = chooser(Sampling(1, temperature=1.0, top_p=0.6), numbers.unsqueeze(1).numpy())
    kept = torch.bincount(choose(logits, range(4000), 0), minlength=4) / 4000
    assert kept[3] == 0  # .5 + .3 reach .6
    assert abs(float(kept[0]) - 0.5 / 0.8) < 0.03
    cold = chooser(Sampling(1, temperature=0.01), numbers.unsqueeze(1).numpy())
    assert not cold(logits, range(4000), 0).any()


@pytest.mark.parametrize("u", [0.0, 0.4999999, 0.5, 1 - 2**-53])
def test_tokens_of_probability_zero_are_never_drawn(u):
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    assert draw(logits, torch.tensor([u], dtype=torch.float64)).item() == (1 if u < 0.5 else 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"max_new_tokens": 0}, "0 tokens"), ({"temperature": -1.0}, "temperature"), ({"temperature": math.nan}, "temper"),
     ({"temperature": math.inf}, "temperature"), ({"top_p": 0.0}, "top-p"), ({"top_p": 1.1}, "top-p"),
     ({"top_p": math.nan}, "top-p"), ({"samples": 0}, "0 samples"), ({"samples": 5}, "same text")],
)  # fmt: skip
def test_impossible_sampling_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**arguments)


# ---- batches and memory -----------------------------------------------------------------------------------------
def test_chunks_hold_every_row_once_and_keep_prompts_together(tiny):
    lm = tiny("llama")
    conditions = [BASELINE, *(steer(lm, f"c{n}", layer=n % 3) for n in range(6))]
    rows = [Row(e, c) for e in lm.encode(PROMPTS) for c in conditions]
    for most in (1, 3, 7, 14, 100):
        chunks = plan_chunks(lm, rows, most)
        assert sorted(n for c in chunks for n in c) == list(range(len(rows)))
        assert max(map(len, chunks)) <= most
        assert chunks == plan_chunks(lm, list(rows), most)
        widths = [max(len(rows[n].encoded) for n in c) for c in chunks]
        assert widths == sorted(widths, reverse=True)
        if most >= 7:
            assert all(sum(n // 7 == p for n in c) in (0, 7) for c in chunks for p in range(4))
    # A prompt with more rows than fit: rows that edit low blocks apart from those that do not.
    layers = [
        {c.name: c for c in conditions}[rows[n].condition.name].interventions for n in plan_chunks(lm, rows, 4)[0]
    ]
    assert {i[0].site.layer for i in layers} <= {0, 1}
    assert plan_chunks(lm, [], 4) == []
    with pytest.raises(UsageError, match="0 rows"):
        plan_chunks(lm, rows, 0)


def test_a_finished_batch_comes_before_the_next_one_starts(tiny):
    lm = tiny("llama")
    rows = [Row(e, BASELINE) for e in lm.encode(PROMPTS)]
    arriving = generate_rows(lm, rows, Sampling(2), max_rows=2)
    first = next(arriving)
    assert [n for n, _ in first] == plan_chunks(lm, rows, 2)[0]
    rest = [n for chunk in arriving for n, _ in chunk]
    assert sorted([n for n, _ in first] + rest) == [0, 1, 2, 3]


def test_out_of_memory_halves_the_rows_and_goes_on(tiny, monkeypatch, caplog):
    lm = tiny("llama")
    conditions = [BASELINE, steer(lm)]
    wanted = generate(lm, PROMPTS, conditions, SAMPLED)
    sizes = []
    original = decoding.decode

    def small_memory(lm, rows, *args):
        sizes.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return original(lm, rows, *args)

    monkeypatch.setattr(generation, "decode", small_memory)
    with caplog.at_level("WARNING"):
        found = generate(lm, PROMPTS, conditions, SAMPLED, max_rows=12)
    assert found == wanted
    assert sizes == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]
    assert "12 rows" in caplog.text
    assert "going on with 6" in caplog.text


def test_other_errors_and_a_single_row_too_many_are_raised():
    def fail(message):
        def work(chunk):
            raise RuntimeError(message)

        return work

    with pytest.raises(RuntimeError, match="shape"):
        list(run_chunks([[0, 1]], fail("wrong shape")))
    released = []
    with pytest.raises(RuntimeError, match="out of memory"):
        list(run_chunks([[0, 1, 2]], fail("out of memory"), lambda: released.append(1)))
    assert len(released) == 2
    assert is_out_of_memory(MemoryError())


def test_row_budget_follows_free_memory(tiny, monkeypatch):
    lm = tiny("llama")
    per_row = row_bytes(lm, 100, 50)
    assert per_row > 150 * lm.n_layers * 2 * lm.n_kv_heads * lm.d_head * 4 + 4 * lm.vocabulary_size
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 * per_row)
    assert automatic_rows(lm, 100, 50) == 10
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert automatic_rows(lm, 100, 50) == 1
    monkeypatch.undo()
    assert 1 <= automatic_rows(lm, 5, 5) <= 128

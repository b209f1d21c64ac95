"""Interventions: packed, cached decoding equals running each row alone, recomputing the whole text at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.engine.decode import BASELINE, decode, next_token_logits
from emotion_circuits.engine.generation import generate
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.engine.sampling import Sampling
from emotion_circuits.engine.schedules import parse_schedule
from emotion_circuits.engine.taps import tap
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from tiny_models import ARCHITECTURES, tiny_lm

TEXTS = ["Thank you 😀 for the parcel.", "Sorry, I broke it.", "He parked in my space again, and I left."]
PROMPTS = [Prompt(str(i), text, spans=((0, 5),)) for i, text in enumerate(TEXTS)]
POSITIONS = ["last", "all", "mean-content", "emotion-word-first", "emotion-word-last", "emotion-word-all", "span:6-9",
             "prompt", "generated", "onward", "window:3", "at:0,2"]  # fmt: skip
OPERATIONS = ["add", "set", "scale", "project_out", "zero"]
KINDS = ["resid_pre", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "neuron"]
AFTER_PROMPT = ("all", "generated", "onward")
STEPS = 4
TOLERANCE = 1e-4
"""Largest difference of a logit, as a share of the logits' SD: what float32 itself differs by across batch shapes."""


def vector_of(lm, kind: str, index: int | None, seed: int) -> np.ndarray:
    shape = lm.width(kind) if index is None else lm.width(kind)[1:]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- the oracle: one row, no cache, no packing, one position at a time -------------------------------------------
def recomputed_logits(lm, prompt, condition, tokens) -> torch.Tensor:
    """Last-position logits before each of ``tokens``, from whole forward passes with plain hooks."""
    (encoded,) = lm.encode([prompt])
    out = []
    for t in range(len(tokens)):
        handles = [_plain_hook(lm, encoded, i) for i in condition.interventions]
        with torch.inference_mode():
            ids = torch.tensor([[*encoded.ids, *tokens[:t]]])
            out.append(lm.model(input_ids=ids, use_cache=False).logits[0, -1])
        for handle in handles:
            handle.remove()
    return torch.stack(out)


def _plain_hook(lm, encoded, intervention):
    t = tap(lm, intervention.site.kind, intervention.site.layer)
    prompt = prompt_indices(encoded, intervention.positions)

    def change(x):
        x = x.clone()
        for place in range(x.shape[1]):
            step = max(0, place - len(encoded) + 1)
            if place in prompt or (step and intervention.positions.kind in AFTER_PROMPT):
                _change_one(t.view(x)[0, place], intervention, step)
        return x

    if t.side == "input":

        def before(module, args, kwargs):
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        return t.module.register_forward_pre_hook(before, with_kwargs=True)

    def after(module, args, output):
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return t.module.register_forward_hook(after)


def _change_one(x, intervention, step):
    """Edit one token's activation in place, straight from the definition of each operation."""
    if intervention.site.index is not None:
        x = x[intervention.site.index : intervention.site.index + 1]
    s = intervention.strength * intervention.schedule[min(step, len(intervention.schedule) - 1)]
    v = None if intervention.vector is None else torch.as_tensor(intervention.vector).reshape(x.shape)
    if intervention.op == "add":
        x += s * v
    elif intervention.op == "set":
        x += s * (v - x)
    elif intervention.op == "scale":
        x *= s
    elif intervention.op == "zero":
        x *= 1 - s
    else:
        x -= s * (x * v).sum() / (v * v).sum() * v


def assert_same_as_recomputed(lm, conditions, rows=None):
    """Every (prompt, condition) row of one packed, cached batch equals its own recomputation, logit by logit."""
    rows = rows or [(e, c) for e in lm.encode(PROMPTS) for c in conditions]
    seen: dict[int, list[torch.Tensor]] = {n: [] for n in range(len(rows))}
    forced = np.random.default_rng(5).integers(3, 90, (len(rows), STEPS))

    def choose(logits, numbers, step):
        for row, number in zip(logits, numbers, strict=True):
            seen[number].append(row.clone())
        return torch.tensor([int(forced[n, step]) for n in numbers])

    results = {n: tokens for n, tokens, _ in decode(lm, rows, range(len(rows)), STEPS, choose)}
    for number, (encoded, condition) in enumerate(rows):
        assert results[number] == forced[number].tolist()
        wanted = recomputed_logits(lm, encoded.prompt, condition, results[number])
        error = (torch.stack(seen[number]) - wanted).abs().max() / wanted.std()
        assert error < TOLERANCE, (condition, float(error))


@st.composite
def interventions(draw, lm):
    kind, op = draw(st.sampled_from(KINDS)), draw(st.sampled_from(OPERATIONS))
    width = lm.width(kind)
    index = draw(st.none() | st.integers(0, width[0] - 1)) if kind in ("q", "k", "v", "z", "neuron") else None
    vector = vector_of(lm, kind, index, draw(st.integers(0, 99))) if op in ("add", "set", "project_out") else None
    schedule = draw(st.sampled_from([(1.0,), (1.0, 0.0), (0.0, 1.0, 0.5)]))
    site, positions = Site(kind, draw(st.integers(0, lm.n_layers - 1)), index), draw(st.sampled_from(POSITIONS))
    return Intervention(site, op, Positions.parse(positions), vector, draw(st.sampled_from([1.0, 0.5])), schedule)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_plans_packed_and_cached_equal_recomputation(tiny, architecture, data):
    lm = tiny(architecture, "metaspace" if architecture.startswith("gemma") else "byte-level")
    # At most one edit a tap: the order of edits on one tensor has a test of its own.
    plans = data.draw(st.lists(st.lists(interventions(lm), max_size=2), min_size=2, max_size=3))
    conditions = [
        Condition(f"c{n}", tuple({(i.site.kind, i.site.layer): i for i in plan}.values()))
        for n, plan in enumerate(plans)
    ]
    assert_same_as_recomputed(lm, [BASELINE, *conditions])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_text"])
def test_every_position_kind_with_every_operation(tiny, architecture, positions):
    lm = tiny(architecture)
    vector = vector_of(lm, "resid_post", None, 3)
    conditions = [
        Condition(op, (Intervention(Site("resid_post", 1), op, Positions.parse(positions), vector, 0.5, (1.0, 2.0)),))
        for op in OPERATIONS
    ]
    rows = [(e, c) for e in lm.encode(PROMPTS[:1]) for c in conditions]
    assert_same_as_recomputed(lm, conditions, rows)


@pytest.mark.parametrize("schedule", ["constant", "linear", "decay", "0,1,-0.5"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_position_kind_with_every_schedule(tiny, architecture, schedule):
    lm = tiny(architecture, "metaspace" if architecture.startswith("gemma") else "byte-level")
    vector = vector_of(lm, "resid_post", None, 3)
    multipliers = parse_schedule(schedule, rate=0.5, steps=STEPS)
    conditions = [
        Condition(p, (Intervention(Site("resid_post", 1), "add", Positions.parse(p), vector, 1.5, multipliers),))
        for p in POSITIONS
    ]
    longer, edited = lm.encode([PROMPTS[2], PROMPTS[0]])  # the longer one pads the other
    assert_same_as_recomputed(lm, conditions, [(longer, BASELINE), *((edited, c) for c in conditions)])


def test_edits_of_one_tap_compose_in_order(tiny):
    lm = tiny("llama")
    a, b = (vector_of(lm, "resid_post", None, seed) for seed in (1, 2))
    add = Intervention(Site("resid_post", 0), "add", Positions("all"), a)
    scale = Intervention(Site("resid_post", 0), "scale", Positions("all"), None, 0.25)
    overwrite = Intervention(Site("resid_post", 0), "set", Positions("all"), b)
    orders = [(add, scale), (scale, add), (add, overwrite), (overwrite, add), (overwrite, add, scale)]
    conditions = [Condition(str(n), order) for n, order in enumerate(orders)]
    assert_same_as_recomputed(lm, conditions)
    (encoded,) = lm.encode(PROMPTS[:1])
    logits = next_token_logits(lm, [(encoded, c) for c in conditions])
    assert len({tuple(row.tolist()) for row in logits.round(decimals=3)}) == len(orders)


@pytest.mark.parametrize("op", ["add", "set", "project_out", "zero"])
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_strength_zero_is_bit_equal_to_no_edit(tiny, architecture, op):
    lm = tiny(architecture)
    vector = None if op == "zero" else vector_of(lm, "resid_post", None, 0)
    none = Condition("zero", (Intervention(Site("resid_post", 1), op, Positions("all"), vector, 0.0),))
    rows = lm.encode(PROMPTS)
    plain = next_token_logits(lm, [(e, BASELINE) for e in rows])
    assert torch.equal(plain, next_token_logits(lm, [(e, none) for e in rows]))


def test_baseline_rows_are_untouched_by_edited_rows_beside_them(tiny):
    lm = tiny("llama")
    steer = Condition(
        "s", (Intervention(Site("resid_post", 0), "add", Positions("all"), vector_of(lm, "resid_post", None, 0), 9.0),)
    )
    rows = lm.encode(PROMPTS)
    alone = next_token_logits(lm, [(e, BASELINE) for e in rows for _ in range(2)])
    mixed = next_token_logits(lm, [(e, c) for e in rows for c in (BASELINE, steer)])
    assert torch.equal(alone[::2], mixed[::2])
    assert not torch.equal(alone[1::2], mixed[1::2])


def test_zeroing_a_result_is_zeroing_its_z(tiny):
    lm = tiny("gpt_neox")
    (encoded,) = lm.encode(PROMPTS[:1])
    result, z = (
        Condition(kind, (Intervention(Site(kind, 1, 2), "zero", Positions("all")),)) for kind in ("result", "z")
    )
    logits = next_token_logits(lm, [(encoded, result), (encoded, z), (encoded, BASELINE)])
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_impossible_edits_are_refused(tiny):
    lm = tiny("llama")
    (encoded,) = lm.encode(PROMPTS[:1])

    def run(*args, **kwargs):
        next_token_logits(lm, [(encoded, Condition("c", (Intervention(*args, **kwargs),)))])

    vector = np.zeros(lm.d_model, np.float32)
    with pytest.raises(UsageError, match="layer 7 does not exist"):
        run(Site("resid_post", 7), "zero")
    with pytest.raises(UsageError, match="4 heads"):
        run(Site("z", 0, 4), "zero")
    with pytest.raises(UsageError, match="2 heads"):
        run(Site("v", 0, 2), "zero")
    with pytest.raises(UsageError, match="48 neurons"):
        run(Site("neuron", 0, 48), "zero")
    with pytest.raises(UsageError, match=r"shape \(32,\)"):
        run(Site("resid_post", 0), "add", vector=vector[:5])
    with pytest.raises(UsageError, match="none"):
        run(Site("resid_post", 0), "add")
    with pytest.raises(UsageError, match="cannot be edited"):
        run(Site("pattern", 0, 0), "zero")
    with pytest.raises(UsageError, match="generated tokens only"):
        run(Site("resid_post", 0), "add", Positions("generated"), vector)
    with pytest.raises(UsageError, match="position 99 is outside prompt '0'"):
        run(Site("resid_post", 0), "add", Positions.parse("at:99"), vector)
    # ---- generate
    with pytest.raises(UsageError, match="at least 1"):
        generate(lm, PROMPTS, sampling=Sampling(0))
    with pytest.raises(UsageError, match="no room"):
        generate(lm, PROMPTS, sampling=Sampling(250))
    with pytest.raises(UsageError, match="same name"):
        generate(lm, PROMPTS, [BASELINE, BASELINE], sampling=Sampling(2))


# ---- stopping ------------------------------------------------------------------------------------------------------
def test_finished_rows_are_dropped_without_changing_the_others(tokenizers):
    lm = tiny_lm("mistral", tokenizers["byte-level"])
    vector = vector_of(lm, "resid_post", None, 4)
    steer = Condition("s", (Intervention(Site("resid_post", 0), "add", Positions("onward"), vector, 2.0, (1.0, 0.5)),))
    free = generate(lm, PROMPTS, [BASELINE, steer], sampling=Sampling(10))
    # Make some token that one row writes early a stop token: that row ends there, the others go on as before.
    stop = free[0].tokens[2]
    lm.model.generation_config.eos_token_id = [stop]
    widths = []
    inner = lm.model.model.register_forward_hook(lambda module, args, output: widths.append(output[0].shape[0]))
    stopped = generate(lm, PROMPTS, [BASELINE, steer], sampling=Sampling(10))
    inner.remove()
    assert max(widths) == 6 > widths[-1]
    for before, after in zip(free, stopped, strict=True):
        end = before.tokens.index(stop) if stop in before.tokens else None
        assert after.tokens == before.tokens[:end]
        assert after.stopped == (end is not None)
    assert stopped[0].stopped


def test_models_without_any_stop_token_write_to_the_end(tokenizers):
    lm = tiny_lm("llama", tokenizers["byte-level"])
    lm.model.generation_config.eos_token_id = None
    lm.tokenizer = tokenizers["byte-level"].__class__(tokenizer_object=tokenizers["byte-level"].backend_tokenizer)
    assert lm.tokenizer.eos_token_id is None
    assert all(len(g.tokens) == 5 and not g.stopped for g in generate(lm, PROMPTS, sampling=Sampling(5)))


def test_text_does_not_depend_on_packing(tiny):
    lm = tiny("gemma3_text", "metaspace")
    steer = Condition("s", (Intervention(Site("z", 1, 3), "zero", Positions("all")),))
    packed = generate(lm, PROMPTS, [BASELINE, steer], sampling=Sampling(6))
    narrow = generate(lm, PROMPTS, [BASELINE, steer], sampling=Sampling(6), max_rows=1)
    alone = [g for p in PROMPTS for c in (BASELINE, steer) for g in generate(lm, [p], [c], sampling=Sampling(6))]
    assert [(g.prompt, g.condition, g.tokens) for g in packed] == [(g.prompt, g.condition, g.tokens) for g in alone]
    assert packed == narrow

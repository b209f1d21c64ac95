"""Interventions by name, values by position, schedules, and edits that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.engine import interventions as make
from emotion_circuits.engine.capture import capture
from emotion_circuits.engine.decode import BASELINE, next_token_logits
from emotion_circuits.engine.hooks import Hooks
from emotion_circuits.engine.operations import acts, changes_something, operate
from emotion_circuits.engine.schedules import constant, exponential_decay, linear, parse_schedule
from emotion_circuits.engine.taps import tap
from emotion_circuits.errors import UsageError
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site

TEXTS = ["Thank you for the parcel.", "Sorry, I broke it.", "He parked in my space again, and I left."]
PROMPTS = [Prompt(str(i), text, spans=((0, 5),)) for i, text in enumerate(TEXTS)]
SITE = Site("resid_post", 1)
PROMPT, ALL = Positions("prompt"), Positions("all")


def logits_of(lm, *interventions, prompts=PROMPTS):
    condition = Condition("c", interventions)
    return next_token_logits(lm, [(e, condition) for e in lm.encode(prompts)])


def seen_at(lm, site, encoded, condition):
    """What the block after an edited site receives."""
    seen = []
    hooks = Hooks()
    t = tap(lm, "resid_pre", site.layer + 1)
    hooks.visit(t.module, t.side, "after", lambda x: seen.append(x.clone()))
    with hooks:
        next_token_logits(lm, [(encoded, condition)])
    return seen[0][0]


# ---- one value a position ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3_text"])
def test_values_by_position_land_on_their_positions_in_order(tiny, architecture):
    lm = tiny(architecture)
    (encoded,) = lm.encode(PROMPTS[:1])
    values = np.random.default_rng(0).standard_normal((2, lm.d_model)).astype(np.float32)
    edited = seen_at(lm, SITE, encoded, Condition("c", (make.swap(SITE, values, Positions.parse("at:3,1")),)))
    plain = seen_at(lm, SITE, encoded, BASELINE)
    at = [encoded.content[3], encoded.content[1]]
    assert torch.equal(edited[at], torch.from_numpy(values))
    others = [i for i in range(len(encoded)) if i not in at]
    assert torch.equal(edited[others], plain[others])


@pytest.mark.parametrize("kind", ["resid_post", "z", "neuron"])
def test_putting_a_prompts_own_activations_back_changes_nothing(tiny, kind):
    lm = tiny("qwen3")
    a = capture(lm, PROMPTS, [kind], [Positions("all")])
    plain = logits_of(lm)
    for p, encoded in enumerate(lm.encode(PROMPTS)):
        own = a.get(kind, "all")[a.token_starts[p] : a.token_starts[p + 1], 1]
        put = make.resample_ablation(Site(kind, 1), own, PROMPT)
        found = next_token_logits(lm, [(encoded, Condition("c", (put,)))])[0]
        assert (found - plain[p]).abs().max() <= 1e-4 * plain.std()
        broken = make.resample_ablation(Site(kind, 1), own[::-1].copy(), PROMPT)
        assert (next_token_logits(lm, [(encoded, Condition("c", (broken,)))])[0] - plain[p]).abs().max() > 1e-2


def test_rows_with_one_vector_and_rows_with_values_by_position_share_a_batch(tiny):
    lm = tiny("llama")
    rng = np.random.default_rng(1)
    one, many = rng.standard_normal(lm.d_head), rng.standard_normal((3, lm.d_head))
    by_token = Condition("many", (make.add(Site("z", 1, 2), many, 0.5, Positions("window", values=(3,))),))
    whole = Condition("one", (make.add(Site("z", 1, 2), one, 0.5, ALL),))
    rows = [(e, c) for e in lm.encode(PROMPTS) for c in (by_token, whole, BASELINE)]
    packed = next_token_logits(lm, rows)
    alone = torch.cat([next_token_logits(lm, [row]) for row in rows])
    assert (packed - alone).abs().max() <= 1e-4 * alone.std()
    assert (packed[0] - packed[2]).abs().max() > 1e-3


def test_values_that_do_not_fit_are_refused(tiny):
    lm = tiny("llama")
    values = np.ones((2, lm.d_model))
    with pytest.raises(UsageError, match=r"2 positions, but window:3 names 3"):
        logits_of(lm, make.swap(SITE, values, Positions.parse("window:3")))
    for kind in ("all", "onward", "generated"):
        with pytest.raises(UsageError, match="cannot act on generated"):
            logits_of(lm, make.swap(SITE, values, Positions(kind)))
    with pytest.raises(UsageError, match=r"shape \(32,\)"):
        logits_of(lm, make.swap(SITE, np.ones((2, 2, lm.d_model)), PROMPT))


# ---- constructors -----------------------------------------------------------------------------------------------
def test_each_constructor_does_what_it_says(tiny):
    lm = tiny("llama")
    (encoded,) = lm.encode(PROMPTS[:1])
    plain = seen_at(lm, SITE, encoded, BASELINE)[encoded.content]
    v = np.random.default_rng(2).standard_normal(lm.d_model).astype(np.float32)
    unit = torch.from_numpy(v / np.linalg.norm(v))

    def after(intervention):
        return seen_at(lm, SITE, encoded, Condition("c", (intervention,)))[encoded.content]

    torch.testing.assert_close(after(make.add(SITE, v, 2.0, ALL)), plain + 2 * torch.from_numpy(v))
    torch.testing.assert_close(after(make.add(SITE, v, 2.0))[:-1], plain[:-1])
    torch.testing.assert_close(after(make.add(SITE, v, 2.0))[-1], plain[-1] + 2 * torch.from_numpy(v))
    torch.testing.assert_close(after(make.scale(SITE, 0.25)), plain / 4)
    torch.testing.assert_close(after(make.project_out(SITE, 7 * v)) @ unit, torch.zeros(len(plain)), atol=1e-5, rtol=0)
    assert not after(make.zero(SITE)).any()
    assert torch.equal(after(make.mean_ablation(SITE, v)), torch.from_numpy(v).expand_as(plain))


def test_numbers_that_are_none_are_refused(tiny):
    lm = tiny("llama")
    good = np.ones(lm.d_model, np.float32)
    for bad in (math.nan, math.inf):
        with pytest.raises(UsageError, match="finite"):
            make.add(SITE, good, bad)
        with pytest.raises(UsageError, match="finite"):
            make.add(SITE, good, 1.0, schedule=(1.0, bad))
        broken = good.copy()
        broken[3] = bad
        with pytest.raises(UsageError, match="NaN"):
            make.swap(SITE, broken, ALL)
        with pytest.raises(UsageError, match="NaN or infinity"):
            logits_of(lm, Intervention(SITE, "add", ALL, broken))
    with pytest.raises(UsageError, match="empty"):
        make.add(SITE, good, 1.0, schedule=())
    with pytest.raises(UsageError, match="no direction"):
        make.project_out(SITE, 0 * good)


# ---- changing nothing -------------------------------------------------------------------------------------------
NEUTRAL = {"add": 0.0, "set": 0.0, "project_out": 0.0, "zero": 0.0, "scale": 1.0}


@pytest.mark.parametrize("op", NEUTRAL)
@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neo", "qwen3", "gemma3_text"])
def test_neutral_strength_is_bit_equal_to_no_edit(tiny, architecture, op):
    lm = tiny(architecture)
    v = np.random.default_rng(0).standard_normal(lm.d_model).astype(np.float32)
    vector = v if op in ("add", "set", "project_out") else None
    strength = NEUTRAL[op]
    always = Condition("always", (Intervention(SITE, op, ALL, vector, strength),))
    # The second of two rows acts: the taps are hooked, and the first row still keeps its bits.
    other = Condition("other", (Intervention(SITE, op, ALL, vector, 0.5),))
    rows = lm.encode(PROMPTS)
    plain = next_token_logits(lm, [(e, BASELINE) for e in rows])
    assert torch.equal(plain, next_token_logits(lm, [(e, always) for e in rows]))
    mixed = next_token_logits(lm, [(e, c) for e in rows for c in (always, other)])
    with_baseline = next_token_logits(lm, [(e, c) for e in rows for c in (BASELINE, other)])
    assert torch.equal(mixed, with_baseline)
    # A schedule whose first entry is neutral: hooked, but step 0 is left alone.
    if op != "scale":
        later = Condition("later", (Intervention(SITE, op, ALL, vector, 1.0, (0.0, 1.0)),))
        assert torch.equal(plain, next_token_logits(lm, [(e, later) for e in rows]))


@pytest.mark.parametrize("op", NEUTRAL)
def test_negative_zero_survives_a_neutral_edit(tiny, op):
    """0 · v + x would turn -0 into 0; what an edit leaves alone keeps its sign bit."""
    lm = tiny("llama")
    (encoded,) = lm.encode(PROMPTS[:1])
    minus = Intervention(SITE, "set", ALL, np.full(lm.d_model, -0.0, np.float32))
    vector = np.ones(lm.d_model, np.float32) if op in ("add", "set", "project_out") else None
    schedule = (1.0, 2.0) if op == "scale" else (0.0, 2.0)
    edit = Intervention(SITE, op, ALL, vector, 1.0, schedule)
    assert changes_something(edit)
    seen = seen_at(lm, SITE, encoded, Condition("c", (minus, edit)))[encoded.content]
    assert torch.signbit(seen).all()


def test_strengths_that_act():
    s = torch.tensor([0.0, -0.0, 1.0, 0.5])
    assert acts("add", s).tolist() == [False, False, True, True]
    assert acts("scale", s).tolist() == [True, True, False, True]
    x, one = torch.tensor([[[-0.0, 3.0]]]), torch.ones(1, 1, 1)
    assert torch.equal(operate("set", x, torch.full((1, 1, 2), 7.0), one), torch.full((1, 1, 2), 7.0))


# ---- schedules --------------------------------------------------------------------------------------------------
def test_schedules_by_name():
    assert parse_schedule("constant") == constant() == (1.0,)
    assert parse_schedule("linear", steps=4) == linear(4) == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert parse_schedule("decay", rate=0.5, steps=2) == exponential_decay(0.5, 2) == (1.0, 0.5, 0.25)
    assert parse_schedule(" 0.5, 1,1 ") == (0.5, 1.0, 1.0)
    assert parse_schedule("-1") == (-1.0,)


@given(st.lists(st.floats(-9, 9, allow_nan=False), min_size=1, max_size=5))
def test_a_written_schedule_reads_back(entries):
    assert parse_schedule(",".join(map(repr, entries))) == tuple(entries)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "unknown"), ("linaer", "linear"), ("1,,2", "cannot read"), ("1,x", "cannot read"), ("nan", "not a number"),
     ("1,inf", "not a number")],
)  # fmt: skip
def test_unreadable_schedules_are_refused(text, message):
    with pytest.raises(UsageError) as error:
        parse_schedule(text)
    assert message in str(error.value)


def test_schedules_over_nothing_are_refused():
    with pytest.raises(UsageError, match="0 steps"):
        linear(0)
    for rate in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(UsageError, match="decay rate"):
            parse_schedule("decay", rate=rate)

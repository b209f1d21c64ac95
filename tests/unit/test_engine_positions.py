"""Positions mean the same tokens whatever the tokenizer, the padding and the prefix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emotion_circuits.engine import capture
from emotion_circuits.engine.batching import length_buckets, pad
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.errors import UsageError
from emotion_circuits.models import Encoded
from emotion_circuits.types import Positions, Prompt

KINDS = pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
TEXT = "Oh, thank you 😀 so much, naïve friend."
THANK = (TEXT.index("thank"), TEXT.index("thank") + len("thank you"))
SMILE = (TEXT.index("😀"), TEXT.index("😀") + 1)
MUCH = (TEXT.index("much"), TEXT.index("much") + 4)


def covered(lm, positions: str, spans=()) -> str:
    """The characters that the chosen tokens cover, each once."""
    (encoded,) = lm.encode([Prompt("p", TEXT, spans=tuple(spans))])
    chosen = prompt_indices(encoded, Positions.parse(positions))
    assert min(chosen) >= encoded.n_prefix
    characters = sorted({c for i in chosen for c in range(*encoded.offsets[i])})
    return "".join(TEXT[c] for c in characters)


@KINDS
def test_spans_are_matched_by_overlap(tiny, kind):
    lm = tiny("gpt2", kind)
    assert covered(lm, "emotion-word", [THANK]).strip() == "thank you"
    assert covered(lm, "emotion-word", [THANK, MUCH]).replace(" ", "") == "thankyoumuch"
    assert covered(lm, f"span:{MUCH[0]}-{MUCH[1]}").strip() == "much"


@KINDS
def test_every_token_of_a_multi_byte_character_is_taken(tiny, kind):
    lm = tiny("gpt2", kind)
    (encoded,) = lm.encode([Prompt("p", TEXT, spans=(SMILE,))])
    chosen = prompt_indices(encoded, Positions("emotion-word"))
    assert len(chosen) >= 4  # one token for each byte
    assert all(encoded.offsets[i][0] < SMILE[1] and encoded.offsets[i][1] > SMILE[0] for i in chosen)
    assert prompt_indices(encoded, Positions("emotion-word", "first")) == chosen[:1]
    assert prompt_indices(encoded, Positions("emotion-word", "last")) == chosen[-1:]


@KINDS
def test_first_and_last_follow_the_text_not_the_order_of_the_spans(tiny, kind):
    lm = tiny("gpt2", kind)
    first, last = (covered(lm, f"emotion-word-{which}", [MUCH, THANK]).strip() for which in ("first", "last"))
    assert "thank".startswith(first)
    assert "much".endswith(last)


@KINDS
def test_the_prefix_never_counts(tiny, kind):
    lm = tiny("gpt2", kind)
    (encoded,) = lm.encode([Prompt("p", TEXT)])
    assert encoded.n_prefix == 1
    assert prompt_indices(encoded, Positions("all")) == list(range(1, len(encoded)))
    assert prompt_indices(encoded, Positions.parse("at:0")) == [1]
    assert prompt_indices(encoded, Positions.parse("window:3")) == list(range(len(encoded) - 3, len(encoded)))
    assert prompt_indices(encoded, Positions.parse("window:999")) == list(range(1, len(encoded)))
    assert prompt_indices(encoded, Positions("last")) == [len(encoded) - 1]
    assert prompt_indices(encoded, Positions("onward")) == [len(encoded) - 1]
    assert prompt_indices(encoded, Positions("generated")) == []


def test_zero_width_tokens_are_no_content():
    encoded = Encoded(Prompt("p", "ab"), (9, 1, 2, 3, 4), ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2)), 1)
    assert encoded.content == [1, 3]
    assert prompt_indices(encoded, Positions("last")) == [3]
    assert prompt_indices(encoded, Positions.parse("at:1")) == [3]
    assert prompt_indices(encoded, Positions.parse("span:1-2")) == [3]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (Positions("emotion-word"), "'odd-one'.*no emotion word"),
        (Positions.parse("at:0,50"), "position 50 is outside prompt 'odd-one'"),
        (Positions.parse("span:400-410"), "no token of prompt 'odd-one' covers characters 400-410"),
        (Positions("window", values=(0,)), "window"),
        (Positions("at", values=(-1,)), "at"),
        (Positions("at"), "at"),
        (Positions("span", values=(3,)), "span"),
    ],
)
def test_positions_that_do_not_exist_name_the_prompt(tiny, positions, message):
    with pytest.raises(UsageError, match=message):
        capture(tiny("gpt2"), [Prompt("odd-one", TEXT)], ["resid_post"], [positions])


def test_empty_and_too_long_texts_name_the_prompt(tiny):
    lm = tiny("gpt2")
    with pytest.raises(UsageError, match="'nothing' is empty"):
        lm.encode([Prompt("fine", "Thank you."), Prompt("nothing", "")])
    with pytest.raises(UsageError, match=r"'endless' has \d+ tokens.*positions for 256"):
        lm.encode([Prompt("endless", "Thank you. " * 200)])


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), side=st.sampled_from(["left", "right"]))
def test_padding_keeps_ids_positions_and_masks_together(tiny, lengths, side):
    lm = tiny("gpt2")
    encoded = lm.encode([Prompt(str(n), "x " * n) for n in lengths])
    batch = pad(lm, encoded, range(len(encoded)), side)
    for row, e in enumerate(encoded):
        own = slice(batch.starts[row], batch.starts[row] + len(e))
        assert batch.ids[row, own].tolist() == list(e.ids)
        assert batch.positions[row, own].tolist() == list(range(len(e)))
        assert batch.mask[row].sum() == len(e) == batch.mask[row, own].sum()


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)), max_rows=st.integers(1, 5))
def test_captured_rows_do_not_depend_on_the_batch(tiny, order, max_rows):
    lm = tiny("gemma3_text", "metaspace")
    texts = ["Thank you.", "Sorry!", TEXT, "He parked in my space again.", "The bus left on Tuesday at noon."]
    prompts = [Prompt(str(i), texts[i]) for i in order]
    positions = [Positions("last"), Positions("mean-content")]
    together = capture(lm, prompts, ["resid_post"], positions, max_rows=max_rows)
    for position in positions:
        values = together.get("resid_post", position)
        for row, prompt in enumerate(prompts):
            alone = capture(lm, [prompt], ["resid_post"], [position]).get("resid_post", position)[0]
            np.testing.assert_allclose(values[row], alone, atol=1e-4 * np.abs(alone).max())


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    max_rows=st.integers(1, 9),
    max_tokens=st.integers(1, 90),
)
def test_buckets_hold_every_row_once_within_their_limits(lengths, max_rows, max_tokens):
    rows = [Encoded(Prompt("p", "x"), (1,) * n, ((0, 1),) * n, 0) for n in lengths]
    buckets = list(length_buckets(rows, max_rows, max_tokens))
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(rows)))
    for bucket in buckets:
        assert len(bucket) <= max_rows
        assert len(bucket) == 1 or len(bucket) * max(lengths[i] for i in bucket) <= max_tokens

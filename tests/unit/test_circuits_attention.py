"""Attention to emotion words against matched words: matching, windows, sink, and the planted head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emotion_circuits.circuits.attention import attention_to_words, match_words
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.errors import UsageError
from emotion_circuits.stats import bootstrap_interval
from emotion_circuits.types import Prompt
from planted_circuits import READER, planted
from tiny_models import ARCHITECTURES

TEXTS = [
    (
        "The parcel arrived away on Tuesday and the bus left.",
        " away",
        "The parcel arrived in street on Tuesday and the bus.",
    ),
    ("We were away while it was raining in the street.", " away", "We were the car while it was raining in the week."),
]


def pair_of(text: str, word: str, neutral: str, i: int) -> Pair:
    at = text.index(word) + 1
    span = ((at, at + len(word) - 1),)
    return Pair(Prompt(f"e{i}", text, "joy", f"s{i}", spans=span), Prompt(f"n{i}", neutral, scenario=f"s{i}"))


PAIRS = [pair_of(*t, i) for i, t in enumerate(TEXTS)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_are_means_of_the_models_own_patterns(tiny, architecture):
    lm = tiny(architecture)
    found = attention_to_words(lm, PAIRS)
    assert found.emotion.shape == (lm.n_layers, lm.n_heads, 2) and np.isfinite(found.deltas).all()
    window = 4 if architecture in ("mistral", "gpt_neo", "gemma3_text", "gemma3") else None
    for side, texts, values in (
        ("e", [p.clean for p in PAIRS], found.emotion),
        ("n", [p.donor for p in PAIRS], found.neutral),
    ):
        for i, e in enumerate(lm.encode(texts)):
            (match,) = match_words(*lm.encode([PAIRS[i].clean, PAIRS[i].donor]))
            keys = match.emotion_keys if side == "e" else match.neutral_keys
            with torch.inference_mode(), lm.eager_attention():
                own = lm.model(input_ids=torch.tensor([e.ids]), output_attentions=True, use_cache=False).attentions
            for layer, pattern in enumerate(own):
                queries = range(keys[-1] + 1, keys[-1] + 1 + match.distances)
                local = window if pattern[0, :, -1, 1].max() == 0 else None
                cells = [(q, k) for q in queries for k in keys if local is None or q - k < local]
                assert all(q > k for q, k in cells) and min(keys) >= e.n_prefix
                mean = torch.stack([pattern[0, :, q, k] for q, k in cells]).float().mean(0)
                np.testing.assert_allclose(values[layer, :, i], mean.numpy(), rtol=1e-3, atol=1e-5)


def test_a_local_layer_is_judged_by_what_it_sees(tiny):
    lm = tiny("mistral")
    (match,) = match_words(*lm.encode([PAIRS[1].clean, PAIRS[1].donor]))
    assert match.distances > 4
    assert attention_to_words(lm, PAIRS[1:]).emotion_mean_attn.min() > 0


def test_matched_words_have_the_same_length_and_nearly_the_same_place(tiny):
    lm = tiny("gpt2")
    for pair in PAIRS:
        (match,) = match_words(*lm.encode([pair.clean, pair.donor]))
        assert len(match.emotion_keys) == len(match.neutral_keys) and abs(match.shift) <= 2 and match.distances >= 1


def test_words_without_a_match_are_counted_and_none_at_all_is_refused(tiny):
    lm = tiny("gpt2")
    last_word = "We were raining away"
    end = Pair(
        Prompt("e", last_word, "joy", "s9", spans=((len(last_word) - 4, len(last_word)),)),
        Prompt("n", "We were raining street", scenario="s9"),
    )
    found = attention_to_words(lm, [*PAIRS, end])
    assert (found.samples_emotion, found.samples_neutral, found.unmatched) == (2, 2, 1)
    assert found.clusters == ("s0", "s1")
    with pytest.raises(UsageError, match="none of 1 emotion words"):
        attention_to_words(lm, [end])


def test_batching_does_not_change_the_values(tiny):
    lm = tiny("gemma3_text")
    together = attention_to_words(lm, PAIRS)
    for i, pair in enumerate(PAIRS):
        np.testing.assert_allclose(attention_to_words(lm, [pair]).emotion[..., 0], together.emotion[..., i], atol=1e-6)


def test_the_planted_head_reads_the_word(tokenizers):
    plant = planted(tokenizers["byte-level"])
    found = attention_to_words(plant.lm, plant.pairs)
    best = np.unravel_index(found.delta_attn.argmax(), found.delta_attn.shape)
    assert best[0] == READER.layer and best[1] // 2 == READER.index // 2  # its key is shared within the group
    own = found.delta_attn[READER.layer, READER.index]
    assert own > 0.5 and own == found.delta_attn.max()
    limits = bootstrap_interval(found.deltas, found.clusters)
    assert limits.low[READER.layer, READER.index] > 0.5
    others = np.delete(found.delta_attn.ravel(), READER.layer * 4 + READER.index)
    assert np.abs(others).max() < 0.05

"""A tiny Llama whose circuit is known, because it was written into its weights.

A text is emotional when it has the marked word. Coordinates of the residual stream: 0 = "this token is the marked
word", 1 = "emotion was seen" (what the head writes), 2 = constant in every token, 3 = "emotion was confirmed" (what the
neurons write). The reading head looks for coordinate 0 at every earlier token and writes coordinate 1; the neurons turn
1 into 3; the unembedding of the target token reads 1 and 3. An opposing head writes coordinate 1 with the other sign.
All other weights are small noise, so that every component does a little and ranks have no ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from emotion_circuits.circuits.components import Head, Neuron
from emotion_circuits.circuits.endpoints import Endpoint
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.models import LM, load_lm
from emotion_circuits.types import Prompt

LAYERS, HEADS, D_HEAD, D_MLP = 4, 4, 8, 24
MARK, SEEN, CONSTANT, CONFIRMED = range(4)
SLOW = D_HEAD // 2 - 1
"""The first coordinate of the rotary pair that turns least (.001 radians a token): content, hardly position."""

STRENGTH = 0.15
"""Of what is written, against a residual stream of norm 3.4: the final norm stays nearly linear for attribution."""

READER = Head(1, 2)
OPPONENT = Head(2, 1)
CONFIRMERS = (Neuron(3, 5), Neuron(3, 17))

FILLERS = (
    "The parcel arrived{} on Tuesday.",
    "He parked in{} the car at noon.",
    "She left{} the station at the weekend.",
    "We were walking{} the dog in the morning.",
    "The bus and{} the car were raining.",
    "I had to leave{} the window on Tuesday.",
    "The glass broke{} while we were three.",
    "My space{} is in the week again.",
)
"""Sentences with a place for a word; places differ, so that position alone tells nothing."""
MARKED, PLAIN = " away", " street"


@dataclass(frozen=True)
class Planted:
    """The model, its endpoint, and pairs of an emotional text and its neutral twin of equal length."""

    lm: LM
    endpoint: Endpoint
    pairs: tuple[Pair, ...]


def planted(
    tokenizer: PreTrainedTokenizerBase,
    *,
    opponent: float = 0.0,
    confirmers: float = 1.0,
    heads: int = HEADS,
    noise: float = 0.01,
    seed: int = 0,
) -> Planted:
    """Build it.

    Args:
        opponent: how much the opposing head writes, as a share of the reader's output. confirmers: strength of the
            planted neurons (0: none). heads: per layer. noise: SD of all other weights.
    """
    config = LlamaConfig(
        num_hidden_layers=LAYERS, num_attention_heads=heads, num_key_value_heads=2, hidden_size=D_HEAD * heads,
        intermediate_size=D_MLP, max_position_embeddings=256, vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    marked, plain = _single_token(tokenizer, MARKED), _single_token(tokenizer, PLAIN)
    target, foil = 5, 6
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.fill_(1.0)
            else:
                p.normal_(std=noise, generator=g)
        emb = model.model.embed_tokens.weight
        emb.normal_(std=0.3, generator=g)
        emb[:, :4] = 0.0
        emb[:, CONSTANT] = 3.0
        emb[marked] = emb[plain]  # twins differ in the mark alone
        emb[marked, MARK] = 3.0
        _plant_head(model, READER, STRENGTH)
        if opponent:
            _plant_head(model, OPPONENT, -opponent * STRENGTH)
        for neuron in CONFIRMERS if confirmers else ():
            mlp = cast(Any, model.model.layers[neuron.layer]).mlp
            mlp.gate_proj.weight[neuron.index, CONSTANT] = 1.0
            mlp.up_proj.weight[neuron.index, SEEN] = 1.0
            mlp.down_proj.weight[CONFIRMED, neuron.index] = 0.05 * confirmers
        head = model.lm_head.weight
        head[target, [SEEN, CONFIRMED]] = 1.0
        head[foil, [SEEN, CONFIRMED]] = -1.0
    lm = load_lm(model, tokenizer)
    texts = [(f.format(MARKED), f.format(PLAIN), f.index("{}")) for f in FILLERS]
    pairs = tuple(
        Pair(
            Prompt(f"e{i}", emotional, "apology", f"s{i}", "explicit", spans=((at + 1, at + len(MARKED)),)),
            Prompt(f"n{i}", neutral, "neutral", f"s{i}"),
        )
        for i, (emotional, neutral, at) in enumerate(texts)
    )
    return Planted(lm, Endpoint((target,), (foil,)), pairs)


def _plant_head(model: LlamaForCausalLM, head: Head, strength: float) -> None:
    """Every query asks for MARK through the constant; the value copies MARK, and the output writes it to SEEN."""
    attention = cast(Any, model.model.layers[head.layer]).self_attn
    row, kv = head.index * D_HEAD, head.index // (model.config.num_attention_heads // 2) * D_HEAD
    attention.q_proj.weight[row + SLOW, CONSTANT] = 3.0
    attention.k_proj.weight[kv + SLOW, MARK] = 3.0
    attention.v_proj.weight[kv, MARK] = 1.0
    attention.o_proj.weight[SEEN, row] = strength


def _single_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False).input_ids
    assert len(ids) == 1, f"{word!r} has {len(ids)} tokens: choose a word of the tokenizer's own corpus"
    return int(ids[0])

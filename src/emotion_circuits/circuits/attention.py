"""How much each head attends to emotion words, against matched words of the neutral twin.

A head may attend to a place rather than to a word, so an emotion word is compared with words of the neutral twin that
have as many tokens and stand at (nearly) the same place, seen from the same distances. What counts is attention per key
token from the tokens behind the word: never a token to itself, never the prefix token (the sink), and in layers with a
sliding window only from queries that see the key. Patterns are reduced layer by layer while the model runs; none is
stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.engine.batching import capture_tokens, length_buckets, pad
from emotion_circuits.engine.patterns import PatternHooks
from emotion_circuits.engine.positions import prompt_indices
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.models.products import inference
from emotion_circuits.types import Positions

MAX_SHIFT = 2
"""Largest distance in tokens between an emotion word's place and its matched word's place."""

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Match:
    """One emotion word and its matched word: key tokens of both (absolute), and at how many distances both are seen.

    Queries are the ``distances`` tokens right behind the last key token, in both texts.
    """

    pair: int
    emotion_keys: tuple[int, ...]
    neutral_keys: tuple[int, ...]
    distances: int

    @property
    def shift(self) -> int:
        """How many tokens later the matched word stands."""
        return self.neutral_keys[0] - self.emotion_keys[0]


@dataclass(frozen=True)
class AttentionToWords:
    """Attention per key token, ``[layer, head, cluster]`` for emotion words and for matched neutral words.

    ``clusters`` are scenarios; a scenario's value is the mean over its words. ``samples_emotion`` and
    ``samples_neutral`` count words (equal by construction), ``unmatched`` those that found no match, and
    ``mean_shift`` is the mean |difference of places| in tokens.
    """

    emotion: NDArray[np.float64]
    neutral: NDArray[np.float64]
    clusters: tuple[str, ...]
    samples_emotion: int
    samples_neutral: int
    unmatched: int
    mean_shift: float

    @property
    def emotion_mean_attn(self) -> Float[NDArray[np.float64], "layer head"]:
        """Mean over scenarios of the attention to emotion words."""
        return np.asarray(self.emotion.mean(-1))

    @property
    def neutral_mean_attn(self) -> Float[NDArray[np.float64], "layer head"]:
        """Mean over scenarios of the attention to matched words."""
        return np.asarray(self.neutral.mean(-1))

    @property
    def deltas(self) -> Float[NDArray[np.float64], "layer head cluster"]:
        """Emotion minus neutral, scenario by scenario: what intervals and tests take."""
        return self.emotion - self.neutral

    @property
    def delta_attn(self) -> Float[NDArray[np.float64], "layer head"]:
        """Mean difference over scenarios."""
        return np.asarray(self.deltas.mean(-1))


def attention_to_words(lm: LM, pairs: Sequence[Pair], *, max_shift: int = MAX_SHIFT) -> AttentionToWords:
    """Compare attention to the clean texts' emotion words with attention to matched words of their donors.

    Args:
        pairs: emotional texts with spans, and their neutral twins (:func:`~.pairs.twin_pairs`).

    Raises:
        UsageError: no pair has an emotion word with a match and a token behind both.
    """
    emotional, neutral = lm.encode([p.clean for p in pairs]), lm.encode([p.donor for p in pairs])
    matches, words = [], 0
    for i, (e, n) in enumerate(zip(emotional, neutral, strict=True)):
        found = match_words(e, n, i, max_shift)
        words += len(e.prompt.spans)
        matches += found
    if not matches:
        raise UsageError(
            f"none of {words} emotion words has a neutral word of the same length in tokens at the same place",
            "give texts with emotion-word spans and neutral twins of like length, or allow a larger shift",
        )
    sums = _attention(lm, emotional, [(m.pair, m.emotion_keys, m.distances) for m in matches])
    twins = _attention(lm, neutral, [(m.pair, m.neutral_keys, m.distances) for m in matches])
    owners = [pairs[m.pair].cluster for m in matches]
    clusters = tuple(dict.fromkeys(owners))
    member = np.array([[o == c for o in owners] for c in clusters], dtype=np.float64)
    member /= member.sum(1, keepdims=True)
    return AttentionToWords(
        np.einsum("cw,wlh->lhc", member, sums),
        np.einsum("cw,wlh->lhc", member, twins),
        clusters,
        len(matches),
        len(matches),
        words - len(matches),
        float(np.mean([abs(m.shift) for m in matches])),
    )


def match_words(emotional: Encoded, neutral: Encoded, pair: int = 0, max_shift: int = MAX_SHIFT) -> list[Match]:
    """Each emotion word's nearest run of whole neutral words with as many tokens; none twice.

    Words without such a run within ``max_shift`` tokens, or with no token behind them, are left out.
    """
    runs = _word_runs(neutral)
    taken: set[tuple[int, ...]] = set()
    matches = []
    for start, end in sorted(emotional.prompt.spans):
        keys = tuple(prompt_indices(emotional, Positions("span", values=(start, end))))
        fitting = [r for r in runs if len(r) == len(keys) and abs(r[0] - keys[0]) <= max_shift and r not in taken]
        for run in sorted(fitting, key=lambda r: (abs(r[0] - keys[0]), r[0])):
            distances = min(len(emotional) - 1 - keys[-1], len(neutral) - 1 - run[-1])
            if distances > 0:
                taken.add(run)
                matches.append(Match(pair, keys, run, distances))
                break
    return matches


def _word_runs(encoded: Encoded) -> list[tuple[int, ...]]:
    """Token runs that begin and end with whole words, of one to three words."""
    words = []
    for match in _WORD.finditer(encoded.prompt.text):
        s, e = match.span()
        words.append([i for i in encoded.content if encoded.offsets[i][0] < e and encoded.offsets[i][1] > s])
    runs = []
    for n in (1, 2, 3):
        for i in range(len(words) - n + 1):
            tokens = [t for w in words[i : i + n] for t in w]
            if all(b == a + 1 for a, b in pairwise(tokens)):
                runs.append(tuple(tokens))
    return runs


def _attention(
    lm: LM, encoded: Sequence[Encoded], wanted: Sequence[tuple[int, tuple[int, ...], int]]
) -> Float[NDArray[np.float64], "word layer head"]:
    """Mean attention per (query, visible key) of each wanted word: (text, keys, number of queries behind them)."""
    found = np.zeros((len(wanted), lm.n_layers, lm.n_heads))
    of_text: dict[int, list[int]] = {}
    for w, (text, _, _) in enumerate(wanted):
        of_text.setdefault(text, []).append(w)
    texts = sorted(of_text)
    for bucket in length_buckets([encoded[t] for t in texts], 1 << 30, capture_tokens(lm.device)):
        rows = [texts[i] for i in bucket]
        batch = pad(lm, [encoded[t] for t in rows], rows, "right")
        words = [(r, w) for r, t in enumerate(rows) for w in of_text[t]]
        weights = torch.zeros(len(words), *(batch.ids.shape[1],) * 2, dtype=torch.bool)
        for i, (_, w) in enumerate(words):
            _, keys, queries = wanted[w]
            weights[i, keys[-1] + 1 : keys[-1] + 1 + queries, list(keys)] = True
        row_of = torch.tensor([r for r, _ in words], device=lm.device)
        kept: dict[int, NDArray[np.float64]] = {}
        visitors = {layer: _reader(kept, layer, row_of, weights.to(lm.device)) for layer in range(lm.n_layers)}
        with inference(lm.model), lm.eager_attention(), PatternHooks(lm, visitors):
            lm.decoder(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
        numbers = [w for _, w in words]
        for layer, values in kept.items():
            found[numbers, layer] = values
    return found


def _reader(
    kept: dict[int, NDArray[np.float64]], layer: int, row_of: Int[Tensor, " word"], pairs: Bool[Tensor, "word q k"]
) -> Callable[[Tensor], None]:
    def visitor(pattern: Tensor) -> None:
        # A layer that runs on another device gets its own copy of the indices.
        rows, wanted = row_of.to(pattern.device), pairs.to(pattern.device)
        # A key outside the window (or behind the query) has no attention from any head: it is not seen.
        visible = wanted & (pattern.amax(1) > 0)[rows]
        total = torch.einsum("whqk,wqk->wh", pattern[rows].float(), visible.float())
        count = visible.sum((1, 2)).clamp_min(1)
        kept[layer] = (total / count.unsqueeze(1)).double().cpu().numpy()

    return visitor

"""The tokens of the primary endpoint: an emotion's own words against as many matched neutral ones.

Endpoint = log-sum-exp of the logits of the emotion's tokens minus that of its neutral tokens, read at the next token
of a prompt, teacher-forced. Which tokens count on a model is resolved here, once, and saved with the run:

1. An emotion's tokens are the first tokens, with their leading space, of its lexicon's single words. A token counts if
   no other emotion's word starts with it, no common function word does, and it is a whole word of the lexicon, or has
   at least four letters and more than half of such a word (" res" begins "resent" and a thousand other words). A token
   of a built-in lexicon stays that emotion's whatever lists of their own a user adds.
2. Neutral candidates are the first tokens of a fixed list of everyday words (``words/everyday.txt``), by the same rule.
3. The unigram log-probability of a token is the mean of its next-token log-probability under the unsteered model after
   every beginning of the neutral texts. Each emotion token is paired with a neutral token of its own so that the sum of
   the differences in that log-probability is smallest (an assignment problem).

Words that occur in the texts a direction was fitted on may rise for that reason alone: :meth:`TokenSets.split` reports
them apart from the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.prompts.lexicon import emotion_words, find_words, list_lexicons
from emotion_circuits.scorers._words import read_words
from emotion_circuits.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from emotion_circuits.models.lm import LM

FEWEST_TOKENS = 3
"""With fewer tokens than this an emotion's endpoint would hang on a word or two: refused."""
SHORTEST_PIECE = 4
"""Letters that a first token needs, beside more than half of a word's, unless it is the whole word."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """One token of an emotion and its neutral partner; log-probabilities are unigram means in nats.

    ``words`` are all of the lexicon's words that start with the token; ``token`` is how it reads, space included.
    """

    id: int
    token: str
    words: tuple[str, ...]
    log_probability: float
    neutral_id: int
    neutral_token: str
    neutral_log_probability: float


@dataclass(frozen=True)
class TokenSets:
    """The resolved tokens of each emotion on one model."""

    model: str
    tokenizer: str
    pairs: Mapping[str, tuple[TokenPair, ...]]

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(self.pairs)

    def ids(self, emotion: str) -> tuple[int, ...]:
        """The emotion's token ids."""
        return tuple(pair.id for pair in self._of(emotion))

    def neutral_ids(self, emotion: str) -> tuple[int, ...]:
        """As many neutral token ids, in the order of their partners."""
        return tuple(pair.neutral_id for pair in self._of(emotion))

    def split(self, texts: Sequence[str]) -> tuple[TokenSets, TokenSets]:
        """(tokens with a word that occurs in ``texts``, the others); pairs stay together.

        An emotion of which no token belongs to a half is not in that half.
        """
        together = "\n".join(texts)
        seen: dict[str, tuple[TokenPair, ...]] = {}
        unseen: dict[str, tuple[TokenPair, ...]] = {}
        for emotion, pairs in self.pairs.items():
            inside = {pair.id for pair in pairs if find_words(together, pair.words)}
            for half, wanted in ((seen, True), (unseen, False)):
                if kept := tuple(pair for pair in pairs if (pair.id in inside) is wanted):
                    half[emotion] = kept
        return TokenSets(self.model, self.tokenizer, seen), TokenSets(self.model, self.tokenizer, unseen)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with tokens as text, words and log-probabilities, to be saved with the run."""
        return {
            "model": self.model,
            "tokenizer": self.tokenizer,
            "emotions": {emotion: [asdict(pair) for pair in pairs] for emotion, pairs in self.pairs.items()},
        }

    def _of(self, emotion: str) -> tuple[TokenPair, ...]:
        if emotion not in self.pairs:
            raise unknown_name("emotion of the token sets", emotion, list(self.pairs))
        return self.pairs[emotion]


def matching_prefixes() -> list[Prompt]:
    """The neutral texts that tokens are matched on: the fit half of the pool, so that no steered prompt has a say."""
    from emotion_circuits.prompts import load_prompts

    return [p for p in load_prompts("neutral_pool") if p.split == "fit"]


def resolve_emotion_tokens(lm: LM, emotions: Sequence[str], prefixes: Sequence[Prompt]) -> TokenSets:
    """The token sets of ``emotions`` on ``lm``, matched on the neutral texts ``prefixes``.

    Raises:
        UsageError: an emotion without a lexicon, one that has fewer than three tokens of its own in this tokenizer,
            no neutral texts, or too few neutral candidates.
    """
    if not prefixes:
        raise UsageError("no neutral texts were given to match tokens on", "give at least a few, such as neutral_pool")
    starts, candidates = check_emotion_tokens(lm, emotions)
    own = {emotion: list(tokens) for emotion, tokens in starts.items()}
    wanted = sorted({t for ids in (*own.values(), *candidates.values()) for t in ids})
    unigram = dict(zip(wanted, _unigram(lm, prefixes, wanted).tolist(), strict=True))
    pairs = {
        emotion: tuple(
            TokenPair(t, _reads(lm, t), starts[emotion][t], unigram[t], n, _reads(lm, n), unigram[n])
            for t, n in _matched(tokens, candidates[emotion], unigram)
        )
        for emotion, tokens in own.items()
    }
    return TokenSets(lm.name, lm.tokenizer_fingerprint, pairs)


def check_emotion_tokens(
    lm: LM, emotions: Sequence[str]
) -> tuple[dict[str, dict[int, tuple[str, ...]]], dict[str, list[int]]]:
    """Each emotion's own first tokens with the words that start with them, and its neutral candidates; runs no model.

    Raises:
        UsageError: as :func:`resolve_emotion_tokens`.
    """
    built_in = list_lexicons()
    # A built-in emotion shares with built-in ones alone: its tokens are the same whatever lists a user has.
    taken = _owners(lm, built_in)
    taken_by_all = taken + _owners(lm, [e for e in emotions if e not in built_in])
    function = set(_first_tokens(lm, read_words("function_words_english"), whole=False))
    everyday = _first_tokens(lm, read_words("everyday"))
    own: dict[str, dict[int, tuple[str, ...]]] = {}
    candidates: dict[str, list[int]] = {}
    for emotion in emotions:
        owners = taken if emotion in built_in else taken_by_all
        found = _first_tokens(lm, _single_words(emotion))
        own[emotion] = {t: words for t, words in found.items() if owners[t] <= 1 and t not in function}
        candidates[emotion] = [t for t in everyday if t not in owners and t not in function]
        _check_counts(lm, emotion, list(own[emotion]), candidates[emotion])
    return own, candidates


def _owners(lm: LM, emotions: Iterable[str]) -> Counter[int]:
    """First token → how many of the emotions have a word that starts with it."""
    return Counter(t for e in emotions for t in _first_tokens(lm, _single_words(e), whole=False))


def _single_words(emotion: str) -> list[str]:
    return [form for form in emotion_words(emotion) if " " not in form]


def _first_tokens(lm: LM, words: Sequence[str], whole: bool = True) -> dict[int, tuple[str, ...]]:
    """First token → the words that start with it; with ``whole`` only whole words and most of a word."""
    # Behind another word, so that the leading space is the tokenizer's own, whichever way it writes it.
    anchor = lm.tokenizer("a", add_special_tokens=False)["input_ids"]
    rows = lm.tokenizer([f"a {word}" for word in words], add_special_tokens=False)["input_ids"]
    found: dict[int, list[str]] = {}
    telling: set[int] = set()
    for word, ids in zip(words, rows, strict=True):
        new = ids[len(anchor) :] if ids[: len(anchor)] == anchor else []
        if not new:
            continue
        found.setdefault(new[0], []).append(word)
        letters = _letters(_reads(lm, new[0]))
        if len(new) == 1 or letters >= max(SHORTEST_PIECE, _letters(word) // 2 + 1):
            telling.add(new[0])
    return {token: tuple(words) for token, words in found.items() if token in telling or not whole}


def _letters(text: str) -> int:
    return sum(c.isalpha() for c in text)


def _reads(lm: LM, token: int) -> str:
    """How a token reads in running text, with its leading space."""
    anchor = lm.tokenizer("a", add_special_tokens=False)["input_ids"]
    return str(lm.tokenizer.decode([*anchor, token]))[1:]


def _check_counts(lm: LM, emotion: str, tokens: Sequence[int], candidates: Sequence[int]) -> None:
    if len(tokens) < FEWEST_TOKENS:
        shown = ", ".join(repr(_reads(lm, t)) for t in tokens) or "none"
        raise UsageError(
            f"{emotion!r} has only {len(tokens)} first tokens of its own in the tokenizer of {lm.name} ({shown}); "
            f"the endpoint needs {FEWEST_TOKENS}",
            "choose an emotion with more words in its lexicon, or a model whose tokenizer knows more whole words",
        )
    if len(candidates) < len(tokens):
        raise UsageError(
            f"only {len(candidates)} everyday words have a first token of their own in the tokenizer of {lm.name}, too "
            f"few to match the {len(tokens)} of {emotion!r}",
            "choose a model whose tokenizer knows more whole words",
        )


def _matched(tokens: Sequence[int], candidates: Sequence[int], unigram: Mapping[int, float]) -> list[tuple[int, int]]:
    """Each token with a candidate of its own, the sum of the differences in log-probability smallest."""
    from scipy.optimize import linear_sum_assignment

    own, pool = (np.array([unigram[t] for t in ids]) for ids in (tokens, candidates))
    rows, columns = linear_sum_assignment(np.abs(own[:, None] - pool[None, :]))
    return [(tokens[r], candidates[c]) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]


def _unigram(lm: LM, texts: Sequence[Prompt], tokens: Sequence[int]) -> Float[np.ndarray, " token"]:
    """Mean next-token log-probability of ``tokens`` after every beginning of ``texts`` (at least one token long)."""
    import torch

    from emotion_circuits.engine.batching import length_buckets, pad
    from emotion_circuits.engine.memory import run_chunks
    from emotion_circuits.models.products import inference

    encoded = lm.encode(texts)
    columns = torch.tensor(tokens)
    total, count = np.zeros(len(tokens)), 0
    budget = max(len(max(encoded, key=len)), (1 << 26) // lm.vocabulary_size)

    def run(rows: Sequence[int]) -> tuple[Float[np.ndarray, " token"], int]:
        batch = pad(lm, [encoded[i] for i in rows], rows, "right")
        with inference(lm.model):
            logits = lm.model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            ).logits.float()
            wanted = logits[..., columns.to(logits.device)] - logits.logsumexp(-1, keepdim=True)
        spans = [(row, encoded[i].n_prefix, len(encoded[i])) for row, i in enumerate(rows)]
        summed = sum(wanted[row, start:end].double().sum(0).cpu().numpy() for row, start, end in spans)
        return np.asarray(summed), sum(end - start for _, start, end in spans)

    buckets = list(length_buckets(encoded, 64, max_tokens=budget))
    for _, (after, beginnings) in run_chunks(buckets, run):
        total, count = total + after, count + beginnings
    return total / count

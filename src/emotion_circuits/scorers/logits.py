"""The primary endpoint as an evaluator: how much likelier an emotion's word is after a text than a matched neutral one.

Steering experiments read it under interventions (:mod:`emotion_circuits.scorers.emotion_tokens`); here any model reads
any text, untouched: ``logits:MODEL``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.prompts.lexicon import emotions_with_words
from emotion_circuits.scorers._contract import Card, Continuation, LoadOptions, Scorer
from emotion_circuits.scorers._registry import scorer
from emotion_circuits.scorers.emotion_tokens import (
    TokenSets,
    check_emotion_tokens,
    matching_prefixes,
    resolve_emotion_tokens,
)
from emotion_circuits.types import Prompt

if TYPE_CHECKING:
    from jaxtyping import Float

    from emotion_circuits.models.lm import LM


@scorer("logits:", "Emotion-token logits of a language model after a text: logits:MODEL.")
class LogitsScorer(Scorer):
    """One column per emotion that the tokenizer has words of: nats, teacher-forced, at the token after the text.

    A text that continues a ``prompt`` is read behind it. An empty text has NaN: 0 would be a measurement.
    """

    def __init__(self, lm: LM, tokens: TokenSets, rows: int | None = None) -> None:
        self.columns = tokens.emotions
        self._lm, self._tokens, self._rows = lm, tokens, rows

    @classmethod
    def members(cls) -> dict[str, str]:
        return {"logits:MODEL": "emotion-token logits of any language model at the token after each text (nats)"}

    @classmethod
    def load(cls, target: str, options: LoadOptions) -> Self:
        """``target`` is any source of a language model: an alias, a hub id, a folder or a GGUF file."""
        from emotion_circuits.models import load_lm

        lm = load_lm(
            target, device=options.device, cache=options.cache, offline=options.offline, revision=options.revision
        )
        return cls(lm, resolve_emotion_tokens(lm, _emotions(lm), matching_prefixes()), options.rows)

    def emotion_column(self, emotion: str) -> str | None:
        """Our own emotion names are the columns."""
        return emotion if emotion in self.columns else None

    def score(self, texts: Sequence[Continuation]) -> dict[str, Float[np.ndarray, " text"]]:
        """``{emotion: [text]}``; see the class."""
        from emotion_circuits.engine import BASELINE, log_sum_exp_difference, score

        present = [i for i, t in enumerate(texts) if t.text.strip()]
        found = {e: np.full(len(texts), np.nan) for e in self.columns}
        if present:
            prompts = [Prompt(str(i), texts[i].prompt + texts[i].text) for i in present]
            metrics = [log_sum_exp_difference(self._tokens.ids(e), self._tokens.neutral_ids(e)) for e in self.columns]
            values = score(self._lm, prompts, [BASELINE], metrics, max_rows=self._rows)
            if not np.isfinite(values).all():
                first = present[int(np.argwhere(~np.isfinite(values))[0, 0])]
                raise ModelError(
                    f"{self._lm.name} gives no number after text {first + 1}",
                    "its weights may be damaged, or its number type too narrow: fetch them again, or use another model",
                )
            for column, emotion in enumerate(self.columns):
                found[emotion][present] = values[:, 0, column]
        return found

    def card(self) -> Card:
        return Card(
            name="logits",
            what="log-sum-exp of the logits of an emotion's first tokens minus that of as many matched neutral tokens, "
            "at the token after the text, in nats",
            data="the model's own next-token distribution; this package's lexicons and everyday words, matched in "
            "unigram log-probability on the neutral pool",
            licence="lexicons Apache-2.0; the model's own",
            scope="English. What the model would say next, not what the text says: compare conditions on one prompt.",
            calibration="log odds of the model itself, not of any reader",
            revision=f"{self._lm.name}, weights {self._lm.fingerprint[:12]}",
            labels=self.columns,
            details=self._tokens.to_dict(),
        )


def _emotions(lm: LM) -> list[str]:
    """The emotions that have enough first tokens of their own in this tokenizer.

    The user's own lists take tokens from each other: one that leaves too few to itself or an earlier one is left out.
    """
    found: list[str] = []
    refused = UsageError("there is no lexicon", "add one to the package")
    for emotion in emotions_with_words():
        try:
            check_emotion_tokens(lm, [*found, emotion])
        except UsageError as error:
            refused = error
        else:
            found.append(emotion)
    if not found:
        raise refused
    return found

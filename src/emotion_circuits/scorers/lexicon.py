"""Keyword rates with word boundaries, and VADER: quick, transparent, blind to anything that is not a listed word.

rate = 100 × (matches of the emotion's words) / (words of the text); see :mod:`emotion_circuits.prompts.lexicon` for
what matches. VADER: Hutto & Gilbert (2014), https://ojs.aaai.org/index.php/ICWSM/article/view/14550.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from emotion_circuits.prompts.lexicon import emotion_words, emotions_with_words, find_words
from emotion_circuits.scorers._contract import Card, LoadOptions, Scorer
from emotion_circuits.scorers._registry import scorer

if TYPE_CHECKING:
    from jaxtyping import Float

_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_VADER = {"vader_compound": "compound", "vader_pos": "pos", "vader_neg": "neg"}


def count_words(text: str) -> int:
    """Words of a text: runs of letters and digits, with apostrophes and hyphens inside them."""
    return sum(1 for _ in _WORD.finditer(text))


def keyword_rate(text: str, forms: Sequence[str]) -> float:
    """How often ``forms`` (whole words or phrases, any case) occur per 100 words of ``text``; 0 without words."""
    words = count_words(text)
    return 100 * len(find_words(text, forms)) / words if words else 0.0


@scorer("lexicon", "Keyword rates per 100 words for each emotion, and VADER sentiment; English.")
class LexiconScorer(Scorer):
    """One column per emotion (matches per 100 words) and ``vader_compound`` in [-1, 1], ``vader_pos``, ``vader_neg``.

    Emotions are those of the built-in lexicons and of the user's own. An empty text has 0 in every column, which for
    VADER is neutral.
    """

    def __init__(self) -> None:
        self._forms = {emotion: emotion_words(emotion) for emotion in emotions_with_words()}
        self.columns = (*self._forms, *_VADER)

    @classmethod
    def load(cls, target: str, options: LoadOptions) -> Self:
        return cls()

    def emotion_column(self, emotion: str) -> str | None:
        """Our own emotion names are the columns."""
        return emotion if emotion in self._forms else None

    def score_present(self, texts: Sequence[str]) -> dict[str, Float[np.ndarray, " text"]]:
        scores = {
            emotion: np.array([keyword_rate(text, forms) for text in texts], dtype=np.float64)
            for emotion, forms in self._forms.items()
        }
        polarity = [self._vader.polarity_scores(text) for text in texts]
        for column, key in _VADER.items():
            scores[column] = np.array([found[key] for found in polarity], dtype=np.float64)
        return scores

    def card(self) -> Card:
        return Card(
            name="lexicon",
            what="words that name an emotion, per 100 words; valence by VADER",
            data="this package's lexicons and the user's own; VADER's lexicon of 7,500 rated words and symbols "
            "(Hutto & Gilbert 2014)",
            licence="lexicons Apache-2.0; vaderSentiment MIT",
            scope="English. Counts words: neither negation ('not sorry') nor an emotion without its word is seen, and "
            "a direction that only adds these words scores high. VADER reads negation and degree, not which emotion.",
            calibration="none: rates and sums of ratings, no probabilities",
            revision=f"vaderSentiment {version('vaderSentiment')}",
            labels=self.columns,
            details={"forms": {emotion: len(forms) for emotion, forms in self._forms.items()}},
        )

    @cached_property
    def _vader(self) -> Any:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()

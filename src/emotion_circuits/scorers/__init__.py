"""Evaluators of texts that a model wrote: each is one file, scores the continuation only, and has a card.

``find_scorer("embedded").score(texts)`` gives one array per column. What a model's logits say without any text is in
``emotion_tokens`` (the primary endpoint's tokens), and what steering did to the text's fluency in ``fluency``.
"""

from __future__ import annotations

from emotion_circuits.scorers._contract import Card, Continuation, LoadOptions, Scorer, emotion_label, empty_texts
from emotion_circuits.scorers._language import language_flags
from emotion_circuits.scorers._registry import find_scorer, list_scorers, scorer

__all__ = [
    "Card",
    "Continuation",
    "LoadOptions",
    "Scorer",
    "emotion_label",
    "empty_texts",
    "language_flags",
    "list_scorers",
    "find_scorer",
    "scorer",
]

"""Keyword lexicons: which words name an emotion, and where they stand in a text.

A lexicon is a TOML table per emotion, ``lemma = [inflected forms]``; a form may be a phrase. Matching ignores case,
needs word boundaries on both sides ("sad" is not in "saddle") and takes the longest form first. Forms are disjoint
between emotions, so a count for one emotion never counts another.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files

from emotion_circuits.errors import unknown_name
from emotion_circuits.types import NEUTRAL

Lexicon = Mapping[str, tuple[str, ...]]
Span = tuple[int, int]


@cache
def load_lexicons() -> Mapping[str, Lexicon]:
    """Every built-in lexicon: emotion → lemma → inflected forms (lower case)."""
    text = (files("emotion_circuits.prompts") / "lexicons" / "emotions.toml").read_text(encoding="utf-8")
    return {
        emotion: {lemma: tuple(forms) for lemma, forms in lemmas.items()}
        for emotion, lemmas in tomllib.loads(text).items()
    }


def list_lexicons() -> tuple[str, ...]:
    """The emotions that have a built-in lexicon."""
    return tuple(load_lexicons())


def emotion_words(emotion: str) -> tuple[str, ...]:
    """All forms of one emotion's lexicon, in the file's order; none for ``neutral``.

    Raises:
        UsageError: the emotion has no lexicon.
    """
    if emotion == NEUTRAL:
        return ()
    lexicons = load_lexicons()
    if emotion not in lexicons:
        raise unknown_name("emotion lexicon", emotion, list(lexicons))
    return tuple(form for forms in lexicons[emotion].values() for form in forms)


def find_emotion_words(text: str, emotion: str) -> tuple[Span, ...]:
    """Character spans ``(start, end)`` of one emotion's words in ``text``, in order and not overlapping."""
    return find_words(text, emotion_words(emotion))


def find_any_emotion_word(text: str) -> tuple[tuple[str, Span], ...]:
    """``(emotion, span)`` of every lexicon's words in ``text``, in order of the text."""
    found = [(emotion, span) for emotion in load_lexicons() for span in find_emotion_words(text, emotion)]
    return tuple(sorted(found, key=lambda item: item[1]))


def find_words(text: str, words: Iterable[str]) -> tuple[Span, ...]:
    """Character spans of ``words`` (whole words or phrases, any case) in ``text``; longer forms win."""
    pattern = _pattern(tuple(words))
    return () if pattern is None else tuple(match.span() for match in pattern.finditer(text))


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    if not words:
        return None
    longest_first = sorted(set(words), key=lambda word: (-len(word), word))
    # A typed apostrophe is the same as a typographic one, and any white space may stand inside a phrase.
    forms = (re.escape(word).replace("'", "['’]").replace("\\ ", r"\s+") for word in longest_first)
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)

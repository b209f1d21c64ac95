"""Keyword lexicons: which words name an emotion, and where they stand in a text.

A lexicon is a TOML table per emotion, ``lemma = [inflected forms]``; a form may be a phrase. Matching ignores case,
needs word boundaries on both sides ("sad" is not in "saddle") and takes the longest form first. Forms are disjoint
between emotions, so a count for one emotion never counts another.

Beside the built-in lexicons there are the user's own (:mod:`~emotion_circuits.prompts.own_words`), for emotions that
have none: numbers of a built-in emotion never depend on them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.prompts.user_data import user_words_folder
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


def own_lexicons() -> dict[str, Lexicon]:
    """The user's own lexicons, in the order of their names: emotion → lemma → inflected forms.

    Raises:
        UsageError: a file of the user's that is no such list.
    """
    folder = user_words_folder()
    paths = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    return {p.stem: _read_own(p, p.stat().st_mtime_ns) for p in paths if p.stem not in load_lexicons()}


@cache
def _read_own(path: Path, changed: int) -> Lexicon:
    """A list of the user's; ``changed`` is the time of its last change, so that it is read once."""
    try:
        (lemmas,) = tomllib.loads(path.read_text(encoding="utf-8")).values()
        return {lemma: tuple(map(str, forms)) for lemma, forms in lemmas.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{path} is not a list of emotion words", "remove it, or save it again with `prompts build --words`"
        ) from error


def list_lexicons() -> tuple[str, ...]:
    """The emotions that have a built-in lexicon."""
    return tuple(load_lexicons())


def emotions_with_words() -> tuple[str, ...]:
    """The emotions that have a lexicon: the built-in ones, then the user's."""
    return (*load_lexicons(), *own_lexicons())


def lexicon_of(emotion: str) -> Lexicon:
    """The emotion's lexicon, built-in or the user's; empty where there is none."""
    return load_lexicons().get(emotion) or own_lexicons().get(emotion, {})


def emotion_words(emotion: str) -> tuple[str, ...]:
    """All forms of one emotion's lexicon, in the file's order; none for ``neutral``.

    Raises:
        UsageError: the emotion has no lexicon.
    """
    if emotion == NEUTRAL:
        return ()
    if not (lexicon := lexicon_of(emotion)):
        raise unknown_name("emotion lexicon", emotion, list(emotions_with_words()))
    return forms_of(lexicon)


def forms_of(lexicon: Lexicon) -> tuple[str, ...]:
    """All forms of a lexicon, in its order."""
    return tuple(form for forms in lexicon.values() for form in forms)


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

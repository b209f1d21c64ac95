"""The user's own lists of emotion words: read, checked against every other list, saved one file an emotion.

A list is a TOML table as in the built-in lexicons::

    [relief]
    relieved = ["relieved", "relief"]
    phew = ["phew"]

It is what the endpoint, emotion-word positions and keyword rates need to know of an emotion. A word names one emotion
only, and emotions that have a built-in list keep it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts.lexicon import Lexicon, forms_of, load_lexicons, own_lexicons
from emotion_circuits.prompts.schema import read_text
from emotion_circuits.prompts.user_data import save_text, user_words_folder
from emotion_circuits.types import NEUTRAL

EXAMPLE = '[relief] on one line, relieved = ["relieved", "relief"] on the next'


def read_word_lists(path: str | Path) -> dict[str, Lexicon]:
    """The lists of a TOML file: emotion → lemma → inflected forms, in lower case.

    Raises:
        UsageError: a file that is not TOML, or tables that are no lists of words.
    """
    path = Path(path).expanduser()
    try:
        tables = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML ({error})", f"write {EXAMPLE}") from error
    if not tables:
        raise UsageError(f"{path} holds no list of words", f"write {EXAMPLE}")
    return {label(emotion): _lexicon(f"{path}: [{emotion}]", lemmas) for emotion, lemmas in tables.items()}


def label(emotion: str) -> str:
    """An emotion's name as labels of prompt sets are written."""
    return emotion.strip().lower().replace(" ", "-")


def check_word_lists(lists: Mapping[str, Lexicon], labels: Sequence[str]) -> None:
    """Raise :class:`UsageError` for lists that cannot stand beside the others.

    Args:
        labels: the emotions of the set that they are for.
    """
    built_in, others = load_lexicons(), own_lexicons()
    owners = {form: emotion for emotion, lexicon in {**others, **built_in}.items() if emotion not in lists
              for form in forms_of(lexicon)}  # fmt: skip
    for emotion, lexicon in lists.items():
        if emotion in built_in or emotion == NEUTRAL:
            raise UsageError(
                f"the words of {emotion!r} are fixed"
                if emotion == NEUTRAL
                else f"{emotion!r} has a list of words already",
                "give your emotion a name of its own, in the texts and in the list",
            )
        if not re.fullmatch(r"[\w-]{1,64}", emotion):
            raise UsageError(f"{emotion!r} cannot name a list of words", "use letters, digits, - and _")
        if emotion not in labels:
            raise UsageError(
                f"there are words for {emotion!r}, but no text of the set has that label",
                f"the labels are {', '.join(labels)}: write one of them above the words",
            )
        for form in forms_of(lexicon):
            if (owner := owners.setdefault(form, emotion)) != emotion:
                raise UsageError(
                    f"{form!r} names {owner!r} and cannot name {emotion!r} too: every count would count for both",
                    "leave the word out of one of the lists",
                )


def save_word_lists(lists: Mapping[str, Lexicon]) -> None:
    """Keep checked lists in the user's folder, a file each; a list of the same emotion is replaced."""
    for emotion, lexicon in lists.items():
        # A JSON string, or list of strings, is TOML as well.
        lines = [f"{_quoted(lemma)} = {_quoted(forms)}" for lemma, forms in lexicon.items()]
        text = "\n".join((f"[{_quoted(emotion)}]", *lines)) + "\n"
        save_text(user_words_folder() / f"{emotion}.toml", text)


def _lexicon(where: str, lemmas: Any) -> Lexicon:
    if not isinstance(lemmas, Mapping):
        raise UsageError(f"{where} is not a table", f"write {EXAMPLE}")
    found: dict[str, tuple[str, ...]] = {}
    for lemma, forms in lemmas.items():
        if not (isinstance(forms, list) and forms and all(isinstance(f, str) and f.strip() for f in forms)):
            raise UsageError(f"{where}: {lemma} is not a list of words", f"write {EXAMPLE}")
        found[lemma] = tuple(dict.fromkeys(" ".join(form.lower().split()) for form in forms))
    if not found:
        raise UsageError(f"{where} holds no word", f"write {EXAMPLE}")
    return found


def _quoted(value: str | Sequence[str]) -> str:
    return json.dumps(value, ensure_ascii=False)

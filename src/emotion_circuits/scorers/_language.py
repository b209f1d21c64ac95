"""Is a text English? A rule that can be explained, so that no text in another language is silently scored as zero.

1. Script: of the letters, more than 30 % are not Latin → ``script``.
2. Words: at least :data:`FEWEST_WORDS` words, and among the words that are function words of English or of one of the
   other languages listed here (no word is on both sides), fewer than half are English; or at least
   :data:`LONG_TEXT` words with none of English at all → ``words``.
3. The text was declared to be in another language → ``declared``.

Otherwise the flag is empty: nothing speaks against English. A short Latin-script text cannot be judged and is not
flagged. The rule errs towards silence: names, code and lists have few function words of any language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from emotion_circuits.scorers._contract import ENGLISH, Continuation
from emotion_circuits.scorers._words import read_words

LARGEST_FOREIGN_SHARE = 0.3
FEWEST_WORDS = 4
LONG_TEXT = 20

_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def language_flag(text: str, language: str = ENGLISH) -> str:
    """``""`` where nothing speaks against English, else ``script``, ``words`` or ``declared`` (see the module)."""
    if language.lower().split("-")[0] != ENGLISH:
        return "declared"
    letters = [c for c in text if c.isalpha()]
    foreign = sum(not _is_latin(c) for c in letters)
    if letters and foreign / len(letters) > LARGEST_FOREIGN_SHARE:
        return "script"
    words = [word.lower().replace("’", "'") for word in _LETTERS.findall(text)]
    english_words, other_words = _function_words()
    english = sum(word in english_words for word in words)
    other = sum(word in other_words for word in words)
    if len(words) >= FEWEST_WORDS and other > english:
        return "words"
    if len(words) >= LONG_TEXT and english == 0:
        return "words"
    return ""


def language_flags(texts: Sequence[Continuation]) -> tuple[str, ...]:
    """:func:`language_flag` of every text."""
    return tuple(language_flag(t.text, t.language) for t in texts)


@cache
def _function_words() -> tuple[frozenset[str], frozenset[str]]:
    english = frozenset(read_words("function_words_english"))
    return english, frozenset(read_words("function_words_other")) - english


def _is_latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith(("LATIN", "FEMININE", "MASCULINE"))

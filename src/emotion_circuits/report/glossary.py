"""What the words of the answers mean, for readers who do not do this every day.

``terms/{language}.toml`` holds the words; a page explains those that its answers use, in the order of the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources

from emotion_circuits.report.words import DEFAULT_LANGUAGE


def terms_in(texts: Iterable[str], language: str = DEFAULT_LANGUAGE) -> list[tuple[str, str]]:
    """(word, what it means) for every word of the glossary that stands in one of ``texts``."""
    found = "\n".join(texts)
    return [(term["name"], term["says"]) for term in _terms(language) if re.search(term["find"], found)]


@cache
def _terms(language: str) -> Sequence[Mapping[str, str]]:
    """The glossary of a language; none for a language without that file."""
    file = resources.files(__package__).joinpath("terms", f"{language}.toml")
    terms: list[Mapping[str, str]] = tomllib.loads(file.read_text("utf-8"))["term"] if file.is_file() else []
    return terms

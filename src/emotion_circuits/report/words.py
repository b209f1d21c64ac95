"""The fixed words of a report in one language, read from ``strings/{language}.toml``.

A new language is one more file with the same keys; nothing in the code changes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from emotion_circuits.errors import unknown_name

Words = Mapping[str, str]
"""Key → text; some texts hold ``{placeholders}`` for :meth:`str.format`."""

DEFAULT_LANGUAGE = "en"


def languages() -> list[str]:
    """The languages a report can be written in, sorted."""
    folder = resources.files(__package__).joinpath("strings")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


@cache
def load_words(language: str = DEFAULT_LANGUAGE) -> Words:
    """The words of ``language``; raises :class:`~emotion_circuits.errors.UsageError` for one that has no file."""
    if language not in languages():
        raise unknown_name("report language", language, languages())
    file = resources.files(__package__).joinpath("strings", f"{language}.toml")
    return MappingProxyType(tomllib.loads(file.read_text(encoding="utf-8")))

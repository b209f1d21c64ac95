"""Word lists of the package: ``words/NAME.txt``, words between white space, lines with ``#`` are remarks."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def read_words(name: str) -> tuple[str, ...]:
    """The words of ``words/{name}.txt`` in their order."""
    text = (files("emotion_circuits.scorers") / "words" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(word for line in text.splitlines() if not line.startswith("#") for word in line.split())

"""Neutral texts read at the positions of emotion words.

An emotion word's activation is compared with a neutral word in the same place of the matched neutral text, never with
another position. Places are counted in words, so that the match does not depend on a tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from emotion_circuits.errors import UsageError
from emotion_circuits.types import NEUTRAL, Prompt

AT = "@@"
"""Between the ids of a neutral text and of the emotional text whose word positions it is read at."""


def position_matched(prompts: Sequence[Prompt]) -> list[Prompt]:
    """One copy of a neutral text per emotional text, with the spans of its words in the same places.

    The neutral text is the one of the same scenario; without scenarios, neutral texts are taken in turn. A place behind
    the end of the neutral text becomes its last word. Copies are named ``{neutral id}@@{emotional id}``.

    Raises:
        UsageError: there is no neutral text to compare with.
    """
    neutral = [p for p in prompts if p.emotion == NEUTRAL]
    if not neutral:
        raise UsageError("there is no neutral text to compare emotion words with", "add texts with the label neutral")
    by_scenario = {p.scenario: p for p in neutral if p.scenario is not None}
    copies = []
    emotional = [p for p in prompts if p.emotion != NEUTRAL and p.spans]
    for number, prompt in enumerate(emotional):
        twin = by_scenario.get(prompt.scenario) if prompt.scenario else neutral[number % len(neutral)]
        if twin is None:
            continue
        spans = same_places(prompt, twin.text)
        name = f"{twin.id}{AT}{prompt.id}"
        copies.append(replace(twin, id=name, spans=spans, matched=prompt.emotion, split=prompt.split))
    return copies


def same_places(prompt: Prompt, other: str) -> tuple[tuple[int, int], ...]:
    """Character spans of the words of ``other`` in the places of ``prompt``'s emotion words (counted in words)."""
    own = [m.span() for m in re.finditer(r"\S+", prompt.text)]
    theirs = [m.span() for m in re.finditer(r"\w[\w'’-]*", other)] or [(0, len(other))]
    places = {
        min(place, len(theirs) - 1)
        for place, (start, end) in enumerate(own)
        if any(start < e and end > s for s, e in prompt.spans)
    }
    return tuple(theirs[place] for place in sorted(places))

"""Neutral texts read at the positions of emotion words.

An emotion word's activation is compared with a neutral word in the same place of the matched neutral text, never with
another position. Places are counted in words, so that the match does not depend on a tokenizer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from emotion_circuits.errors import UsageError
from emotion_circuits.types import NEUTRAL, Prompt, Split

AT = "@@"
"""Between the ids of a neutral text and of the emotional text whose word positions it is read at."""

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def position_matched(prompts: Sequence[Prompt]) -> list[Prompt]:
    """One copy of a neutral text per emotional text with spans, whose own spans are the words in the same places.

    The neutral text is the one of the same scenario. Texts without scenario take the neutral texts of their own split
    in turn, so that no neutral text is read in two splits; a copy is then a cluster with the other copies of its text.
    A place behind the end of the neutral text becomes its last word. Copies are named
    ``{neutral id}@@{emotional id}``.

    Raises:
        UsageError: there is no neutral text to compare with.
    """
    neutral = [p for p in prompts if p.emotion == NEUTRAL]
    if not neutral:
        raise UsageError("there is no neutral text to compare emotion words with", "add texts with the label neutral")
    of_scenario = {p.scenario: p for p in reversed(neutral) if p.scenario is not None}
    of_split: dict[Split | None, list[Prompt]] = {}
    for p in neutral:
        of_split.setdefault(p.split, []).append(p)
    taken: Counter[tuple[str, Split | None]] = Counter()
    copies = []
    for prompt in prompts:
        if prompt.emotion == NEUTRAL or not prompt.spans:
            continue
        if prompt.scenario is not None:
            twin = of_scenario.get(prompt.scenario)
        else:
            turn, choice = taken[prompt.emotion, prompt.split], of_split.get(prompt.split, [])
            twin = choice[turn % len(choice)] if choice else None
            taken[prompt.emotion, prompt.split] += 1
        if twin is not None:
            copies.append(_copy(twin, prompt))
    return copies


def _copy(twin: Prompt, prompt: Prompt) -> Prompt:
    return replace(
        twin, id=f"{twin.id}{AT}{prompt.id}", spans=same_places(prompt, twin.text), matched=prompt.emotion,
        split=prompt.split, scenario=twin.scenario or f"text:{twin.id}",
    )  # fmt: skip


def same_places(prompt: Prompt, other: str) -> tuple[tuple[int, int], ...]:
    """Character spans of the words of ``other`` in the places of ``prompt``'s emotion words (counted in words).

    Punctuation that stands alone is no word in either text. A span without any word (an emoji) has the place of the
    word that would stand there.
    """
    own = [m.span() for m in _WORD.finditer(prompt.text)]
    theirs = [m.span() for m in _WORD.finditer(other)] or [(0, len(other))]
    places: set[int] = set()
    for start, end in prompt.spans:
        inside = [place for place, (s, e) in enumerate(own) if start < e and end > s]
        places.update(inside or [sum(e <= start for _, e in own)])
    return tuple(theirs[place] for place in sorted({min(place, len(theirs) - 1) for place in places}))

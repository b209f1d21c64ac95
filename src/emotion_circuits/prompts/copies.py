"""Texts that are the same but for case and spacing, and what they do to held-out texts."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts.schema import Row
from emotion_circuits.types import Prompt


def folded(text: str) -> str:
    """The text without case and with single spaces: two texts with the same form are copies of each other."""
    return " ".join(text.casefold().split())


def held_in_fit_or_dev(prompts: Iterable[Prompt]) -> frozenset[str]:
    """Folded texts that directions were fitted on or layers chosen by, so that they can test nothing."""
    return frozenset(folded(p.text) for p in prompts if p.split != "test")


def clustered_by_text(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    """Every text in a cluster: its scenario, and where it has none, itself together with its copies."""
    return tuple(replace(p, scenario=p.scenario or f"text:{folded(p.text)}") for p in prompts)


def require_disjoint(name: str, prompts: Sequence[Prompt]) -> None:
    """Raise :class:`UsageError` unless every scenario is in one split and every text in one scenario.

    A text of which a copy is in another scenario (or stands alone elsewhere) would be tested on what it was fitted on,
    or be counted twice as if it were two independent texts.
    """
    fix = f"`emotion-circuits prompts validate {shlex.quote(name)}` lists every such text; correct the file"
    split_of: dict[str, Prompt] = {}
    cluster_of: dict[str, Prompt] = {}
    for prompt in prompts:
        first = split_of.setdefault(prompt.scenario or f"text:{prompt.id}", prompt)
        if first.split != prompt.split:
            raise UsageError(
                f"prompt set {name}: scenario {prompt.scenario!r} is in the splits {first.split} ({first.id!r}) and "
                f"{prompt.split} ({prompt.id!r}), so that nothing is held out",
                fix,
            )
        first = cluster_of.setdefault(folded(prompt.text), prompt)
        if (first.scenario or first.id) != (prompt.scenario or prompt.id):
            raise UsageError(
                f"prompt set {name}: {first.id!r} ({first.split}) and {prompt.id!r} ({prompt.split}) are the same text "
                f"({prompt.text[:40]!r}), which would count as two independent ones",
                fix,
            )


def without_copies(rows: Iterable[Row]) -> list[Row]:
    """The rows without those that repeat a text of the same label where neither has a scenario."""
    kept: dict[object, Row] = {}
    for number, row in enumerate(rows):
        prompt = row.prompt
        kept.setdefault((prompt.emotion, folded(prompt.text)) if prompt.scenario is None else number, row)
    return list(kept.values())

"""What a prompt set holds: totals, counts per label, split and stratum, and lengths."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emotion_circuits.types import Prompt


@dataclass(frozen=True, slots=True)
class Lengths:
    """Words and characters of the texts of one label: mean, smallest and largest."""

    words_mean: float
    words_min: int
    words_max: int
    characters_mean: float
    characters_min: int
    characters_max: int


@dataclass(frozen=True)
class SetStatistics:
    """Counts of one prompt set; ``labels`` keeps the order in which labels first occur."""

    total: int
    scenarios: int
    paired: bool
    labels: dict[str, int]
    splits: dict[str, int]
    strata: dict[str, int]
    domains: dict[str, int]
    languages: dict[str, int]
    ends: dict[str, int]
    label_splits: dict[str, dict[str, int]]
    lengths: dict[str, Lengths]


def words(text: str) -> list[str]:
    """The words of a text in lower case; "don't" and "three-tier" are one word each."""
    return re.findall(r"\w+(?:['’-]\w+)*", text.lower())


def is_paired(prompts: Iterable[Prompt]) -> bool:
    """Whether at least one scenario is written under two labels, so that a paired analysis is possible."""
    labels: dict[str, str] = {}
    return any(
        prompt.scenario is not None and labels.setdefault(prompt.scenario, prompt.emotion) != prompt.emotion
        for prompt in prompts
    )


def set_statistics(prompts: Sequence[Prompt]) -> SetStatistics:
    """Totals, counts and length statistics of a prompt set."""
    from emotion_circuits.prompts.schema import end_mark

    by_label: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_label.setdefault(prompt.emotion, []).append(prompt)
    return SetStatistics(
        total=len(prompts),
        scenarios=len({prompt.scenario for prompt in prompts if prompt.scenario is not None}),
        paired=is_paired(prompts),
        labels={label: len(group) for label, group in by_label.items()},
        splits=_counts(prompt.split or "none" for prompt in prompts),
        strata=_counts(prompt.stratum for prompt in prompts),
        domains=_counts(prompt.domain for prompt in prompts if prompt.domain),
        languages=_counts(prompt.language for prompt in prompts),
        ends=_counts(end_mark(prompt.text) or "none" for prompt in prompts),
        label_splits={label: _counts(prompt.split or "none" for prompt in group) for label, group in by_label.items()},
        lengths={label: _lengths([prompt.text for prompt in group]) for label, group in by_label.items()},
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _lengths(texts: Sequence[str]) -> Lengths:
    in_words = [len(words(text)) for text in texts]
    in_characters = [len(text) for text in texts]
    return Lengths(
        statistics.fmean(in_words), min(in_words), max(in_words),
        statistics.fmean(in_characters), min(in_characters), max(in_characters),
    )  # fmt: skip

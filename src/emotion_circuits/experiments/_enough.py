"""Are there texts enough to fit directions on and to test them with? Asked before anything is captured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.extract import emotions_of
from emotion_circuits.types import NEUTRAL, Prompt

MINIMUM_TEXTS, MINIMUM_TEST_SCENARIOS = 2, 6
"""Texts per label in each split, and test scenarios, below which no interval can be computed."""

MINIMUM_CLUSTERS, MINIMUM_CLUSTERS_OF_A_LABEL = 5, 2
"""Test scenarios that an interval of AUROC takes between two labels, and of each (``stats.auroc_interval``)."""


def require_enough(name: str, texts: Sequence[Prompt]) -> None:
    """Raise unless every emotion and neutral have texts in every split, and test scenarios enough for an interval."""
    labels = emotions_of(texts)
    if not labels:
        raise UsageError(f"prompt set {name} has no emotional text", "see `emotion-circuits prompts list`")
    counts = Counter((p.emotion, p.split) for p in texts)
    for label in (NEUTRAL, *labels):
        for split in ("fit", "dev", "test"):
            if (n := counts[label, split]) < MINIMUM_TEXTS:
                raise UsageError(
                    f"prompt set {name} has {n} texts of {label!r} in its {split} split; directions need "
                    f"{MINIMUM_TEXTS} at least",
                    "give more texts or scenarios (`emotion-circuits prompts build` assigns splits), or choose others "
                    "with --emotions",
                )
    clusters = {p.scenario or p.id for p in texts if p.split == "test"}
    if len(clusters) < MINIMUM_TEST_SCENARIOS:
        raise UsageError(
            f"prompt set {name} has {len(clusters)} test scenarios; an interval needs {MINIMUM_TEST_SCENARIOS}",
            "give more scenarios (with --scenarios, 20 or more)",
        )


def require_intervals(name: str, texts: Sequence[Prompt]) -> None:
    """Raise unless every comparison (an emotion with its neutral texts, emotions with each other) can have an interval.

    A set without scenarios may have six of them in all and two on each side of a comparison.
    """
    test = [p for p in texts if p.split == "test"]
    emotions = emotions_of(texts)
    scenarios = {e: {p.scenario or p.id for p in test if p.emotion == e} for e in emotions}
    compared: list[tuple[str, list[set[str]]]] = []
    for emotion in emotions:
        neutral = {p.scenario or p.id for p in test if p.emotion == NEUTRAL and p.matched in ("", emotion)}
        compared.append((f"{emotion!r} and {NEUTRAL!r}", [scenarios[emotion], neutral]))
    if len(emotions) > 1:
        compared.append((" and ".join(map(repr, emotions)), [*scenarios.values()]))
    for what, sides in compared:
        total, least = len(set().union(*sides)), min(map(len, sides))
        if total < MINIMUM_CLUSTERS or least < MINIMUM_CLUSTERS_OF_A_LABEL:
            raise UsageError(
                f"prompt set {name} has {total} test scenarios of {what} together, {least} of the rarer; an interval "
                f"needs {MINIMUM_CLUSTERS} and {MINIMUM_CLUSTERS_OF_A_LABEL} (a text without scenario counts as one)",
                "give more texts or scenarios (`emotion-circuits prompts build` assigns splits), or choose others with "
                "--emotions",
            )

"""Are there texts enough to fit directions on and to test them with? Asked before anything is captured."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.extract import emotions_of
from emotion_circuits.prompts import list_sets, load_prompts
from emotion_circuits.prompts.loading import BUILT_IN
from emotion_circuits.prompts.splits import SPLITS
from emotion_circuits.types import NEUTRAL, Prompt

MINIMUM_TEXTS, MINIMUM_TEST_SCENARIOS = 2, 6
"""Texts per label in each split, and test scenarios, below which no interval can be computed."""

MINIMUM_CLUSTERS, MINIMUM_CLUSTERS_OF_A_LABEL = 5, 2
"""Test scenarios that an interval of AUROC takes between two labels, and of each (``stats.auroc_interval``)."""


MINIMUM_SCENARIOS = 20
"""Scenarios from which the shares of the splits leave ``MINIMUM_TEST_SCENARIOS`` to test on (``prompts.splits``)."""


@dataclass(frozen=True)
class Chosen:
    """Which texts of a set were asked for: a hint names an option only where it is what leaves too few.

    Args:
        name: the prompt set, as ``load_prompts`` takes it.
        emotions: the emotions that were named (none: all of the set).
        scenarios: the number of scenarios that was asked for (None: all of the set).
        at_words: only texts with an emotion word are counted.
    """

    name: str
    emotions: tuple[str, ...] = ()
    scenarios: int | None = None
    at_words: bool = False

    @property
    def shown(self) -> str:
        """The set's name, with what is counted of it."""
        return f"{self.name} (texts with an emotion word)" if self.at_words else self.name

    def remedy(self) -> str:
        """What to type or change for more texts."""
        if self.scenarios is not None and _clusters(load_prompts(self.name)) > self.scenarios:
            return f"give --scenarios {MINIMUM_SCENARIOS} or more, or leave it out"
        others = ["choose other --emotions"] if self.emotions else []
        others += ["read another position (mean-content)"] if self.at_words else []
        if self.name in BUILT_IN:
            return " or ".join(others) or "choose another set; `emotion-circuits prompts list` shows them"
        if self.name in list_sets():
            build = shlex.join(["emotion-circuits", "prompts", "build", "--from", "FILE", "--name", self.name])
            more = f"add rows to the FILE that it was made from and run `{build}` again"
        else:
            more = f"add rows to {self.name} (`emotion-circuits prompts build` assigns splits)"
        return ", or ".join([more, *others])


def require_enough(chosen: Chosen, texts: Sequence[Prompt]) -> None:
    """Raise unless every emotion and neutral have texts in every split, and test scenarios enough for an interval."""
    name, labels = chosen.shown, emotions_of(texts)
    if not labels:
        raise UsageError(f"prompt set {name} has no emotional text", "see `emotion-circuits prompts list`")
    counts = Counter((p.emotion, p.split) for p in texts)
    if absent := [label for label in (NEUTRAL, *labels) if not any(counts[label, s] for s in SPLITS)]:
        raise UsageError(
            f"prompt set {name} has 0 texts of {absent[0]!r}; directions need them in every split", chosen.remedy()
        )
    few = next(((e, s) for e in (NEUTRAL, *labels) for s in SPLITS if counts[e, s] < MINIMUM_TEXTS), None)
    test = _clusters([p for p in texts if p.split == "test"])
    if few is None and test >= MINIMUM_TEST_SCENARIOS:
        return
    if (total := _clusters(texts)) < MINIMUM_SCENARIOS:
        kind = "scenarios" if any(p.scenario for p in texts) else "texts"
        raise UsageError(
            f"prompt set {name} has {total} {kind}; {MINIMUM_SCENARIOS} are the least (their splits leave {test} test "
            f"{kind}, and an interval needs {MINIMUM_TEST_SCENARIOS})" if test < MINIMUM_TEST_SCENARIOS else
            f"prompt set {name} has {total} {kind}; {MINIMUM_SCENARIOS} are the least",
            chosen.remedy(),
        )  # fmt: skip
    if few is not None:
        raise UsageError(
            f"prompt set {name} has {counts[few]} texts of {few[0]!r} in its {few[1]} split; directions need "
            f"{MINIMUM_TEXTS} at least",
            chosen.remedy(),
        )
    raise UsageError(
        f"prompt set {name} has {test} test scenarios; an interval needs {MINIMUM_TEST_SCENARIOS}", chosen.remedy()
    )


def _clusters(texts: Sequence[Prompt]) -> int:
    """Number of scenarios; a text without one counts as one."""
    return len({p.scenario or p.id for p in texts})


def require_intervals(chosen: Chosen, texts: Sequence[Prompt]) -> None:
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
                f"prompt set {chosen.shown} has {total} test scenarios of {what} together, {least} of the rarer; "
                f"an interval needs {MINIMUM_CLUSTERS} and {MINIMUM_CLUSTERS_OF_A_LABEL} "
                "(a text without scenario counts as one)",
                chosen.remedy(),
            )

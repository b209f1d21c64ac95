"""Are there texts enough to fit directions on and to test them with? Asked before anything is captured."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments.extract import at_emotion_words, emotions_of, select_sets
from emotion_circuits.prompts import list_sets, load_prompts
from emotion_circuits.prompts.loading import BUILT_IN, build_command
from emotion_circuits.prompts.splits import SPLITS
from emotion_circuits.types import NEUTRAL, Prompt

MINIMUM_TEXTS, MINIMUM_TEST_SCENARIOS = 2, 6
"""Texts per label in each split, and test scenarios, below which no interval can be computed."""

MINIMUM_CLUSTERS, MINIMUM_CLUSTERS_OF_A_LABEL = 5, 2
"""Test scenarios that an interval of AUROC takes between two labels, and of each (``stats.auroc_interval``)."""


MINIMUM_SCENARIOS = 20
"""Scenarios with texts of every label from which the shares of the splits always leave enough (``prompts.splits``)."""


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

    def texts(self, loaded: Sequence[Prompt]) -> Sequence[Prompt]:
        """Those of the chosen texts that are counted."""
        return at_emotion_words(loaded) if self.at_words else loaded

    def require(self, texts: Sequence[Prompt], lack: Callable[[str, Sequence[Prompt]], str]) -> None:
        """Raise for what the texts lack, with what to type or change.

        ``lack`` says of a set's name and texts what is missing, or nothing.
        """
        if missing := lack(self.shown, texts):
            raise UsageError(missing, self._remedy(texts, lack))

    def _remedy(self, texts: Sequence[Prompt], lack: Callable[[str, Sequence[Prompt]], str]) -> str:
        if self.scenarios is not None and self._whole_set_has(lack):
            return f"ask for more than {self.scenarios} scenarios (--scenarios), or for all of the set"
        if not all(p.split for p in texts):
            return f"`{build_command(self.name)}` deals them into splits; then choose the set by that name"
        others = ["choose other --emotions"] if self.emotions else []
        others += ["give --positions mean-content"] if self.at_words else []
        if self.name in BUILT_IN:
            return " or ".join(others) or "choose another set; `emotion-circuits prompts list` shows them"
        if self.name in list_sets():
            build = shlex.join(["emotion-circuits", "prompts", "build", "--from", "FILE", "--name", self.name])
            more = f"add rows to the FILE that it was made from and run `{build}` again"
        else:
            more = f"add rows to {self.name}, each with its split"
        return ", or ".join([more, *others])

    def _whole_set_has(self, lack: Callable[[str, Sequence[Prompt]], str]) -> bool:
        wanted = [e for e in emotions_of(load_prompts(self.name)) if e in self.emotions] if self.emotions else ()
        try:
            return not lack(self.shown, self.texts(select_sets([self.name], wanted)[self.name]))
        except UsageError:  # it lacks something else
            return False


def require_enough(chosen: Chosen, texts: Sequence[Prompt]) -> None:
    """Raise unless every emotion and neutral have texts in every split, and test scenarios enough for an interval."""
    if not emotions_of(texts):
        raise UsageError(f"prompt set {chosen.shown} has no emotional text", "see `emotion-circuits prompts list`")
    chosen.require(texts, _lack_of_texts)


def require_intervals(chosen: Chosen, texts: Sequence[Prompt]) -> None:
    """Raise unless every comparison (an emotion with its neutral texts, emotions with each other) can have an interval.

    A set without scenarios may have six of them in all and two on each side of a comparison.
    """
    chosen.require(texts, _lack_of_clusters)


def _lack_of_texts(name: str, texts: Sequence[Prompt]) -> str:
    labels, counts = (NEUTRAL, *emotions_of(texts)), Counter((p.emotion, p.split) for p in texts)
    of_label = Counter(p.emotion for p in texts)
    if absent := [label for label in labels if not of_label[label]]:
        return f"prompt set {name} has no text of {absent[0]!r}; directions need some in every split"
    few = next(((e, s) for e in labels for s in SPLITS if counts[e, s] < MINIMUM_TEXTS), None)
    test, total = _clusters([p for p in texts if p.split == "test"]), _clusters(texts)
    kind = "scenarios" if any(p.scenario for p in texts) else "texts"
    if unsplit := sum(not p.split for p in texts):
        enough = f" ({unsplit} of its {len(texts)} texts have no split: fit, dev or test)"
    elif total < MINIMUM_SCENARIOS and name not in BUILT_IN:
        enough = f" (it has {total} {kind}; {MINIMUM_SCENARIOS} with every label, dealt by `prompts build`, are enough)"
    else:
        enough = ""
    if test < MINIMUM_TEST_SCENARIOS:
        return f"prompt set {name} has {test} test {kind}; an interval needs {MINIMUM_TEST_SCENARIOS}{enough}"
    if few is not None:
        return (
            f"prompt set {name} has {counts[few]} of its {of_label[few[0]]} texts of {few[0]!r} in its {few[1]} "
            f"split; directions need {MINIMUM_TEXTS} at least{enough}"
        )
    return ""


def _lack_of_clusters(name: str, texts: Sequence[Prompt]) -> str:
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
            return (
                f"prompt set {name} has {total} test scenarios of {what} together, {least} of the rarer; "
                f"an interval needs {MINIMUM_CLUSTERS} and {MINIMUM_CLUSTERS_OF_A_LABEL} "
                "(a text without scenario counts as one)"
            )
    return ""


def _clusters(texts: Sequence[Prompt]) -> int:
    """Number of scenarios; a text without one counts as one."""
    return len({p.scenario or p.id for p in texts})

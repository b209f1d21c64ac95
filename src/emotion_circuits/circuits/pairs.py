"""A text and the text whose activations stand in for its own, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM, Encoded
from emotion_circuits.types import NEUTRAL, Prompt


@dataclass(frozen=True)
class Pair:
    """``clean`` is the text whose endpoint is measured; activations are taken from ``donor``."""

    clean: Prompt
    donor: Prompt

    @property
    def cluster(self) -> str:
        """What intervals resample over: the scenario, or the text itself."""
        return self.clean.scenario or self.clean.id


def twin_pairs(prompts: Sequence[Prompt], emotion: str) -> list[Pair]:
    """Every text of ``emotion`` with the neutral text of its scenario.

    Raises:
        UsageError: no text has such a twin.
    """
    neutral = {p.scenario: p for p in reversed(prompts) if p.emotion == NEUTRAL and p.scenario and not p.matched}
    pairs = [Pair(p, neutral[p.scenario]) for p in prompts if p.emotion == emotion and p.scenario in neutral]
    if not pairs:
        raise UsageError(
            f"no text of {emotion!r} has a neutral text in its scenario",
            "give each scenario a neutral text too (field: scenario), or use a matched set such as extended",
        )
    return pairs


def length_matched(lm: LM, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose texts have as many tokens as each other.

    Raises:
        UsageError: there is none.
    """
    clean, donors = lm.encode([p.clean for p in pairs]), lm.encode([p.donor for p in pairs])
    fitting = [pair for pair, a, b in zip(pairs, clean, donors, strict=True) if len(a) == len(b)]
    if not fitting:
        raise UsageError(
            f"none of {len(pairs)} pairs has two texts of equal length in tokens of {lm.name}",
            "add pairs of equal length, or resample at aligned positions (ablation) instead of patching",
        )
    return fitting


def align(recipient: Encoded, donor: Encoded) -> list[int]:
    """For each token of ``recipient`` the token of ``donor`` that stands in for it.

    Prefix tokens match prefix tokens; the others match by relative place, so that first meets first, last meets last,
    and texts of equal length match token by token.
    """
    own, theirs = len(recipient) - recipient.n_prefix, len(donor) - donor.n_prefix
    step = (theirs - 1) / (own - 1) if own > 1 else 0.0
    inner = [donor.n_prefix + round(i * step) for i in range(own)] if own > 1 else [len(donor) - 1]
    return [*range(recipient.n_prefix), *inner]

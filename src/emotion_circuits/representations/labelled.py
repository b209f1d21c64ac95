"""Activations with labels, scenarios and splits: the array-level input of every analysis.

No model is needed here, so planted worlds enter the same functions as real captures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emotion_circuits.errors import UsageError
from emotion_circuits.types import NEUTRAL, Activations, Positions, SiteKind

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Activations of labelled texts.

    Args:
        x: ``[text, layer, d]``. labels, scenarios, splits, strata: ``[text]`` of strings.
        ids: ``[text]``. matched: ``[text]``; for a neutral text read at the position of an emotion's word, that
            emotion, else ``""``.
        layers: the layer numbers of axis 1.
    """

    x: NDArray[np.floating[Any]]
    ids: NDArray[np.str_]
    labels: NDArray[np.str_]
    scenarios: NDArray[np.str_]
    splits: NDArray[np.str_]
    strata: NDArray[np.str_]
    matched: NDArray[np.str_]
    layers: tuple[int, ...]

    @property
    def emotions(self) -> tuple[str, ...]:
        """Every label but neutral, in order of first appearance."""
        return tuple(dict.fromkeys(str(e) for e in self.labels if e != NEUTRAL))

    def select(self, mask: NDArray[np.bool_]) -> Labelled:
        """The texts where ``mask`` is true."""
        return Labelled(
            self.x[mask], self.ids[mask], self.labels[mask], self.scenarios[mask], self.splits[mask], self.strata[mask],
            self.matched[mask], self.layers,
        )  # fmt: skip

    def split(self, *names: str) -> Labelled:
        """The texts of some splits."""
        return self.select(np.isin(self.splits, names))

    def of(self, emotion: str) -> NDArray[np.bool_]:
        """``[text]``: true for the texts of an emotion."""
        return np.asarray(self.labels == emotion)

    def neutral_for(self, emotion: str) -> NDArray[np.bool_]:
        """``[text]``: the neutral texts an emotion is compared with (those read at its words' positions, if any)."""
        neutral = self.labels == NEUTRAL
        twins = neutral & (self.matched == emotion)
        return np.asarray(twins if twins.any() else neutral & (self.matched == ""))

    def require(self, emotion: str, what: str, minimum: int = 2) -> None:
        """Raise unless the emotion and its neutral texts have at least ``minimum`` texts each."""
        for name, mask in ((emotion, self.of(emotion)), (NEUTRAL, self.neutral_for(emotion))):
            if int(mask.sum()) < minimum:
                raise UsageError(
                    f"{what} needs at least {minimum} texts of {name!r}; there are {int(mask.sum())}",
                    "give more texts, or leave the emotion out with --emotions",
                )


def labelled(activations: Activations, kind: SiteKind, position: Positions | str) -> Labelled:
    """The texts of a capture at one site kind and position; a text without scenario is a cluster of its own."""
    prompts = activations.prompts
    return Labelled(
        x=activations.get(kind, position),
        ids=np.array([p.id for p in prompts]),
        labels=np.array([p.emotion for p in prompts]),
        scenarios=np.array([p.scenario or f"text:{p.id}" for p in prompts]),
        splits=np.array([p.split or "" for p in prompts]),
        strata=np.array([p.stratum for p in prompts]),
        matched=np.array([p.matched for p in prompts]),
        layers=activations.layers,
    )


def concatenate(parts: Sequence[Labelled]) -> Labelled:
    """Several captures of the same layers as one."""
    if len({p.layers for p in parts}) != 1:
        raise UsageError("captures of different layers cannot be joined", "capture them with the same --layers")
    joined = {
        name: np.concatenate([getattr(p, name) for p in parts])
        for name in ("x", "ids", "labels", "scenarios", "splits", "strata", "matched")
    }
    return Labelled(**joined, layers=parts[0].layers)

"""Exact ablation: what the endpoint becomes when a component carries a donor's activation, a mean, or zeros.

Changes are ``ablated − clean``: a component that supports the emotion has a negative change. Resample ablation is the
default (Chan et al. 2022, "Causal scrubbing"; Zhang & Nanda 2024), mean second, zero as sensitivity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from emotion_circuits.circuits.components import Component, Grid, Head
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.substitution import ALL, Mode, run_sets, tap_of, texts_of
from emotion_circuits.engine.gradients import Metric
from emotion_circuits.errors import UsageError
from emotion_circuits.models.lm import LM
from emotion_circuits.types import Positions


@dataclass(frozen=True)
class SetAblation:
    """``ablated`` is ``[set, pair]`` and ``clean`` ``[pair]``, in the metric's unit; ``clusters`` are the scenarios."""

    sets: tuple[tuple[Component, ...], ...]
    mode: Mode
    clean: NDArray[np.float64]
    ablated: NDArray[np.float64]
    clusters: tuple[str, ...]

    @property
    def changes(self) -> Float[NDArray[np.float64], "set pair"]:
        """ablated − clean; negative where the set supports the endpoint."""
        return self.ablated - self.clean


def ablate_sets(
    lm: LM,
    pairs: Sequence[Pair],
    sets: Sequence[Sequence[Component]],
    metric: Metric,
    *,
    mode: Mode = "resample",
    positions: Positions = ALL,
) -> SetAblation:
    """The metric of every clean text with each set of heads, MLPs or neurons ablated at once.

    All sets are rows of the same batches; an empty set is the clean run. Cost: sets × pairs rows, less the blocks
    below each set's lowest layer.

    Args:
        positions: tokens of the clean texts at which components are replaced (default: all content tokens).

    Raises:
        UsageError: no sets, no pairs, an unknown mode, a component outside the model's grid.
    """
    if not sets:
        raise UsageError("no sets of components to ablate", "name at least one head, MLP or neuron")
    _check(Grid.of(lm), sets)
    components = {c for s in sets for c in s}
    taps = sorted({tap_of(c) for c in components})
    starts = sorted({min(c.layer for c in s) for s in sets if s})
    clean, ablated = np.empty(len(pairs)), np.empty((len(sets), len(pairs)))
    for texts in texts_of(lm, pairs, taps, metric, mode=mode, positions=positions, starts=starts):
        numbers = list(texts.numbers)
        clean[numbers] = texts.clean.double().cpu().numpy()
        ablated[:, numbers] = run_sets(lm, texts, sets, metric)
    return SetAblation(tuple(tuple(s) for s in sets), mode, clean, ablated, tuple(p.cluster for p in pairs))


def _check(grid: Grid, sets: Sequence[Sequence[Component]]) -> None:
    for c in {c for s in sets for c in s}:
        size = grid.heads if isinstance(c, Head) else grid.neurons
        if c.layer >= grid.layers or getattr(c, "index", 0) >= size:
            raise UsageError(f"{type(c).__name__} {c} does not exist; {grid}", "choose one inside the grid")

"""Attribution patching: every component's ablation estimated from one gradient, and a gate that checks it exactly.

To first order the metric changes by gradient · (donor − clean) when a component takes the donor's activation (Nanda
2023; Syed et al. 2023; Kramár et al. 2024, "AtP*"). Attention saturates and norms rescale, so the estimate is used only
where exact ablation of the top and of random components agrees with it: rank correlation ≥ .9 and signs ≥ 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from emotion_circuits.circuits.ablation import ablate_sets
from emotion_circuits.circuits.components import MLP, Component, Head, Neuron
from emotion_circuits.circuits.pairs import Pair
from emotion_circuits.circuits.substitution import ALL, Mode, texts_of
from emotion_circuits.engine.gradients import Metric, metric_gradients
from emotion_circuits.models.lm import LM
from emotion_circuits.types import Positions, SiteKind

TOP = 50
RANDOM = 50
MIN_SPEARMAN = 0.9
MIN_SIGNS = 0.95
RESOLUTION = 1e-5
"""Changes below this share of the largest exact change are float32 rounding: they count as 0 in ranks and signs."""

AttributedKind = Literal["head", "mlp", "neuron"]
_KINDS: dict[AttributedKind, SiteKind] = {"head": "z", "mlp": "mlp_out", "neuron": "neuron"}


@dataclass(frozen=True)
class Gate:
    """How well attribution agrees with exact ablation on ``checked`` components; ``valid`` says whether to use it."""

    spearman: float
    signs: float
    checked: int
    valid: bool

    def sentence(self) -> str:
        """The verdict in words."""
        verdict = "may be used" if self.valid else "must not be used here"
        return (
            f"attribution patching {verdict}: rank correlation {self.spearman:.2f} (needs {MIN_SPEARMAN}), "
            f"same sign {self.signs:.0%} (needs {MIN_SIGNS:.0%}), on {self.checked} exactly ablated components"
        )


@dataclass(frozen=True)
class Attribution:
    """Estimated changes of the metric (ablated − clean), ``[layer, index, pair]``; MLPs have one index."""

    kind: AttributedKind
    estimates: NDArray[np.float64]

    def component(self, layer: int, index: int) -> Component:
        """The component of a cell."""
        if self.kind == "mlp":
            return MLP(layer)
        return Head(layer, index) if self.kind == "head" else Neuron(layer, index)


@dataclass(frozen=True)
class GatedAttribution:
    """Attribution with the exact changes ``[component, pair]`` of the checked components, and the verdict."""

    attribution: Attribution
    components: tuple[Component, ...]
    exact: NDArray[np.float64]
    gate: Gate


def attribute(
    lm: LM,
    pairs: Sequence[Pair],
    metric: Metric,
    *,
    kind: AttributedKind = "head",
    mode: Mode = "resample",
    positions: Positions = ALL,
) -> Attribution:
    """Gradient · (substitute − clean) of every head, MLP or neuron: two forwards and one backward per batch.

    Substitutes are those of exact ablation (:mod:`~emotion_circuits.circuits.substitution`).
    """
    site = _KINDS[kind]
    taps = [(site, layer) for layer in range(lm.n_layers)]
    width = {"head": lm.n_heads, "mlp": 1, "neuron": lm.d_mlp}[kind]
    estimates = np.empty((lm.n_layers, width, len(pairs)))
    for texts in texts_of(lm, pairs, taps, metric, mode=mode, positions=positions):
        found = metric_gradients(lm, texts.encoded, taps, metric)
        for tap in taps:
            clean, gradient = found.values[tap].float(), found.gradients[tap].float()
            terms = gradient * (texts.substitutes[tap].float() - clean)
            if kind != "neuron":
                terms = terms.sum(-1)
            edited = texts.edited.to(terms.device)
            summed = torch.where(edited.unsqueeze(-1), terms.view(*edited.shape, width), 0.0).sum(1)
            estimates[tap[1]][:, list(texts.numbers)] = summed.T.double().cpu().numpy()
    return Attribution(kind, estimates)


def gated_attribution(
    lm: LM,
    pairs: Sequence[Pair],
    metric: Metric,
    *,
    kind: AttributedKind = "head",
    mode: Mode = "resample",
    positions: Positions = ALL,
    top: int = TOP,
    random: int = RANDOM,
    seed: int = 0,
) -> GatedAttribution:
    """Attribution of every component, checked by exact ablation of its top and of random other components."""
    attribution = attribute(lm, pairs, metric, kind=kind, mode=mode, positions=positions)
    mean = attribution.estimates.mean(-1)
    cells = checked_cells(mean, top=top, random=random, seed=seed)
    components = tuple(attribution.component(int(layer), int(index)) for layer, index in cells)
    exact = ablate_sets(lm, pairs, [(c,) for c in components], metric, mode=mode, positions=positions).changes
    gate = judge(mean[tuple(cells.T)], exact.mean(-1))
    return GatedAttribution(attribution, components, exact, gate)


def checked_cells(
    mean: Float[NDArray[np.float64], "layer index"], *, top: int = TOP, random: int = RANDOM, seed: int = 0
) -> NDArray[np.intp]:
    """(layer, index) of the ``top`` strongest estimates and of ``random`` others, ``[cell, 2]``; all if fewer exist."""
    order = np.argsort(-np.abs(mean), axis=None, kind="stable")
    rest = np.random.default_rng(seed).permutation(order[top:])[:random]
    return np.stack(np.unravel_index(np.concatenate([order[:top], rest]), mean.shape), axis=1)


def judge(estimated: NDArray[np.float64], exact: NDArray[np.float64]) -> Gate:
    """The gate's figures on ``[component]`` mean changes; changes below :data:`RESOLUTION` count as 0."""
    floor = RESOLUTION * float(np.abs(exact).max(initial=0.0))
    a, b = (np.where(np.abs(x) <= floor, 0.0, x) for x in (estimated, exact))
    signs = float((np.sign(a) == np.sign(b)).mean()) if len(a) else 0.0
    varies = len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0
    spearman = float(stats.spearmanr(a, b).statistic) if varies else 0.0
    return Gate(spearman, signs, len(a), bool(spearman >= MIN_SPEARMAN and signs >= MIN_SIGNS))

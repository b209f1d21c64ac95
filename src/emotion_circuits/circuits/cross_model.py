"""Do the top heads of two models match in relative depth and in role more than chance?

Each top head of model A is paired with one top head of model B (the assignment with the smallest total distance). The
null hypothesis is that B's top heads are like any other heads of B: as many heads are drawn from B at random, paired
in the same way, and the observed distance is ranked among theirs, p = (b + 1)/(m + 1). A p above .05 shows nothing: it
is not evidence that heads differ, and is not said as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from emotion_circuits.circuits.components import Head
from emotion_circuits.errors import UsageError
from emotion_circuits.stats import permutation_p
from emotion_circuits.stats.checks import finite

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HeadProfile:
    """One model's heads: ``importance`` ``[layer, head]`` and ``figures`` ``[layer, head, figure]``.

    Figures (attention difference, direct contribution, change when ablated, …) are the same in both models, in this
    order; their scale is each model's own. None: they were not measured, and roles are not compared.
    """

    model: str
    importance: Float[Array, "layer head"]
    figures: Float[Array, "layer head figure"] | None

    def depths(self) -> Float[Array, " cell"]:
        """Relative depth of every head: 0 in the first layer, 1 in the last."""
        layers, heads = self.importance.shape
        return np.repeat(np.arange(layers) / max(layers - 1, 1), heads)

    def roles(self) -> Float[Array, "cell figure"]:
        """Every head's figures in SDs of its model, scaled to length 1: what it does, not how strongly."""
        assert self.figures is not None
        flat = finite(self.figures, "the figures of heads").reshape(-1, self.figures.shape[-1])
        scaled = flat / np.maximum(flat.std(0), 1e-30)
        return np.asarray(scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-30))

    def top(self, size: int) -> NDArray[np.intp]:
        """Cells of the ``size`` heads with the largest |importance|."""
        return np.argsort(-np.abs(self.importance), axis=None, kind="stable")[:size]

    def head(self, cell: Any) -> Head:
        """The head of a cell."""
        return Head(*(int(i) for i in np.unravel_index(int(cell), self.importance.shape)))


@dataclass(frozen=True)
class HeadMatch:
    """The pairs found, their mean distances, and p of each against random heads of the second model.

    ``depth`` is the mean |difference of relative depths|, ``role`` the mean 1 − cosine of roles (0 = same, 2 =
    opposite), None where roles were not measured; each is paired on its own. ``pairs`` are those of the role, or else
    those of the depth.
    """

    pairs: tuple[tuple[Head, Head], ...]
    depth: float
    role: float | None
    p_depth: float
    p_role: float | None
    draws: int

    def sentence(self, unmeasured: str = "", alpha: float = 0.05) -> str:
        """The answer in words; ``unmeasured``: why there are no roles."""
        depths = _said("depths", self.p_depth, alpha)
        roles = f"roles not measured: {unmeasured}" if self.p_role is None else _said("roles", self.p_role, alpha)
        return f"of {len(self.pairs)} top heads each, {depths}; {roles}"


def _said(what: str, p: float, alpha: float) -> str:
    if p <= alpha:
        return f"their {what} match more than random heads (p = {p:.3g})"
    return f"no match of their {what} beyond random heads was shown (p = {p:.3g})"


def match_heads(a: HeadProfile, b: HeadProfile, size: int, *, draws: int = 999, seed: int = 0) -> HeadMatch:
    """Pair the ``size`` top heads of both models and test depth and role against random heads of ``b``.

    Raises:
        UsageError: more heads asked for than half of a model has, or figures that differ in number.
    """
    smaller = min(a.importance.size, b.importance.size)
    if not 1 <= size <= smaller // 2:
        raise UsageError(f"cannot match {size} top heads of {smaller}", f"choose 1 to {smaller // 2}")
    if a.figures is not None and b.figures is not None and a.figures.shape[-1] != b.figures.shape[-1]:
        raise UsageError(
            f"{a.model} has {a.figures.shape[-1]} figures per head and {b.model} {b.figures.shape[-1]}",
            "measure the same figures in both models",
        )
    top_a, top_b = a.top(size), b.top(size)
    rng = np.random.default_rng(seed)
    random = [rng.choice(b.importance.size, size, replace=False) for _ in range(draws)]

    def ranked(cost: Array) -> tuple[float, float, NDArray[np.intp]]:
        """Mean cost ``[top of a, cell of b]`` of the best pairing, its p, and the column of each row."""
        own, order = _paired(cost[:, top_b])
        return own, float(permutation_p(own, np.array([_paired(cost[:, r])[0] for r in random]), "less")), order

    depth, p_depth, order = ranked(np.abs(a.depths()[top_a][:, None] - b.depths()[None]))
    role: float | None = None
    p_role: float | None = None
    if a.figures is not None and b.figures is not None:
        role, p_role, order = ranked(1 - a.roles()[top_a] @ b.roles().T)
    pairs = tuple((a.head(i), b.head(top_b[j])) for i, j in zip(top_a, order, strict=True))
    return HeadMatch(pairs, depth, role, p_depth, p_role, draws)


def _paired(cost: Array) -> tuple[float, NDArray[np.intp]]:
    """Mean cost of the best one-to-one pairing, and the column of each row."""
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean()), columns

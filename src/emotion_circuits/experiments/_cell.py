"""One declared cell (emotion, layer, strength): every arm on the teacher-forced endpoint, with random controls.

Random vectors are compared at matched norm, and again at matched disturbance: a random vector moves the next-token
distribution less than a direction that the model reads, so each family is also stretched until its mean KL divergence
from the unsteered model equals the vector's on dev prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._contract import ScoreStep
from emotion_circuits.types import Condition, Observation, Positions, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.engine.score import Metric
    from emotion_circuits.experiments._steering import Vectors
    from emotion_circuits.representations.controls import Family

BASE, PLUS, MINUS, ASKED = "baseline", "+v", "-v", "prompting"
PRIMARY = ("endpoint", "kl")
KL_SCALES = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66)
"""Lengths, as multiples of the vector's, at which a random family's KL is measured."""
DEV_CONTROLS = 20
"""Random vectors per family whose KL is measured on dev prompts."""
DOSE_FAMILY: Family = "covariance"
DOSE_CONTROLS = 40
"""Whose random vectors are shown beside the dose curves, and how many of them at each strength."""
KL_CONTROLS = 199
"""Random vectors per family that are tested at matched KL, a secondary comparison: p can be as small as .005."""


@dataclass(frozen=True)
class Cell:
    """Where and how strongly one emotion is added; ``length`` is that of the added vector."""

    emotion: str
    layer: int
    strength: float
    length: float

    @property
    def name(self) -> str:
        return f"{self.emotion}-L{self.layer}"


@dataclass(frozen=True)
class RandomArm:
    """One random family at one length: odd effects of its vectors, their rank p and the length they had.

    ``effects`` ``[vector]`` are means over prompts; ``scale`` is the length as a multiple of the tested vector's
    (None: no length within reach gives the vector's KL, and nothing was tested).
    """

    family: Family
    matched: str
    scale: float | None
    effects: NDArray[np.float64]
    p: float | None
    kl: float | None


@dataclass(frozen=True)
class CellScores:
    """The endpoint of one cell on one split: ``scores[arm]`` is ``[prompt]`` for the cell's own emotion.

    ``halves`` are odd effects ``[prompt]`` on words that the vectors' texts contain (``seen_words``) and on the others.
    """

    cell: Cell
    prompts: tuple[Prompt, ...]
    scores: Mapping[str, NDArray[np.float64]]
    kl: Mapping[str, float]
    random: Sequence[RandomArm] = field(default_factory=tuple)
    halves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def odd(self) -> NDArray[np.float64]:
        """(s(+v) − s(−v)) / 2 for every prompt: what is specific to the direction."""
        return (self.scores[PLUS] - self.scores[MINUS]) / 2

    @property
    def even(self) -> NDArray[np.float64]:
        """(s(+v) + s(−v)) / 2 − s(0): what adding any vector of this size does."""
        return (self.scores[PLUS] + self.scores[MINUS]) / 2 - self.scores[BASE]


def score_cell(
    vectors: Vectors,
    cell: Cell,
    prompts: Mapping[str, Sequence[Prompt]],
    metrics: Mapping[str, Metric],
    *,
    controls: int,
    prompting: Sequence[Prompt],
    seed: int,
) -> CellScores:
    """Score every arm of a cell on the test prompts; ``metrics`` are ``endpoint``, ``kl`` and any halves of the first.

    Args:
        prompts: ``dev`` (for matching KL) and ``test``. prompting: the test prompts with the request in front.
        controls: random vectors per family.
    """
    import numpy as np

    measure = vectors.context.measure
    test = tuple(prompts["test"])
    conditions = [Condition(BASE), *signed(vectors, "v", vectors.vector(cell.emotion, cell.layer), cell)]
    for other in vectors.emotions:
        if other != cell.emotion:
            conditions += signed(vectors, other, vectors.vector(other, cell.layer), cell)
    found = measure.score(f"test-{cell.name}", test, conditions, metrics)
    scores = {c.name: np.asarray(found["endpoint"][:, i], dtype=np.float64) for i, c in enumerate(conditions)}
    kl = {c.name: float(found["kl"][:, i].mean()) for i, c in enumerate(conditions)}
    halves = {
        half: np.asarray((found[half][:, 1] - found[half][:, 2]) / 2, dtype=np.float64)
        for half in metrics
        if half not in PRIMARY
    }
    metrics = {name: metrics[name] for name in PRIMARY}
    asked = measure.score(f"prompting-{cell.name}", prompting, [Condition(BASE)], metrics)
    scores[ASKED] = np.asarray(asked["endpoint"][:, 0], dtype=np.float64)
    scored = CellScores(cell, test, scores, kl, halves=halves)
    if not controls:
        return scored
    families = _random_families(vectors, cell, controls, seed)
    both = signed(vectors, "v", vectors.vector(cell.emotion, cell.layer), cell)
    own = measure.score(f"dev-kl-{cell.name}", prompts["dev"], both, {"kl": metrics["kl"]})["kl"].mean()
    arms: list[RandomArm] = []
    for family, directions in families.items():
        few = directions[:DEV_CONTROLS]
        scale = _scale_at_matched_kl(vectors, cell, family, few, prompts["dev"], metrics, float(own))
        arms.append(_random_arm(vectors, scored, family, directions, "norm", 1.0, metrics))
        arms.append(_random_arm(vectors, scored, family, directions[:KL_CONTROLS], "kl", scale, metrics))
    return CellScores(cell, test, scores, kl, tuple(arms), halves)


@dataclass(frozen=True)
class DoseBand:
    """Where the mean endpoint of the test prompts lies under random vectors of one length, for 95 % of them."""

    low: float
    high: float


def dose_bands(
    vectors: Vectors, cell: Cell, prompts: Sequence[Prompt], lengths: Mapping[float, float], metric: Metric,
    *, controls: int, seed: int,
) -> dict[float, DoseBand]:  # fmt: skip
    """Random vectors of covariance-matched directions at every strength, in the cell's layer.

    Args:
        lengths: the length that each strength (0 left out) adds.
    """
    import numpy as np

    from emotion_circuits.representations.controls import random_directions

    fit, count = vectors.fit_texts(), min(DOSE_CONTROLS, controls)
    drawn = random_directions(
        DOSE_FAMILY, count, neutral=vectors.neutral_activations(cell.layer), fit=fit, emotion=cell.emotion,
        layer_row=fit.layers.index(cell.layer), seed=seed,
    )  # fmt: skip
    conditions = [
        Condition(f"{DOSE_FAMILY}:{i}@{s:g}", (vectors.add(v, cell.layer, length),))
        for s, length in lengths.items()
        for i, v in enumerate(drawn)
    ]
    found = vectors.context.measure.score(f"dose-{cell.name}", prompts, conditions, {"endpoint": metric})["endpoint"]
    means = np.asarray(found, dtype=np.float64).reshape(len(prompts), len(lengths), count).mean(axis=0)
    low, high = np.quantile(means, (0.025, 0.975), axis=1)
    return {s: DoseBand(float(low[i]), float(high[i])) for i, s in enumerate(lengths)}


def cell_work(
    name: str, emotions: int, prompts: Mapping[str, Sequence[Prompt]], prompting: Sequence[Prompt], controls: int,
    layer: int, at: Positions, strengths: int,
) -> list[ScoreStep]:  # fmt: skip
    """What :func:`score_cell` and :func:`dose_bands` (at ``strengths`` other than 0) score of one cell, at most."""
    from emotion_circuits.representations.controls import FAMILIES

    dev, test = tuple(prompts["dev"]), tuple(prompts["test"])
    steps = [
        ScoreStep(f"test-{name}", test, 1 + 2 * emotions, layer, at),
        ScoreStep(f"prompting-{name}", tuple(prompting), 1, layer, at),
    ]
    if controls:
        steps.append(ScoreStep(f"dev-kl-{name}", dev, 2, layer, at))
        steps.append(ScoreStep(f"dose-{name}", test, strengths * min(DOSE_CONTROLS, controls), layer, at))
    for family in FAMILIES if controls else ():
        scales = len(KL_SCALES) * min(DEV_CONTROLS, controls)
        steps += [
            ScoreStep(f"dev-kl-{name}-{family}", dev, scales, layer, at),
            ScoreStep(f"random-{name}-{family}-norm", test, 2 * controls, layer, at),
            ScoreStep(f"random-{name}-{family}-kl", test, 2 * min(KL_CONTROLS, controls), layer, at),
        ]
    return steps


def signed(vectors: Vectors, name: str, vector: NDArray[Any], cell: Cell, scale: float = 1.0) -> list[Condition]:
    """A direction added both ways at the cell's length (times ``scale``)."""
    return [
        Condition(f"{sign}{name}", (vectors.add(vector, cell.layer, factor * scale * cell.length),))
        for sign, factor in (("+", 1.0), ("-", -1.0))
    ]


def _random_families(vectors: Vectors, cell: Cell, count: int, seed: int) -> dict[Family, NDArray[np.float64]]:
    from emotion_circuits.representations.controls import FAMILIES, random_directions

    fit = vectors.fit_texts()
    return {
        family: random_directions(
            family, count, neutral=vectors.neutral_activations(cell.layer), fit=fit, emotion=cell.emotion,
            layer_row=fit.layers.index(cell.layer), seed=seed,
        )
        for family in FAMILIES
    }  # fmt: skip


def _random_arm(
    vectors: Vectors, scored: CellScores, family: Family, directions: NDArray[Any], matched: str, scale: float | None,
    metrics: Mapping[str, Metric],
) -> RandomArm:  # fmt: skip
    """The odd effects of one family's vectors at one length, and the tested vector's rank among them."""
    import numpy as np

    from emotion_circuits.stats import permutation_p

    cell = scored.cell
    if scale is None:
        return RandomArm(family, matched, None, np.empty(0), None, None)
    conditions = [c for i, v in enumerate(directions) for c in signed(vectors, f"{family}:{i}", v, cell, scale)]
    found = vectors.context.measure.score(f"random-{cell.name}-{family}-{matched}", scored.prompts, conditions, metrics)
    by_sign = np.asarray(found["endpoint"], dtype=np.float64).reshape(len(scored.prompts), len(directions), 2)
    effects = ((by_sign[..., 0] - by_sign[..., 1]) / 2).mean(axis=0)
    p = float(permutation_p(np.array(scored.odd.mean()), effects, "greater"))
    return RandomArm(family, matched, scale, effects, p, float(found["kl"].mean()))


def _scale_at_matched_kl(
    vectors: Vectors, cell: Cell, family: Family, directions: NDArray[Any], dev: Sequence[Prompt],
    metrics: Mapping[str, Metric], own: float,
) -> float | None:  # fmt: skip
    """How much longer a family's vectors must be so that their mean KL on dev equals the tested vector's, ``own``.

    Interpolated between the lengths of ``KL_SCALES`` (log KL against log length); None outside their range.
    """
    import numpy as np

    measure, kl = vectors.context.measure, {"kl": metrics["kl"]}
    conditions = [
        Condition(f"{family}:{i}×{scale}", (vectors.add(v, cell.layer, scale * cell.length),))
        for scale in KL_SCALES
        for i, v in enumerate(directions)
    ]
    found = measure.score(f"dev-kl-{cell.name}-{family}", dev, conditions, kl)["kl"]
    means = np.asarray(found, dtype=np.float64).reshape(len(dev), len(KL_SCALES), len(directions)).mean(axis=(0, 2))
    logs = np.maximum.accumulate(np.log(np.maximum(means, 1e-12)))
    wanted = float(np.log(max(own, 1e-12)))
    if not logs[0] <= wanted <= logs[-1]:
        return None
    return float(np.exp(np.interp(wanted, logs, np.log(KL_SCALES))))


def cell_observations(scored: CellScores, experiment: str, model: str, position: str) -> Iterator[Observation]:
    """Every arm's endpoint for every prompt (random vectors have their mean odd effects in the run's tensors)."""
    cell = scored.cell
    for arm, values in scored.scores.items():
        for prompt, value in zip(scored.prompts, values, strict=True):
            yield Observation(
                experiment=experiment, model=model, emotion=cell.emotion, layer=cell.layer, position=position,
                strength=cell.strength, arm=arm, unit=prompt.id, cluster=prompt.scenario or prompt.id, split="test",
                sample=0, scorer="logit", value=float(value),
            )  # fmt: skip

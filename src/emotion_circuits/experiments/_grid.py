"""The grid of a sweep: endpoint and texts of every cell, the cell that dev chooses, and its test.

1. Score every cell on every prompt (teacher-forced). 2. Write sampled dev texts for every strength, both signs. 3. Of
the cells whose dev texts pass the damage gate, and would on most draws of the prompts, take the one whose weaker
endpoint is strongest. 4. Test that one cell on the test prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._cell import (
    ASKED,
    BASE,
    MINUS,
    PLUS,
    Cell,
    CellScores,
    DoseBand,
    cell_work,
    dose_bands,
    score_cell,
)
from emotion_circuits.experiments._contract import ScoreStep, TextStep
from emotion_circuits.experiments._endpoint import EndpointTokens
from emotion_circuits.experiments._paired import t_of_mean
from emotion_circuits.experiments._steering import Unit, Vectors, expected_emotions, steered_prompts
from emotion_circuits.experiments._texts import ScoredTexts, damage_of, pass_rate_of, prompted, write_texts
from emotion_circuits.types import Condition, Positions, Prompt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.experiments.sweep import Sweep
    from emotion_circuits.scorers.fluency import Damage


LEAST_PASS_RATE = 0.9
"""Share of draws of the dev prompts in which a cell has to pass the damage gate to be declared.

A gate passed by a hair on a few dev texts is failed on test about every second time.
"""
TEXTS_READ = 6
"""Test prompts whose greedy texts are written under every arm of a tested cell, for people to read; not selected."""


@dataclass(frozen=True)
class Choice:
    """What dev says about one cell: mean odd effects on both endpoints, damage, and the smaller t of the two.

    ``gated``: its texts pass the damage gate reliably (``pass_rate``) and both effects are positive. Where no cell is,
    the one whose texts pass most often is tested.
    """

    cell: Cell
    dev_effect: float
    dev_embedded: float | None
    damage: Damage
    pass_rate: float
    gated: bool
    rank: float


@dataclass(frozen=True)
class Tested:
    """One emotion's declared cell on test: endpoint of all arms, sampled texts and their damage.

    ``greedy`` are texts to read, ``{arm: [prompt]}`` of the first prompts; nothing is computed from them.
    """

    choice: Choice
    scores: CellScores
    texts: ScoredTexts
    asked: ScoredTexts
    greedy: Mapping[str, Sequence[str]]
    damage: Damage
    bands: Mapping[float, DoseBand] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Everything a sweep measured. ``scores[metric]`` is ``[prompt, condition]``: the baseline, then the cells."""

    vectors: Vectors
    endpoint: EndpointTokens
    prompts: tuple[Prompt, ...]
    layers: tuple[int, ...]
    strengths: tuple[float, ...]
    unit: Unit
    conditions: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float32]]
    texts: ScoredTexts | None
    tested: tuple[Tested, ...]

    def score(self, emotion: str, layer: int, strength: float) -> NDArray[np.float64]:
        """``[prompt]``: the emotion's endpoint when its own vector is added."""
        import numpy as np

        name = BASE if strength == 0 else cell_name(emotion, layer, strength)
        return np.asarray(self.scores[emotion][:, self.conditions.index(name)], dtype=np.float64)

    def rows(self, split: str) -> NDArray[np.bool_]:
        """``[prompt]``: which prompts belong to a split."""
        import numpy as np

        return np.array([p.split == split for p in self.prompts])


def cell_name(emotion: str, layer: int, strength: float) -> str:
    """Name of a grid condition."""
    return f"{emotion}-L{layer}{strength:+g}"


def run_grid(
    vectors: Vectors, params: Sweep.Params, layers: tuple[int, ...], strengths: tuple[float, ...], unit: Unit
) -> Grid:
    """Score the grid, write its texts, choose a cell per emotion on dev and test it."""
    measure = vectors.context.measure
    endpoint = EndpointTokens(measure, vectors.emotions)
    prompts = steered_prompts(params)
    conditions = [Condition(BASE)] + [
        vectors.condition(cell_name(e, layer, s), e, layer, s, unit)
        for e, layer, s in _grid_cells(vectors.emotions, layers, strengths)
    ]
    scores = measure.score("grid", prompts, conditions, endpoint.of_grid())
    texts = None
    if params.texts == "grid":
        texts = write_texts(measure, "grid-texts", prompts, conditions, _greedy(params), vectors.emotions)
    names = tuple(c.name for c in conditions)
    grid = Grid(vectors, endpoint, prompts, layers, strengths, unit, names, scores, texts, ())
    tested = tuple(_test(grid, params, _choose(grid, params, e)) for e in vectors.emotions)
    return Grid(vectors, endpoint, prompts, layers, strengths, unit, names, scores, texts, tested)


def grid_work(
    params: Sweep.Params, layers: tuple[int, ...], strengths: tuple[float, ...]
) -> list[ScoreStep | TextStep]:
    """What :func:`run_grid` runs, at most. Which layer is declared is not known yet: a middle one stands for it."""
    emotions, prompts, at = expected_emotions(params), steered_prompts(params), Positions.parse(params.at)
    split = {name: tuple(p for p in prompts if p.split == name) for name in ("dev", "test")}
    middle, new = layers[len(layers) // 2], params.max_new_tokens
    cells = 1 + len(_grid_cells(emotions, layers, strengths))
    tried = 1 + 2 * len(_grid_cells(emotions[:1], layers, [s for s in strengths if s > 0]))
    steps: list[ScoreStep | TextStep] = [ScoreStep("grid", prompts, cells, middle, at)]
    if params.texts == "grid":
        steps.append(TextStep("grid-texts", prompts, cells, new, 1, middle, at))
    for e in emotions:
        asked = prompted(split["test"], e)
        steps += [
            TextStep(f"dev-{e}", split["dev"], tried, new, params.dev_samples, middle, at),
            *cell_work(e, len(emotions), split, asked, params.random, middle, at, sum(s != 0 for s in strengths)),
            TextStep(f"test-texts-{e}", split["test"], 3, new, params.samples, middle, at),
            TextStep(f"test-texts-{e}-asked", asked, 1, new, params.samples, middle, at),
            TextStep(f"read-{e}", split["test"][:TEXTS_READ], 3, new, 1, middle, at, judged=False),
            TextStep(f"read-{e}-asked", asked[:TEXTS_READ], 1, new, 1, middle, at, judged=False),
        ]
    return steps


def _grid_cells(
    emotions: Sequence[str], layers: Sequence[int], strengths: Sequence[float]
) -> list[tuple[str, int, float]]:
    """Emotion, layer and strength of every steered condition."""
    return [(e, layer, s) for e in emotions for layer in layers for s in strengths if s != 0]


def _greedy(params: Sweep.Params) -> Any:
    from emotion_circuits.engine import Sampling

    return Sampling(max_new_tokens=params.max_new_tokens)


def _sampled(params: Sweep.Params, samples: int, seed: int) -> Any:
    from emotion_circuits.engine import Sampling

    return Sampling(params.max_new_tokens, params.temperature, params.top_p, samples, seed)


def _choose(grid: Grid, params: Sweep.Params, emotion: str) -> Choice:
    """The cell whose weaker endpoint is strongest on dev, among those whose sampled dev texts are reliably sound.

    Both endpoints have to move on test, so cells are ranked by the smaller of their two t statistics.
    """
    vectors = grid.vectors
    dev = [p for p in grid.prompts if p.split == "dev"]
    cells = [(layer, s) for layer in grid.layers for s in grid.strengths if s > 0]
    conditions = [Condition(BASE)] + [
        vectors.condition(cell_name(emotion, layer, sign * s), emotion, layer, sign * s, grid.unit)
        for layer, s in cells
        for sign in (1, -1)
    ]
    sampling = _sampled(params, params.dev_samples, vectors.context.seed)
    texts = write_texts(vectors.context.measure, f"dev-{emotion}", dev, conditions, sampling, vectors.emotions)
    found = [_candidate(grid, params, emotion, layer, s, texts) for layer, s in cells]
    return max(found, key=lambda c: (c.gated, c.rank if c.gated else c.pass_rate, c.rank))


def _candidate(
    grid: Grid, params: Sweep.Params, emotion: str, layer: int, strength: float, texts: ScoredTexts
) -> Choice:
    """One cell with what dev says about it."""
    dev = grid.rows("dev")
    prompts = [p for p in grid.prompts if p.split == "dev"]
    up, down = cell_name(emotion, layer, strength), cell_name(emotion, layer, -strength)
    effect = (grid.score(emotion, layer, strength) - grid.score(emotion, layer, -strength))[dev] / 2
    ranks, embedded, scorer = [t_of_mean(effect, prompts)], None, f"embedded:{emotion}"
    if scorer in texts.values:
        moved = (texts.of(scorer, up).mean(axis=1) - texts.of(scorer, down).mean(axis=1)) / 2
        ranks.append(t_of_mean(moved, prompts))
        embedded = float(moved.mean())
    damage = damage_of(texts, BASE, up)
    cell = Cell(emotion, layer, strength, strength * grid.vectors.length(emotion, layer, grid.unit))
    rate = pass_rate_of(texts, BASE, up, grid.vectors.context.seed)
    gated = damage.ok and rate >= LEAST_PASS_RATE and min(ranks) > 0
    return Choice(cell, float(effect.mean()), embedded, damage, rate, gated, min(ranks))


def _test(grid: Grid, params: Sweep.Params, choice: Choice) -> Tested:
    """The declared cell on test prompts: all arms on the endpoint, baseline, ±v and the request as sampled texts."""
    vectors, cell = grid.vectors, choice.cell
    context = vectors.context
    split = {name: [p for p in grid.prompts if p.split == name] for name in ("dev", "test")}
    asked = prompted(split["test"], cell.emotion)
    scores = score_cell(
        vectors, cell, split, grid.endpoint.of_cell(cell.emotion, vectors.fitted_on(cell.emotion)),
        controls=params.random, prompting=asked, seed=context.seed,
    )  # fmt: skip
    conditions = [Condition(BASE)] + [
        Condition(name, (vectors.add(vectors.vector(cell.emotion, cell.layer), cell.layer, sign * cell.length),))
        for name, sign in ((PLUS, 1.0), (MINUS, -1.0))
    ]
    sampling = _sampled(params, params.samples, context.seed)
    name = f"test-texts-{cell.emotion}"
    texts = write_texts(context.measure, name, split["test"], conditions, sampling, vectors.emotions)
    requested = write_texts(
        context.measure, f"{name}-asked", asked, [Condition(BASE)], sampling, vectors.emotions, plain=split["test"]
    )
    bands = {}
    if params.random:
        lengths = {s: s * vectors.length(cell.emotion, cell.layer, grid.unit) for s in grid.strengths if s != 0}
        metric = grid.endpoint.metric(cell.emotion)
        bands = dose_bands(vectors, cell, split["test"], lengths, metric, controls=params.random, seed=context.seed)
    greedy = _greedy_texts(vectors, params, cell.emotion, split["test"], asked, conditions)
    return Tested(choice, scores, texts, requested, greedy, damage_of(texts, BASE, PLUS), bands)


def _greedy_texts(
    vectors: Vectors, params: Sweep.Params, emotion: str, prompts: Sequence[Prompt], asked: Sequence[Prompt],
    conditions: Sequence[Condition],
) -> dict[str, list[str]]:  # fmt: skip
    """``{arm: [prompt]}``: what the model itself finds likeliest, which a sample at temperature 1 need not be."""
    generate, few = vectors.context.measure.generate, prompts[:TEXTS_READ]
    written = generate(f"read-{emotion}", few, conditions, _greedy(params))
    found = {c.name: [g.text for g in written[i :: len(conditions)]] for i, c in enumerate(conditions)}
    requested = generate(f"read-{emotion}-asked", asked[:TEXTS_READ], [Condition(BASE)], _greedy(params))
    return {**found, ASKED: [g.text for g in requested]}

"""``controls``: what random vectors, other emotions, the opposite vector and plain asking make the model write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.experiments._cell import ASKED, BASE, MINUS, PLUS, Cell
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    ExperimentParams,
    Needed,
    Outcome,
    TextStep,
)
from emotion_circuits.experiments._full_controls import full_figures, full_grid, full_table, full_work
from emotion_circuits.experiments._paired import as_csv, mean_known, paired_row
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._relabelled import require_arrangements, shuffling_inputs
from emotion_circuits.experiments._steering import (
    Vectors,
    expected_emotions,
    permuted_texts,
    required_runs,
    steered_prompts,
    steering_captures,
)
from emotion_circuits.experiments.sweep import Sweep, grid_of
from emotion_circuits.types import Condition, Figure, Observation, Positions, Prompt, Section, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.experiments._texts import ScoredTexts
    from emotion_circuits.models.lm import LM

SCORERS = ("embedded", "lexicon", "vader", "log_perplexity", "rep4", "distinct2", "words", "empty")
MOST_GENERATED = 10
ARMS_CAPTION = (
    "Paired over test prompts. Against a random family the interval is over prompts and over its vectors, where there "
    "are five of each; p is over prompts."
)
FEWEST_CROSSED = 5
"""Prompts and vectors below which no interval over both is computed."""


@experiment(
    "controls", "Texts under random vectors, other emotions, the opposite vector and asking, at the chosen cells."
)
class Controls(Experiment):
    """Teacher-forced ranks among hundreds of random vectors are in ``sweep``; here their texts are written and read."""

    version = 3

    class Params(ExperimentParams):
        """Parameters of ``controls``."""

        sweep: Sweep.Params = Field(default_factory=Sweep.Params, description="The sweep whose cells are controlled.")
        generated: int = Field(
            MOST_GENERATED, ge=1, le=MOST_GENERATED, description="Random vectors per family whose texts are written."
        )
        samples: int = Field(1, ge=1, description="Sampled texts per prompt and arm.")
        full_controls: bool = Field(
            False,
            description="Also the plan's whole grid: isotropic vectors in every cell of the sweep, greedy texts, "
            "and each cell's emotion vector ranked among them.",
        )
        full_vectors: int = Field(100, ge=1, description="Isotropic vectors per cell of --full-controls.")
        resamples: int = Field(1000, ge=200, description="Bootstrap resamples of prompts.")
        permutations: int = Field(1000, ge=99, description="Sign flips of prompts.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return [Needed("sweep", params.sweep), *required_runs(params.sweep)]

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        return steering_captures(params.sweep)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        """The key of a sweep without random vectors does not say how labels are shuffled."""
        permuted = permuted_texts(params.sweep)
        require_arrangements(permuted, params.generated, "--generated", 1)
        return {} if params.sweep.random else shuffling_inputs(permuted)

    def workload(self, lm: LM, params: Params) -> Sequence[TextStep]:
        """Which layers the sweep declares is not known yet: a middle one stands for them."""
        from emotion_circuits.experiments._texts import prompted
        from emotion_circuits.representations.controls import FAMILIES

        sweep, at = params.sweep, Positions.parse(params.sweep.at)
        emotions, new = expected_emotions(sweep), params.sweep.max_new_tokens
        layers, _, _ = grid_of(lm, sweep)
        middle, prompts = layers[len(layers) // 2], _test_prompts(params)
        # The baseline, both signs, the other emotions, the random vectors.
        conditions = 1 + 2 + len(emotions) - 1 + len(FAMILIES) * params.generated
        steps = []
        for e in emotions:
            steps += [
                TextStep(f"controls-{e}", prompts, conditions, new, params.samples, middle, at),
                TextStep(f"controls-{e}-asked", prompted(prompts, e), 1, new, params.samples, middle, at),
            ]
        return [*steps, *(full_work(lm, sweep, params.full_vectors) if params.full_controls else [])]

    def summarise(self, context: Context, params: Params) -> Outcome:
        vectors = Vectors(context, params.sweep)
        cells = [_cell(row, vectors) for row in context.runs["sweep"].read_summary()["test"]]
        arms = [_write_arms(vectors, params, cell) for cell in cells]
        rows = [row for a in arms for row in _effects(a, params, context.seed)]
        full = full_grid(vectors, params.sweep, params.full_vectors) if params.full_controls else []
        said = [_sentence(rows, a.cell.emotion) for a in arms]
        return Outcome(
            {"results": rows, "full_controls": full},
            said,
            _section(arms, rows, full, said),
            (o for a in arms for o in _observations(a, context, params)),
            files={"effects.csv": as_csv(rows), "distributions.csv": as_csv(list(_distribution(arms)))},
        )


@dataclass(frozen=True)
class _Arms:
    """The texts of one cell; ``families`` maps an arm's name to its conditions (random families have several)."""

    cell: Cell
    prompts: tuple[Prompt, ...]
    texts: ScoredTexts
    asked: ScoredTexts
    families: Mapping[str, tuple[str, ...]]

    def values(self, arm: str, scorer: str) -> NDArray[np.float64]:
        """``[prompt]``: samples and the vectors of a family averaged."""
        return mean_known(self.by_vector(arm, scorer), axis=1)

    def by_vector(self, arm: str, scorer: str) -> NDArray[np.float64]:
        """``[prompt, vector]``: samples averaged."""
        import numpy as np

        name = f"{scorer}:{self.cell.emotion}" if scorer in ("embedded", "lexicon") else scorer
        if arm == ASKED:
            return mean_known(self.asked.of(name, BASE), axis=1)[:, None]
        return np.stack([mean_known(self.texts.of(name, c), axis=1) for c in self.families[arm]], axis=1)

    def scorers(self) -> list[str]:
        named = {s.split(":")[0] for s in self.texts.values if ":" not in s or s.endswith(f":{self.cell.emotion}")}
        return [s for s in SCORERS if s in named]


def _cell(row: Mapping[str, Any], vectors: Vectors) -> Cell:
    unit = vectors.context.runs["sweep"].read_summary()["unit"]
    length = row["alpha"] * vectors.length(row["emotion"], row["layer"], unit)
    return Cell(row["emotion"], row["layer"], row["alpha"], length)


def _test_prompts(params: Controls.Params) -> tuple[Prompt, ...]:
    return tuple(p for p in steered_prompts(params.sweep) if p.split == "test")


def _write_arms(vectors: Vectors, params: Controls.Params, cell: Cell) -> _Arms:
    """Sampled texts of every arm of one cell on the test prompts."""
    from emotion_circuits.engine import Sampling
    from emotion_circuits.experiments._texts import prompted, write_texts
    from emotion_circuits.representations.controls import FAMILIES, random_directions

    sweep, context = params.sweep, vectors.context
    own = vectors.vector(cell.emotion, cell.layer)
    arms: dict[str, list[tuple[str, NDArray[Any], float]]] = {PLUS: [(PLUS, own, 1.0)], MINUS: [(MINUS, own, -1.0)]}
    for other in vectors.emotions:
        if other != cell.emotion:
            arms[f"other: {other}"] = [(f"other-{other}", vectors.vector(other, cell.layer), 1.0)]
    fit = vectors.fit_texts()
    for family in FAMILIES:
        drawn = random_directions(
            family, params.generated, neutral=vectors.neutral_activations(cell.layer), fit=fit, emotion=cell.emotion,
            layer_row=fit.layers.index(cell.layer), seed=context.seed,
        )  # fmt: skip
        arms[f"random: {family}"] = [(f"{family}-{i}", v, 1.0) for i, v in enumerate(drawn)]
    conditions = [Condition(BASE)] + [
        Condition(name, (vectors.add(vector, cell.layer, sign * cell.length),))
        for members in arms.values()
        for name, vector, sign in members
    ]
    prompts = _test_prompts(params)
    sampling = Sampling(sweep.max_new_tokens, sweep.temperature, sweep.top_p, params.samples, context.seed)
    step = f"controls-{cell.emotion}"
    texts = write_texts(context.measure, step, prompts, conditions, sampling, vectors.emotions)
    asked = write_texts(
        context.measure, f"{step}-asked", prompted(prompts, cell.emotion), [Condition(BASE)], sampling,
        vectors.emotions, plain=prompts,
    )  # fmt: skip
    families = {BASE: (BASE,), **{name: tuple(m[0] for m in members) for name, members in arms.items()}}
    return _Arms(cell, prompts, texts, asked, families)


def _effects(arms: _Arms, params: Controls.Params, seed: int) -> list[dict[str, Any]]:
    """Every arm against the baseline, and the emotion's vector against every random family, by scorer.

    Paired over prompts: mean difference with its interval, g_z with its non-central-t interval, sign-flip p, damage of
    the arm's texts. Against a random family the interval is over its vectors too (``over``), where they are enough.
    """
    names = [*arms.families, ASKED]
    pairs = [(arm, BASE) for arm in names if arm != BASE]
    pairs += [(PLUS, arm) for arm in names if arm.startswith("random")]
    rows = []
    for scorer in arms.scorers():
        for arm, against in pairs:
            row = paired_row(
                arms.values(arm, scorer) - arms.values(against, scorer), arms.prompts,
                resamples=params.resamples, permutations=params.permutations, seed=seed,
            )  # fmt: skip
            crossed: dict[str, Any] = {"over": "prompts", "vectors": len(arms.families.get(against, ()))}
            if against.startswith("random") and row["ci"] is not None:
                gaps = arms.values(arm, scorer)[:, None] - arms.by_vector(against, scorer)
                crossed |= over_vectors(gaps, arms.prompts, params.resamples, seed)
            rows.append({"emotion": arms.cell.emotion, "layer": arms.cell.layer, "alpha": arms.cell.strength,
                         "scorer": scorer, "arm": arm, "against": against, **row, **crossed})  # fmt: skip
    return rows


def over_vectors(gaps: NDArray[np.float64], prompts: Sequence[Prompt], resamples: int, seed: int) -> dict[str, Any]:
    """``ci`` of ``[prompt, vector]`` differences for other prompts *and* vectors; nothing where either are too few.

    It is an interval of what a paired row of the same differences estimates, the mean over prompts of each one's mean
    over the vectors under which it was measured: a text that a scorer cannot read costs its own number only.
    ``vectors``: how many were measured at all.
    """
    import numpy as np

    from emotion_circuits.stats import crossed_interval

    known = np.isfinite(gaps)
    clusters = np.array([p.scenario or p.id for p in prompts])
    vectors = int(known.any(axis=0).sum())
    if min(len(np.unique(clusters[known.any(axis=1)])), vectors) < FEWEST_CROSSED:
        return {}
    found = crossed_interval(gaps, clusters, resamples=resamples, seed=seed)
    return {"ci": [float(found.low), float(found.high)], "over": "prompts and vectors", "vectors": vectors}


def _sentence(rows: Sequence[Mapping[str, Any]], emotion: str) -> str:
    """The classifier's answer: the vector against the strictest random family, and against asking."""
    mine = [r for r in rows if r["emotion"] == emotion and r["scorer"] == "embedded"]
    random = [r for r in mine if r["arm"] == PLUS and str(r["against"]).startswith("random") and r["ci"] is not None]
    if not random:
        return f"{emotion}: no evaluator for this emotion read the texts"
    worst = min(random, key=lambda r: r["ci"][0])
    asked, steered = (next(r for r in mine if r["arm"] == arm and r["against"] == BASE) for arm in (ASKED, PLUS))
    clear = worst["ci"][0] > 0
    if worst["over"] == "prompts":
        does = "does" if clear else "does not clearly do"
        verdict = f"{does} more than the mean of these {worst['vectors']}"
    else:
        verdict = "beats" if clear else "does not clearly beat"
    return (
        f"{emotion}: in written texts its vector {verdict} random vectors (classifier {worst['mean_diff']:+.2f} "
        f"[{worst['ci'][0]:+.2f}, {worst['ci'][1]:+.2f}] over {worst['against'].removeprefix('random: ')} ones); "
        f"steering {steered['mean_diff']:+.2f}, asking {asked['mean_diff']:+.2f}"
    )


def _section(
    arms: Sequence[_Arms], rows: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]], said: Sequence[str]
) -> Section:
    columns = {"emotion": "emotion", "scorer": "scorer", "arm": "arm", "against": "against", "mean_diff": "difference",
               "ci": "95 % interval", "over": "interval over", "g_z": "g_z", "p_permutation": "p",
               "n": "prompts"}  # fmt: skip
    tables = [Table("controls", "Arms at the chosen cells", ARMS_CAPTION, columns, rows)]
    if full:
        tables.append(full_table(full))
    figures = [
        Figure(
            f"controls-{a.cell.emotion}", "violins", f"Classifier's score of the texts: {a.cell.emotion}",
            f"Each test prompt's mean at layer {a.cell.layer}, α {a.cell.strength:g}.",
            "Distributions of classifier scores by arm.",
            [{"arm": r["arm"], "value": r["value"]} for r in _distribution([a]) if r["scorer"] == "embedded"],
            {"x": "classifier score"},
        )
        for a in arms
    ]  # fmt: skip
    return Section("controls", "Is it the vector, or any vector?", [s + "." for s in said],
                   [f for f in (*figures, *full_figures(full)) if f.data], tables)  # fmt: skip


def _distribution(arms: Sequence[_Arms]) -> Iterator[dict[str, Any]]:
    """Every prompt's mean by arm and scorer."""
    for a in arms:
        for scorer in a.scorers():
            for arm in (*a.families, ASKED):
                for prompt, value in zip(a.prompts, a.values(arm, scorer), strict=True):
                    if value == value:
                        yield {"emotion": a.cell.emotion, "scorer": scorer, "arm": arm, "prompt": prompt.id,
                               "value": float(value)}  # fmt: skip


def _observations(arms: _Arms, context: Context, params: Controls.Params) -> Iterator[Observation]:
    clusters = {p.id: p.scenario or p.id for p in arms.prompts}
    for row in _distribution([arms]):
        yield Observation(
            experiment="controls", model=context.lm.name, emotion=arms.cell.emotion, layer=arms.cell.layer,
            position=params.sweep.position, strength=arms.cell.strength, arm=row["arm"], unit=row["prompt"],
            cluster=clusters[row["prompt"]], split="test", sample=0, scorer=row["scorer"], value=row["value"],
        )  # fmt: skip

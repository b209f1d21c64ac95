"""The original plan's random arm: isotropic vectors in every cell of a sweep, greedy texts of every prompt.

Where the sweep wrote greedy texts too, each cell's emotion vector is ranked among its random vectors of the same length
by what the evaluators say about the texts. Cells with a negative strength are left out: the opposite of an isotropic
vector is as likely as the vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._contract import TextStep
from emotion_circuits.experiments._steering import Vectors, expected_emotions, steered_prompts
from emotion_circuits.experiments.sweep import Sweep, grid_of
from emotion_circuits.types import Condition, Figure, Positions, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments._texts import ScoredTexts
    from emotion_circuits.models.lm import LM

SCORERS = ("embedded", "lexicon", "log_perplexity", "rep4")
SHARED = ""
"""In place of an emotion where the vectors of all emotions have one length, and so one set of random texts will do."""


def full_work(lm: LM, sweep: Sweep.Params, vectors: int) -> list[TextStep]:
    """What :func:`full_grid` writes."""
    layers, strengths, unit = grid_of(lm, sweep)
    return [
        TextStep(_step(owner, layer, s), steered_prompts(sweep), vectors, sweep.max_new_tokens, 1, layer,
                 Positions.parse(sweep.at))
        for owner in _owners(expected_emotions(sweep), unit)
        for layer in layers
        for s in strengths
        if s > 0
    ]  # fmt: skip


def full_grid(vectors: Vectors, sweep: Sweep.Params, count: int) -> list[dict[str, Any]]:
    """A row per emotion, layer, strength and scorer: the emotion's texts beside those of ``count`` random vectors.

    Means are over prompts; ``low`` and ``high`` hold 95 % of the random vectors. ``steered`` and ``p`` (share of random
    vectors that score as high, (b+1)/(m+1)) are None where the sweep wrote no greedy texts.
    """
    layers, strengths, unit = grid_of(vectors.context.lm, sweep)
    told = vectors.context.runs["sweep"].read_json("sweep.json")["aggregated_metrics"]
    rows = []
    for owner in _owners(vectors.emotions, unit):
        for layer in layers:
            for s in (s for s in strengths if s > 0):
                texts = _written(vectors, sweep, count, owner, layer, s)
                for emotion in (owner,) if owner else vectors.emotions:
                    own = told[emotion][str(layer)][f"{s:g}"]
                    rows += [
                        {"emotion": emotion, "layer": layer, "alpha": s, "scorer": scorer, "vectors": count, **found}
                        for scorer, found in _ranked(texts, emotion, own)
                    ]
    return rows


def _owners(emotions: Sequence[str], unit: str) -> tuple[str, ...]:
    return (SHARED,) if unit == "fraction" else tuple(emotions)


def _step(owner: str, layer: int, strength: float) -> str:
    return "-".join(part for part in ("full", owner, f"L{layer}", f"{strength:g}") if part)


def _written(
    vectors: Vectors, sweep: Sweep.Params, count: int, owner: str, layer: int, strength: float
) -> ScoredTexts:  # fmt: skip
    import numpy as np

    from emotion_circuits.engine import Sampling
    from emotion_circuits.experiments._texts import write_texts
    from emotion_circuits.representations.controls import isotropic

    context, unit = vectors.context, grid_of(vectors.context.lm, sweep)[2]
    length = strength * vectors.length(owner or vectors.emotions[0], layer, unit)
    drawn = isotropic(count, context.lm.d_model, np.random.default_rng(context.seed))
    return write_texts(
        context.measure, _step(owner, layer, strength), steered_prompts(sweep),
        [Condition(f"isotropic-{i}", (vectors.add(v, layer, length),)) for i, v in enumerate(drawn)],
        Sampling(sweep.max_new_tokens), vectors.emotions,
    )  # fmt: skip


def _ranked(
    texts: ScoredTexts, emotion: str, own: Mapping[str, float | None]
) -> Iterator[tuple[str, dict[str, float | None]]]:
    """Each scorer's mean under every random vector, and the emotion's own mean among them."""
    import numpy as np

    from emotion_circuits.stats import permutation_p

    for scorer in SCORERS:
        name = f"{scorer}:{emotion}" if scorer in ("embedded", "lexicon") else scorer
        if name not in texts.values:
            continue
        columns = [texts.of(name, c) for c in texts.conditions]
        means = np.array([np.nanmean(c) for c in columns if np.isfinite(c).any()])
        if not len(means):
            continue
        low, high = np.quantile(means, (0.025, 0.975))
        steered = own.get(name)
        yield scorer, {
            "steered": steered, "random": float(means.mean()), "low": float(low), "high": float(high),
            "p": None if steered is None else float(permutation_p(np.array(steered), means, "greater")),
        }  # fmt: skip


def full_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every row of :func:`full_grid`."""
    columns = {
        "emotion": "emotion", "layer": "layer", "alpha": "α", "scorer": "scorer", "steered": "emotion vector",
        "random": "random vectors", "low": "2.5 %", "high": "97.5 %", "p": "rank p", "vectors": "vectors",
    }  # fmt: skip
    return Table(
        "full-controls", "Isotropic vectors over the whole grid",
        "Means over prompts, greedy texts; p: share of random vectors of the same length that score as high. "
        "Exploratory: not corrected.",
        columns, rows,
    )  # fmt: skip


def full_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """The classifier's score over random vectors of the same length, by layer and strength, a figure an emotion."""
    mine = [r for r in rows if r["scorer"] == "embedded" and r["steered"] is not None]
    bound = max((abs(r["steered"] - r["random"]) for r in mine), default=0.0) or 1.0
    return [
        Figure(
            f"full-controls-{emotion}", "matrix", f"Texts with {emotion} against isotropic vectors",
            "Mean score of the classifier under the emotion's vector minus that under random vectors of the same "
            "length; greedy texts, all prompts.",
            f"Heatmap of the classifier's score of {emotion} over random vectors by layer and strength.",
            [{"row": r["layer"], "column": f"{r['alpha']:+g}", "value": r["steered"] - r["random"]}
             for r in mine if r["emotion"] == emotion],
            {"scale": [-bound, bound], "midpoint": 0, "x": "strength", "y": "layer", "value": "difference"},
        )
        for emotion in dict.fromkeys(r["emotion"] for r in mine)
    ]  # fmt: skip

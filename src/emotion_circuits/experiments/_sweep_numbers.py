"""The numbers of a sweep: one tested row per emotion, dose-response of every layer, and the plan's four sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._cell import ASKED, BASE, MINUS, PLUS, cell_observations
from emotion_circuits.experiments._grid import TEXTS_READ, Grid, Tested, cell_name
from emotion_circuits.experiments._paired import mean_over_prompts
from emotion_circuits.experiments._texts import FLUENCY, ScoredTexts, damage_of
from emotion_circuits.types import BASELINE_ARM, Observation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from emotion_circuits.scorers.fluency import Damage

ALPHA = 0.05
Row = Mapping[str, Any]


def tested_row(tested: Tested) -> dict[str, Any]:
    """What the declared cell of one emotion does on test prompts.

    ``effect`` is the mean of (s(+α) − s(−α)) / 2 in nats of the endpoint, with a cluster-t interval over prompts;
    ``effect_embedded`` the same of the classifier's score of sampled texts (mean over samples first). ``rank_p_*`` is
    the rank of the effect among random vectors of the same length, ``rank_p_*_kl`` of the same KL divergence.
    """
    import numpy as np

    cell, scores, texts = tested.choice.cell, tested.scores, tested.texts
    effect = mean_over_prompts(scores.odd, scores.prompts)
    embedded, lexicon = (odd_of_texts(texts, f"{s}:{cell.emotion}") for s in ("embedded", "lexicon"))
    asked = f"embedded:{cell.emotion}"
    base = scores.scores[BASE]
    ranks = {f"rank_p_{arm.family}{'' if arm.matched == 'norm' else '_kl'}": arm.p for arm in scores.random}
    row = {
        "emotion": cell.emotion,
        "layer": cell.layer,
        "alpha": cell.strength,
        **effect,
        **{f"{key}_embedded": value for key, value in mean_over_prompts(embedded, scores.prompts).items()},
        "evaluators": 1 if embedded is None else 2,
        **{f"effect_{half}": float(values.mean()) for half, values in scores.halves.items()},
        "effect_lexicon": None if lexicon is None else float(np.mean(lexicon)),
        "evaluators_agree": _same_sign(embedded, lexicon),
        **ranks,
        "random_vectors": max((len(arm.effects) for arm in scores.random), default=0),
        "wrong_way": float(np.mean(scores.odd < 0)),
        "even": float(scores.even.mean()),
        "kl": scores.kl[PLUS],
        **damage_columns(tested.damage),
        "prompting_effect": float((scores.scores[ASKED] - base).mean()),
        "steering_effect": float((scores.scores[PLUS] - base).mean()),
        "prompting_embedded": _difference(tested.asked, texts, asked),
        "steering_embedded": _shift(texts, asked),
        "others": {
            name[1:]: float(((scores.scores[name] - scores.scores[f"-{name[1:]}"]) / 2).mean())
            for name in scores.scores
            if name.startswith("+") and name != PLUS
        },
        "other_language": _share(texts, "other_language"),
        "dev_effect": tested.choice.dev_effect,
        "passed_on_dev": tested.choice.gated,
        "n_test": len(scores.prompts),
    }
    return row | {"established": established(row)}


def damage_columns(damage: Damage) -> dict[str, Any]:
    """The damage of the sampled texts against the baseline's, by the names of the gate's four parts."""
    return {
        "ppl_ratio": damage.median_ppl_ratio, "rep4": damage.rep4, "rep4_baseline": damage.rep4_baseline,
        "distinct2": damage.distinct2_ratio, "empty": damage.empty, "damage_ok": damage.ok,
    }  # fmt: skip


def established(row: Row) -> bool:
    """Both endpoints move the emotion's way, more than random vectors of each family do, and the text is sound.

    The two evaluators of texts, classifier and keyword rate, must not disagree about the sign. An emotion that the
    classifier has no label for is judged by the endpoint alone (``effect_embedded`` is None, and ``evaluators`` says
    1); a classifier whose scores do not vary at all establishes nothing.
    """
    low, low_embedded = row["ci"], row["ci_embedded"]
    ranks = [row.get(f"rank_p_{family}") for family in ("isotropic", "covariance", "shuffled")]
    return bool(
        low is not None and low[0] > 0
        and (row["effect_embedded"] is None or (low_embedded is not None and low_embedded[0] > 0))
        and row["evaluators_agree"] is not False
        and all(p is not None and p <= ALPHA for p in ranks)
        and row["damage_ok"]
    )  # fmt: skip


def odd_of_texts(texts: ScoredTexts, scorer: str) -> NDArray[np.float64] | None:
    """``[prompt]`` (score(+v) − score(−v)) / 2 of the texts, samples averaged first; None without the scorer."""
    if scorer not in texts.values:
        return None
    import numpy as np

    return np.asarray((texts.of(scorer, PLUS).mean(axis=1) - texts.of(scorer, MINUS).mean(axis=1)) / 2)


def _same_sign(one: NDArray[np.float64] | None, other: NDArray[np.float64] | None) -> bool | None:
    """Whether two evaluators move the same way on average; None where one is missing or does not move at all."""
    if one is None or other is None or not (product := float(one.mean() * other.mean())):
        return None
    return product > 0


def _difference(asked: ScoredTexts, texts: ScoredTexts, scorer: str) -> float | None:
    if scorer not in asked.values:
        return None
    return float(asked.of(scorer, BASE).mean() - texts.of(scorer, BASE).mean())


def _share(texts: ScoredTexts, scorer: str) -> float | None:
    return float(texts.of(scorer, PLUS).mean()) if scorer in texts.values else None


def _shift(texts: ScoredTexts, scorer: str) -> float | None:
    if scorer not in texts.values:
        return None
    return float(texts.of(scorer, PLUS).mean() - texts.of(scorer, BASE).mean())


def texts_to_read(grid: Grid) -> list[dict[str, Any]]:
    """Greedy texts of every arm of the tested cells, a row per emotion and prompt: to read, nothing is computed."""
    return [
        {
            "emotion": tested.choice.cell.emotion, "prompt": prompt.text,
            **{arm: texts[i] for arm, texts in tested.greedy.items()},
        }
        for tested in grid.tested
        for i, prompt in enumerate(tested.scores.prompts[:TEXTS_READ])
    ]  # fmt: skip


def dose_rows(grid: Grid) -> list[dict[str, Any]]:
    """Dose-response of every emotion and layer on test prompts: exploratory, BH-corrected over the grid."""
    from emotion_circuits.stats import adjust, dose_response

    test = grid.rows("test")
    clusters = [p.scenario or p.id for p in grid.prompts if p.split == "test"]
    rows: list[dict[str, Any]] = []
    for emotion in grid.vectors.emotions:
        for layer in grid.layers:
            values = _doses(grid, emotion, layer)[test]
            found = dose_response(values, grid.strengths, clusters)
            rows.append({
                "emotion": emotion, "layer": layer,
                "slope": float(found.odd.mean.estimate),
                "ci": [float(found.odd.mean.low), float(found.odd.mean.high)],
                "even_slope": float(found.even.mean.estimate), "p": float(found.odd.p),
                "trend_p": float(found.trend), "wrong_way": float(found.wrong_way.estimate),
            })  # fmt: skip
    corrected = adjust([r["p"] for r in rows], family="odd slopes of the grid", method="bh").p
    return [{**r, "p_bh": float(p)} for r, p in zip(rows, corrected, strict=True)]


def _doses(grid: Grid, emotion: str, layer: int) -> NDArray[np.float64]:
    """``[prompt, strength]`` of the emotion's endpoint."""
    import numpy as np

    return np.stack([grid.score(emotion, layer, s) for s in grid.strengths], axis=-1)


def plan_sections(grid: Grid) -> dict[str, Any]:
    """The plan's ``baseline_summary``, ``aggregated_metrics``, ``delta_metrics`` and ``sweep_results``.

    The middle two nest emotion → layer → alpha → metric.
    """
    metrics = {BASE: _metrics(grid, BASE, None)}
    aggregated: dict[str, Any] = {}
    delta: dict[str, Any] = {}
    results = []
    for emotion, layer, strength in _cells(grid):
        name = cell_name(emotion, layer, strength)
        found = _metrics(grid, name, emotion)
        aggregated.setdefault(emotion, {}).setdefault(str(layer), {})[f"{strength:g}"] = found
        delta.setdefault(emotion, {}).setdefault(str(layer), {})[f"{strength:g}"] = {
            key: value - base
            for key, value in found.items()
            if value is not None and (base := metrics[BASE].get(key)) is not None
        }
        if grid.texts is not None:
            results.append({
                "emotion": emotion, "layer": layer, "alpha": strength,
                "texts": dict(zip([p.id for p in grid.prompts], grid.texts.texts(name), strict=True)),
            })  # fmt: skip
    return {
        "baseline_summary": metrics[BASE], "aggregated_metrics": aggregated, "delta_metrics": delta,
        "sweep_results": results,
    }  # fmt: skip


def _cells(grid: Grid) -> Iterator[tuple[str, int, float]]:
    for emotion in grid.vectors.emotions:
        for layer in grid.layers:
            for strength in grid.strengths:
                if strength != 0:
                    yield emotion, layer, strength


def _metrics(grid: Grid, name: str, emotion: str | None) -> dict[str, float | None]:
    """Means over all prompts of every endpoint, KL, and what the evaluators say about the texts."""
    import numpy as np

    column = grid.conditions.index(name)
    found: dict[str, float | None] = {
        (f"logit:{metric}" if metric != "kl" else metric): float(values[:, column].mean())
        for metric, values in grid.scores.items()
    }
    if grid.texts is not None:
        for scorer in grid.texts.values:
            values = grid.texts.of(scorer, name)
            found[scorer] = float(np.nanmean(values)) if np.isfinite(values).any() else None
    return found


def broken_cells(grid: Grid) -> set[str]:
    """Names of grid cells whose greedy texts fail the damage gate (none are known without texts)."""
    if grid.texts is None:
        return set()
    return {n for n in grid.conditions if n != BASE and not damage_of(grid.texts, BASE, n).ok}


def sweep_observations(grid: Grid, experiment: str, position: str) -> Iterator[Observation]:
    """Every measured value: the grid's endpoints and text scores, then the tested cells'."""
    model = grid.vectors.context.lm.name
    for emotion in grid.vectors.emotions:
        for layer in grid.layers:
            for strength in grid.strengths:
                yield from _grid_rows(grid, experiment, model, position, emotion, layer, strength)
    for tested in grid.tested:
        yield from cell_observations(tested.scores, f"{experiment}-test", model, position)
        yield from text_observations(tested, f"{experiment}-test", model, position)


def _grid_rows(
    grid: Grid, experiment: str, model: str, position: str, emotion: str, layer: int, strength: float
) -> Iterator[Observation]:
    """One cell; the baseline is written once per emotion, without layer and strength."""
    if strength == 0 and layer != grid.layers[0]:
        return
    name = BASE if strength == 0 else cell_name(emotion, layer, strength)
    arm = BASELINE_ARM if strength == 0 else "steered"
    values = {"logit": grid.score(emotion, layer, strength)}
    if grid.texts is not None:
        own = [s for s in grid.texts.values if ":" not in s or s.endswith(f":{emotion}")]
        values |= {s.split(":")[0]: grid.texts.of(s, name).mean(axis=1) for s in own}
    for scorer, column in values.items():
        for prompt, value in zip(grid.prompts, column, strict=True):
            if value == value:  # a text too short to be scored has no value
                yield Observation(
                    experiment=experiment, model=model, emotion=emotion, layer=None if strength == 0 else layer,
                    position=position, strength=None if strength == 0 else strength, arm=arm, unit=prompt.id,
                    cluster=prompt.scenario or prompt.id, split=prompt.split, sample=0, scorer=scorer,
                    value=float(value),
                )  # fmt: skip


def text_observations(tested: Tested, experiment: str, model: str, position: str) -> Iterator[Observation]:
    """Evaluators' values of every sampled text of a tested cell."""
    cell = tested.choice.cell
    arms = [(tested.texts, c, c) for c in tested.texts.conditions] + [(tested.asked, BASE, ASKED)]
    for texts, condition, arm in arms:
        for scorer in (f"embedded:{cell.emotion}", f"lexicon:{cell.emotion}", "vader", *FLUENCY):
            if scorer not in texts.values:
                continue
            for p, samples in enumerate(texts.of(scorer, condition)):
                prompt = tested.scores.prompts[p]
                for sample, value in enumerate(samples):
                    if value == value:
                        yield Observation(
                            experiment=experiment, model=model, emotion=cell.emotion, layer=cell.layer,
                            position=position, strength=cell.strength, arm=arm, unit=prompt.id,
                            cluster=prompt.scenario or prompt.id, split="test", sample=sample,
                            scorer=scorer.split(":")[0], value=float(value),
                        )  # fmt: skip

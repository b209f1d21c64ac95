"""What a sweep says: verdicts, figures and tables of question 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emotion_circuits.experiments._cell import ASKED, BASE, MINUS, PLUS
from emotion_circuits.experiments._contract import Outcome
from emotion_circuits.experiments._grid import TEXTS_READ, Grid, Tested, cell_name
from emotion_circuits.experiments._paired import mean_known
from emotion_circuits.experiments._sweep_numbers import (
    broken_cells,
    dose_rows,
    plan_sections,
    sweep_observations,
    tested_row,
    texts_to_read,
)
from emotion_circuits.types import Figure, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments.sweep import Sweep

Row = Mapping[str, Any]

LIMITS = (
    "The endpoint is the next token after the prompt; the classifier and the lexicon read the texts that follow.",
    "Layer and strength were chosen on dev prompts (the sound cell whose weaker endpoint has the largest t); "
    "everything outside the tested cell is exploratory.",
    "The classifier is a small head on a sentence encoder, trained on Reddit comments; its card is printed by "
    "`emotion-circuits score --scorer embedded --card`.",
    "Label-shuffled vectors keep a sliver of the true direction, so they are the strictest of the three families.",
    "Every emotion is judged at the .05 level by itself; nothing is corrected for the number of emotions.",
)


def sweep_outcome(grid: Grid, params: Sweep.Params) -> Outcome:
    """Summary, verdicts, section, observations and the plan's four sections of a finished grid."""
    rows = [tested_row(t) for t in grid.tested]
    doses = dose_rows(grid)
    random = {
        f"{t.choice.cell.name}/{arm.family}/{arm.matched}": arm.effects
        for t in grid.tested
        for arm in t.scores.random
        if len(arm.effects)
    }
    return Outcome(
        summary={
            "test": rows,
            "dose_response": doses,
            "texts": texts_to_read(grid),
            "unit": grid.unit,
            "layers": list(grid.layers),
            "strengths": list(grid.strengths),
            "residual_norm": {str(k): v for k, v in grid.vectors.residual_norm.items() if k in grid.layers},
            "prompts": {"dev": int(grid.rows("dev").sum()), "test": int(grid.rows("test").sum())},
        },
        verdicts=[verdict(r) for r in rows],
        section=_section(grid, rows, doses),
        observations=sweep_observations(grid, "sweep", params.position),
        tensors={"random_effects": random} if random else {},
        documents={"sweep": plan_sections(grid)},
    )


def verdict(row: Row) -> str:
    """One line of an answer to question 3."""
    what = "yes" if row["established"] else "not established"
    text = "text sound" if row["damage_ok"] else "text broken"
    ranks = [row.get(f"rank_p_{family}") for family in ("isotropic", "covariance", "shuffled")]
    worst = max((p for p in ranks if p is not None), default=None)
    against = "no random controls" if worst is None else f"rank p ≤ {worst:.2g} against random vectors"
    return (
        f"{row['emotion']}: {what} (layer {row['layer']}, α {row['alpha']:g}: endpoint {_signed(row['effect'])} "
        f"{_range(row['ci'])} nats, classifier {_signed(row['effect_embedded'])} {_range(row['ci_embedded'])}; "
        f"{against}; {text})"
    )


def _section(grid: Grid, rows: Sequence[Row], doses: Sequence[Row]) -> Section:
    figures = [
        *_heatmaps(grid), _dose_figure(grid), *_dose_bands(grid), _arms_figure(grid), _controls_figure(grid),
        _frontier(grid), _keywords(grid),
    ]  # fmt: skip
    return Section(
        "steering",
        "Does it cause what the model writes?",
        _answer(grid, rows),
        [f for f in figures if f.data],
        [
            _tested_table(rows),
            _damage_table(rows),
            _dose_table(doses),
            *[t for tested in grid.tested for t in _texts_tables(tested)],
        ],
        LIMITS,
    )


def _answer(grid: Grid, rows: Sequence[Row]) -> list[str]:
    unit = {"fraction": "of the residual norm", "raw": "× the mean-difference vector", "sd": "SD of neutral text"}
    sentences = [
        f"Vectors were added at {len(grid.layers)} layers and {len(grid.strengths) - 1} strengths ({unit[grid.unit]}); "
        f"one cell per emotion was chosen on {int(grid.rows('dev').sum())} dev prompts, and what follows was measured "
        f"on {int(grid.rows('test').sum())} other prompts. The effect is half the difference between +α and −α, which "
        "general disruption cannot produce."
    ]
    sentences += [verdict(r) + "." for r in rows]
    broken = broken_cells(grid)
    for r in rows:
        if r["damage_ok"] and cell_name(r["emotion"], r["layer"], r["alpha"]) in broken:
            sentences.append(
                f"The greedy texts at the tested cell of {r['emotion']} fail the damage gate (hatched in the figure): "
                "what is called sound are the sampled ones."
            )
        sentences.append(
            f"Asking in the prompt moves the {r['emotion']} endpoint by {_signed(r['prompting_effect'])} nats, "
            f"steering by {_signed(r['steering_effect'])}; the difference was not tested "
            f"(classifier: asking {_signed(r['prompting_embedded'])}, steering {_signed(r['steering_embedded'])})."
        )
        matched = [r.get(f"rank_p_{family}_kl") for family in ("isotropic", "covariance", "shuffled")]
        if known := [p for p in matched if p is not None]:
            sentences.append(
                f"Against random vectors that disturb as much (same KL divergence), the largest rank p for "
                f"{r['emotion']} is {max(known):.2g}."
            )
        if r["others"]:
            other, moved = max(r["others"].items(), key=lambda found: found[1])
            sentences.append(
                f"Of the other emotions' vectors, that of {other} moves the {r['emotion']} endpoint most, by "
                f"{_signed(moved)} nats at the same length; {r['emotion']}'s own moves it by {_signed(r['effect'])}."
            )
        if r["evaluators_agree"] is False:
            sentences.append(
                f"The two evaluators of {r['emotion']} texts disagree: the classifier moves by "
                f"{_signed(r['effect_embedded'])}, words of its lexicon by {_signed(r['effect_lexicon'])} per 100."
            )
        if not r["passed_on_dev"]:
            sentences.append(
                f"No cell of {r['emotion']} passed the damage gate reliably on dev with both effects positive; the one "
                "whose texts passed most often was tested."
            )
    return sentences


def _heatmaps(grid: Grid) -> list[Figure]:
    """Mean change of each emotion's endpoint by layer and strength, one colour scale for all."""
    test = grid.rows("test")
    broken = broken_cells(grid)
    change = {
        (e, layer, s): float((grid.score(e, layer, s) - grid.score(e, layer, 0.0))[test].mean())
        for e in grid.vectors.emotions
        for layer in grid.layers
        for s in grid.strengths
    }
    bound = max(abs(v) for v in change.values())
    return [
        Figure(
            f"sweep-{emotion}", "matrix", f"Adding {emotion}: change of its endpoint",
            "Mean change of log-sum-exp (emotion tokens − matched neutral tokens), in nats, on test prompts; all "
            "emotions share one colour scale. Hatched: the greedy texts fail the damage gate.",
            f"Heatmap of the {emotion} endpoint over {len(grid.layers)} layers and {len(grid.strengths)} strengths.",
            [{"row": layer, "column": f"{s:+g}" if s else "0", "value": change[emotion, layer, s],
              "hatched": cell_name(emotion, layer, s) in broken}
             for layer in grid.layers for s in grid.strengths],
            {"scale": [-bound, bound], "midpoint": 0, "x": f"strength ({grid.unit})", "y": "layer", "value": "nats",
             "hatched": "text broken"},
        )
        for emotion in grid.vectors.emotions
    ]  # fmt: skip


def _dose_figure(grid: Grid) -> Figure:
    """Dose curves at the chosen layers with cluster-t intervals."""
    from emotion_circuits.stats import cluster_t

    test = grid.rows("test")
    clusters = [p.scenario or p.id for p in grid.prompts if p.split == "test"]
    rows = []
    for tested in grid.tested:
        cell = tested.choice.cell
        for s in grid.strengths:
            change = (grid.score(cell.emotion, cell.layer, s) - grid.score(cell.emotion, cell.layer, 0.0))[test]
            row = {"x": s, "series": f"{cell.emotion} (layer {cell.layer})", "value": float(change.mean())}
            if s == 0:
                row |= {"low": 0.0, "high": 0.0}  # 0 by construction: the band is drawn through it
            elif change.std() > 0:
                found = cluster_t(change, clusters).mean
                row |= {"low": float(found.low), "high": float(found.high)}
            rows.append(row)
    return Figure(
        "dose-response", "lines", "Dose and response at the chosen layers",
        "Change of the emotion's own endpoint against the unsteered model; bands are 95 % cluster-t intervals over "
        "test prompts.",
        "Dose-response curves of every emotion.", rows,
        {"x": f"strength ({grid.unit})", "y": "change of the endpoint (nats)", "reference": 0,
         "interval_label": "95 % cluster t"},
    )  # fmt: skip


def _dose_bands(grid: Grid) -> list[Figure]:
    """Each emotion's dose curve against the band of random vectors of the same lengths."""
    test = grid.rows("test")
    figures = []
    for tested in (t for t in grid.tested if t.bands):
        cell = tested.choice.cell
        base = float(grid.score(cell.emotion, cell.layer, 0.0)[test].mean())
        rows: list[dict[str, Any]] = []
        for s in grid.strengths:
            mean = float(grid.score(cell.emotion, cell.layer, s)[test].mean()) - base
            rows.append({"x": s, "series": f"{cell.emotion} vector", "value": mean})
        for s in grid.strengths:
            low, high = (tested.bands[s].low - base, tested.bands[s].high - base) if s else (0.0, 0.0)
            rows.append({"x": s, "series": "random vectors", "value": (low + high) / 2, "low": low, "high": high})
        figures.append(Figure(
            f"dose-{cell.emotion}", "lines", f"Dose of {cell.emotion} against random vectors, layer {cell.layer}",
            "Mean change of the emotion's endpoint on test prompts. Band: 95 % of covariance-matched random vectors of "
            "the same lengths (its line is the middle of the band).",
            f"Dose-response curve of {cell.emotion} with the band of random vectors.", rows,
            {"x": f"strength ({grid.unit})", "y": "change of the endpoint (nats)", "reference": 0,
             "interval_label": "95 % of random vectors"},
        ))  # fmt: skip
    return figures


def _arms_figure(grid: Grid) -> Figure:
    """Effects of all arms at the tested cells, per prompt."""
    rows = []
    for tested in grid.tested:
        emotion, scores = tested.choice.cell.emotion, tested.scores.scores
        for arm, values in scores.items():
            if arm == BASE or (arm[0] == "-" and arm != MINUS):
                continue
            label = f"{emotion}: {arm if arm in (PLUS, MINUS, ASKED) else 'other vector ' + arm[1:]}"
            rows += [{"arm": label, "value": float(v)} for v in values - scores[BASE]]
    return Figure(
        "arms", "violins", "Every arm at the tested cells",
        "Change of the emotion's endpoint on each test prompt: its own vector both ways, other emotions' vectors of "
        "the same length, and asking in the prompt.",
        "Distributions of endpoint changes by arm.", rows, {"x": "change of the endpoint (nats)", "reference": 0},
    )  # fmt: skip


def _controls_figure(grid: Grid) -> Figure:
    """The odd effect of each vector among those of random vectors."""
    import numpy as np

    rows = []
    for tested in grid.tested:
        emotion = tested.choice.cell.emotion
        rows.append({"label": emotion, "group": "emotion vector", "value": float(tested.scores.odd.mean())})
        for arm in tested.scores.random:
            if len(arm.effects):
                low, middle, high = np.quantile(arm.effects, (0.025, 0.5, 0.975))
                rows.append({
                    "label": emotion, "group": f"{arm.family}, same {arm.matched if arm.matched == 'norm' else 'KL'}",
                    "value": float(middle), "low": float(low), "high": float(high),
                })  # fmt: skip
    return Figure(
        "random-controls", "intervals", "The vector among random ones",
        "Mean odd effect on test prompts; for random families the median and the range of 95 % of the vectors.",
        "Odd effects of emotion vectors and of three random families.", rows,
        {"x": "odd effect (nats)", "reference": 0, "interval_label": "95 % of random vectors"},
    )  # fmt: skip


def _frontier(grid: Grid) -> Figure:
    """What each cell gains in the classifier's score and costs in perplexity."""
    import numpy as np

    texts = grid.texts
    if texts is None:
        return Figure("frontier", "scatter", "", "", "", [])
    rows = []
    for emotion in grid.vectors.emotions:
        scorer = f"embedded:{emotion}"
        if scorer not in texts.values:
            continue
        for layer in grid.layers:
            for s in (s for s in grid.strengths if s > 0):
                name = cell_name(emotion, layer, s)
                gain = texts.of(scorer, name).mean() - texts.of(scorer, BASE).mean()
                after, before = (mean_known(texts.of("log_perplexity", c).ravel(), axis=0) for c in (name, BASE))
                if np.isfinite(after - before):  # else no text of the cell is long enough to have a perplexity
                    rows.append({
                        "x": float(after - before), "value": float(gain), "series": emotion,
                        "label": f"layer {layer}, α {s:g}",
                    })  # fmt: skip
    return Figure(
        "frontier", "scatter", "Gain and cost of every cell",
        "Change of the classifier's score against change of log perplexity under the unsteered model (greedy texts, "
        "all prompts). A loop has a low perplexity: cells on the left can be broken text.",
        "Scatter of classifier gain against perplexity cost.", rows,
        {"x": "Δ log perplexity", "y": "Δ classifier score", "reference": 0},
    )  # fmt: skip


def _keywords(grid: Grid) -> Figure:
    """Emotion words per 100 words in the sampled texts of every arm."""
    rows = []
    for tested in grid.tested:
        emotion = tested.choice.cell.emotion
        scorer = f"lexicon:{emotion}"
        if scorer not in tested.texts.values:
            continue
        for condition in tested.texts.conditions:
            rows.append(
                {"label": emotion, "group": condition, "value": float(tested.texts.of(scorer, condition).mean())}
            )
        rows.append({"label": emotion, "group": ASKED, "value": float(tested.asked.of(scorer, BASE).mean())})
    return Figure(
        "keywords", "bars", "Emotion words in the texts",
        "Words of the emotion's lexicon per 100 words of the sampled test texts.",
        "Keyword rates by arm.", rows, {"x": "per 100 words"},
    )  # fmt: skip


def _tested_table(rows: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "layer": "layer", "alpha": "α", "effect": "endpoint (nats)", "ci": "95 % interval",
        "effect_embedded": "classifier", "ci_embedded": "95 % interval", "effect_lexicon": "words per 100",
        "rank_p_isotropic": "p isotropic",
        "rank_p_covariance": "p covariance", "rank_p_shuffled": "p shuffled", "rank_p_covariance_kl": "p cov., same KL",
        "wrong_way": "wrong way", "prompting_effect": "asking (nats)", "established": "established",
    }  # fmt: skip
    shown = [{**r, "ci": _range(r["ci"]), "ci_embedded": _range(r["ci_embedded"])} for r in rows]
    return Table(
        "tested", "The tested cells", "Odd effects on test prompts; p are ranks among random vectors.", columns, shown
    )


def _damage_table(rows: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "ppl_ratio": "perplexity ratio", "rep4": "rep-4", "rep4_baseline": "rep-4, baseline",
        "distinct2": "distinct-2 ratio", "empty": "empty", "damage_ok": "sound", "even": "even effect (nats)",
        "kl": "KL",
    }  # fmt: skip
    return Table(
        "damage", "Damage at the tested cells",
        "Sampled texts; sound: median perplexity ratio in [.5, 2.5], rep-4 ≤ baseline + .10, distinct-2 ≥ .7 × "
        "baseline, empty share ≤ baseline + .02, all together.",
        columns, rows,
    )  # fmt: skip


def _dose_table(rows: Sequence[Row]) -> Table:
    columns = {
        "emotion": "emotion", "layer": "layer", "slope": "odd slope", "ci": "95 % interval", "even_slope": "even slope",
        "p_bh": "p (BH)", "trend_p": "Page's p", "wrong_way": "wrong way",
    }  # fmt: skip
    return Table(
        "dose", "Dose-response of every layer", "Exploratory: slopes per unit of strength on test prompts.", columns,
        [{**r, "ci": _range(r["ci"])} for r in rows],
    )  # fmt: skip


def _texts_tables(tested: Tested) -> list[Table]:
    """Texts of every arm side by side: greedy ones first, then a sample, which is what the evaluators judge."""
    cell = tested.choice.cell
    sampled = {arm: tested.texts.texts(arm) for arm in (BASE, PLUS, MINUS)} | {ASKED: tested.asked.texts(BASE)}
    shown = tested.scores.prompts[:TEXTS_READ]
    columns = {"prompt": "prompt", BASE: "unsteered", PLUS: f"+ {cell.emotion}", MINUS: f"− {cell.emotion}",
               ASKED: "asked in the prompt"}  # fmt: skip
    where = f"first {len(shown)} test prompts at layer {cell.layer}, α {cell.strength:g}; not selected."
    return [
        Table(
            f"{name}-{cell.emotion}", title, f"{what} of the {where}", columns,
            [{"prompt": p.text, **{arm: of_arm[i] for arm, of_arm in texts.items()}} for i, p in enumerate(shown)],
        )
        for name, title, what, texts in (
            ("texts", f"Texts side by side: {cell.emotion}", "Greedy texts", tested.greedy),
            ("samples", f"Sampled texts: {cell.emotion}", "First sample", sampled),
        )
    ]  # fmt: skip


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _range(ci: Sequence[float] | None) -> str:
    return "–" if ci is None else f"[{ci[0]:+.2f}, {ci[1]:+.2f}]"

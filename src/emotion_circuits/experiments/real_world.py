"""``real-world``: steering texts as people write them (posts, reviews, mail), by domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments._contract import (
    CaptureStep,
    Context,
    Experiment,
    Needed,
    Outcome,
    TextStep,
)
from emotion_circuits.experiments._paired import as_csv, paired_row
from emotion_circuits.experiments._registry import experiment
from emotion_circuits.experiments._steering import (
    SITE,
    STEERED,
    SteeringParams,
    Strengths,
    Unit,
    Vectors,
    expected_emotions,
    layer_or_middle,
    required_runs,
)
from emotion_circuits.types import BASELINE_ARM, Condition, Figure, Observation, Positions, Prompt, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.experiments._texts import ScoredTexts
    from emotion_circuits.models.lm import LM

SCORERS = ("embedded", "lexicon", "vader", "log_perplexity", "rep4", "distinct2")
ALPHA = 0.05


@experiment("real-world", "Continue real-world style texts with each emotion added, by domain.")
class RealWorld(Experiment):
    """Every strength against the unsteered continuation of the same text."""

    version = 2

    class Params(SteeringParams):
        """Parameters of ``real-world``: strengths, their unit and sampling are the original plan's."""

        prompts: str = Field("real_world", description="Texts with a domain (set name or file).")
        layer: int | None = Field(None, description="Layer that is steered (default: half-way through the model).")
        strengths: Strengths = Field((-1.0, 0.0, 1.0), description="Strengths.")
        unit: Unit = Field("raw", description="raw multiples of the mean-difference vector, fraction, or sd.")
        temperature: float = Field(1.0, ge=0, description="0: greedy.")
        top_p: float = Field(0.9, gt=0, le=1, description="Nucleus, where the temperature is above 0.")
        samples: int = Field(1, ge=1, description="Sampled texts per condition.")
        resamples: int = Field(2000, ge=200, description="Bootstrap resamples of texts.")
        permutations: int = Field(9999, ge=99, description="Sign flips of texts.")

    def requires(self, params: Params) -> Sequence[Needed]:
        return required_runs(params)

    def inputs(self, params: Params) -> Mapping[str, Any]:
        from emotion_circuits.experiments._endpoint import own_words

        return own_words(expected_emotions(params))

    def plan(self, lm: LM, params: Params) -> Sequence[CaptureStep]:
        layer_or_middle(lm, params.layer)  # one out of range is refused before anything runs
        return [CaptureStep(STEERED, _texts(params), (SITE,), (Positions("last"),))]

    def workload(self, lm: LM, params: Params) -> Sequence[TextStep]:
        steered = len(expected_emotions(params)) * sum(s != 0 for s in params.strengths)
        return [TextStep("texts", _texts(params), 1 + steered, params.max_new_tokens, params.samples,
                         layer_or_middle(lm, params.layer), Positions.parse(params.at))]  # fmt: skip

    def summarise(self, context: Context, params: Params) -> Outcome:
        texts, names = _write(context, params)
        emotions = Vectors(context, params).emotions
        rows = [
            {"emotion": e, "alpha": s, "domain": domain, "scorer": scorer, **_row(texts, names[e, s], e, scorer, domain,
                                                                                 params, context.seed)}
            for e in emotions
            for s in params.strengths
            if s != 0
            for scorer in SCORERS
            if _full(scorer, e) in texts.values
            for domain in _domains(texts)
        ]  # fmt: skip
        # Of −α and +α, the emotion's own way.
        told = max(params.strengths, key=lambda s: (abs(s), s))
        said = [_sentence(rows, e, told) for e in emotions if told]
        return Outcome(
            {"layer": layer_or_middle(context.lm, params.layer), "unit": params.unit, "results": rows},
            said,
            _section(texts, names, rows, emotions, params, said),
            _observations(context, texts, names, params),
            files={"real_world_metrics.csv": as_csv(_flat(texts, names))},
        )


def _texts(params: RealWorld.Params) -> tuple[Prompt, ...]:
    from emotion_circuits.prompts import load_prompts

    found = tuple(load_prompts(params.prompts))[: params.scenarios]
    if not found:
        raise UsageError(f"{params.prompts} has no texts", "give a file with the field text (and domain)")
    return found


def _write(context: Context, params: RealWorld.Params) -> tuple[ScoredTexts, dict[tuple[str, float], str]]:
    """All continuations, and the condition's name of every (emotion, strength)."""
    from emotion_circuits.engine import Sampling
    from emotion_circuits.experiments._texts import write_texts

    vectors = Vectors(context, params)
    layer = layer_or_middle(context.lm, params.layer)
    names, conditions = {}, [Condition(BASELINE_ARM)]
    for emotion in vectors.emotions:
        for s in params.strengths:
            names[emotion, s] = f"{emotion}{s:+g}" if s else BASELINE_ARM
            if s:
                conditions.append(vectors.condition(names[emotion, s], emotion, layer, s, params.unit))
    sampling = Sampling(params.max_new_tokens, params.temperature, params.top_p, params.samples, context.seed)
    return write_texts(context.measure, "texts", _texts(params), conditions, sampling, vectors.emotions), names


def _domains(texts: ScoredTexts) -> tuple[str, ...]:
    """All texts, then every domain where there are several."""
    own = tuple(dict.fromkeys(p.domain or "" for p in texts.prompts))
    return ("all", *own) if len(own) > 1 else ("all",)


def _full(scorer: str, emotion: str) -> str:
    return f"{scorer}:{emotion}" if scorer in ("embedded", "lexicon") else scorer


def _row(
    texts: ScoredTexts, condition: str, emotion: str, scorer: str, domain: str, params: RealWorld.Params, seed: int
) -> dict[str, Any]:
    import numpy as np

    name = _full(scorer, emotion)
    chosen = np.array([domain in ("all", p.domain or "") for p in texts.prompts])
    difference = texts.of(name, condition).mean(axis=1) - texts.of(name, BASELINE_ARM).mean(axis=1)
    prompts = [p for p, kept in zip(texts.prompts, chosen, strict=True) if kept]
    return paired_row(
        difference[chosen], prompts, resamples=params.resamples, permutations=params.permutations, seed=seed
    )


def _sentence(rows: Sequence[Mapping[str, Any]], emotion: str, strength: float) -> str:
    row = next(
        (
            r
            for r in rows
            if (r["emotion"], r["alpha"], r["scorer"], r["domain"]) == (emotion, strength, "embedded", "all")
        ),
        None,
    )
    if row is None or row["ci"] is None:
        return f"{emotion}: not measured"
    low, high = row["ci"]
    # From 50 texts on the interval is a bootstrap's and p a t test's: both have to say it.
    clear = row["p"] is not None and row["p"] <= ALPHA
    answer = "more" if clear and low > 0 else "less" if clear and high < 0 else "not clearly more or less"
    return (
        f"{emotion}: texts continued at α {strength:g} read {answer} like {emotion} to the classifier "
        f"({row['mean_diff']:+.3f} [{low:+.3f}, {high:+.3f}], t {row['t']:.2f}, p {row['p']:.2g}, n {row['n']})"
    )


def _section(
    texts: ScoredTexts, names: Mapping[tuple[str, float], str], rows: Sequence[Mapping[str, Any]],
    emotions: Sequence[str], params: RealWorld.Params, said: Sequence[str],
) -> Section:  # fmt: skip
    columns = {"emotion": "emotion", "alpha": "α", "domain": "domain", "scorer": "scorer", "mean_diff": "difference",
               "ci": "95 % interval", "t": "t", "p": "p", "g_z": "g_z", "n": "texts"}  # fmt: skip
    table = Table("real-world", "Against the unsteered continuation", "Paired over texts.", columns, rows)
    violins = [
        {"arm": f"{e} {s:+g}" if s else f"{e} 0", "value": float(v)}
        for e in emotions
        for s in params.strengths
        if _full("embedded", e) in texts.values
        for v in texts.of(_full("embedded", e), names[e, s]).mean(axis=1)
    ]
    bars = [
        {"label": f"{r['emotion']} {r['alpha']:+g}", "group": r["domain"], "value": r["mean_diff"],
         **({"low": r["ci"][0], "high": r["ci"][1]} if r["ci"] else {})}
        for r in rows
        if r["scorer"] == "embedded"
    ]  # fmt: skip
    figures = [
        Figure("real-world-scores", "violins", "Classifier's scores by emotion and strength", "One point a text.",
               "Distributions of classifier scores.", violins, {"x": "classifier score"}),
        Figure("real-world-domains", "bars", "Change of the classifier's score by domain",
               "Mean paired change, with its 95 % interval.", "Bars by domain.", bars,
               {"x": "change", "reference": 0}),
    ]  # fmt: skip
    shown = [
        {"text": p.text, "domain": p.domain, **{n: texts.texts(n)[i] for n in texts.conditions}}
        for i, p in enumerate(texts.prompts[:5])
    ]
    side = Table("real-world-texts", "Texts side by side", "The first texts; not selected.",
                 {"domain": "domain", "text": "text", **{n: n for n in texts.conditions}}, shown)  # fmt: skip
    return Section("real-world", "In real-world texts", [s + "." for s in said], [f for f in figures if f.data],
                   [table, side])  # fmt: skip


def _flat(texts: ScoredTexts, names: Mapping[tuple[str, float], str]) -> list[dict[str, Any]]:
    """One row per text, condition and sample with every score: ``real_world_metrics.csv``."""
    rows = []
    for condition in dict.fromkeys((BASELINE_ARM, *names.values())):
        for i, prompt in enumerate(texts.prompts):
            for sample in range(texts.of("words", condition).shape[1]):
                scores = {s: float(texts.of(s, condition)[i, sample]) for s in texts.values}
                rows.append({"text": prompt.id, "domain": prompt.domain, "condition": condition, "sample": sample,
                             "continuation": texts.texts(condition, sample)[i], **scores})  # fmt: skip
    return rows


def _observations(
    context: Context, texts: ScoredTexts, names: Mapping[tuple[str, float], str], params: RealWorld.Params
) -> Iterator[Observation]:
    layer = layer_or_middle(context.lm, params.layer)
    for (emotion, strength), condition in names.items():
        arm = "steered" if strength else BASELINE_ARM
        for scorer in SCORERS:
            if _full(scorer, emotion) not in texts.values:
                continue
            for prompt, samples in zip(texts.prompts, texts.of(_full(scorer, emotion), condition), strict=True):
                for sample, value in enumerate(samples):
                    if value == value:
                        yield Observation(
                            experiment="real-world", model=context.lm.name, emotion=emotion,
                            layer=layer if strength else None, position=params.position,
                            strength=strength if strength else None, arm=arm, unit=prompt.id,
                            cluster=prompt.scenario or prompt.id, split="test", sample=sample, scorer=scorer,
                            value=float(value),
                        )  # fmt: skip

"""``steer --expression``: your own text, several emotions at once, beside what the model writes without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emotion_circuits.experiments._contract import Context, Outcome
from emotion_circuits.experiments._steering import BASELINE_NAME, Vectors
from emotion_circuits.types import Condition, Positions, Section, Table

if TYPE_CHECKING:
    from emotion_circuits.engine import Sampling
    from emotion_circuits.experiments.steer import Steer
    from emotion_circuits.representations import DirectionSet


def expression_conditions(directions: DirectionSet, params: Steer.Params) -> tuple[Condition, Condition]:
    """Nothing, and the edit that ``--expression`` means."""
    from emotion_circuits.engine.schedules import parse_schedule
    from emotion_circuits.representations.expression import steering_condition

    assert params.expression is not None
    schedule = parse_schedule(params.schedule, rate=params.decay_rate, steps=params.max_new_tokens)
    where = Positions.parse(params.at)
    edit = steering_condition(params.expression, directions, layer=params.layer, positions=where, schedule=schedule)
    return Condition(BASELINE_NAME), edit


def sampling_of(params: Steer.Params, seed: int) -> Sampling:
    """How the texts are written."""
    from emotion_circuits.engine import Sampling

    return Sampling(params.max_new_tokens, params.temperature, params.top_p, params.samples, seed)


def summarise_expression(context: Context, params: Steer.Params) -> Outcome:
    """The texts without and with what the expression adds."""
    from emotion_circuits.experiments._texts import write_texts
    from emotion_circuits.experiments.steer import scores_of_text, steer_prompts
    from emotion_circuits.representations.expression import parse_expression

    assert params.expression is not None
    vectors = Vectors(context, params)
    emotions = parse_expression(params.expression).emotions
    baseline, steered = expression_conditions(vectors.directions, params)
    sampling, prompts = sampling_of(params, context.seed), steer_prompts(context.lm, params)
    texts = write_texts(context.measure, "texts", prompts, (baseline, steered), sampling, vectors.emotions)
    rows = []
    for i, given in enumerate(params.text):
        for condition in (baseline.name, steered.name):
            for k in range(sampling.samples):
                scores = {e: scores_of_text(texts, e, condition, i, k) for e in emotions}
                any_emotion = next(iter(scores.values()))
                rows.append({
                    "prompt": given, "condition": condition, "sample": k, "text": texts.texts(condition, k)[i],
                    **{f"embedded_{e}": found["embedded"] for e, found in scores.items()},
                    **{name: any_emotion[name] for name in ("vader", "rep4", "log_perplexity")},
                })  # fmt: skip
    columns = {"prompt": "prompt", "condition": "steering", "text": "text",
               **{f"embedded_{e}": f"classifier: {e}" for e in emotions}, "rep4": "rep-4"}  # fmt: skip
    table = Table(
        "texts",
        f"Steered by {steered.name}",
        "Strength in fractions of the residual norm unless written.",
        columns,
        rows,
    )
    said = [f"{row['condition']}: {' '.join(str(row['text']).split())}" for row in rows]
    section = Section("steer", f"Your text with {steered.name}", [], tables=[table])
    return Outcome({"expression": steered.name, "results": rows}, said, section)

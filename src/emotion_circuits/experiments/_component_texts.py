"""Texts written with components ablated or patched, beside the baseline, with every evaluator's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from emotion_circuits.experiments._heads import AblationParams, CircuitParams
from emotion_circuits.experiments._paired import paired_row
from emotion_circuits.experiments._steering import BASELINE_NAME
from emotion_circuits.types import Condition, Prompt, Table

if TYPE_CHECKING:
    from emotion_circuits.engine import Generation, Sampling
    from emotion_circuits.experiments._contract import Context
    from emotion_circuits.experiments._texts import ScoredTexts

PERMUTATIONS = 9999


class TextParams(CircuitParams):
    """Parameters of experiments that also write texts."""

    max_tokens: int = Field(15, ge=1, description="Tokens to write after each prompt.")
    temperature: float = Field(0.0, ge=0, description="0: greedy.")
    top_p: float = Field(0.9, gt=0, le=1, description="Nucleus, where the temperature is above 0.")
    samples: int = Field(1, ge=1, description="Texts per prompt, where the temperature is above 0.")
    texts: int = Field(16, ge=0, description="Test prompts per emotion that are continued (0: endpoint only).")
    random: int = Field(100, ge=19, description="Random matched sets as control.")
    top_n: int = Field(20, ge=1, description="Texts shown in the report.")


class AblationTextParams(TextParams, AblationParams):
    """Parameters of experiments that write texts with components ablated."""


def sampling_of(params: TextParams, seed: int) -> Sampling:
    """How texts are written."""
    from emotion_circuits.engine import Sampling

    return Sampling(params.max_tokens, params.temperature, params.top_p, params.samples, seed)


def write_both(
    context: Context,
    params: TextParams,
    step: str,
    prompts: Sequence[Prompt],
    changed: str,
    write_one: Callable[[str, Prompt, Sampling], list[Generation]],
    emotions: Sequence[str],
) -> ScoredTexts:
    """Baseline and changed texts of every prompt.

    ``write_one(step, prompt, sampling)`` writes the texts of one prompt under ``changed``, which fits it alone, in a
    step of their own.
    """
    from emotion_circuits.experiments._texts import judge_texts

    sampling, measure = sampling_of(params, context.seed), context.measure
    base = measure.generate(step, prompts, [Condition(BASELINE_NAME)], sampling)
    written: list[Generation] = []
    for i, prompt in enumerate(prompts):
        written += base[i * sampling.samples : (i + 1) * sampling.samples]
        written += write_one(f"{step}-{changed.replace(' ', '-')}-{i}", prompt, sampling)
    return judge_texts(measure, step, prompts, [BASELINE_NAME, changed], written, emotions)


def text_rows(texts: ScoredTexts, changed: str, key: str, emotion: str) -> list[dict[str, Any]]:
    """One row a prompt: ``prompt, baseline_texts, {key}``."""
    before, after = texts.texts(BASELINE_NAME), texts.texts(changed)
    return [
        {"emotion": emotion, "prompt": p.text, "baseline_texts": b, key: a}
        for p, b, a in zip(texts.prompts, before, after, strict=True)
    ]


def metric_means(texts: ScoredTexts, condition: str) -> dict[str, float | None]:
    """Mean of every scorer over prompts and samples; None where no text could be scored."""
    import numpy as np

    found = {}
    for scorer in texts.values:
        values = texts.of(scorer, condition)
        known = values[np.isfinite(values)]
        found[scorer] = float(known.mean()) if known.size else None
    return found


def paired_rows(texts: ScoredTexts, changed: str, emotion: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Changed − baseline of every scorer, tested over prompts."""
    import numpy as np

    from emotion_circuits.stats import bootstrap_interval

    rows = []
    for scorer in texts.values:
        difference = (texts.of(scorer, changed) - texts.of(scorer, BASELINE_NAME)).mean(axis=1)
        if np.isfinite(difference).any():
            row = paired_row(
                difference, texts.prompts, resamples=resamples, permutations=PERMUTATIONS, seed=seed,
                interval=bootstrap_interval,
            )  # fmt: skip
            rows.append({"emotion": emotion, "scorer": scorer, **row})
    return rows


def text_tables(rows: Sequence[dict[str, Any]], paired: Sequence[dict[str, Any]], key: str, top_n: int) -> list[Table]:
    """The texts, and the evaluators' differences."""
    shown = {"emotion": "emotion", "prompt": "prompt", "baseline_texts": "baseline", key: "changed"}
    columns = {"emotion": "emotion", "scorer": "scorer", "mean_diff": "difference", "ci": "95 % interval", "p": "p"}
    return [
        Table("texts", "Texts with and without", "Continuations of test prompts.", columns=shown, rows=rows[:top_n]),
        Table("scorers", "Evaluators, changed − baseline", "Exploratory: not corrected.", columns, paired),
    ]
